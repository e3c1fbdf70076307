"""Chains whose master is killed while they cannot hear of it, or whose user is another one afterwards.
Bound: 2 minutes.
"""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, status_field, wait_for
from test_lifecycle import Lifecycle
from test_races import Races as Base

# ptrace(2), wait(2)
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


class Orphans(Base):
    def user(self, what):
        user = harness.add_user(f"rit-{what}-{os.getpid()}")
        self.addCleanup(harness.remove_user, user.pw_name)
        return user

    def long(self, user="Current", seconds="600", kill_timeout="1s"):
        """A chain whose run is long and says who it is."""
        for name in ("ledger.a", "flock.a"):
            self.path(name).touch()
            self.path(name).chmod(0o666)
        chain = Lifecycle.one(self, "a", seconds)
        chain = chain.replace('kill_timeout: "1s"', f'kill_timeout: "{kill_timeout}"')
        return chain.replace("user: Current", f"user: {user}")

    def run_of(self, uid, but=()):
        """The run that goes on as that user."""
        def found():
            for line in reversed(self.ledger()):
                word, pid = line.split()
                if word == "start" and pid not in but and alive(int(pid)):
                    return int(pid) if status_field(int(pid), "Uid")[0] == str(uid) else None
            return None
        return wait_for(f"a run as {uid}", found, 60)

    def ends_all(self, master):
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_stopped_chain_of_a_killed_master_and_its_run_end_at_the_next_start(self):
        config = self.write_config(self.long(kill_timeout="30s"))
        master = self.start_without_groups(config)
        run = self.run_of(0)
        chain = self.chain("a")["pid"]
        # The master must not see it stopped, or it replaces it.
        os.kill(master.pid, signal.SIGSTOP)
        os.kill(chain, signal.SIGSTOP)
        master.kill()
        master.wait()
        self.assertTrue(alive(chain) and alive(run))
        master = self.start_without_groups(config)
        # It does not wait for a time that it was given to end: it is let go on, and hears of its master's death.
        wait_for("the chain and its run end", lambda: not alive(chain) and not alive(run), 15)
        self.run_of(0, but=(str(run),))
        self.ends_all(master)

    def test_a_chain_that_hears_nothing_is_killed_and_its_run_ended(self):
        """Held in a trace, it gets no signal but SIGKILL, as if it was in an endless loop."""
        config = self.write_config(self.long())
        master = self.start_without_groups(config)
        run = self.run_of(0)
        chain = self.chain("a")["pid"]
        libc = ctypes.CDLL(None, use_errno=True)
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            self.assertEqual(libc.ptrace(request, chain, None, None), 0, os.strerror(ctypes.get_errno()))
        wait_for("it is held", lambda: status_field(chain, "State")[0] == "t", 10)
        master.kill()
        master.wait()
        master = self.start_without_groups(config)
        wait_for("the chain and its run end", lambda: not alive(chain) and not alive(run), 40)
        os.waitpid(chain, WALL)
        self.run_of(0, but=(str(run),))
        self.ends_all(master)

    def orphan_of(self, old):
        """A run that goes on after its chain and its master were killed."""
        # It is deaf to the signal that it gets at its chain's death.
        deaf = self.long(f'"{old.pw_name}"').replace(
            f'run: ["{self.dir}/task", "a", "600"]', f"sh: \"trap '' TERM; exec {self.dir}/task a 600\"")
        master = self.start_without_groups(self.write_config(deaf))
        run = self.run_of(old.pw_uid)
        os.kill(master.pid, signal.SIGSTOP)
        self.kill_chain()
        master.kill()
        master.wait()
        self.assertTrue(alive(run))
        return run

    def test_a_former_user_that_stops_whoever_ends_its_orphans_holds_up_one_attempt(self):
        old, new = self.user("old"), self.user("new")
        run = self.orphan_of(old)
        # Signals whatever it may signal, but itself: kill(2).
        stopper = subprocess.Popen(
            [sys.executable, "-c", "import os, time\nwhile True:\n try: os.kill(-1, 19)\n"
             " except ProcessLookupError: pass\n time.sleep(0.005)"], user=old.pw_uid, group=old.pw_gid)
        self.addCleanup(stopper.wait)
        self.addCleanup(stopper.kill)
        master = self.start_without_groups(self.write_config(self.long(f'"{new.pw_name}"')))
        wait_for("it is told", lambda: "processes of an earlier run do not end" in self.log(), 60)
        self.assertTrue(alive(run))
        stopper.kill()
        stopper.wait()
        self.run_of(new.pw_uid)
        self.assertFalse(alive(run))
        self.ends_all(master)

    def test_orphans_of_the_user_that_a_chain_had_before(self):
        old, new = self.user("old"), self.user("new")
        run = self.orphan_of(old)
        # Another user's process with the same marks, as one would forge them.
        environ = pathlib.Path(f"/proc/{run}/environ").read_text().split("\0")
        marks = dict(line.split("=", 1) for line in environ if line.startswith("RUNNER_"))
        others = [subprocess.Popen(["/bin/sleep", "600"], env=marks, user=who) for who in (0, 65534)]
        for other in others:
            self.addCleanup(other.wait)
            self.addCleanup(other.kill)
        master = self.start_without_groups(self.write_config(self.long(f'"{new.pw_name}"')))
        self.run_of(new.pw_uid)
        self.assertFalse(alive(run))
        self.assertEqual([other.poll() for other in others], [None, None])
        for other in others:
            other.kill()
            other.wait()
        self.ends_all(master)

    def test_a_user_that_is_deleted_or_renumbered_while_its_chain_runs(self):
        user = self.user("gone")
        master = self.start_without_groups(
            self.write_config(self.long(f'"{user.pw_name}"', "0.2"), self.mail_to_maildir()))
        self.run_of(user.pw_uid)
        # What was just looked up is used as it is: not so some seconds later.
        begun = time.monotonic()
        wait_for("the look-up is old", lambda: time.monotonic() > begun + 11, 20)
        subprocess.run(["userdel", "-f", user.pw_name], capture_output=True)
        # The process that lives is who it was.
        self.goes_on()
        self.kill_chain()
        self.waits_for_its_user("there is no user")
        self.assertTrue(any("[chain a]" in subject for subject in self.subjects()), self.subjects())
        self.assertIsNone(master.poll())
        # Its number may be somebody else's by now, and its name have another number.
        subprocess.run(["useradd", "--system", "-o", "-u", str(user.pw_uid), "--no-create-home",
                        f"{user.pw_name}-x"], check=True, capture_output=True)
        self.addCleanup(harness.remove_user, f"{user.pw_name}-x")
        again = harness.add_user(user.pw_name)
        self.assertNotEqual(again.pw_uid, user.pw_uid)
        self.waits_for_its_user(f"is {again.pw_uid} now")
        self.ctl("reload", "--wait", check=True)
        self.run_of(again.pw_uid)
        self.ends_all(master)

    def kill_chain(self):
        os.kill(int(self.lines("run/a.pid")[0]), signal.SIGKILL)

    def waits_for_its_user(self, why):
        """It is told why it cannot start, and nothing ran since."""
        before = len(self.ledger())
        wait_for(why, lambda: why in self.log(), 70)
        self.assertEqual(self.chain("a")["health"], "failing")
        self.assertIn(len(self.ledger()) - before, (0, 1), "it ran as somebody")


del Base

if __name__ == "__main__":
    unittest.main()
