"""What arrives, as a reader sees it: hostile output stays one well-formed message, one outage is one
thread in a real mail reader, and an operator can see, flush and test the mail."""

import email
import json
import mailbox
import os
import re
import subprocess
import unittest

from lib.harness import wait_for
from post import TROUBLE, MailCase, identity, parse
from sink import Sink

# What a task prints before it fails, as Python writes it.
HOSTILE = {
    "nul": rb"a\0b\0\0 the end",
    "escape": rb"\x1b[2J\x1b]0;owned\x07\x9b31mred \x08\x08\x7f gone",
    "crlf": rb"oops\r\nBcc: evil@example.org\r\nSubject: owned\r\n\r\nowned body",
    "smuggle": rb"x\r\n.\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<evil@example.org>\r\nDATA\r\n",
    "dots": rb".\n..\n...\n.\r.\n\r.\r\n.",
    "bare": rb"one\rtwo\x0bthree\x0cfour\x85five\xe2\x80\xa8six",
    "latin1": rb"na\xefve \xff\xfe\xc0\x80 \xed\xa0\x80 caf\xc3\xa9",
    "bidi": rb"\xe2\x80\xaegnp.exe\xe2\x80\xac \xe2\x81\xa6x\xe2\x81\xa9 \xef\xbb\xbf zero\xe2\x80\x8bwidth",
    "mime": rb"--=_boundary\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>\r\n--=_boundary--",
    "encoded": rb"=?utf-8?q?owned?= =\r\n=0D=0A.=0D=0A",
    "uuencode": rb"begin 644 x.exe\n#0V%T\n`\nend",
    "fromline": rb"From root Thu Jan 1 00:00:00 1970\nFrom: x\n",
    "japanese": "エラー: データベースに接続できません".encode() * 20,
    "silent": b"",
}


class Hostile(MailCase):
    def chains(self):
        tasks = ""
        for name, text in HOSTILE.items():
            path = self.path(f"{name}.out")
            path.write_bytes(text.decode("unicode_escape").encode("latin1") if text.isascii() else text)
            tasks += f'(name: "{name}", sh: "cat {path} >&2; exit 1", fail_cooldown: "1ms"),'
        # One line of a mebibyte, and a last word that nobody ends.
        tasks += ('(name: "mebibyte", run: ["/usr/bin/python3", "-c", "import sys;'
                  " sys.stderr.write('E' * (1 << 20)); sys.exit(1)\"], fail_cooldown: \"1ms\"),")
        return f'(name: "hostile", user: Current, output: Discard, tasks: [{tasks}]),'

    def well_formed(self, name, raw, mail):
        """One message as RFC 5322 and 2045 want it, and nothing in it that acts."""
        self.assertTrue(raw.isascii(), name)
        self.assertFalse(re.search(rb"\r(?!\n)|(?<!\r)\n|\0|\x1b|\x7f|\x08", raw), name)
        self.assertTrue(all(len(line) <= 998 for line in raw.split(b"\r\n")), name)
        self.assertEqual(mail.defects, [], name)
        self.assertFalse(mail.is_multipart(), name)
        self.assertEqual(mail.get_content_type(), "text/plain")
        self.assertEqual(mail.get_content_charset(), "utf-8")
        self.assertIn(mail["Content-Transfer-Encoding"], ("quoted-printable", "base64"))
        names = [key.lower() for key in mail.keys()]
        self.assertEqual(len(names), len(set(names)), f"{name}: a header twice")
        self.assertLessEqual(set(names), {
            "message-id", "date", "from", "to", "subject", "auto-submitted", "x-runner-notice", "x-runner-chain",
            "x-runner-task", "mime-version", "content-type", "content-transfer-encoding", "in-reply-to",
            "references"}, f"{name}: a foreign header")
        self.assertEqual(str(mail["From"]), "critical@example.org")
        self.assertEqual(str(mail["To"]), "ops@example.org")
        self.assertEqual(mail["Auto-Submitted"], "auto-generated")
        self.assertEqual(mail["X-Runner-Chain"], "hostile")
        self.assertEqual(mail["X-Runner-Task"], name)
        text = mail.get_content().replace("\r\n", "\n")
        # Latin letters, Japanese, the replacement character: what is shown. Nothing that moves a
        # cursor, turns text around or hides it.
        acting = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
        self.assertFalse(acting.search(text), f"{name}: {acting.search(text)}")
        self.assertFalse(acting.search(str(mail["Subject"])) or "\n" in str(mail["Subject"]), name)
        self.assertLessEqual(len(str(mail["Subject"])), 320)
        self.assertLessEqual(len(text), 40_000)

    def test_over_smtp_and_in_a_maildir_it_is_one_well_formed_message(self):
        sink = Sink()
        self.addCleanup(sink.close)
        master = self.start(self.write_config(self.chains(), self.mail_section(self.smtp(sink.port)), level="Info"))
        names = {*HOSTILE, "mebibyte"}
        seen = lambda: {str(parse(text)["X-Runner-Task"]) for _, _, text in sink.messages}
        wait_for("a mail of each", lambda: seen() == names, 60)
        self.assertEqual(self.stop(master), 0)
        for sender, recipients, raw in sink.messages:
            self.assertEqual((sender, recipients), ("critical@example.org", ["ops@example.org"]))
            mail = parse(raw)
            self.well_formed(str(mail["X-Runner-Task"]), raw, mail)
        by_task = {str(parse(raw)["X-Runner-Task"]): parse(raw) for _, _, raw in sink.messages}
        body = {name: mail.get_content().replace("\r\n", "\n") for name, mail in by_task.items()}
        self.assertIn("evil@example.org", body["smuggle"], "kept as text")
        self.assertIn("データベースに接続できません", body["japanese"])
        self.assertIn("café", body["latin1"])
        self.assertIn("\n    ..\n", body["dots"])
        self.assertEqual(str(by_task["silent"]["Subject"]), "[silent] First exception caught: exit 1")
        self.assertEqual([line for _, line in sink.commands if line.startswith("MAIL")],
                         ["MAIL FROM:<critical@example.org>"] * len(names))
        # The same by a Maildir and its reader.
        for name in ("state", "spool"):
            subprocess.run(["rm", "-rf", self.path(name)], check=True)
        box = self.path("box")
        master = self.start(self.write_config(self.chains(), self.mail_section(f'Maildir("{box}")'), level="Info"))
        wait_for("a mail of each", lambda: (box / "new").is_dir() and len(os.listdir(box / "new")) == len(names), 60)
        self.assertEqual(self.stop(master), 0)
        read = mailbox.Maildir(str(box), factory=None, create=False)
        found = set()
        for key in read.keys():
            raw = read.get_bytes(key)
            mail = email.message_from_bytes(raw, policy=email.policy.default)
            self.well_formed(str(mail["X-Runner-Task"]), raw.replace(b"\n", b"\r\n"), mail)
            found.add(str(mail["X-Runner-Task"]))
        self.assertEqual(found, names)


class Threads(MailCase):
    def test_one_outage_is_one_thread_in_a_reader(self):
        """Two outages of one task and one of another: three threads, by a real reader, notmuch(1)."""
        box, words = self.path("box"), self.path("words")
        words.write_text("")
        chains = (
            f'(name: "one", user: Current, tasks: [(name: "job", sh: "test -s {words} || exit 0; cat {words} >&2; exit 1",'
            ' fail_cooldown: "200ms", success_cooldown: "200ms", non_recoverable_downtime: "3s")]),'
            '(name: "two", user: Current, tasks: [(name: "job", sh: "echo other >&2; exit 1",'
            ' fail_cooldown: "200ms", non_recoverable_downtime: "3s")]),')
        master = self.start(self.write_config(chains, self.mail_section(f'Maildir("{box}")'), level="Info"))

        def kinds():
            return [row["notice"] for row in self.decided() if row["chain"] == "one"]

        words.write_text("cannot open the gate\n")
        wait_for("FIRST", lambda: kinds() == ["FIRST"], 30)
        words.write_text("the key is lost\n")
        wait_for("REACHED and AGAIN", lambda: "NEW" in kinds() and "AGAIN" in kinds(), 40)
        words.write_text("")
        wait_for("HEALED", lambda: kinds()[-1] == "HEALED", 30)
        outages = [len(kinds())]
        words.write_text("cannot open the gate\n")
        # Known: not told as FIRST. The second outage's thread begins with its REACHED.
        wait_for("REACHED", lambda: kinds()[outages[0]:] == ["REACHED"], 40)
        words.write_text("")
        wait_for("HEALED", lambda: kinds()[-1] == "HEALED", 30)
        self.assertEqual(kinds()[:2], ["FIRST", "NEW"])
        self.assertEqual(self.stop(master), 0)
        mails = [mail for mail in mailbox.Maildir(str(box), create=False)]
        ids = {mail["Message-ID"] for mail in mails}
        self.assertEqual(len(ids), len(mails))
        begun = []
        for mail in mails:
            if mail["References"] is None:
                begun.append(mail["Message-ID"])
                self.assertIsNone(mail["In-Reply-To"])
            else:
                self.assertEqual(mail["References"], mail["In-Reply-To"])
                self.assertIn(mail["References"], ids, "an answer to a mail that does not exist")
        self.assertEqual(len(begun), 3)

        config = self.path("notmuch-config")
        config.write_text(f"[database]\npath={box}\n[user]\nname=x\nprimary_email=x@example.org\n[new]\ntags=new\n")
        env = {"NOTMUCH_CONFIG": str(config), "PATH": os.environ["PATH"], "HOME": str(self.dir), "LC_ALL": "C.UTF-8"}
        notmuch = lambda *words: subprocess.run(["notmuch", *words], env=env, check=True, capture_output=True,
                                                text=True).stdout
        notmuch("new", "--quiet")
        self.assertEqual(int(notmuch("count", "*")), len(mails))
        threads = json.loads(notmuch("search", "--format=json", "*"))
        self.assertEqual(len(threads), 3, threads)
        first = json.loads(notmuch("search", "--format=json", "--sort=oldest-first",
                                   'subject:"First exception caught" and subject:"gate"'))
        self.assertEqual(first[0]["total"], outages[0])


class Operator(MailCase):
    def test_sees_flushes_and_tests_the_mail(self):
        """runnerctl mail list, flush, test, and notices."""
        sink = Sink()
        self.addCleanup(sink.close)
        chains = TROUBLE.replace('"250ms"', '"1h"').replace('"1s"', '"1h"')
        mail = self.mail_section(self.smtp(sink.port), to=("ops@example.org", "dba@example.org"), prefix="web1: ")
        config = self.write_config(chains, mail, level="Debug")
        master = self.start(config)
        wait_for("both mails", lambda: len(sink.messages) == 2, 30)
        self.assertEqual({tuple(to) for _, to, _ in sink.messages}, {("ops@example.org",), ("dba@example.org",)})
        self.assertEqual(len({identity(text) for _, _, text in sink.messages}), 1)
        wait_for("nothing waits", self.nothing_waits)
        self.assertEqual(self.ctl("mail", "list", check=True).stdout, "")
        # The test mail arrives, at once, with the prefix.
        self.assertIn("test", self.ctl("mail", "test", check=True).stdout.lower())
        wait_for("the test mail", lambda: len(sink.messages) == 4, 30)
        self.assertRegex(str(parse(sink.messages[-1][2])["Subject"]), r"^web1: \[runner\] Test mail from ")
        # A server that is down: what waits is listed, in words and as JSON, with the reason.
        sink.down()
        self.ctl("mail", "test", check=True)
        listed = wait_for("it waits, with a reason", lambda: (
            (rows := self.waiting_rows()) and len(rows) == 2 and all(row["error"] for row in rows) and rows), 30)
        self.assertEqual({row["state"] for row in listed}, {"waits"})
        self.assertEqual({row["to"] for row in listed}, {"ops@example.org", "dba@example.org"})
        self.assertEqual({row["notice"] for row in listed}, {"TEST"})
        self.assertTrue(all("cannot connect" in row["error"] for row in listed))
        text = self.ctl("mail", "list", check=True).stdout
        self.assertEqual(len(text.splitlines()), 2)
        self.assertIn("cannot connect to 127.0.0.1", text)
        self.assertIn("cannot connect", self.ctl("status").stderr + self.ctl("status").stdout)
        # Without a master the list is the spool's.
        self.assertEqual(self.stop(master), 0)
        offline = self.ctl("-c", str(config), "mail", "list", "--json", check=True).stdout.splitlines()
        self.assertEqual([json.loads(row)["id"] for row in offline], [row["id"] for row in listed])
        # The spool outlives the master; flush does not wait for the backoff.
        master = self.start(config)
        sink.up()
        self.ctl("mail", "flush", check=True)
        tests = lambda: [to for _, to, text in sink.messages if parse(text)["X-Runner-Notice"] == "TEST"]
        wait_for("the mail of before", lambda: len(tests()) == 4, 30)
        # Each decision is listed, with what it was.
        notices = self.decided()
        self.assertTrue(all(row["notice"] in ("FIRST", "TEST") for row in notices))
        self.assertIn("[job] First exception caught: cannot reach the database", [row["subject"] for row in notices])
        wait_for("nothing waits", self.nothing_waits)
        self.assertEqual(self.stop(master), 0)

    def waiting_rows(self):
        return [json.loads(row) for row in self.ctl("mail", "list", "--json", check=True).stdout.splitlines()]


if __name__ == "__main__":
    unittest.main()
