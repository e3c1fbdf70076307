"""Never two: every kill, takeover, upgrade and stop, told by the tasks themselves. Each run takes an
flock without waiting and writes start, end or overlap into a ledger. Bound: 3 minutes.
"""

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import Case, alive, children_of, wait_for

TASK = """#!/usr/bin/python3
import fcntl, os, sys, time
name, seconds = sys.argv[1], float(sys.argv[2])
here = os.path.dirname(os.path.abspath(__file__))
def say(word):
    fd = os.open(f"{here}/ledger.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, f"{word} {os.getpid()}\\n".encode())
    os.close(fd)
lock = os.open(f"{here}/flock.{name}", os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    say("overlap")
    sys.exit(1)
say("start")
time.sleep(seconds)
say("end")
"""

# Double fork, own session, closed descriptors, no environment, deaf to TERM; it keeps the flock.
HOSTILE = """#!/usr/bin/python3
import fcntl, os, signal, sys, time
here = os.path.dirname(os.path.abspath(__file__))
def say(word):
    fd = os.open(f"{here}/ledger.{sys.argv[1]}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, f"{word} {os.getpid()}\\n".encode())
    os.close(fd)
lock = os.open(f"{here}/flock.{sys.argv[1]}", os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    say("overlap"); sys.exit(1)
say("start")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.close(fd)
        os.set_inheritable(lock, True)
        os.execve("/bin/sleep", ["sleep", "600.%s" % os.getppid()], {})
    os._exit(0)
time.sleep(0.1)
what = sys.argv[2]
if what == "stop":
    os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)
elif what == "kill":
    os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
"""


class Lifecycle(Case):
    def setUp(self):
        super().setUp()
        for name, text in (("task", TASK), ("hostile", HOSTILE)):
            self.path(name).write_text(text)
            self.path(name).chmod(0o755)

    def one(self, name="a", seconds=0.3, more="", cooldown="50ms", chain=""):
        return (f'(name: "{name}", user: Current, cwd: "/", kill_timeout: "1s", drain_timeout: "2s", {chain}'
                f' tasks: [(name: "{name}t", run: ["{self.dir}/task", "{name}", "{seconds}"],'
                f' success_cooldown: "{cooldown}", fail_cooldown: "50ms"{more})]),')

    def ledger(self, name="a"):
        return self.lines(f"ledger.{name}")

    def starts(self, name="a"):
        return sum(line.startswith("start") for line in self.ledger(name))

    def never_two(self, *names):
        for name in names or ("a",):
            lines = self.ledger(name)
            self.assertTrue(any(line.startswith("start") for line in lines), self.log()[-3000:])
            self.assertFalse([line for line in lines if line.startswith("overlap")],
                             f"{name}: {lines[-12:]}\n{self.log()[-3000:]}")

    def goes_on(self, name="a", runs=1, limit=20):
        have = self.starts(name)
        try:
            wait_for(f"{name} runs again", lambda: self.starts(name) >= have + runs, limit)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.stderr()[-800:]}\n{self.log()[-2500:]}")

    def holders(self):
        """Processes that are masters of this folder, by command line."""
        return [pid for pid in harness.marked(self.dir)
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(harness.MASTER.encode())]


class NeverTwo(Lifecycle):
    def test_killed_chain(self):
        master = self.start(self.write_config(self.one()))
        for _ in range(5):
            self.goes_on()
            os.kill(self.chain("a")["pid"] or wait_for("pid", lambda: self.chain("a")["pid"]), signal.SIGKILL)
        self.goes_on(limit=90)
        self.stop(master)
        self.never_two()

    def test_killed_master(self):
        config = self.write_config(self.one())
        for _ in range(5):
            master = self.start(config)
            self.goes_on()
            master.kill()
            master.wait()
        master = self.start(config)
        self.goes_on()
        self.stop(master)
        self.never_two()

    def test_killed_both_at_once(self):
        config = self.write_config(self.one(seconds=1))
        for _ in range(5):
            master = self.start(config)
            self.goes_on()
            pid = self.chain("a")["pid"]
            os.kill(master.pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)
            os.kill(master.pid, signal.SIGKILL)
            master.wait()
        master = self.start(config)
        self.goes_on()
        self.stop(master)
        self.never_two()

    def hostile(self, what):
        chain = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "300ms",'
                 f' tasks: [(name: "t", run: ["{self.dir}/hostile", "a", "{what}"],'
                 f' success_cooldown: "50ms", fail_cooldown: "50ms")]),')
        master = self.start(self.write_config(chain))
        self.goes_on(runs=4, limit=40)
        children = children_of(master.pid)
        self.stop(master)
        self.never_two()
        self.assertFalse([pid for pid in children if alive(pid)])
        self.assertFalse(self.lock_holder("a"), "a hostile process still holds the flock")

    def lock_holder(self, name):
        import fcntl
        with open(self.path(f"flock.{name}"), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except OSError:
                return True

    def test_a_hostile_task(self):
        self.hostile("leave")

    def test_a_task_that_stops_its_chain(self):
        self.hostile("stop")

    def test_a_task_that_kills_its_chain(self):
        self.hostile("kill")


class Takeover(Lifecycle):
    def test_a_second_start_replaces_the_first(self):
        config = self.write_config(self.one())
        first = self.start(config)
        self.goes_on()
        second = self.start(config)
        self.assertEqual(first.wait(10), 0)
        self.goes_on()
        self.stop(second)
        self.never_two()

    def test_sixteen_at_once(self):
        config = self.write_config(self.one())
        for _ in range(2):
            starts = [self.start(config, ready=False) for _ in range(16)]
            wait_for("one is left", lambda: sum(s.poll() is None for s in starts) == 1, 60)
            self.goes_on()
            self.assertEqual(sum(s.poll() is None for s in starts), 1)
            self.assertEqual({s.returncode for s in starts if s.returncode is not None}, {0})
        last = next(s for s in starts if s.poll() is None)
        self.stop(last)
        self.never_two()

    def test_refusals(self):
        master = self.start(self.write_config(self.one()))
        alone = self.write_config(self.one(), extra="kill_concurrent: false,", name="alone.ron")
        other = self.write_config(self.one(), name="other.ron")
        for config, word in ((alone, "kill_concurrent"), (other, "--replace")):
            self.assertEqual(self.start(config, ready=False).wait(20), 69)
            self.assertIn(word, self.stderr())
        self.assertIsNone(master.poll())
        replaced = self.start(other, "--replace")
        self.assertEqual(master.wait(10), 0)
        self.stop(replaced)
        self.never_two()

    def test_a_stopped_predecessor(self):
        config = self.write_config(self.one(chain='').replace('drain_timeout: "2s"', 'drain_timeout: "300ms"')
                                   .replace('kill_timeout: "1s"', 'kill_timeout: "300ms"'))
        first = self.start(config)
        self.goes_on()
        os.kill(first.pid, signal.SIGSTOP)
        begun = time.monotonic()
        second = self.start(config)
        self.assertLess(time.monotonic() - begun, 12)
        self.assertEqual(first.wait(5), -signal.SIGKILL)
        self.goes_on()
        self.stop(second)
        self.never_two()

    def test_odd_pidfiles(self):
        """Whatever stands in a pid file's place is replaced, not followed, not believed, not waited for."""
        run = self.path("run")
        # Tells of every signal that it gets.
        victim = subprocess.Popen(["/bin/sh", "-c", "for s in HUP INT QUIT USR1 USR2 TERM CONT; do trap \"echo $s >>"
                                   f" {self.dir}/hit\" $s; done; while :; do sleep 0.1; done"])
        self.addCleanup(victim.wait)
        self.addCleanup(victim.kill)
        ended = subprocess.Popen(["/bin/true"])
        ended.wait()
        kept = self.path("kept")
        kept.write_text("keep me")
        def device(path):
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: without an end
        texts = [b"", b"\n", b"0\n", b"-1\n", b"1\n", f"{os.getpid()}\n".encode(), b"4294967297\n", b"9" * 400,
                 b"text\n", b"12\0" + b"34\n", b"\xff\0garbage" * 40, b"7" * (1 << 20), f"{victim.pid}\n".encode(),
                 f"-{victim.pid}\n".encode(), f" {victim.pid} 1\n".encode(), f"{ended.pid}\n".encode()]
        odd = [lambda path, text=text: path.write_bytes(text) for text in texts]
        odd += [lambda path: path.symlink_to(kept), lambda path: path.symlink_to("/dev/zero"),
                lambda path: path.symlink_to(path), lambda path: os.link(kept, path), os.mkfifo, pathlib.Path.mkdir, device]
        names = [f"n{number}" for number in range(len(odd))]
        run.mkdir(mode=0o755)
        for name, make in zip(names, odd):
            make(run / f"{name}.pid")
        config = self.write_config("".join(self.one(name, 0.05, cooldown="1h") for name in names))
        master = self.start(config)
        for name in names:
            wait_for(f"{name} runs", lambda: self.starts(name), 30)
            pid = self.chain(name)["pid"]
            self.assertEqual((run / f"{name}.pid").read_text(), f"{pid}\n")
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        # The master's own, with a folder that is not empty for one more.
        def full(path):
            path.mkdir()
            (path / "x").write_text("")
        for make in [*odd, full]:
            own = run / "master.pid"
            if own.is_dir():
                shutil.rmtree(own)
            own.unlink(missing_ok=True)
            make(own)
            config = self.write_config(self.one("a", 0.05))
            master = self.start(config)
            if make is not full:
                self.assertEqual(own.read_text(), f"{master.pid}\n")
                self.assertFalse(own.is_symlink())
            self.goes_on()
            master.terminate()
            self.assertEqual(master.wait(20), 0)
        self.assertEqual(kept.read_text(), "keep me")
        self.assertIsNone(victim.poll())
        self.assertEqual(self.lines("hit"), [])
        self.never_two("a", *names)


class Upgrade(Lifecycle):
    def own_binary(self):
        binary = self.path("bin/runner-master")
        binary.parent.mkdir(exist_ok=True)
        shutil.copy2(harness.MASTER, binary)
        return binary

    def put(self, binary, content):
        fresh = binary.with_name("fresh")
        if content is None:
            binary.unlink()
            return
        if isinstance(content, bytes):
            fresh.write_bytes(content)
        else:
            shutil.copy2(content, fresh)
        fresh.chmod(0o755)
        fresh.rename(binary)

    def last(self):
        status = self.status()
        return (status or {"master": {}})["master"].get("last_upgrade") or {}

    def test_broken_binaries_are_refused_and_the_next_good_one_is_accepted(self):
        binary = self.own_binary()
        was, harness.MASTER = harness.MASTER, str(binary)
        self.addCleanup(setattr, harness, "MASTER", was)
        master = self.start(self.write_config(self.one(), extra=self.mail_to_maildir()))
        pid = master.pid
        seen = None
        # One that dies by a signal.
        self.path("crash.c").write_text("#include <stdlib.h>\nint main(void) { abort(); }\n")
        subprocess.run(["cc", "-o", self.path("crash"), self.path("crash.c")], check=True)
        for content in (b"no program\n", None, "/bin/true", "/bin/false", b"", self.path("crash")):
            self.put(binary, content)
            os.kill(pid, signal.SIGHUP)
            def refused():
                last = self.last()
                return last.get("cause") and last != seen and last
            try:
                seen = wait_for(f"{content!r} is refused", refused, 20)
            except AssertionError as failure:
                raise AssertionError(f"{failure} {self.last()} {master.poll()}\n{self.stderr()[-500:]}\n{self.log()[-1500:]}")
            self.assertIsNone(master.poll())
            self.goes_on()
        self.put(binary, was)
        generation = self.chain("a")["generation"]
        os.kill(pid, signal.SIGHUP)
        wait_for("accepted", lambda: self.last().get("outcome") == "accepted", 20)
        wait_for("new generation", lambda: (self.chain("a") or {"generation": 0})["generation"] > generation, 20)
        wait_for("mails", lambda: any("Upgrade accepted" in s for s in self.subjects()), 20)
        self.assertTrue(any("Upgrade refused" in s for s in self.subjects()))
        self.stop(master)
        self.never_two()

    def test_a_deleted_program_goes_on_and_a_crash_is_mended_by_the_program_that_is_put_back(self):
        binary = self.own_binary()
        was, harness.MASTER = harness.MASTER, str(binary)
        self.addCleanup(setattr, harness, "MASTER", was)
        config = self.write_config(self.one(seconds=0.2))
        master = self.start(config)
        self.goes_on()
        binary.unlink()
        master.send_signal(signal.SIGHUP)
        wait_for("it is refused", lambda: "No such file" in (self.last().get("cause") or ""), 20)
        # Whatever it forks needs no program.
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        self.goes_on()
        master.kill()
        master.wait()
        self.put(binary, was)
        master = self.start(config)
        self.goes_on()
        master.send_signal(signal.SIGHUP)
        wait_for("it is accepted", lambda: self.last().get("outcome") == "accepted", 20)
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_hup_during_a_check_brings_what_changed_after_it(self):
        """The file changes while an upgrade is being checked: the next HUP is not lost."""
        config = self.write_config(self.one(seconds=0.1))
        master = self.start(config)
        for wanted in range(2, 12):
            master.send_signal(signal.SIGHUP)
            time.sleep(0.004 * (wanted % 8))  # the check is met at different moments
            self.write_config(self.one(seconds=0.1) + self.one(name=f"n{wanted}", seconds=0.1))
            master.send_signal(signal.SIGHUP)
            wait_for(f"chain n{wanted}", lambda: self.chain(f"n{wanted}"), 10)
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_storm_of_hups(self):
        master = self.start(self.write_config(self.one()))
        self.goes_on()
        rss = lambda: int(harness.status_field(master.pid, "VmRSS")[0])
        master.send_signal(signal.SIGHUP)
        wait_for("one upgrade", lambda: self.last().get("outcome") == "accepted", 20)
        before = rss()
        for _ in range(10_000):
            os.kill(master.pid, signal.SIGHUP)
        def calm():
            status = self.status()
            return status and status["master"]["pid"] == master.pid and (self.chain("a") or {}).get("state") in ("running", "cooling")
        wait_for("calm", calm, 40)
        self.goes_on(runs=2)
        self.assertLess(rss(), before + 4096, "KiB: it grew with the storm")
        self.assertIsNone(master.poll())
        self.stop(master)
        self.never_two()

    def test_chains_and_positions(self):
        marks = ''.join(
            f'(name: "{n}", sh: "echo {n} >> {self.dir}/order{";sleep 1" if n == "t2" else ""}", success_cooldown: "10ms"),'
            for n in ("t1", "t2", "t3"))
        seq = f'(name: "seq", user: Current, cwd: "/", tasks: [{marks}]),'
        master = self.start(self.write_config(seq + self.one("a") + self.one("slow", 0.1, cooldown="1h")))
        wait_for("t2 runs", lambda: self.lines("order")[-1:] == ["t2"], 20)
        wait_for("slow ran", lambda: [l for l in self.ledger("slow") if l.startswith("end")])
        wait_for("t2 runs", lambda: self.lines("order")[-1:] == ["t2"], 20)
        self.write_config(seq + self.one("b") + self.one("slow", 0.1, cooldown="1h"))
        at = len(self.lines("order"))
        os.kill(master.pid, signal.SIGHUP)
        wait_for("b runs", lambda: self.starts("b"), 20)
        wait_for("a is gone", lambda: self.chain("a") is None and self.status(), 20)
        wait_for("three more", lambda: len(self.lines("order")) >= at + 4, 20)
        order = self.lines("order")
        expected = ["t1", "t2", "t3"]
        for left, right in zip(order, order[1:]):
            self.assertEqual(right, expected[(expected.index(left) + 1) % 3], order)
        wait_for("slow is replaced", lambda: self.chain("slow")["generation"] > 1, 20)
        self.assertEqual(self.starts("slow"), 1)
        self.stop(master)
        self.never_two("a", "b", "slow")

    def test_a_fail_cooldown_is_dropped_and_an_outage_kept(self):
        fail = (f'(name: "a", user: Current, cwd: "/", tasks: [(name: "t", sh: "echo x >> {self.dir}/fails; exit 1",'
                f' fail_cooldown: "1h", success_cooldown: "1h")]),')
        master = self.start(self.write_config(fail))
        wait_for("one", lambda: len(self.lines("fails")) == 1)
        wait_for("down", lambda: self.chain("a")["tasks"][0]["down_since"])
        since = self.chain("a")["tasks"][0]["down_since"]
        os.kill(master.pid, signal.SIGHUP)
        wait_for("two", lambda: len(self.lines("fails")) == 2)
        wait_for("told", lambda: self.chain("a")["tasks"][0]["failed"] == 2)
        self.assertEqual(self.chain("a")["tasks"][0]["down_since"], since)
        self.stop(master)

    def test_an_upgrade_drain(self):
        chain = self.one(seconds=600, chain='upgrade_drain: "300ms",')
        master = self.start(self.write_config(chain))
        wait_for("it runs", self.starts)
        os.kill(master.pid, signal.SIGHUP)
        wait_for("it runs anew", lambda: self.starts() == 2, 10)
        self.stop(master)
        self.never_two()


class Stop(Lifecycle):
    def test_quit_drains(self):
        master = self.start(self.write_config(self.one(seconds=1)))
        wait_for("it runs", self.starts)
        self.assertEqual(self.stop(master, signal.SIGQUIT), 0)
        self.assertTrue(self.ledger()[-1].startswith("end"), self.ledger())
        self.never_two()

    def test_a_second_term_hurries_a_deaf_task(self):
        deaf = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "10m", tasks: [(name: "t",'
                f' sh: "trap : TERM; echo start >> {self.dir}/ledger.a; while :; do sleep 0.1 || :; done")]),')
        master = self.start(self.write_config(deaf, extra=self.mail_to_maildir()))
        wait_for("it runs", self.starts)
        master.terminate()
        wait_for("it is told", lambda: "got SIGTERM" in self.log())
        self.assertIsNone(master.poll())
        self.assertEqual(self.stop(master, signal.SIGTERM, 10), 0)
        self.assertEqual(self.subjects(), [])

    def test_a_deaf_task_is_killed_in_time(self):
        deaf = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "300ms", tasks: [(name: "t",'
                f' sh: "trap : TERM; echo start >> {self.dir}/ledger.a; while :; do sleep 0.1 || :; done")]),')
        master = self.start(self.write_config(deaf))
        wait_for("it runs", self.starts)
        begun = time.monotonic()
        self.assertEqual(self.stop(master), 0)
        self.assertLess(time.monotonic() - begun, 8)

    def test_state_over_restart(self):
        fail = (f'(name: "a", user: Current, cwd: "/", tasks: [(name: "t", sh: "echo start >> {self.dir}/ledger.a; exit 1",'
                f' fail_cooldown: "1h", success_cooldown: "1h")]),')
        config = self.write_config(fail)
        master = self.start(config)
        since = wait_for("down", lambda: self.chain("a")["tasks"][0]["down_since"])
        self.stop(master)
        master = self.start(config)
        self.assertEqual(self.chain("a")["tasks"][0]["down_since"], since)
        self.stop(master)
        for damage in (b"", b"{", b"\xff" * 100, b'{"version":1}'):
            self.path("state/state.json").write_bytes(damage)
            master = self.start(config)
            wait_for("down", lambda: self.chain("a")["tasks"][0]["down_since"])
            self.stop(master)


class Injected(Lifecycle):
    def test_no_fork_for_a_while(self):
        config = self.write_config(self.one())
        err = open(self.dir / "stderr", "ab")
        # Of the master's and the chain's own clones the 3rd to 6th fail.
        traced = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", "-e", "trace=clone,clone3,fork,vfork",
             "-e", "inject=clone,clone3,fork,vfork:error=EAGAIN:when=3..6",
             harness.MASTER, str(config)], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            start_new_session=True)
        self.masters.append(traced)
        wait_for("answers", self.status, 30)
        master = self.status()["master"]["pid"]
        self.goes_on(runs=2, limit=40)
        os.kill(master, signal.SIGTERM)
        traced.wait(20)
        self.never_two()


if __name__ == "__main__":
    unittest.main()
