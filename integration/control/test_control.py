"""The control socket and the chains' reports under attack: whatever a hostile user sends, floods or
leaves unread, the master answers a normal client, keeps its descriptors and its memory, and the
other chains keep their pace."""

import contextlib
import email
import email.policy
import json
import os
import random
import select
import socket
import subprocess
import time

from hostile import (ask, attacker, chain_end, connected, ended, flood, hoard, lies, send_with_descriptors,
                     slowest, storm)
from lib.harness import CTL, Case, add_user, alive, remove_user, status_field, wait_for

MALLORY, ALICE = "runner-it-mallory", "runner-it-victim"

# A normal client waits for less than a second; here for the machine's other work as well. What an
# attack could make it wait for is 5 s (a slow client's patience) or for ever.
PROMPT = 3.0
MIB = 1 << 20


class Attack(Case):
    @classmethod
    def setUpClass(cls):
        cls.mallory, cls.alice = add_user(MALLORY), add_user(ALICE)

    @classmethod
    def tearDownClass(cls):
        remove_user(MALLORY)
        remove_user(ALICE)

    def begin(self, more="", extra=""):
        """A master with a chain of the attacker's and one of somebody else's."""
        self.path("alice").mkdir()
        os.chown(self.path("alice"), self.alice.pw_uid, self.alice.pw_gid)
        self.master = self.start(self.write_config(f"""
            (name: "mine", user: "{MALLORY}", tasks: [(name: "task", sh: "true", success_cooldown: "1s")]),
            (name: "other", user: "{ALICE}", cwd: "{self.path('alice')}", tasks: [
                (name: "t", sh: "echo x >> ledger", success_cooldown: "50ms")]),
            {more}""", extra))
        self.socket = self.path("run/control.sock")
        wait_for("both chains run", lambda: self.lines("alice/ledger") and self.chain("mine")["pid"])
        ask(self.socket)
        self.before = self.measure()

    def measure(self):
        """Descriptors and resident memory of the master."""
        pid = self.master.pid
        return len(os.listdir(f"/proc/{pid}/fd")), int(status_field(pid, "VmRSS")[0]) * 1024

    def open(self):
        found = []
        for entry in self.path(f"/proc/{self.master.pid}/fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except OSError:
                pass  # Closed meanwhile.
        return found

    def expect_unharmed(self, memory=16 * MIB):
        """The same process, its descriptors as before (within the patience for slow clients), its
        memory hardly more, no child that waits to be reaped, and nothing unexpected in the log."""
        self.assertTrue(alive(self.master.pid), self.log()[-3000:])
        wait_for(f"descriptors: {self.before[0]} before, {self.open()} now",
                 lambda: self.measure()[0] <= self.before[0] + 1, 30)
        self.assertLess(self.measure()[1] - self.before[1], memory)
        answer, took = ask(self.socket)
        self.assertIn(b'"status"', answer)
        self.assertLess(took, PROMPT)
        self.assertNotIn("panicked", self.stderr() + self.log())

    def pace(self, seconds=3.0):
        """Runs per second of the other chain."""
        runs = len(self.lines("alice/ledger"))
        begin = time.monotonic()
        time.sleep(seconds)
        return (len(self.lines("alice/ledger")) - runs) / (time.monotonic() - begin)


class HostileClients(Attack):
    def test_garbage_is_refused_or_dropped_and_nothing_is_left_of_it(self):
        """Random bytes, half a request, a huge one, a deep one, none at all."""
        self.begin()
        seed = random.randrange(1 << 30)
        dice = random.Random(seed)
        good = b'{"verb":"status","chains":["other"]}\n'
        requests = [b"", b"\n", b"\0" * 100 + b"\n", b"{" * 60_000 + b"\n", b"[" * 60_000 + b"\n",
                    b'{"verb":"status","chains":["' + b"*a" * 30_000 + b'"]}\n', b"x" * (64 * 1024 + 1),
                    b"y" * MIB, b'{"verb":"shutdown","now":true,"extra":1}\n', b'{"verb":"Shutdown"}\n',
                    b'{"verb":"pause","chain":"other","millis":-1}\n', good[:-1] + b" " * 70_000 + b"\n"]
        requests += [dice.randbytes(dice.randrange(1, 9000)) for _ in range(100)]
        requests += [good[:dice.randrange(len(good))] for _ in range(50)]
        for _ in range(100):
            bad = bytearray(good)
            bad[dice.randrange(len(bad) - 1)] = dice.randrange(256)
            requests.append(bytes(bad))
        for request in requests:
            with connected(self.socket) as client:
                try:
                    client.sendall(request)
                    client.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # It has heard enough.
                answer = b""
                try:
                    while part := client.recv(1 << 16):
                        answer += part
                except ConnectionResetError:
                    pass
            for line in answer.splitlines():
                self.assertLessEqual(set(json.loads(line)), {"refused", "status"}, f"seed {seed}: {request[:80]}")
        self.assertEqual(self.chain("other")["state"] in ("running", "cooling"), True)
        self.expect_unharmed()

    def test_who_is_slow_or_silent_delays_nobody(self):
        """A byte now and then; a request without an end; an answer that is never read. Several
        strangers hold all connections that they can get, and root is served."""
        self.begin()
        self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o666)
        worst = {}
        for how, (request, every) in {
            "half a request": (b'{"verb":"sta', 0.3), "nothing": (b"", 0), "unread": (b'{"verb":"status"}\n', 0),
        }.items():
            strangers = [attacker(hoard, self.socket, request, every, uid=uid)
                         for uid in [self.mallory.pw_uid, *range(60001, 60009)]]
            try:
                for stranger in strangers:
                    stranger.__enter__()
                worst[how] = slowest(self.socket, 4)
                # Of 64 connections 16 are never a stranger's.
                self.assertLessEqual(self.measure()[0] - self.before[0], 64)
            finally:
                for stranger in strangers:
                    stranger.__exit__(None, None, None)
        print(f"slowest answers: {worst}", flush=True)
        self.assertLess(max(worst.values()), PROMPT, worst)
        self.expect_unharmed()

    def test_descriptors_that_come_with_a_request_are_closed(self):
        """SCM_RIGHTS (unix(7)): nobody asked for them."""
        self.begin()
        for request in (b'{"verb":"status"}\n', b'{"verb":"sta', b"garbage\n"):
            for _ in range(30):
                reading, writing = os.pipe()
                with connected(self.socket) as client:
                    send_with_descriptors(client, request, [writing] * 200)
                    os.close(writing)
                    if request.endswith(b"\n"):
                        client.recv(100)
                        ready, _, _ = select.select([reading], [], [], 20)
                        self.assertTrue(ready, "the master keeps the descriptor")
                        self.assertEqual(os.read(reading, 1), b"")
                os.close(reading)
        self.expect_unharmed()

    def test_thousands_in_a_row_and_hundreds_at_once(self):
        """2,000 connections one after the other, each answered; 200 at once, each answered or told
        to come back; and a storm of them that ask for nothing while root is served."""
        self.begin()
        begin = time.monotonic()
        for turn in range(2000):
            answer, took = ask(self.socket, b'{"verb":"notices"}\n' if turn % 2 else b'{"verb":"status"}\n')
            self.assertTrue(answer.startswith((b'{"status"', b'{"rows"')), answer[:200])
            self.assertLess(took, PROMPT)
        print(f"2000 in a row: {time.monotonic() - begin:.1f} s", flush=True)
        self.expect_unharmed()
        begin = time.monotonic()
        many = [connected(self.socket) for _ in range(200)]
        kinds = []
        for client in many:
            try:
                client.sendall(b'{"verb":"status"}\n')
            except OSError:
                pass  # Refused already.
        for client in many:
            client.settimeout(20)
            line = client.makefile("rb").readline()
            kinds.append(next(iter(json.loads(line))))
            client.close()
        self.assertLessEqual(set(kinds), {"status", "refused"})
        self.assertGreaterEqual(kinds.count("status"), 64)
        print(f"200 at once: {kinds.count('status')} answered, {kinds.count('refused')} told to come back, "
              f"{time.monotonic() - begin:.1f} s", flush=True)
        requests = [b"", b'{"verb":"status"}\n', b'{"verb":"shutdown"}\n', b"\xff" * 5000]
        with attacker(storm, self.socket, requests, uid=self.mallory.pw_uid), \
                attacker(storm, self.socket, requests, uid=60001):
            worst = slowest(self.socket, 5)
            print(f"in a storm: {worst:.2f} s", flush=True)
            self.assertLess(worst, PROMPT)
        self.expect_unharmed()

    def test_one_with_many_accounts_does_not_lock_the_operators_out(self):
        """Accounts of subuid(5) hold every connection that a stranger can have; members of control_group
        are served all the same."""
        self.begin(extra=f'control_group: "{ALICE}",')
        with contextlib.ExitStack() as strangers:
            for uid in range(100_000, 100_007):
                strangers.enter_context(attacker(hoard, self.socket, b"{", 1, uid=uid))
            end = time.monotonic() + 3
            while time.monotonic() < end:
                done = subprocess.run(
                    [CTL, "--run-root", str(self.path("run")), "status"], user=self.alice.pw_uid,
                    group=self.alice.pw_gid, extra_groups=[], capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)
        self.expect_unharmed()

    def test_a_long_answer_that_is_never_read_costs_little_and_for_seconds_only(self):
        """200 chains with 12 tasks each, and 40 clients of root's own that ask and never read."""
        tasks = ", ".join(f'(name: "task-with-quite-a-long-name-{n}", run: ["/bin/sleep", "1000"])' for n in range(12))
        self.begin("\n".join(f'(name: "chain-{n}", user: "nobody", tasks: [{tasks}]),' for n in range(200)))
        answer, _ = ask(self.socket)
        self.assertGreater(len(answer), 300_000)
        many = [connected(self.socket) for _ in range(40)]
        for client in many:
            client.sendall(b'{"verb":"status"}\n')
        worst = slowest(self.socket, 3)
        memory = self.measure()[1] - self.before[1]
        print(f"unread: {worst:.2f} s, {memory / MIB:.0f} MiB", flush=True)
        # Forty long answers are made first.
        self.assertLess(worst, 3 * PROMPT)
        self.assertLess(memory, 80 * MIB)
        wait_for("the readers' patience is over",
                 lambda: self.measure()[0] <= self.before[0] + 1, 30)
        for client in many:
            client.close()
        self.expect_unharmed(memory=80 * MIB)


class HostileReports(Attack):
    """A chain's process runs as its user. It is not dumpable, so that user cannot take its
    descriptors; root can, and says with them what a process that was taken over would say."""

    def begin(self, **kwargs):
        super().begin(extra=self.mail_to_maildir(), **kwargs)
        self.end = chain_end(self.chain("mine")["pid"])
        self.addCleanup(self.end.close)

    def mails(self):
        new = self.path("mail/new")
        found = [mail.read_bytes() for mail in new.iterdir()] if new.is_dir() else []
        return [email.message_from_bytes(mail, policy=email.policy.default) for mail in found]

    def test_lies_reach_neither_another_chain_nor_the_terminal(self):
        """Garbage, huge numbers, other chains' tasks, control characters."""
        self.begin()
        other = self.chain("other")
        self.end.setblocking(True)
        for _ in range(3):
            for packet in lies("task"):
                self.end.send(packet)
        self.end.send(ended("task", message="the end of the lies"))
        wait_for("the last one is heard", lambda: "the end of the lies" in self.ctl("explain", "mine").stdout
                 or self.chain("mine")["tasks"][0]["failed"] > 3)
        status = self.status()
        for chain in status["chains"]:
            if chain["name"] == "other":
                self.assertEqual([task["failed"] for task in chain["tasks"]], [0])
                self.assertEqual((chain["health"], chain["pid"]), ("ok", other["pid"]))
        wait_for("a mail", self.mails)
        for mail in self.mails():
            self.assertEqual(mail["X-Runner-Chain"], "mine")
            self.assertIn(mail["X-Runner-Task"], ("task", None))
            self.assertEqual(mail["To"], "admin@example.org")
            self.assertIsNone(mail["Bcc"])
            self.assertNotRegex(str(mail["Subject"]) + mail.get_content(), "[\x00-\x08\x0b-\x1f\x7f]")
        log = self.log()
        self.assertNotIn("\x1b", log)
        self.assertFalse([line for line in log.splitlines() if line.startswith("[other]")])
        self.assertLessEqual(log.count("ignored a report"), 5)
        for verb in ("status", "explain mine", "history mine", "notices", "metrics"):
            shown = self.ctl(*verb.split()).stdout
            self.assertNotRegex(shown, "[\x00-\x08\x0b-\x1f\x7f]", verb)
        self.expect_unharmed()

    def test_an_empty_packet_is_no_end(self):
        """It looks like one to recv(2), and must not make the master deaf."""
        self.begin()
        self.end.setblocking(True)
        self.end.send(b"")
        self.end.send(ended("task", count=1000))
        wait_for("the report behind it", lambda: self.chain("mine")["tasks"][0]["failed"] >= 1000)
        self.expect_unharmed()

    def test_a_flood_delays_nobody(self):
        """Reports of every kind at full speed: the other chains keep their pace, an operator is
        answered, and what the master holds does not grow."""
        self.begin()
        calm = self.pace()
        figures = []
        kinds = {
            "lies": lies("task"),
            "failures": [ended("task", fingerprint=str(n), message=f"failure {n}") for n in range(500)],
            "words": [json.dumps({"Said": {"level": "error", "text": "x" * 900}}).encode()],
            "large": [ended("task", stderr="x" * 60_000)],
        }
        for name, packets in kinds.items():
            self.end.setblocking(False)
            with attacker(flood, self.end, packets):
                worst = slowest(self.socket, 2)
                pace = self.pace()
            figures.append(f"{name}: slowest answer {worst:.2f} s, {pace:.1f} of {calm:.1f} runs/s")
            self.assertLess(worst, PROMPT, figures)
            # Two processors are shared with the flood and with the master that reads it.
            self.assertGreater(pace, calm / 5, figures)
        print("; ".join(figures), flush=True)
        self.assertLess(self.path("log").stat().st_size, 64 * MIB)
        # Each ended run is a line at Debug; words beyond a hundred in ten seconds are counted only.
        self.assertLess(self.log().count("x" * 900), 2000)
        self.expect_unharmed(memory=32 * MIB)
        # The mails about it are a handful, and about nobody else.
        self.assertLess(len(self.mails()), 60)
        self.assertEqual({mail["X-Runner-Chain"] for mail in self.mails()} - {None}, {"mine"})

    def test_a_dead_chain_that_still_speaks_holds_nobody_up(self):
        """The master reads a dead chain's last words; somebody who has its descriptor goes on
        talking."""
        self.begin()
        pid = self.chain("mine")["pid"]
        self.end.setblocking(False)
        with attacker(flood, self.end, [ended("task", stderr="x" * 4000)]):
            time.sleep(0.5)
            os.kill(pid, 9)
            worst = slowest(self.socket, 4)
            print(f"with a dead chain that speaks: {worst:.2f} s", flush=True)
            self.assertLess(worst, PROMPT)
            wait_for("it is started again", lambda: self.chain("mine")["pid"] not in (None, pid))
        self.expect_unharmed()
