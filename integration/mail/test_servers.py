"""Delivery through programs that were not written for us: Postfix over STARTTLS, TLS, in the clear
and by its sendmail(8); a Maildir read back by Python's mailbox. And what the mailer may do while it
delivers: its account, its password, its sandbox."""

import ctypes
import grp
import mailbox
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from lib.harness import add_user, children_of, free_port, remove_user, status_field, wait_for
from post import ACCOUNT, TROUBLE, MailCase, identity, parse
from sink import SILENT, Authority, Sink

BOX = "runner-it-box"


MAIN = """
compatibility_level = 3.6
myhostname = localhost
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
default_transport = error: nothing leaves this machine
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}/box
virtual_mailbox_maps = texthash:{folder}/boxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
smtpd_tls_received_header = yes
smtpd_sasl_local_domain = localhost
smtpd_sasl_authenticated_header = yes
"""
SECURE = " -o smtpd_sasl_auth_enable=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject" \
    " -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject"
MASTER = """
127.0.0.1:{StartTls} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt{secure}
127.0.0.1:{Tls} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes{secure}
127.0.0.1:{None} inet n - n - - smtpd
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
virtual unix - n n - - virtual
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
SASL = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {folder}/sasldb\nmech_list: PLAIN LOGIN\n"


class Postfix(MailCase):
    """A Postfix of our own: its fixed places are this test's, in a mount namespace."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.box = add_user(BOX)
        cls.folder = folder = pathlib.Path(tempfile.mkdtemp(prefix="runner-it-postfix."))
        folder.chmod(0o755)
        cls.boxes = folder / "box"
        cls.boxes.mkdir()
        os.chown(cls.boxes, cls.box.pw_uid, cls.box.pw_gid)
        cls.authority = Authority(str(folder / "ca"))
        cert, key = cls.authority.issue("box")
        cls.ports = {kind: free_port() for kind in ("StartTls", "Tls", "None")}
        tests = (cls.recipient(name) for name in dir(cls) if name.startswith("test_"))
        (folder / "boxes").write_text("".join(f"{who}@example.org {who}/\n" for who in tests))
        config = folder / "etc"
        shutil.copytree("/etc/postfix", config, symlinks=True)
        names = {"folder": folder, "uid": cls.box.pw_uid, "gid": cls.box.pw_gid, "cert": cert, "key": key}
        (config / "main.cf").write_text(MAIN.format(**names))
        (config / "master.cf").write_text(MASTER.format(secure=SECURE, **cls.ports))
        (config / "sasl").mkdir(exist_ok=True)
        (config / "sasl/smtpd.conf").write_text(SASL.format(folder=folder))
        subprocess.run(["saslpasswd2", "-p", "-c", "-f", folder / "sasldb", "-u", "localhost", "runner"],
                       input=b"correct horse battery", check=True)
        (folder / "sasldb").chmod(0o644)
        subprocess.run(["cp", "-a", "/var/spool/postfix", folder / "queue"], check=True)
        (folder / "lib").mkdir(mode=0o700)
        shutil.chown(folder / "lib", "postfix", "postfix")
        script = (f'mount --bind "{config}" /etc/postfix && mount --bind "{folder}/queue" /var/spool/postfix'
                  f' && mount --bind "{folder}/lib" /var/lib/postfix && exec postfix start-fg')
        cls.said = open(folder / "said", "wb")
        cls.postfix = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script],
                                       stdin=subprocess.DEVNULL, stdout=cls.said, stderr=cls.said,
                                       start_new_session=True)
        try:
            wait_for("Postfix listens", lambda: all(map(cls.listens, cls.ports.values())), 30)
        except AssertionError as cause:
            words = cls.words()
            cls.tearDownClass()
            raise AssertionError(f"{cause}: {words}") from None

    @classmethod
    def words(cls):
        files = (cls.folder / "said", cls.folder / "log")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    @classmethod
    def listens(cls, port):
        return f":{port:04X} 00000000:0000 0A" in pathlib.Path("/proc/net/tcp").read_text()

    @classmethod
    def tearDownClass(cls):
        cls.postfix.terminate()
        cls.postfix.wait(20)
        cls.said.close()
        shutil.rmtree(cls.folder)
        remove_user(BOX)
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.who = self.recipient(self._testMethodName)

    @staticmethod
    def recipient(test):
        """Each test writes to one of its own."""
        return re.sub("[^a-z]", "", test)

    def arrived(self):
        folder = self.boxes / self.who
        if not (folder / "new").is_dir():
            return []
        return [message for message in mailbox.Maildir(str(folder), create=False)]

    def through(self, transport, **kwargs):
        mail = self.mail_section(transport, to=(f"{self.who}@example.org",))
        prefix = ["nsenter", f"--mount=/proc/{self.postfix.pid}/ns/mnt"]
        master = self.start(self.write_config(TROUBLE, mail, level="Info"), prefix=prefix)
        try:
            wait_for("three mails", lambda: len(self.arrived()) >= 3, 30)
        except AssertionError as cause:
            raise AssertionError(f"{cause}; {self.master_status()}; Postfix: {self.words()[-3000:]}") from None
        self.ctl("stop", "trouble", "--wait", check=True)
        self.ctl("mail", "flush", check=True)
        wait_for("all mail is gone", self.nothing_waits, 30)
        expected = len(self.decided())
        wait_for("every notice", lambda: len({m["Message-ID"] for m in self.arrived()}) == expected, 30)
        mails = self.arrived()
        self.assertEqual(len(mails), expected, "none came twice")
        subjects = [mail["Subject"] for mail in mails]
        self.assertIn("[job] First exception caught: cannot reach the database", subjects)
        for mail in mails:
            self.assertEqual(mail["To"], f"{self.who}@example.org")
            self.assertIn("critical@example.org", mail["Return-Path"])
            self.assertIn("cannot reach the database", mail.get_payload(decode=True).decode())
        self.assertEqual(self.stop(master), 0)
        return mails

    def secure(self, security):
        return self.smtp(self.ports[security], security, user="runner", ca=self.authority.root, host="localhost")

    def test_starttls(self):
        mails = self.through(self.secure("StartTls"))
        self.assertRegex(mails[0]["Received"], r"(?s)using TLSv1.3.*Authenticated sender: runner.*with ESMTPSA")

    def test_tls(self):
        mails = self.through(self.secure("Tls"))
        self.assertRegex(mails[0]["Received"], r"(?s)using TLSv1.3.*Authenticated sender: runner.*with ESMTPSA")

    def test_none(self):
        mails = self.through(self.smtp(self.ports["None"]))
        self.assertRegex(mails[0]["Received"], r"with ESMTP id")

    def test_sendmail(self):
        mails = self.through('Sendmail("/usr/sbin/sendmail")')
        self.assertRegex(mails[0]["Received"], r"by localhost \(Postfix, from userid \d+\)")

    def test_wrong_password(self):
        mail = self.mail_section(self.secure("StartTls"), to=(f"{self.who}@example.org",))
        self.path("password").write_text("wrong\n")
        master = self.start(self.write_config(TROUBLE, mail, level="Info"))
        wait_for("it is shown", lambda: "cannot log in at localhost as runner: 535" in
                 (self.master_status()["mail_error"] or ""), 30)
        self.assertEqual(self.ctl("status").returncode, 150)
        # It is read again for each try: a mended file needs no upgrade.
        self.path("password").write_text("correct horse battery\n")
        self.ctl("mail", "flush", check=True)
        wait_for("the mails", lambda: len(self.arrived()) >= 2, 30)
        self.assertEqual(self.stop(master), 0)


class Maildir(MailCase):
    def test_is_read_back(self):
        box = self.path("box")
        mail = self.mail_section(f'Maildir("{box}")', to=("ops@example.org", "dba@example.org"))
        master = self.start(self.write_config(TROUBLE, mail, level="Info"))
        wait_for("mails", lambda: (box / "new").is_dir() and len(os.listdir(box / "new")) >= 6, 30)
        self.ctl("stop", "trouble", "--wait", check=True)
        wait_for("all mail is gone", self.nothing_waits, 30)
        mails = list(mailbox.Maildir(str(box), create=False))
        self.assertEqual(len(mails), 2 * len(self.decided()))
        self.assertEqual({mail["To"] for mail in mails}, {"ops@example.org", "dba@example.org"})
        self.assertEqual(os.listdir(box / "tmp"), [])
        owner = os.stat(box / "new" / os.listdir(box / "new")[0])
        self.assertEqual((owner.st_uid, owner.st_mode & 0o777), (self.account.pw_uid, 0o600))
        self.assertEqual(self.stop(master), 0)


class Privileges(MailCase):
    """What a mailer is while it talks to the network."""

    def test_its_account_its_password_and_nothing_else(self):
        with tempfile.TemporaryDirectory(prefix="runner-it-ca.") as folder:
            os.chmod(folder, 0o755)
            authority = Authority(folder)
            sink = Sink(tls="wrap", cert=authority.issue("good"))
            self.addCleanup(sink.close)
            sink.modes = {"MAIL": SILENT}
            mail = self.mail_section(self.smtp(sink.port, "Tls", user="runner", ca=authority.root))
            chains = TROUBLE.replace("Current", '"nobody"').replace('"1s"', '"1h"').replace('"250ms"', '"1h"')
            master = self.start(self.write_config(chains, mail, level="Info"))
            wait_for("a login", lambda: any(line.startswith("AUTH") for _, line in sink.commands), 30)
            held = wait_for("mailer and delivery", lambda: len(m := self.mailers(master)) >= 2 and m)
            for pid in held:
                self.assertEqual(status_field(pid, "Uid"), [str(self.account.pw_uid)] * 4)
                self.assertEqual(status_field(pid, "Gid"), [str(self.account.pw_gid)] * 4)
                self.assertEqual(status_field(pid, "Groups"), [str(self.account.pw_gid)])
                for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
                    self.assertEqual(int(status_field(pid, kind)[0], 16), 0)
                if landlock_version() > 0:
                    self.assertEqual(status_field(pid, "NoNewPrivs"), ["1"])
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    self.assertRegex(target, r"^/dev/null$|^socket:|^pipe:|/spool(/lock)?$", "a descriptor")
            # The password was root's alone to read, and only the mailer ever had it.
            with self.assertRaises(subprocess.CalledProcessError):
                subprocess.run(["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups", "cat",
                                str(self.path("password"))], check=True, capture_output=True)
            self.assertTrue(any(holds(pid, b"correct horse battery") for pid in held), "the search works")
            others = [master.pid] + [pid for pid in children_of(master.pid) if pid not in held]
            self.assertGreaterEqual(len(others), 3, "master, logger and chain")
            for pid in others:
                self.assertFalse(holds(pid, b"correct horse battery"), f"{pid} holds the password")
            sink.down()
            sink.modes = {}
            sink.up()
            self.assertEqual(self.stop(master), 0)

    @unittest.skipUnless(lambda: landlock_version() > 0, "no landlock here")
    def test_landlock_is_in_force(self):
        """A mailer that is made to connect elsewhere is held by the kernel. strace(1) plays the
        intruder: it changes the address in the mailer's connect(2)."""
        sink, elsewhere = Sink(), Sink()
        self.addCleanup(sink.close)
        self.addCleanup(elsewhere.close)
        chains = TROUBLE.replace('"1s"', '"1h"').replace('"250ms"', '"1h"')
        master = self.start(self.write_config(chains, self.mail_section(self.smtp(sink.port)), level="Info"))
        wait_for("the first mail", lambda: sink.messages, 30)
        trace = self.path("trace")
        address = f"0200{elsewhere.port:04x}7f0000010000000000000000"
        for poke in ([], ["-e", f"inject=connect:poke_enter=@arg2={address}"]):
            tracer = subprocess.Popen(
                ["strace", "-f", "-qq", "-o", str(trace), "-e",
                 "trace=setresuid,landlock_restrict_self,connect", *poke, "-p", str(master.pid)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for("the tracer", lambda: status_field(master.pid, "TracerPid") == [str(tracer.pid)])
                self.ctl("mail", "test", check=True)
                wait_for("a connect", lambda: "connect(" in trace.read_text()
                         and not self.mailers(master), 30)
            finally:
                tracer.terminate()
                tracer.wait(10)
            calls = trace.read_text()
            if not poke:
                self.assertRegex(calls, r"(?s)setresuid\(\d+.*= 0.*landlock_restrict_self\(\d+, 0\) += 0.*connect\(.*(= 0|EINPROGRESS)")
                self.assertEqual(len(sink.messages), 2)
            else:
                self.assertRegex(calls, r"connect\(.*= -1 EACCES")
        self.assertEqual(elsewhere.connections, 0)
        self.ctl("mail", "flush", check=True)
        wait_for("the mail", lambda: len(sink.messages) == 3, 30)


def landlock_version():
    """landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION."""
    return ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1)


def holds(pid, secret):
    """Whether a process has the bytes in its memory."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, mode, *_ = line.split()
        if not mode.startswith("rw"):
            continue
        begin, end = (int(word, 16) for word in area.split("-"))
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(begin)
                if secret in memory.read(end - begin):
                    return True
        except (OSError, ValueError):
            pass
    return False


if __name__ == "__main__":
    unittest.main()
