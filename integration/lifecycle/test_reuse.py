"""A process number that belongs to somebody else by now: in a pid namespace of the test's own, where the next
number is what the test says (proc_sys_kernel(5), ns_last_pid), an innocent process gets the number of a dead
master, chain, run, kept daemon, or of a master that dies between the look at it and the signal. It is never
signalled. Bound: 2 minutes.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, wait_for
from test_races import KEEPER
from test_lifecycle import Lifecycle as Base

ROUNDS = 20 if harness.FULL else 4


class Inside(Base):
    def setUp(self):
        super().setUp()
        self.path("run").mkdir(mode=0o755)

    def bystander(self, pid, hurry=False):
        """A process with this number, which writes down every signal that it gets and dies of none of them but
        SIGKILL."""
        program = pathlib.Path("/bin/sh")
        words = [program, "-c", "for s in HUP INT QUIT USR1 USR2 TERM CONT; do trap \"echo $s >>"
                 f" {self.dir}/hit\" $s; done; : > {self.dir}/listens.$$; while :; do read x <> {self.dir}/never; done"]
        if not self.path("never").exists():
            os.mkfifo(self.path("never"))
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            if process.pid == pid:
                if not hurry:
                    wait_for("it listens", self.path(f"listens.{pid}").exists, 20)
                return process
        raise AssertionError(f"nobody got the number {pid}")

    def gone(self, pid):
        """Whether the number is free; in this namespace orphans are this process's children."""
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        return not os.path.exists(f"/proc/{pid}")

    def unharmed(self, *bystanders):
        for bystander in bystanders:
            self.assertIsNone(bystander.poll(), f"process {bystander.pid} was killed")
        self.assertEqual(self.lines("hit"), [])

    def test_of_a_dead_master_and_its_dead_chain(self):
        config = self.write_config(self.one())
        for _ in range(ROUNDS):
            master = self.start(config)
            self.goes_on()
            chain = self.chain("a")["pid"]
            os.kill(master.pid, signal.SIGSTOP)
            os.kill(chain, signal.SIGKILL)
            master.kill()
            master.wait()
            wait_for("the chain is gone", lambda: self.gone(chain), 20)
            self.assertEqual(self.path("run/master.pid").read_text(), f"{master.pid}\n")
            self.assertEqual(self.path("run/a.pid").read_text(), f"{chain}\n")
            others = [self.bystander(master.pid), self.bystander(chain)]
            master = self.start(config)
            self.goes_on()
            master.send_signal(signal.SIGHUP)
            self.goes_on(runs=2)
            master.terminate()
            self.assertEqual(master.wait(30), 0)
            self.unharmed(*others)
        self.never_two()

    def test_of_a_dead_chain_and_an_ended_run_under_the_living_master(self):
        master = self.start(self.write_config(self.one()))
        for _ in range(ROUNDS):
            self.goes_on(runs=2)
            run = int([line for line in self.ledger() if line.startswith("end")][-1].split()[1])
            chain = wait_for("pid", lambda: self.chain("a")["pid"], 60)
            wait_for("the run is gone", lambda: self.gone(run), 20)
            others = [self.bystander(run)]
            os.kill(chain, signal.SIGKILL)
            wait_for("the chain is gone", lambda: self.gone(chain), 20)
            others.append(self.bystander(chain))
            self.goes_on(limit=90)
            self.ctl("restart", "--now", "--wait", "a", check=True)
            self.goes_on(runs=2, limit=60)
            self.unharmed(*others)
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        self.unharmed(*others)
        self.never_two()

    def test_of_a_kept_daemon_that_has_ended(self):
        self.path("keeper").write_text(KEEPER)
        self.path("keeper").chmod(0o755)
        self.path("deaf.pid").touch()
        chain = (f'(name: "a", user: Current, cwd: "/", leftovers: Keep, kill_timeout: "500ms",'
                 f' tasks: [(name: "t", run: ["{self.dir}/keeper", "a", "marks"],'
                 f' success_cooldown: "50ms", fail_cooldown: "50ms")]),')
        config = self.write_config(chain)
        master = self.start(config)
        daemon = int(wait_for("the daemon", lambda: self.path("daemon.pid").exists() and
                              self.path("daemon.pid").read_text(), 20))
        self.goes_on(runs=2)
        # A chain process that only reads of it, and then neither its end nor another's beginning is seen.
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        self.goes_on(runs=2, limit=60)
        self.assertTrue(alive(daemon))
        os.kill(daemon, signal.SIGKILL)
        wait_for("the daemon is gone", lambda: self.gone(daemon), 20)
        other = self.bystander(daemon)
        self.ctl("restart", "--now", "--wait", "a", check=True)
        os.kill(wait_for("pid", lambda: self.chain("a")["pid"]), signal.SIGKILL)
        self.goes_on(runs=2, limit=60)
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        master = self.start(config)
        self.goes_on(runs=2, limit=60)
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        self.unharmed(other)
        self.never_two()

    def test_between_the_look_and_the_signal(self):
        """The master that is to be replaced dies, and its number is another's, while its successor is about to
        open or to signal it."""
        config = self.write_config(self.one())
        for call in ("pidfd_open", "pidfd_send_signal"):
            first = self.start(config)
            self.goes_on()
            with open(self.dir / "stderr", "ab") as err:
                tracer = subprocess.Popen(
                    ["strace", "-o", self.path("trace"), "-e", f"trace={call}", "-e",
                     f"inject={call}:delay_enter=3000000:when=1", harness.MASTER, str(config)],
                    stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True)
            self.masters.append(tracer)
            # strace writes the call down as it enters it, and then holds it.
            wait_for("it is about to", lambda: self.path("trace").exists() and call in self.path("trace").read_text(), 20)
            first.kill()
            first.wait()
            other = self.bystander(first.pid, hurry=True)
            self.assertLessEqual(len(self.path("trace").read_text().splitlines()), 1)
            self.goes_on(runs=3, limit=60)
            status = wait_for("status", self.status, 20)
            os.kill(status["master"]["pid"], signal.SIGTERM)
            self.assertEqual(tracer.wait(40), 0)
            self.assertIn(str(first.pid), self.path("trace").read_text() + self.stderr())
            self.unharmed(other)
            self.path("trace").unlink()
        self.never_two()


class Reuse(unittest.TestCase):
    def test_in_a_namespace_of_its_own(self):
        done = subprocess.run(
            ["unshare", "-p", "-m", "-f", "--kill-child", "--mount-proc", sys.executable, "-m", "unittest", "-v", "test_reuse.Inside"],
            cwd=pathlib.Path(__file__).resolve().parent, capture_output=True, text=True,
            timeout=900 if harness.FULL else 240)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("Ran 4 tests", done.stderr)


def load_tests(loader, _tests, _pattern):
    """What runs in the namespace is asked for by name."""
    return loader.loadTestsFromTestCase(Reuse)


del Base

if __name__ == "__main__":
    unittest.main()
