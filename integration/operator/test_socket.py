"""The control socket under clients that mean no good: nobody else waits for them, and nothing is lost."""

import json
import os
import random
import resource
import shutil
import socket
import subprocess
import threading
import time

import room
from lib import harness
from lib.harness import wait_for
from room import OWNER, Operator, setUpModule, tearDownModule  # noqa: F401

# A status may take this long while the socket is attacked, on a machine that does other things too.
PROMPT = 5.0

# Connects again and again as somebody who may ask for little; never sends, never reads, never ends.
HOG = """
import socket, sys, time
held = []
while True:
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    try:
        one.connect(sys.argv[1])
        if len(sys.argv) > 2:
            one.send(sys.argv[2].encode())
        held.append(one)
    except OSError:
        one.close()
        time.sleep(0.01)
    if len(held) > 200:
        held.pop(0).close()
"""


class Socket(Operator):
    def setUp(self):
        super().setUp()
        self.path("ticks").touch()
        shutil.chown(self.path("ticks"), OWNER)
        self.master = self.start(self.write_config(
            self.chain("own", f"echo x >>{self.dir}/ticks", user=OWNER, cooldown="100ms") + self.chain("bad", "exit 3")))
        self.address = str(self.path("run/control.sock"))
        self.open = []
        self.addCleanup(lambda: [one.close() for one in self.open])
        wait_for("it failed", lambda: self.runs("bad"))

    def connect(self):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(30)
        one.connect(self.address)
        self.open.append(one)
        return one

    def ask(self, raw):
        with self.connect() as one:
            try:
                one.sendall(raw)
                one.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was said
            answer = b""
            try:
                while chunk := one.recv(65536):
                    answer += chunk
            except ConnectionResetError:
                pass
        return answer

    def prompt(self):
        """runnerctl is served at once, and the chain goes on."""
        began = time.monotonic()
        self.went(self.ctl("status"), 150)
        self.assertLess(time.monotonic() - began, PROMPT)
        had = len(self.lines("ticks"))
        wait_for(f"the chain goes on: {self.chain_of('own')} {self.log()[-2000:]}",
                 lambda: len(self.lines("ticks")) > had + 2, 30)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.master.pid}/fd"))

    def test_a_client_that_never_asks_never_ends_or_never_reads_delays_nobody(self):
        idle = [self.connect() for _ in range(10)]
        half = [self.connect() for _ in range(10)]
        for one in half:
            one.sendall(b'{"verb":"sta')
        deaf = [self.connect() for _ in range(10)]
        for one in deaf:
            one.sendall(b'{"verb":"status"}\n')
        began = time.monotonic()
        self.prompt()
        # Each of them is shown the door when its time (5 s) is over.
        for one in idle + half:
            self.assertEqual(one.recv(1000), b"")
        self.assertLess(time.monotonic() - began, 25)
        for one in deaf:
            self.assertTrue(one.recv(10).startswith(b'{"status"'))

    def test_a_trickle_does_not_stretch_the_deadline(self):
        one = self.connect()
        began = time.monotonic()
        with self.assertRaises(OSError):
            while time.monotonic() - began < 30:
                one.sendall(b" ")
                time.sleep(0.2)
        self.assertLess(time.monotonic() - began, 15)

    def test_garbage_is_refused_and_forgotten(self):
        before = self.descriptors()
        for raw in (b"\n", b"{}\n", b"[]\n", b"null\n", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\0\n", b"\xff\xfe\n",
                    b'{"verb":"explode"}\n', b'{"verb":"status","chains":7}\n', b'{"verb":"status","more":1}\n',
                    b'{"verb":"pause"}\n', b'{"verb":"silence","chain":"own","millis":-1}\n', b"[" * 60000 + b"\n",
                    b'{"verb":"silence","chain":"own","millis":1e400}\n', b'{"verb":"run","chain":"own"} trailing\n'):
            answer = json.loads(self.ask(raw))
            self.assertEqual(answer["refused"]["exit"], 2, raw[:40])
            self.assertLess(len(answer["refused"]["error"]), 400)
        self.assertEqual(self.ask(b""), b"")
        # Without its newline, when the client says no more, it counts.
        self.assertIn("status", json.loads(self.ask(b'{"verb":"status"}')))
        # One connection is one request: what follows it is not looked at.
        twice = self.ask(b'{"verb":"status"}\n{"verb":"shutdown","now":true}\n')
        self.assertEqual(len(twice.splitlines()), 1)
        self.prompt()
        wait_for("the connections are gone", lambda: self.descriptors() <= before + 1, 20)
        self.assertIsNone(self.master.poll())

    def test_a_request_has_a_length(self):
        fits = json.dumps({"verb": "status", "chains": ["own" + " " * 0] + ["x" * 100] * 500}).encode()
        self.assertLess(len(fits), 64 * 1024)
        self.assertEqual(json.loads(self.ask(fits + b"\n"))["refused"]["exit"], 4)
        for length in (64 * 1024 + 5000, 1 << 20):
            raw = b'{"verb":"status","chains":["' + b"x" * length
            answer = self.ask(raw)
            # The rest of it may be thrown away with the connection before the answer is read.
            if answer:
                self.assertIn("longer than 65536 bytes", json.loads(answer)["refused"]["error"])
        self.prompt()

    def test_hostile_requests_at_random(self):
        seed = int(os.environ.get("RUNNER_SEED", random.randrange(1 << 32)))
        dice = random.Random(seed)
        whole = [json.dumps(one).encode() for one in (
            {"verb": "status", "chains": ["own"]}, {"verb": "explain", "chain": "own"}, {"verb": "history", "chain": "bad"},
            {"verb": "silence", "chain": "bad", "millis": 10, "reason": "x"}, {"verb": "run", "chain": "own", "task": "ownt"},
            {"verb": "notices"}, {"verb": "mail-list"}, {"verb": "log-level", "level": "debug"})]
        for _ in range(400):
            raw = bytearray(dice.choice(whole))
            for _ in range(dice.randrange(1, 4)):
                place = dice.randrange(len(raw))
                raw[place:place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
            answer = self.ask(bytes(raw) + b"\n")
            for line in answer.splitlines():
                self.assertEqual(len(json.loads(line)), 1, f"seed {seed}: {bytes(raw)!r}")
        self.prompt()

    def test_a_thousand_connections_of_root_and_the_chain_goes_on(self):
        before = self.descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        refused = 0
        for _ in range(1000):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(5)
            try:
                one.connect(self.address)
                self.open.append(one)
            except OSError:
                one.close()
                refused += 1
        had = len(self.lines("ticks"))
        wait_for("the chain goes on", lambda: len(self.lines("ticks")) > had + 3, 10)
        self.assertLess(self.descriptors(), before + 80, "connections are bounded")
        for one in self.open:
            one.close()
        wait_for("they are gone", lambda: self.descriptors() <= before + 1, 20)
        self.prompt()

    def test_a_hog_with_few_rights_cannot_lock_the_operator_out(self):
        for message in ((), ('{"verb":"status"}\n',)):
            hog = subprocess.Popen(
                ["setpriv", "--reuid", OWNER, "--regid", OWNER, "--init-groups",
                 "/usr/bin/python3", "-c", HOG, self.address, *message], stdin=subprocess.DEVNULL)
            try:
                used = harness.pathlib.Path(f"/proc/{hog.pid}/fd")
                wait_for("it has many", lambda: hog.poll() is not None or len(os.listdir(used)) > 100)
                for _ in range(3):
                    self.prompt()
                self.went(self.ctl("reload", "--wait"), 0)
            finally:
                hog.kill()
                hog.wait(10)

    def test_nobody_can_make_the_master_die_by_leaving(self):
        """Clients that are killed in the middle of an answer, and of a reload."""
        for _ in range(50):
            one = self.connect()
            one.sendall(b'{"verb":"status"}\n')
            one.close()
        for _ in range(3):
            asks = subprocess.Popen([harness.CTL, "--run-root", self.path("run"), "reload", "--wait"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.05)
            asks.kill()
            asks.wait(10)
        wait_for("the upgrades are done", lambda: self.status() is not None)
        self.prompt()
        self.assertIsNone(self.master.poll())

    def test_an_upgrade_is_no_gap(self):
        """Who asks while the master executes itself waits for the answer and gets it."""
        end, answers = threading.Event(), []

        def ask():
            while not end.is_set():
                done = self.ctl("check")
                answers.append((done.returncode, done.stdout + done.stderr))

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        try:
            for _ in range(8):
                self.went(self.ctl("reload"), 0)
                self.went(self.ctl("reload", "--wait"), 0)
        finally:
            end.set()
            for asker in askers:
                asker.join()
        self.assertGreater(len(answers), 20)
        self.assertEqual([answer for answer in answers if "1 of 2 chains failing: bad" not in answer[1]], [])
