"""When the machine is short of something or a call is interrupted: failures with backoff, never a spin,
never an exit; nothing is lost. Bound: 2 minutes.
"""

import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, children_of, wait_for
from test_races import Races as Base


class Scarce(Base):
    def traced(self, config, trace, *injections, follow=True):
        """A master under strace; returns the tracer, and the master's pid."""
        words = ["strace", *(["-f"] if follow else []), "-o", "/dev/null", "-e", f"trace={trace}"]
        for injection in injections:
            words += ["-e", f"inject={injection}"]
        with open(self.dir / "stderr", "ab") as err:
            tracer = subprocess.Popen([*words, harness.MASTER, str(config)], stdin=subprocess.DEVNULL,
                                      stdout=err, stderr=err, start_new_session=True)
        self.masters.append(tracer)
        return tracer, wait_for("answers", lambda: (self.status() or {"master": {}})["master"].get("pid"), 40)

    def cpu(self, pid):
        """Seconds of CPU that a process has used."""
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, tracer, master):
        os.kill(master, signal.SIGTERM)
        self.assertEqual(tracer.wait(40), 0)
        wait_for("nothing is left", lambda: not harness.marked(self.dir), 15)

    def test_programs_that_cannot_be_executed_say_why_and_cost_only_their_task(self):
        """ENOENT, EACCES, ENOEXEC, E2BIG, ETXTBSY, ENOTDIR, ELOOP: each a failed run with its cause."""
        busy = self.path("busy")
        busy.write_bytes(pathlib.Path("/bin/true").read_bytes())
        busy.chmod(0o755)
        held = open(busy, "r+b")
        self.addCleanup(held.close)
        plain = self.path("plain")
        plain.write_text("#!/bin/sh\n")
        plain.chmod(0o644)
        garbage = self.path("garbage")
        garbage.write_bytes(b"\x7fELF garbage")
        garbage.chmod(0o755)
        self.path("loop").symlink_to(self.path("loop"))
        # One argument has at most 128 KiB, a file at most 1 MiB.
        big = f'"{"x" * 140_000}"'
        cases = {"enoent": (f'"{self.dir}/missing"', "No such file"), "eacces": (f'"{plain}"', "ermission"),
                 "enoexec": (f'"{garbage}"', "format"), "e2big": (f'"/bin/true", {big}', "too long"),
                 "etxtbsy": (f'"{busy}"', "busy"), "enotdir": (f'"{plain}/x"', "directory"),
                 "eloop": (f'"{self.dir}/loop"', "symbolic links")}
        chains = "".join(
            f'(name: "{name}", user: Current, cwd: "/", tasks: [(name: "{name}t", run: [{argv}], fail_cooldown: "1s")'
            f', (name: "{name}u", sh: "echo start >>{self.dir}/ledger.{name}", success_cooldown: "1s")]),'
            for name, (argv, _) in cases.items())
        config = self.write_config(chains + self.one("good"))
        master = self.start(config)
        for name, (_, word) in cases.items():
            # The order goes on behind the task that cannot be started.
            wait_for(f"{name} goes on", lambda: self.starts(name) >= 2, 30)
            task = self.chain(name)["tasks"][0]
            self.assertEqual(task["last"]["outcome"], "cannot start", name)
            self.assertGreaterEqual(task["failed"], 1)
            said = self.ctl("history", name, "--jsonl", check=True).stdout
            self.assertIn(word, said, name)
        self.goes_on("good")
        used, begun = self.cpu(master.pid), time.monotonic()
        wait_for("3 s", lambda: time.monotonic() - begun > 3, 5)
        self.assertLess((self.cpu(master.pid) - used) / (time.monotonic() - begun), 0.4, "the master spins")
        self.assertEqual(self.stop(master), 0)
        self.never_two("good")

    def attached(self, pid, *words):
        """strace on a process that runs."""
        tracer = subprocess.Popen(["strace", "-o", "/dev/null", *words, "-p", str(pid)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        def end():
            tracer.terminate()
            tracer.wait(20)
        self.addCleanup(end)
        wait_for("it is traced", lambda: harness.status_field(pid, "TracerPid") != ["0"], 20)
        return end

    def test_a_user_without_processes_to_spare(self):
        """RLIMIT_NPROC bounds what a task may start: its failure is told, and it recovers by itself."""
        name = f"rit-scarce-{os.getpid()}"
        account = harness.add_user(name)
        self.addCleanup(harness.remove_user, name)
        hog = [subprocess.Popen(["/bin/sleep", "1000"], user=account.pw_uid) for _ in range(3)]
        def free():
            for process in hog:
                process.kill()
                process.wait()
            hog.clear()
        self.addCleanup(free)
        self.path("ledger.a").write_text("")
        os.chown(self.path("ledger.a"), account.pw_uid, -1)
        chain = (f'(name: "a", user: "{name}", rlimits: {{"nproc": 4}}, cwd: "/", tasks: [(name: "t",'
                 f' sh: "/bin/true && echo start >>{self.dir}/ledger.a", fail_cooldown: "500ms")]),')
        master = self.start(self.write_config(chain + self.one("b")))
        wait_for("it fails", lambda: self.chain("a")["tasks"][0]["failed"] >= 2, 30)
        self.assertIn("fork", self.ctl("history", "a", "--jsonl", check=True).stdout)
        self.assertEqual(self.starts(), 0)
        self.goes_on("b")
        free()
        wait_for("it recovers", self.starts, 30)
        self.assertEqual(self.stop(master), 0)
        self.never_two("b")

    def test_a_chain_that_cannot_fork_fails_the_run_and_goes_on(self):
        master = self.start(self.write_config(self.one()))
        self.goes_on()
        chain = self.chain("a")["pid"]
        self.attached(chain, "-e", "trace=clone,clone3", "-e", "inject=clone,clone3:error=EAGAIN:when=1..4")
        wait_for("it fails", lambda: self.chain("a")["tasks"][0]["failed"] >= 4, 20)
        said = self.ctl("history", "a", "--jsonl", check=True).stdout
        self.assertIn("cannot start", said)
        self.assertIn("temporarily unavailable", said)
        self.goes_on()
        self.assertEqual(self.chain("a")["pid"], chain)
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_no_fork_at_all_for_a_while_is_backoff_and_no_spin(self):
        config = self.write_config(self.one())
        # The master's own forks: the check and the logger work, then none does for a while.
        tracer, master = self.traced(config, "clone,clone3,fork,vfork",
                                     "clone,clone3,fork,vfork:error=EAGAIN:when=3..7", follow=False)
        wait_for("it is told", lambda: "cannot start its process" in self.log(), 20)
        used, begun = self.cpu(master), time.monotonic()
        wait_for("2 s", lambda: time.monotonic() - begun > 2, 5)
        self.assertLess((self.cpu(master) - used) / (time.monotonic() - begun), 0.4, "the master spins")
        self.goes_on(limit=60)
        self.end(tracer, master)
        self.never_two()

    def test_no_descriptors_for_a_while(self):
        """EMFILE in the master's socketpair, open and memfd calls: chains come with backoff, a HUP is refused."""
        config = self.write_config(self.one() + self.one("b"))
        master = self.start(config)
        self.goes_on()
        limit = len(os.listdir(f"/proc/{master.pid}/fd"))
        import resource
        was = resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(
            master.pid, resource.RLIMIT_NOFILE)[1]))
        os.kill(int(self.path("run/a.pid").read_text()), signal.SIGKILL)
        master.send_signal(signal.SIGHUP)
        wait_for("refused", lambda: "upgrade refused" in self.log(), 20)
        used, begun = self.cpu(master.pid), time.monotonic()
        wait_for("2 s", lambda: time.monotonic() - begun > 2, 5)
        self.assertLess((self.cpu(master.pid) - used) / (time.monotonic() - begun), 0.4, "the master spins")
        self.assertIsNone(master.poll())
        resource.prlimit(master.pid, resource.RLIMIT_NOFILE, was)
        self.goes_on("a", limit=90)
        self.goes_on("b")
        self.assertEqual(self.stop(master), 0)
        self.never_two("a", "b")

    def test_interrupted_calls_have_no_effect(self):
        """Every third call of master, chains and helpers is interrupted; programs are let go of, for the
        loader of the C library gives up at an interrupted read."""
        master = self.start(self.write_config(self.one(seconds=0.1)))
        self.goes_on()
        calls = ("read", "write", "wait4", "waitid", "epoll_wait", "poll", "ppoll", "sendto", "recvfrom", "recvmsg",
                 "sendmsg", "connect", "accept4", "flock")
        detach = self.attached(master.pid, "-f", "-b", "execve", "-e", "trace=execve," + ",".join(calls),
                               *(word for call in calls for word in ("-e", f"inject={call}:error=EINTR:when=2+3")))
        os.kill(int(self.path("run/a.pid").read_text()), signal.SIGKILL)
        self.goes_on(runs=8, limit=60)
        self.ctl("pause", "a", check=True)
        wait_for("paused", lambda: self.chain("a")["state"] == "paused", 30)
        ended = sum(line.startswith("end") for line in self.ledger())
        wait_for("all are told", lambda: self.chain("a")["tasks"][0]["ok"] >= ended - 1, 10)
        self.ctl("resume", "a", check=True)
        self.goes_on(runs=2, limit=60)
        detach()
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_report_that_does_not_go_out_at_once_goes_out_later(self):
        """Two of three sends fail with EAGAIN: every run is told all the same."""
        config = self.write_config(self.one(seconds=0.05))
        tracer, master = self.traced(config, "sendto,sendmsg", "sendto,sendmsg:error=EAGAIN:when=1+3",
                                     "sendto,sendmsg:error=EAGAIN:when=2+3")
        self.goes_on(runs=10, limit=60)
        self.ctl("pause", "a", check=True)
        wait_for("paused", lambda: self.chain("a")["state"] == "paused", 30)
        ended = sum(line.startswith("end") for line in self.ledger())
        wait_for("all are told", lambda: self.chain("a")["tasks"][0]["ok"] == ended, 10)
        self.end(tracer, master)
        self.never_two()

    @unittest.skipUnless(platform.machine() == "x86_64", "the tool changes registers by name")
    def test_pipes_that_take_and_give_one_byte_at_a_time(self):
        """Output, a worker's requests and replies, and what a check says are put together all the same."""
        short = self.path("short")
        source = pathlib.Path(__file__).with_name("short.c")
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", short, source], check=True)
        said = " ".join(f"word{n}" for n in range(60))
        self.path("tasks.py").write_text(
            "def well():\n    print('well done ' * 20)\n"
            f"def bad():\n    raise ValueError('{said}')\n")
        config = self.write_config(
            f'(name: "o", user: Current, cwd: "/", tasks: [(name: "t", sh: "echo {said}; echo {said} >&2; exit 3",'
            ' fail_cooldown: "1s")]),'
            f'(name: "w", user: Current, cwd: "{self.dir}", worker: Python("/usr/bin/python3"),'
            ' env: {"PYTHONDONTWRITEBYTECODE": "1"}, tasks: [(call: "tasks.well", success_cooldown: "100ms"),'
            ' (call: "tasks.bad", fail_cooldown: "100ms")]),' + self.one())
        tracer = self.start_by([short], config, ready=False)
        master = wait_for("answers", lambda: (self.status() or {"master": {}})["master"].get("pid"), 40)
        failed = lambda name, at: self.chain(name)["tasks"][at]["failed"]
        wait_for("all tasks run", lambda: failed("o", 0) >= 2 and failed("w", 1) >= 2, 40)
        self.assertGreaterEqual(self.chain("w")["tasks"][0]["ok"], 2)
        for source, line in (("o t 1 out", said), ("o t 1 err", said), ("w well 1 out", ("well done " * 20).strip())):
            wait_for(f"[{source}] {line}", lambda: f"[{source}] {line}" in self.log(), 20)
        # What the reports carry is whole: the last line of stderr, and what was raised.
        notices = self.ctl("notices", "--json", check=True).stdout
        for task in ("t", "bad"):
            self.assertIn(f"[{task}] First exception caught: {said[:200]}", notices)
        good = config.read_text()
        config.write_text(good.replace("chains:", "unheard_of: 1, chains:"))
        done = self.ctl("reload", "--wait")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout + done.stderr, r"(?s)the configuration has no field `unheard_of`.*1 error, 2 warnings$")
        config.write_text(good)
        self.assertEqual(self.ctl("reload", "--wait").returncode, 0, self.log()[-2000:])
        self.goes_on(runs=2, limit=40)
        self.end(tracer, master)
        self.never_two()
        # Not by chance: the pipes were short.
        self.assertGreater(int(self.stderr().rpartition("short: ")[2].split()[0]), 2000)

    def test_two_hundred_runs_that_end_in_one_tick(self):
        count = 200
        barrier = self.path("go")
        chains = "".join(
            f'(name: "c{n}", user: Current, cwd: "/", tasks: [(name: "t", sh: "echo start >>{self.dir}/ledger.all;'
            f' while [ ! -e {barrier} ]; do sleep 1; done; exit {n % 2}", success_cooldown: "1h", fail_cooldown: "1h")]),'
            for n in range(count))
        master = self.start(self.write_config(chains))
        wait_for("all run", lambda: self.starts("all") == count, 60)
        barrier.write_text("")
        def told():
            status = self.status()
            tasks = [chain["tasks"][0] for chain in status["chains"]] if status else []
            return sum(t["ok"] for t in tasks), sum(t["failed"] for t in tasks)
        wait_for("200 results", lambda: told() == (count / 2, count / 2), 60)
        zombies = [pid for pid in children_of(master.pid) if not alive(pid)]
        for chain in self.status()["chains"]:
            zombies += [pid for pid in children_of(chain["pid"]) if not alive(pid)]
        self.assertEqual(zombies, [])
        self.assertEqual(self.stop(master, limit=60), 0)

    def test_a_child_that_nobody_knows_is_reaped_and_a_launchers_own_is_left_alone(self):
        config = self.write_config(self.one())
        with open(self.dir / "stderr", "ab") as err:
            master = subprocess.Popen(
                ["sh", "-c", 'sleep 1000 & sleep 0.2 & exec "$@"', "sh", harness.MASTER, str(config)],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True)
        self.masters.append(master)
        wait_for("answers", self.status, 20)
        mine = [pid for pid in children_of(master.pid)
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"]
        self.assertEqual(len(mine), 1)
        self.addCleanup(os.kill, mine[0], signal.SIGKILL)
        self.goes_on()
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        self.goes_on(limit=40)
        wait_for("the short one is reaped", lambda: all(alive(pid) for pid in children_of(master.pid)), 10)
        self.assertTrue(alive(mine[0]))
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        self.assertTrue(alive(mine[0]))
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
