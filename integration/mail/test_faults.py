"""What a mail server, a name service, a spool and a mailer can do to the runner: nothing is lost, no
chain and not the master waits. Each story measures the pace of a chain and the master's answers with
a healthy server and with the fault, in the same minute, and prints both."""

import base64
import collections
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from lib.harness import FULL, add_user, alive, remove_user, wait_for
from post import PACE, TROUBLE, MailCase, identity, parse
from sink import SILENT, SLOW, Authority, Sink

WINDOW = 1.0
LATE = "runner-it-late"


def setUpModule():
    """The story of the deadline takes two minutes: it begins here and is looked at last."""
    TheLongDelivery.account, TheLongDelivery.rows = add_user(LATE), []
    unittest.addModuleCleanup(remove_user, LATE)
    story = TheLongDelivery("test_is_ended_at_its_deadline")
    story.setUp()
    unittest.addModuleCleanup(story.doCleanups)
    story.begin()
    TheLongDelivery.story = story


class Fault(MailCase):
    """A fault between two healthy times."""

    def ready(self, sink, mail, chains=TROUBLE + PACE, **kwargs):
        self.sink = sink
        self.addCleanup(sink.close)
        master = self.start(self.write_config(chains, mail, level="Info"), **kwargs)
        wait_for("the first mail", lambda: sink.messages, 30)
        self.healthy = [self.window(WINDOW)]
        return master

    def ride(self, name, begin, felt, end, note=""):
        """One fault between two healthy times; `felt` is true once it has met a delivery."""
        begin()
        wait_for(f"{name} is felt: {self.master_status()}", felt, 30)
        faulty = self.window(WINDOW)
        end()
        before = len(self.sink.messages)
        self.ask("mail-flush")
        wait_for(f"mail flows again after {name}", lambda: len(self.sink.messages) > before, 30)
        self.healthy.append(self.window(WINDOW / 2))
        self.judge(name, self.healthy[-2:], faulty, note)

    def says(self, words):
        return lambda: words in (self.master_status()["mail_error"] or "")

    def answer(self, **modes):
        def begin():
            self.sink.modes = {word.replace("END", "DATA."): answer for word, answer in modes.items()}
        return begin

    def heal(self):
        self.sink.modes = {}

    def reopen(self):
        """Connections that hang are cut, too."""
        self.sink.down()
        self.sink.modes = {}
        self.sink.up()


class Server(Fault):
    """Faults of the mail server."""

    def test_down_for_long_then_up(self):
        sink = Sink()
        self.ready(sink, self.mail_section(self.smtp(sink.port)))
        begun = time.monotonic()
        self.sink.down()
        wait_for("it is felt", self.says("cannot connect"))
        faulty = self.window(WINDOW)
        wait_for("mails wait", lambda: self.master_status()["mail_waiting"] >= 6, 30)
        seen, connections = len(sink.messages), sink.connections
        self.sink.up()
        # Nobody asks for it: 2 s, doubling; after so short a time the next try is near.
        down = time.monotonic() - begun
        wait_for("it delivers by itself", lambda: len(sink.messages) >= seen + 6, 2 * down + 20)
        self.healthy.append(self.window(WINDOW))
        self.judge("server down, then up", self.healthy, faulty, f"down for {down:.0f} s")
        self.assertGreater(sink.connections, connections)
        # Its fall may have cut the answer to one mail.
        self.assertLessEqual(self.settle(sink), 1)

    def test_silent_slow_and_cutting_after_data(self):
        sink = Sink()
        self.ready(sink, self.mail_section(self.smtp(sink.port)))
        # Not whether somebody connects: who had just done that is the one who meets it.
        held = lambda: sink.held > self.before

        def begin(**modes):
            def now():
                self.before = sink.held
                self.answer(**modes)()
            return now

        self.ride("silent from the first byte on", begin(banner=SILENT), held, self.reopen)
        self.ride("silent after the mail", begin(END=SILENT), held, self.reopen)
        self.ride("a byte each 10 s", begin(banner=SLOW), held, self.reopen)
        # The end of the message is answered by a closed connection, three times: who can tell
        # whether it was taken?
        cut = []

        def close_thrice(_line):
            if len(cut) < 3:
                cut.append(1)
                return None
            return True

        self.ride("cut after DATA", begin(**{"END": close_thrice}),
                  lambda: len(cut) >= 2, lambda: wait_for("the third cut", lambda: len(cut) == 3, 30))
        copies = self.settle(sink)
        # A copy for each silence after the mail and each cut: no more, and under the same identity.
        self.assertGreaterEqual(copies, 3)
        self.assertLessEqual(copies, 3 + 1)
        by_id = collections.defaultdict(set)
        for _, _, text in sink.messages:
            by_id[identity(text)].add((parse(text)["Subject"], parse(text).get_content()))
        self.assertTrue(all(len(texts) == 1 for texts in by_id.values()), "one identity, one content")

    def test_later_is_not_never(self):
        """4xx anywhere, and 5xx to anything but RCPT and DATA: kept, tried again, delivered."""
        sink = Sink()
        self.ready(sink, self.mail_section(self.smtp(sink.port)))
        for name, modes, words in [
            ("450 to RCPT", {"RCPT": "450 greylisted"}, "450 greylisted"),
            ("451 to DATA", {"DATA": "451 not now"}, "451 not now"),
            ("452 to the mail", {"END": "452 full"}, "452 full"),
            ("554 as banner", {"banner": "554 go away"}, "554 go away"),
            ("550 to EHLO", {"EHLO": "550 not you"}, "550 not you"),
            ("550 to MAIL", {"MAIL": "550 not that sender"}, "550 not that sender"),
            ("421 to RCPT", {"RCPT": "421 closing"}, "421 closing"),
        ]:
            self.ride(name, self.answer(**modes), self.says(words), self.heal)
        self.assertEqual(self.settle(sink), 0)
        self.assertFalse(self.path("spool/dead").exists() and os.listdir(self.path("spool/dead")))

    def test_never_is_only_5xx_to_rcpt_and_data(self):
        """One recipient of two is refused for ever: the other one gets everything."""
        sink = Sink()
        self.ready(sink, self.mail_section(self.smtp(sink.port), to=("ops@example.org", "gone@example.org")))
        dead = lambda: len(os.listdir(self.path("spool/dead"))) if self.path("spool/dead").exists() else 0
        gone = lambda line: "550 5.1.1 no such user" if "gone@" in line else True
        self.ride("550 to one RCPT of two", self.answer(RCPT=gone), lambda: dead() >= 2, self.heal)
        before = dead()
        self.ride("554 to the mail", self.answer(END="554 5.7.1 spam"),
                  lambda: dead() > before, self.heal)
        # Nothing of it holds up the rest, and an operator sees all of it.
        count = dead()
        self.assertEqual(self.settle(sink, recipients=2, dead=count), 0)
        listed = self.ctl("mail", "list", check=True).stdout.splitlines()
        self.assertEqual(len(listed), count)
        self.assertTrue(all(" dead " in line for line in listed))
        self.assertTrue(any("gone@example.org" in line and "5.1.1 no such user" in line for line in listed))

    def test_a_storm_of_failures_is_a_handful_of_mails(self):
        """Failures as fast as they come, each with other words: few mails, all counted. A minute
        of it with --full."""
        words = ("read -r w < /proc/sys/kernel/random/uuid; IFS=0123456789-; set -- $w; IFS=; v=$*;"
                 " echo fault $v >&2; exit 1")
        storm = "".join(
            f'(name: "storm{n}", user: Current, output: Discard, tasks: [(name: "job", sh: "{words}",'
            ' fail_cooldown: "1ms", success_cooldown: "1ms")]),' for n in range(4))
        sink = Sink()
        seconds = 60.0 if FULL else 5.0
        config = self.write_config(TROUBLE + PACE, self.mail_section(self.smtp(sink.port)), level="Info")
        self.ready(sink, self.mail_section(self.smtp(sink.port)))
        self.write_config(TROUBLE + storm + PACE, self.mail_section(self.smtp(sink.port)), level="Info")
        # The healthy pace has the same four chains beside it, so they run without a failure first.
        text = config.read_text()
        config.write_text(text.replace(">&2; exit 1", ">&2; exit 0"))
        self.ctl("reload", "--wait=drained", check=True)
        self.healthy = [self.window(WINDOW)]
        config.write_text(text)
        self.ctl("reload", "--wait=drained", check=True)
        faulty = self.window(seconds)
        config.write_text(text.replace(">&2; exit 1", ">&2; exit 0"))
        counted = {c["name"]: c["tasks"][0] for c in self.status_now()["chains"] if "storm" in c["name"]}
        failures = sum(task["failed"] for task in counted.values())
        notices = sum(task["notices"] for task in counted.values())
        withheld = sum(task["withheld"] for task in counted.values())
        self.ctl("reload", "--wait=drained", check=True)
        self.healthy.append(self.window(WINDOW))
        self.judge("a storm of failures", self.healthy, faulty,
                   f"{failures} failures ({failures / seconds:.0f}/s), {notices} notices, {withheld} withheld and counted,"
                   f" {len(sink.messages)} mails")
        self.assertGreater(failures, 100)
        self.assertLessEqual(notices, 4 * 21, "20 and a HEALED per task")
        self.assertLessEqual(len(sink.messages), notices + 1, "the notices, and the mail of the test's beginning")
        self.assertGreater(withheld, 0)


class Secrets(Fault):
    """TLS and login: what is wrong there costs a delay, never a secret."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.certs = tempfile.mkdtemp(prefix="runner-it-ca.")
        os.chmod(cls.certs, 0o755)
        cls.authority = Authority(cls.certs)
        cls.good = cls.authority.issue("good")
        stranger = Authority(os.path.join(cls.certs, "stranger"))
        cls.bad = {
            "certificate expired": cls.authority.issue("expired", days=-1),
            "certificate of another host": cls.authority.issue("other", "DNS:elsewhere.example"),
            "certificate of an unknown authority": stranger.issue("self"),
        }

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.certs)

    def secure(self, security="StartTls", **kwargs):
        sink = Sink(tls="start" if security == "StartTls" else "wrap", cert=self.good, **kwargs)
        mail = self.mail_section(self.smtp(sink.port, security, user="runner", ca=self.authority.root))
        self.ready(sink, mail)
        return sink

    def nothing_in_the_clear(self, sink):
        """The server's own notes: no login, no sender, no word of the password but inside TLS."""
        clear = [line for encrypted, line in sink.commands if not encrypted]
        self.assertTrue(any(line.startswith("EHLO") for line in clear) or sink.tls == "wrap")
        for line in clear:
            self.assertEqual(line.split()[:1] and line.split()[0] in ("EHLO", "STARTTLS", "QUIT"), True, line)
        text = "\n".join(clear)
        self.assertNotIn("correct horse", text)
        self.assertNotIn(base64.b64encode(b"correct horse battery").decode().rstrip("="), text)
        logins = {line for encrypted, line in sink.commands if encrypted and line.startswith("AUTH")}
        self.assertEqual(len(logins), 1)
        token = base64.b64decode(logins.pop().split()[-1])
        self.assertEqual(token, b"\0runner\0correct horse battery")

    def test_a_certificate_that_does_not_fit(self):
        for security in ("StartTls", "Tls"):
            with self.subTest(security):
                sink = self.secure(security)
                # Which certificates are good is one code for both.
                for name, pair in list(self.bad.items())[:3 if security == "StartTls" else 1]:
                    before = len(sink.commands)

                    def begin(pair=pair):
                        sink.cert = pair

                    def end():
                        sink.cert = self.good

                    self.ride(f"{security}: {name}", begin,
                              lambda: "ertificate" in (self.master_status()["mail_error"] or ""), end)
                    self.assertGreater(len(sink.commands), before)
                self.assertEqual(self.settle(sink), 0)
                self.nothing_in_the_clear(sink)
                self.stop(self.masters[-1])
                sink.close()
                for name in ("spool", "state", "run"):
                    subprocess.run(["rm", "-rf", str(self.path(name))], check=True)

    def test_starttls_is_taken_away_and_a_login_is_refused(self):
        sink = self.secure()

        def strip():
            sink.offer_tls = False  # And it offers AUTH instead.

        def restore():
            sink.offer_tls = True

        self.ride("STARTTLS stripped", strip, self.says("does not offer STARTTLS"), restore)

        def inject():
            sink.inject = b"250 ok\r\n250 ok\r\n"

        def clean():
            sink.inject = b""

        self.ride("answers injected before TLS", inject, lambda: self.master_status()["mail_error"], clean)
        self.ride("login refused", self.answer(AUTH="535 5.7.8 no"), self.says("535 5.7.8 no"), self.heal)
        self.assertEqual(self.settle(sink), 0)
        self.nothing_in_the_clear(sink)
        self.assertFalse(self.path("spool/dead").exists() and os.listdir(self.path("spool/dead")))


class Names(socket.socket):
    """A name service on the loopback: silent, denying, or answering 127.0.0.1."""

    def __init__(self, address):
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.bind((address, 53))
        self.mode, self.asked = "good", 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                query, peer = self.recvfrom(1024)
            except OSError:
                return
            self.asked += 1
            if self.mode == "silent" or len(query) < 12:
                continue
            end = query.index(0, 12) + 5
            question, kind = query[12:end], query[end - 4:end - 2]
            found = self.mode == "good" and kind == b"\0\1"
            code = b"\x81\x83" if self.mode == "nxdomain" else b"\x81\x80"
            reply = query[:2] + code + b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0" + question
            if found:
                reply += b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("127.0.0.1")
            self.sendto(reply, peer)


class NameService(Fault):
    def test_a_name_service_that_hangs_or_denies(self):
        address = f"127.83.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        names = Names(address)
        self.addCleanup(names.close)
        resolver = self.path("resolv.conf")
        resolver.write_text(f"nameserver {address}\noptions timeout:30 attempts:4\n")
        script = f'mount --bind "{resolver}" /etc/resolv.conf && exec "$@"'
        sink = Sink()
        mail = self.mail_section(self.smtp(sink.port, host="mail.runner-it.test"))
        self.ready(sink, mail, prefix=["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"])

        def turn(mode):
            def now():
                names.mode, self.before = mode, names.asked
            return now

        def again():
            names.mode = "good"
            # A query that nobody answers is waited for: the mailer's end ends it.
            for pid in self.mailers(self.masters[-1]):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass

        asked = lambda: names.asked > self.before
        self.ride("name service silent", turn("silent"), asked, again)
        self.ride("name unknown (NXDOMAIN)", turn("nxdomain"),
                  lambda: "cannot connect" in (self.master_status()["mail_error"] or ""), turn("good"))
        self.assertLessEqual(self.settle(sink), 1)


class Spool(Fault):
    """Faults of the spool and of the mailer."""

    def volume(self, size):
        """A small file system with the spool on it."""
        path = self.path("volume")
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path)], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", str(path)], check=False)
        return path

    def test_a_full_spool(self):
        """Delivered directly while the server takes it; kept by the master while it does not."""
        sink, volume = Sink(), self.volume("128k")
        self.ready(sink, self.mail_section(self.smtp(sink.port), spool=volume / "spool"))
        ballast = volume / "ballast"

        def fill():
            self.before = len(sink.messages)
            with open(ballast, "wb", buffering=0) as out:
                try:
                    while True:
                        out.write(b"x" * 512)
                except OSError:
                    pass

        def clear():
            ballast.unlink()

        self.ride("spool full, server well", fill, lambda: len(sink.messages) > self.before + 1, clear)

        def fill_and_refuse():
            sink.down()
            fill()

        def clear_and_up():
            # What the master keeps survives an upgrade, too.
            wait_for("the master keeps mails", lambda: self.master_status()["mail_waiting"] >= 2)
            self.ctl("reload", "--wait", check=True)
            sink.up()
            clear()

        self.ride("spool full, server down", fill_and_refuse,
                  lambda: "pace left" in (self.master_status()["mail_error"] or ""), clear_and_up)
        self.assertLessEqual(self.settle(sink), 1)

    def test_a_poisoned_spool(self):
        """Garbage, links, foreign and huge files: told, skipped, and never in the way."""
        sink = Sink()
        self.ready(sink, self.mail_section(self.smtp(sink.port)))
        spool = self.path("spool")
        secret = self.path("secret")
        secret.write_text("root's own\n")
        secret.chmod(0o600)

        def poison():
            (spool / "README").write_text("hello")
            (spool / "garbage.0000000000000000.mail").write_bytes(os.urandom(4096))
            (spool / "empty.0000000000000000.mail").write_bytes(b"")
            (spool / "half.0000000000000000.mail").write_text('{"version":1,"to":"a@example.org","spool')
            (spool / "new.0000000000000000.mail").write_text('{"version":99,"what":[]}')
            (spool / "a1-1-00000000.0000000000000000.mail").write_text(
                '{"version":1,"to":"evil@example.org","spooled":0,"envelope":{"id":"other","thread":null,'
                '"kind":"FIRST","to":["evil@example.org"],"subject":"s","body":"b","chain":null,"task":null,"at":0}}')
            (spool / "link.0000000000000000.mail").symlink_to(secret)
            (spool / "dangling.0000000000000000.mail").symlink_to("/nonexistent")
            os.mkfifo(spool / "fifo.0000000000000000.mail")
            (spool / "folder.0000000000000000.mail").mkdir()
            with open(spool / "huge.0000000000000000.mail", "wb") as huge:
                huge.truncate(64 << 20)
            (spool / "ledger.json").write_text("[1, 2")
            for name in os.listdir(spool):
                os.chown(spool / name, self.account.pw_uid, self.account.pw_gid, follow_symlinks=False)

        self.ride("spool poisoned", poison, lambda: "in the spool" in (self.master_status()["mail_error"] or ""),
                  lambda: None)
        wait_for("mails go on", lambda: self.master_status()["mail_waiting"] == 0)
        told = self.master_status()["mail_error"]
        self.assertIn(".mail", told)
        self.assertFalse([to for _, to, _ in sink.messages if to != ["ops@example.org"]])
        self.assertNotIn(b"root's own", b"".join(text for _, _, text in sink.messages))
        self.assertEqual(secret.read_text(), "root's own\n")
        for entry in list(spool.iterdir()):
            if "00000000." in entry.name or entry.name == "README":
                entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.assertEqual(self.settle(sink), 0)

    def test_mailers_that_are_killed(self):
        sink = Sink()
        sink.modes = {}
        master = self.ready(sink, self.mail_section(self.smtp(sink.port)))
        killed = set()
        stop = threading.Event()

        def hunt():
            while not stop.is_set():
                for pid in self.mailers(master):
                    try:
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
                    except OSError:
                        pass
                stop.wait(0.005)

        hunter = threading.Thread(target=hunt)

        def end():
            stop.set()
            hunter.join()

        self.ride("mailers killed as they come", hunter.start, lambda: len(killed) >= 3, end)
        copies = self.settle(sink)
        self.assertLessEqual(copies, len(killed))

    def test_a_mailer_killed_at_its_nth_step(self):
        """The mailer is killed inside each of its calls on the spool: at least once, always."""
        sink = Sink()
        master = self.ready(sink, self.mail_section(self.smtp(sink.port)), chains=PACE + TROUBLE.replace('"1s"', '"1h"')
                            .replace('"250ms"', '"1h"'))
        spool = str(self.path("spool"))
        points = [(call, n) for call in ("openat", "renameat2,renameat", "fsync", "unlinkat", "flock")
                  for n in range(1, 13 if FULL else 3)]
        struck = 0
        for call, n in points:
            before = len(sink.messages)
            tracer = subprocess.Popen(
                ["strace", "-f", "-qq", "-o", "/dev/null", "-P", spool, "-e", f"trace={call}",
                 "-e", f"inject={call}:signal=KILL:when={n}", "-p", str(master.pid)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                traced = lambda: f"TracerPid:\t{tracer.pid}" in pathlib.Path(f"/proc/{master.pid}/status").read_text()
                wait_for("the tracer", traced)
                log = len(self.log())
                self.ask("mail-test")
                end = lambda: ("Signal(9)" in self.log()[log:] or "killed" in self.log()[log:]
                               or len(sink.messages) > before and not self.mailers(master))
                wait_for(f"{call} {n}", end, 30)
                struck += "Signal" in self.log()[log:]
            finally:
                tracer.terminate()
                tracer.wait(10)
            self.ask("mail-flush")
            wait_for(f"the mail of {call} {n}", lambda: len(sink.messages) > before, 30)
            self.assertIsNone(master.poll())
        self.assertGreater(struck, len(points) / 3)
        # A test mail each, and the first failure.
        wait_for("nothing waits", self.nothing_waits)
        self.assertEqual(len({identity(text) for _, _, text in sink.messages}), len(points) + 1)

    def test_a_disk_that_fails(self):
        """An error of fsync is never a confirmation: delivered directly, or kept by the master."""
        sink = Sink()
        master = self.ready(sink, self.mail_section(self.smtp(sink.port)))
        tracer = []

        def attach(call):
            def now():
                self.before = len(sink.messages)
                tracer.append(subprocess.Popen(
                    ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(self.path("spool")), "-e", f"trace={call}",
                     "-e", f"inject={call}:error=EIO", "-p", str(master.pid)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            return now

        def detach():
            tracer[-1].terminate()
            tracer[-1].wait(10)

        self.addCleanup(lambda: [one.kill() for one in tracer if one.poll() is None])
        # The tracer slows everything down that it watches; the chain was there before it.
        for call in ("fsync", "renameat2,renameat"):
            attach(call)()
            wait_for("delivered directly", lambda: len(sink.messages) > self.before + 2, 30)
            sink.down()
            wait_for("the master keeps it", self.kept_for("Input/output error"), 30)
            self.assertGreater(self.master_status()["mail_waiting"], 0)
            detach()
            sink.up()
            self.ask("mail-flush")
            wait_for("nothing waits", lambda: len(sink.messages) > self.before + 5, 30)
        self.settle(sink)

    def kept_for(self, words):
        return lambda: words in (self.master_status()["mail_error"] or "")


class Orphans(MailCase):
    """A mailer whose master was killed lets the next one deliver, and neither loses nor doubles a mail."""

    ONCE = TROUBLE.replace('"1s"', '"1h"').replace('"250ms"', '"1h"')

    def begin(self, **modes):
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        self.sink.modes = modes
        self.config = self.write_config(self.ONCE, self.mail_section(self.smtp(self.sink.port)), level="Info")
        self.master = self.start(self.config)

    def kill(self):
        """Ends the master alone; its mailer and what that one has spooled."""
        left = self.mailers(self.master)
        waiting = {mail.name.rsplit(".", 2)[0] for mail in self.path("spool").glob("*.mail")}
        self.master.kill()
        self.master.wait()
        self.assertEqual(len(waiting), 1)
        return left, waiting

    def all_arrive_once(self, left, waiting):
        ids = lambda: [identity(text).partition("@")[0].lstrip("<") for _, _, text in self.sink.messages]
        wait_for("what was spooled", lambda: waiting <= set(ids()), 30)
        self.ask("mail-flush")
        wait_for("nothing waits", lambda: self.nothing_waits() and not self.mailers(self.masters[-1]), 30)
        self.assertEqual(len(ids()), len(set(ids())))
        wait_for("the old mailer is gone", lambda: not any(map(alive, left)), 30)

    def test_a_silent_server_holds_up_no_later_mailer(self):
        self.begin(banner=SILENT)
        wait_for("a delivery hangs", lambda: self.sink.held and self.mailers(self.master), 30)
        left, waiting = self.kill()
        self.sink.modes = {}
        begun = time.monotonic()
        self.start(self.config)
        wait_for("the first mail", lambda: self.sink.messages, 25)
        self.rows.append(f"first mail after kill -9 and a start: {time.monotonic() - begun:.1f} s")
        self.all_arrive_once(left, waiting)

    def test_what_the_server_is_just_taking_is_not_sent_twice(self):
        entered = threading.Event()

        def slow(_line):
            entered.set()
            time.sleep(2)
            return True

        self.begin(**{"DATA.": slow})
        self.assertTrue(entered.wait(30))
        left, waiting = self.kill()
        self.start(self.config)
        self.all_arrive_once(left, waiting)

    def test_what_was_spooled_is_delivered_without_a_master(self):
        """As long as the server takes it."""
        entered, go_on = threading.Event(), threading.Event()

        def held(_line):
            entered.set()
            go_on.wait(4)
            return True

        self.begin(banner=held)
        self.assertTrue(entered.wait(30))
        self.ask("mail-test")
        spooled = lambda: len(list(self.path("spool").glob("*.mail")))
        wait_for("two mails wait", lambda: spooled() == 2, 30)
        left = self.mailers(self.master)
        self.master.kill()
        self.master.wait()
        go_on.set()
        wait_for("both arrive", lambda: len(self.sink.messages) == 2, 30)
        wait_for("the mailer is gone", lambda: not any(map(alive, left)), 30)
        self.assertEqual(spooled(), 0)


class TheLongDelivery(MailCase):
    """A server that says a byte each 10 s: no read times out, the delivery never ends."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def begin(self):
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        self.sink.modes = {"banner": SLOW}
        chains = TROUBLE.replace('"1s"', '"1h"').replace('"250ms"', '"1h"')
        mail = self.mail_section(self.smtp(self.sink.port))
        self.master = self.start(self.write_config(chains, mail, level="Info"))
        wait_for("a delivery begins", lambda: self.sink.connections == 1, 30)
        self.begun, self.held = time.monotonic(), set(self.mailers(self.master))

    def test_is_ended_at_its_deadline(self):
        self.story.end()

    def end(self):
        ended = lambda: "no answer within 120 s" in (self.master_status()["mail_error"] or "")
        wait_for("the deadline ends it", ended, 150)
        took = time.monotonic() - self.begun
        self.assertGreater(took, 110)
        wait_for("nothing of it is left", lambda: not self.held & set(self.mailers(self.master)), 10)
        self.assertEqual(self.master_status()["mail_waiting"], 1)
        self.sink.down()
        self.sink.modes = {}
        self.sink.up()
        self.ask("mail-flush")
        wait_for("the mail", lambda: len(self.sink.messages) == 1, 30)
        wait_for("nothing waits", self.nothing_waits)
        self.assertEqual(self.stop(self.master), 0)


if __name__ == "__main__":
    unittest.main()
