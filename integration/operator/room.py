"""A real master with chains of real users, and runnerctl as anybody: what the suites here share."""

import grp
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import Case, wait_for

# Of this process, so that two runs of the suites on one machine do not take them from each other.
OWNER, OTHER, MEMBER, STRANGER, GROUP = (
    f"rit-{what}-{os.getpid()}" for what in ("owner", "other", "member", "stranger", "control"))


def setUpModule():
    """The accounts, and a copy of runnerctl that all of them may execute."""
    global programs
    # What a run left that was killed.
    for name in [entry.pw_name for entry in pwd.getpwall()] + [entry.gr_name for entry in grp.getgrall()]:
        if name.startswith("rit-") and not os.path.exists(f"/proc/{name.rsplit('-', 1)[1]}"):
            harness.remove_user(name)
    for name in (OWNER, OTHER, MEMBER, STRANGER):
        harness.add_user(name)
    subprocess.run(["groupadd", "--system", GROUP], check=True)
    subprocess.run(["usermod", "-aG", GROUP, MEMBER], check=True)
    programs = pathlib.Path(tempfile.mkdtemp(prefix="runner-it-bin."))
    programs.chmod(0o755)
    for program in ("runnerctl", "runner-master"):
        shutil.copy(harness.BIN / program, programs / program)


def tearDownModule():
    for name in (OWNER, OTHER, MEMBER, STRANGER):
        harness.remove_user(name)
    subprocess.run(["groupdel", GROUP], capture_output=True)
    shutil.rmtree(programs, ignore_errors=True)


def sudo(user, *words, **kwargs):
    """Runs a command as an account, with its groups and nothing of root's."""
    return subprocess.run(
        ["setpriv", "--reuid", user, "--regid", user, "--init-groups", *map(str, words)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, **kwargs)


@unittest.skipIf(os.geteuid() != 0, "needs root")
class Operator(Case):
    def chain(self, name, sh="true", user="Current", more="", task="", cooldown="1h", fail="1h"):
        """RON of a chain of one task `NAMEt` that runs `sh`."""
        user = user if user == "Current" else f'"{user}"'
        sh = sh.replace("\\", "\\\\").replace('"', '\\"')
        return (f'(name: "{name}", user: {user}, cwd: "/", kill_timeout: "2s", {more} tasks: [(name: "{name}t",'
                f' sh: "{sh}", success_cooldown: "{cooldown}", fail_cooldown: "{fail}", {task})]),')

    def ctl_as(self, user, *arguments):
        return sudo(user, programs / "runnerctl", "--run-root", self.dir / "run", *arguments)

    def went(self, done, code, out=None, err=None):
        """A finished command has this exit status, and these words in its output."""
        said = f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.assertEqual(done.returncode, code, said)
        if out is not None:
            self.assertIn(out, done.stdout, said)
        if err is not None:
            self.assertIn(err, done.stderr, said)
        return done

    def wait_state(self, chain, *states, limit=30):
        return wait_for(f"{chain} is {states}: {self.chain_of(chain)}",
                        lambda: (found := self.chain_of(chain)) and found["state"] in states and found, limit)

    def chain_of(self, name):
        """A chain's part of the status (the harness' `chain`, whose name is taken here)."""
        return Case.chain(self, name)

    def runs(self, chain):
        """How many runs of a chain's first task have ended."""
        found = self.chain_of(chain)
        return found["tasks"][0]["ok"] + found["tasks"][0]["failed"] if found else 0

    def lines_of(self, text):
        return [json.loads(line) for line in text.splitlines()]
