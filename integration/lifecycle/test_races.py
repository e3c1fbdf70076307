"""Races that once went wrong: a run that outlives its chain where leftovers are kept, waiting chains and
masters that are told to leave, two crashes out of different control groups, and what else a kill at
the wrong moment can do. Bound: 4 minutes.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, children_of, marked, status_field, wait_for
from test_lifecycle import Lifecycle as Base

# Run 1 leaves a daemon. Run 2 leaves somebody deaf to TERM who holds the flock, and goes on. Every other
# run is short. "marks" keeps RUNNER_… in the environment of the deaf one, "bare" does not.
KEEPER = """#!/usr/bin/python3
import fcntl, os, signal, sys, time
name, marks = sys.argv[1], sys.argv[2]
here = os.path.dirname(os.path.abspath(__file__))
def say(word):
    fd = os.open(f"{here}/ledger.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, f"{word} {os.getpid()}\\n".encode())
    os.close(fd)
def leave(role, env, lock=None):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if lock else signal.SIG_DFL)
            open(f"{here}/{role}.pid.new", "w").write(str(os.getpid()))
            os.rename(f"{here}/{role}.pid.new", f"{here}/{role}.pid")
            if lock:
                os.set_inheritable(lock, True)
            os.execve("/bin/sleep", ["sleep", "600"], env)
        os._exit(0)
    os.wait()
lock = os.open(f"{here}/flock.{name}", os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    say("overlap")
    sys.exit(1)
say("start")
if not os.path.exists(f"{here}/daemon.pid"):
    leave("daemon", dict(os.environ, HERE=here))
elif not os.path.exists(f"{here}/deaf.pid"):
    leave("deaf", dict(os.environ if marks == "marks" else {}, HERE=here), lock)
    time.sleep(600)
time.sleep(0.05)
say("end")
"""


class Races(Base):
    def start_without_groups(self, config):
        """A master that sees no version 2 hierarchy: a mount namespace without it."""
        return self.start_by(["unshare", "-m", "sh", "-c",
                              "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts) && exec \"$@\"",
                              "sh"], config)

    def start_by(self, prefix, config, ready=True):
        with open(self.dir / "stderr", "ab") as err:
            master = subprocess.Popen([*prefix, harness.MASTER, str(config)], stdin=subprocess.DEVNULL,
                                      stdout=err, stderr=err, start_new_session=True)
        self.masters.append(master)
        if ready:
            wait_for("the master answers",
                     lambda: (self.status() or {"master": {"pid": 0}})["master"]["pid"] == master.pid, 30)
        return master

    def pid_of(self, role):
        return int(wait_for(role, lambda: (self.path(f"{role}.pid").exists() and
                                           self.path(f"{role}.pid").read_text()), 30))


class Kept(Races):
    """leftovers: Keep keeps what a run left when it had ended, never a run whose chain died in it."""

    def keeper(self, marks="bare"):
        self.path("keeper").write_text(KEEPER)
        self.path("keeper").chmod(0o755)
        return (f'(name: "a", user: Current, cwd: "/", leftovers: Keep, kill_timeout: "500ms",'
                f' tasks: [(name: "t", run: ["{self.dir}/keeper", "a", "{marks}"],'
                f' success_cooldown: "50ms", fail_cooldown: "50ms")]),')

    def runs_on(self, daemon, deaf):
        have = self.starts()
        wait_for("it runs again", lambda: self.starts() >= have + 2 or "overlap" in " ".join(self.ledger()), 40)
        self.never_two()
        self.assertFalse(alive(deaf), "what the dead run left still lives")
        self.assertTrue(alive(daemon), "the daemon of a run that had ended was not kept")

    def test_a_chain_killed_in_a_run(self):
        master = self.start(self.write_config(self.keeper()))
        daemon, deaf = self.pid_of("daemon"), self.pid_of("deaf")
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        self.runs_on(daemon, deaf)
        # And once more: what the first process kept is still kept by the third.
        os.kill(wait_for("pid", lambda: self.chain("a")["pid"]), signal.SIGKILL)
        self.goes_on(runs=2, limit=40)
        self.assertTrue(alive(daemon))
        os.kill(master.pid, signal.SIGHUP)
        wait_for("upgraded", lambda: (self.chain("a") or {"generation": 0})["generation"] > 1, 30)
        self.goes_on(runs=2, limit=40)
        self.assertTrue(alive(daemon))
        self.stop(master)
        self.assertFalse(alive(daemon))

    def test_chain_and_master_killed_together(self):
        config = self.write_config(self.keeper())
        self.killed_together(self.start(config), lambda: self.start(config))

    def test_chain_and_master_killed_together_without_groups(self):
        config = self.write_config(self.keeper("marks"))
        self.killed_together(self.start_without_groups(config), lambda: self.start_without_groups(config))

    def killed_together(self, master, again):
        daemon, deaf = self.pid_of("daemon"), self.pid_of("deaf")
        os.kill(master.pid, signal.SIGSTOP)
        os.kill(self.chain_pid(), signal.SIGKILL)
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        master = again()
        self.runs_on(daemon, deaf)
        self.stop(master)
        if alive(daemon):
            os.kill(daemon, signal.SIGKILL)

    def chain_pid(self):
        return int(self.path("run/a.pid").read_text())

    def test_a_chain_without_groups_killed_in_a_run(self):
        master = self.start_without_groups(self.write_config(self.keeper()))
        daemon, deaf = self.pid_of("daemon"), self.pid_of("deaf")
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        self.runs_on(daemon, deaf)
        self.stop(master)


del Base

if __name__ == "__main__":
    unittest.main()
