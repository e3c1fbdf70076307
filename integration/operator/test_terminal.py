"""runnerctl on a real terminal: colour there and only there, a picture that is redrawn in place, and
nothing of a task's that acts on the terminal, whatever it printed and wherever it is shown.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from lib import harness
from lib.harness import wait_for
from room import Operator, setUpModule, tearDownModule  # noqa: F401

# What a hostile task says: it clears the screen, renames the window, moves the cursor, hides text with
# bidirectional marks, rings, backspaces, and ends nothing properly.
HOSTILE = (b"Error: \x1b[2J\x1b]0;owned\x07\x1b[31mred\x9b2J \xc2\x9b1m \xe2\x80\xae cba \xe2\x81\xa6 \x08\x08\x7f \x00 "
           b"\xff\xfe \rForged line\x0b\x0c\xc2\x85")
# Control characters but newline, CSI and OSC of C1, and the marks of Unicode's bidirectional algorithm.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Screen:
    """runnerctl on a pseudo terminal of its own, and what it wrote there."""

    def __init__(self, words, rows=24, columns=80, env=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.child = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm", **(env or {})})
        os.close(slave)
        self.text = b""

    def read(self, seconds=0.1):
        """Takes what is there; false at the end."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.text += os.read(self.master, 65536)
            except OSError:
                return False
        return True

    def all(self, limit=30):
        end = time.monotonic() + limit
        while self.read() and time.monotonic() < end:
            pass
        code = self.child.wait(10)
        os.close(self.master)
        return code, self.text.decode("utf-8", "strict").replace("\r\n", "\n")

    def close(self):
        self.child.kill()
        self.child.wait(10)
        os.close(self.master)


class Terminal(Operator):
    def setUp(self):
        super().setUp()
        os.environ.pop("NO_COLOR", None)
        self.path("words").write_bytes(HOSTILE + b"\n")

    def begin(self, extra=""):
        self.config = self.write_config(
            self.chain("bad", f"cat {self.dir}/words >&2; cat {self.dir}/words; exit 3",
                       more=f'output: Lines("{self.dir}/out"),')
            + self.chain("fine"), extra=extra)
        self.master = self.start(self.config)
        wait_for("both have run", lambda: self.runs("bad") and self.runs("fine"))

    def screen(self, *words, **kwargs):
        return Screen([harness.CTL, "-c", self.config, *words], **kwargs)

    def test_colour_only_on_a_terminal_that_wants_it(self):
        self.begin()
        code, text = self.screen("status").all()
        self.assertEqual(code, 150)
        lines = text.splitlines()
        self.assertTrue(lines[0].startswith("\x1b[2mCHAIN "), lines)
        self.assertTrue(lines[1].startswith("\x1b[31mbad "), lines)
        self.assertTrue(lines[1].endswith("\x1b[0m"), lines)
        self.assertTrue(lines[2].startswith("fine "), lines)
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            _, text = self.screen("status", env=env).all()
            self.assertNotIn("\x1b", text, env)
            self.assertTrue(text.startswith("CHAIN "), env)
        # An empty NO_COLOR says nothing (no-color.org).
        self.assertIn("\x1b[31m", self.screen("status", env={"NO_COLOR": ""}).all()[1])
        piped = subprocess.run([harness.CTL, "-c", self.config, "status"], capture_output=True, text=True,
                               env={**os.environ, "TERM": "xterm"}, timeout=60)
        self.assertNotIn("\x1b", piped.stdout)

    def test_columns_stay_columns_in_any_width(self):
        self.begin()
        _, text = self.screen("status", columns=20, env={"NO_COLOR": "1"}).all()
        head, *rows = text.splitlines()
        self.assertEqual(head.split()[:9], "CHAIN STATE HEALTH PID USER TASK SINCE LEFT NOTE".split())
        for row in rows:
            self.assertEqual(row[head.index("STATE")].isspace(), False)
            self.assertGreaterEqual(len(row.split()), 9)

    def test_nothing_of_a_tasks_reaches_the_terminal_raw(self):
        self.begin(extra=self.mail_to_maildir())
        wait_for("it is in its log", lambda: "Forged" in self.path("out").read_text(errors="replace"))
        wait_for("it is mailed", self.subjects)
        self.ctl("pause", "fine", "--reason", "a\x1b[2J\u202eb\nForged", check=True)
        self.wait_state("fine", "paused")
        for words in (["status"], ["status", "--json"], ["explain", "bad"], ["explain", "fine"], ["history", "bad"],
                      ["history", "bad", "--jsonl"], ["notices"], ["notices", "--json"], ["logs", "bad"],
                      ["mail", "list"], ["check"], ["show-config", "bad"], ["metrics"]):
            for env in ({"NO_COLOR": "1"}, {}):
                code, text = self.screen(*words, env=env, columns=500).all()
                plain = re.sub("\x1b\\[(2|3[1-6]|0)m", "", text)
                bad = UNSAFE.search(plain)
                self.assertIsNone(bad, f"{words} let {bad and bad.group()!r} through: {text!r}")
                self.assertFalse([line for line in plain.splitlines() if line.startswith("Forged")], words)
                self.assertNotIn(code, (3, 4), text)
        self.assertIn("\\x1b[2J", self.screen("logs", "bad").all()[1])
        # Into a pipe the file's own bytes go, which are safe as well (Lines escapes when it writes).
        raw = subprocess.run([harness.CTL, "-c", self.config, "logs", "bad"], capture_output=True, timeout=60)
        self.assertIsNone(UNSAFE.search(raw.stdout.decode("utf-8")), raw.stdout)

    def test_raw_files_are_escaped_on_a_terminal_only(self):
        self.config = self.write_config(
            self.chain("raw", f"cat {self.dir}/words", more=f'output: Raw("{self.dir}/out"),'))
        self.start(self.config)
        wait_for("it ran", lambda: self.runs("raw"))
        _, text = self.screen("logs", "raw").all()
        self.assertIsNone(UNSAFE.search(text), text)
        self.assertIn("\\x1b[2J", text)
        raw = subprocess.run([harness.CTL, "-c", self.config, "logs", "raw"], capture_output=True, timeout=60)
        self.assertEqual(raw.stdout, HOSTILE + b"\n")

    def test_a_chain_that_cannot_start_says_why_safely(self):
        """The words of the system about hostile names."""
        self.config = self.write_config(
            f'(name: "lost", user: Current, cwd: "{self.dir}/no\\u{{1b}}[2J\\u{{202e}}", tasks: [(run: ["true"])]),'
            f'(name: "odd", user: Current, cwd: "/", fail_cooldown: "1h", tasks: [(name: "o", run: ["no\\u{{1b}}[2Jthing"])]),')
        self.master = self.start(self.config)
        wait_for("both fail", lambda: all(chain["health"] == "failing" for chain in self.status()["chains"]), 30)
        for words in (["status"], ["explain", "lost"], ["explain", "odd"], ["history", "odd"], ["show-config", "lost"],
                      ["reload", "--wait"]):
            _, text = self.screen(*words, env={"NO_COLOR": "1"}).all()
            self.assertIsNone(UNSAFE.search(text), f"{words}: {text!r}")
        check = Screen([harness.MASTER, "--check", str(self.config)], env={"NO_COLOR": "1"})
        _, text = check.all()
        self.assertIsNone(UNSAFE.search(text), repr(text))
        self.assertIsNone(UNSAFE.search(self.log()), repr(self.log()))

    def test_watch_draws_over_itself(self):
        self.begin()
        screen = self.screen("status", "--watch", rows=6, env={"NO_COLOR": "1"})
        try:
            def pictures():
                screen.read()
                return screen.text.split(b"\x1b[H")[1:]

            wait_for("two pictures", lambda: len(pictures()) >= 3)
            self.assertEqual(screen.text.count(b"\x1b[2J"), 1, "the screen is erased once, at the begin")
            first = pictures()[0].decode()
            self.assertEqual(first.count("\x1b[K\r"), 3 + first.count("cgroup"), first)
            self.assertTrue(first.endswith("\x1b[?7h"), "the last line's wrap is given back")
            self.assertNotIn("\n\n", first)
            seen = len(pictures())
            self.ctl("pause", "fine", check=True)
            wait_for("the pause is seen", lambda: any(b"paused" in one for one in pictures()[seen:]))
            # A master that is away is waited for.
            self.stop_master()
            wait_for("it is missed", lambda: b"no master runs" in pictures()[-1])
            self.master = self.start(self.config)
            seen = len(pictures())
            wait_for("it is there again", lambda: any(b"fine" in one for one in pictures()[seen:]))
            screen.child.send_signal(signal.SIGINT)
            self.assertIn(screen.child.wait(10), (0, 130, -signal.SIGINT))
            screen.read()
            self.assertTrue(screen.text.rstrip(b"^C\r\n").endswith(b"\x1b[?7h"), screen.text[-80:])
        finally:
            screen.close()

    def stop_master(self):
        self.master.send_signal(signal.SIGTERM)
        self.assertEqual(self.master.wait(30), 0)

    def test_watch_fits_a_small_terminal(self):
        self.config = self.write_config("".join(self.chain(f"chain{n}") for n in range(12)))
        self.start(self.config)
        screen = self.screen("status", "--watch", rows=5, columns=30, env={"NO_COLOR": "1"})
        try:
            wait_for("a picture", lambda: screen.read() and screen.text.count(b"\x1b[H") >= 2)
            picture = screen.text.split(b"\x1b[H")[1].decode()
            self.assertLess(picture.count("\r\n"), 5, "it scrolls")
            self.assertRegex(picture, "… [89] more|… 1[0-9] more")
        finally:
            screen.close()

    def test_watch_needs_a_terminal(self):
        self.begin()
        self.went(self.ctl("status", "--watch"), 2, err="no terminal")
