"""The master is killed at its n-th call of this and that, at a start, an upgrade and a takeover; then
a clean start works and the tasks' own ledger knows of no overlap. A sample, at most 90 s, or every
point with RUNNER_FULL=1.
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
from lib.harness import wait_for
from test_lifecycle import Lifecycle as Base

CALLS = ("openat", "write", "renameat", "fcntl", "clone", "execveat,execve", "pidfd_send_signal")
LIMIT = None if harness.FULL else 60


@unittest.skipUnless(harness.FULL, "the sweep runs with --full")
class Sweep(Base):
    def traced(self, config, call, n):
        err = open(self.dir / "stderr", "ab")
        with err:
            # Without -f: the points are the master's own.
            process = subprocess.Popen(
                ["strace", "-o", "/dev/null", "-e", f"trace={call}",
                 "-e", f"inject={call}:signal=KILL:when={n}", harness.MASTER, str(config)],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True)
        self.masters.append(process)
        return process

    def settled(self, process, runs):
        """Until the traced master is dead, or has come so far that it will not die here."""
        end = time.monotonic() + 8
        while process.poll() is None and self.starts() < runs and time.monotonic() < end:
            time.sleep(0.02)

    def master_of(self, process):
        children = harness.children_of(process.pid)
        return children[0] if children else None

    def sweep(self, phase):
        config = self.write_config(self.one(seconds=0.1))
        points = died = 0
        begun = time.monotonic()
        sample = range(1, 400) if harness.FULL else (1, 2, 3, 5, 8, 13, 21)
        for n in sample:
            reached = False
            for call in CALLS:
                if LIMIT and time.monotonic() - begun > LIMIT / 3:
                    break
                points += 1
                old = None
                if phase == "takeover":
                    old = self.start(config)
                process = self.traced(config, call, n)
                self.settled(process, self.starts() + 2)
                if phase == "hup" and process.poll() is None and (pid := self.master_of(process)):
                    os.kill(pid, signal.SIGHUP)
                    self.settled(process, self.starts() + 3)
                if process.poll() is not None:
                    died, reached = died + 1, True
                # One that lives on would take the clean start's place.
                if process.poll() is None and (pid := self.master_of(process)):
                    os.kill(pid, signal.SIGKILL)
                    process.wait(15)
                clean = self.start(config)
                self.goes_on(runs=2)
                self.never_two()
                clean.kill()
                clean.wait()
                for master in (process, old):
                    if master is not None:
                        try:
                            master.wait(15)
                        except subprocess.TimeoutExpired:
                            self.fail(f"{phase} {call} {n}: a replaced master stays\n{self.log()[-1500:]}")
            if not reached and n > 30:
                break
        last = self.start(config)
        self.goes_on()
        self.stop(last)
        self.never_two()
        print(f"\n[sweep {phase}: {points} points, {died} died there, {self.starts()} runs, no overlap]",
              file=sys.stderr)
        self.assertGreater(died, 0)

    def test_at_a_start(self):
        self.sweep("start")

    def test_at_an_upgrade(self):
        self.sweep("hup")

    def test_at_a_takeover(self):
        self.sweep("takeover")


del Base

if __name__ == "__main__":
    unittest.main()
