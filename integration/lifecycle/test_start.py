"""Starts: who is the same runner and who is not, thirty-two at once, a stop at any moment, folders that
cannot be trusted, surroundings that are not there. Bound: 2 minutes.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import marked, wait_for
from test_lifecycle import Lifecycle as Base

SEED = int(os.environ.get("RUNNER_SEED", "1"))


class Who(Base):
    def test_thirty_two_at_once_are_one(self):
        config = self.write_config(self.one())
        for _ in range(50 if harness.FULL else 3):
            starts = [self.start(config, ready=False) for _ in range(32)]
            wait_for("one is left", lambda: sum(s.poll() is None for s in starts) == 1, 120)
            self.goes_on()
            self.assertEqual(sum(s.poll() is None for s in starts), 1)
            self.assertEqual({s.returncode for s in starts if s.returncode is not None}, {0})
        self.stop(next(s for s in starts if s.poll() is None))
        self.never_two()

    def test_children_of_the_launcher_that_nobody_waited_for(self):
        """They are reaped like its own and hold up nothing, not even the start."""
        def leave_zombies():
            for _ in range(20):
                if os.fork() == 0:
                    os._exit(0)
        began = time.monotonic()
        master = self.start(self.write_config(self.one()), preexec_fn=leave_zombies)
        self.assertLess(time.monotonic() - began, 15)
        self.goes_on()
        children = pathlib.Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        states = [pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children]
        self.assertNotIn("Z", states)
        self.assertEqual(self.stop(master), 0)

    def test_a_file_by_another_path_is_the_same_file(self):
        config = self.write_config(self.one())
        self.path("link.ron").symlink_to(config)
        self.path("loop").symlink_to(self.dir)
        os.link(config, self.path("hard.ron"))
        masters = [self.start(config)]
        for path, cwd in ((self.path("link.ron"), "/"), ("runner.ron", self.dir),
                          (self.path("loop/../") / self.dir.name / "./runner.ron", "/"),
                          (self.path("loop/runner.ron"), "/"), (self.path("hard.ron"), "/"), (config, "/")):
            self.goes_on()
            masters.append(self.start(path, cwd=cwd))
            self.assertEqual(masters[-2].wait(20), 0, self.stderr()[-400:])
        self.stop(masters[-1])
        self.never_two()

    def test_a_run_root_by_another_path_is_the_same_run_root(self):
        """Two files that mean one run_root by two paths: refused, and one with --replace."""
        first = self.start(self.write_config(self.one()))
        self.goes_on()
        self.path("way").symlink_to(self.dir)
        other = self.write_config(self.one(), name="other.ron")
        other.write_text(other.read_text().replace(f'run_root: "{self.dir}/run"', f'run_root: "{self.dir}/way/run"'))
        self.assertEqual(self.start(other, ready=False).wait(20), 69)
        self.assertIsNone(first.poll())
        second = self.start(other, "--replace")
        self.assertEqual(first.wait(20), 0)
        self.goes_on()
        self.stop(second)
        self.never_two()

    def test_a_start_while_another_takes_over(self):
        """The second is held up between its look at the lock and its signal; a third comes meanwhile."""
        config = self.write_config(self.one())
        first = self.start(config)
        self.goes_on()
        with open(self.dir / "stderr", "ab") as err:
            slow = subprocess.Popen(
                ["strace", "-o", "/dev/null", "-e", "trace=pidfd_open,pidfd_send_signal",
                 "-e", "inject=pidfd_open:delay_exit=700000", "-e", "inject=pidfd_send_signal:delay_enter=700000",
                 harness.MASTER, str(config)], stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True)
        self.masters.append(slow)
        wait_for("the second looks", lambda: harness.children_of(slow.pid), 10)
        third = self.start(config)
        self.assertEqual(first.wait(20), 0)
        # Whoever is last has replaced all others; nobody else was signalled on the way.
        wait_for("one is left", lambda: (slow.poll() is None) != (third.poll() is None), 40)
        self.goes_on()
        self.assertEqual({p.returncode for p in (slow, third) if p.poll() is not None}, {0})
        pid = self.status()["master"]["pid"]
        os.kill(pid, signal.SIGTERM)
        wait_for("nothing is left", lambda: not marked(self.dir), 30)
        self.never_two()


class Moments(Base):
    def test_a_term_at_any_moment_leaves_nothing(self):
        config = self.write_config(self.one() + self.one("b", 1))
        moments = random.Random(SEED)
        for what in ("start", "hup", "takeover") * (20 if harness.FULL else 5):
            delay = moments.uniform(0, 0.25)
            first = None
            if what == "start":
                master = self.start(config, ready=False)
            elif what == "hup":
                master = self.start(config)
                master.send_signal(signal.SIGHUP)
            else:
                first = self.start(config)
                master = self.start(config, ready=False)
            time.sleep(delay)
            master.terminate()
            try:
                # Before the very first of its instructions the default action is all there is.
                self.assertIn(master.wait(30), (0, -signal.SIGTERM), f"{what} {delay}")
            except subprocess.TimeoutExpired:
                self.fail(f"{what}, TERM after {delay} s: it does not end\n{self.log()[-1500:]}")
            if first is not None and first.poll() is None:
                # Told before it had signalled the first: that one works on.
                first.terminate()
                self.assertEqual(first.wait(30), 0)
            wait_for(f"nothing is left after {what} and {delay} s", lambda: not marked(self.dir), 15)
        for name in "ab":
            self.assertFalse([line for line in self.ledger(name) if line.startswith("overlap")])


class Ground(Base):
    def refused(self, config, word):
        self.assertEqual(self.start(config, ready=False).wait(20), 78, self.stderr()[-500:])
        self.assertIn(word, self.stderr())
        self.path("stderr").unlink()

    def test_folders_that_others_can_change_are_refused_with_the_remedy(self):
        config = self.write_config(self.one())
        run = self.path("run")
        run.mkdir()
        os.chown(run, 65534, 65534)
        self.refused(config, "chown root")
        os.chown(run, 0, 0)
        run.chmod(0o777)
        self.refused(config, "chmod")
        run.rmdir()
        # A link in the path that a user could turn.
        open_to_all = self.path("open")
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        self.path("real").mkdir(mode=0o755)
        config.write_text(config.read_text().replace(f'run_root: "{self.dir}/run"', f'run_root: "{open_to_all}/link"'))
        (open_to_all / "link").symlink_to(self.path("real"))
        master = self.start(config, ready=False)
        try:
            code = master.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        self.assertEqual(code, 78, "a run_root reached through a folder that anybody can write is used")

    def test_surroundings_that_are_not_there_cost_only_their_chain(self):
        chains = (self.one("good")
                  + self.one("nouser").replace("user: Current", 'user: "rit-nobody-here"')
                  + self.one("nocwd").replace('cwd: "/"', f'cwd: "{self.dir}/missing"')
                  + self.one("noprogram").replace("/task", "/no-such-task")
                  + self.one("noenv").replace('cwd: "/"', f'cwd: "/", env_file: "{self.dir}/missing.env"')
                  + self.one("nooutput").replace('cwd: "/"', f'cwd: "/", output: Lines("{self.dir}/missing/out")'))
        master = self.start(self.write_config(chains.replace('fail_cooldown: "50ms"', 'fail_cooldown: "10s"')))
        self.goes_on("good", runs=3)
        bad = ("nouser", "nocwd", "noprogram", "noenv", "nooutput")
        try:
            wait_for("all are failing", lambda: all(self.chain(name)["health"] == "failing" for name in bad), 20)
        except AssertionError as failure:
            raise AssertionError(f"{failure} {[(n, self.chain(n)['health'], self.chain(n)['reason']) for n in bad]}")
        self.assertEqual(self.chain("good")["health"], "ok")
        self.goes_on("good")
        self.assertEqual(self.stop(master), 0)


del Base

if __name__ == "__main__":
    unittest.main()
