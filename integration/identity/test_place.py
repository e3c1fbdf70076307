"""The master's place among what users can write: a run_root whose way was removed, and files that look
like the lock of another master."""

import json
import os
import shutil
import signal
import subprocess
import sys

from lib.harness import Case, add_user, remove_user, wait_for

MALLORY = "runner-idp-mallory"

# As a service of root's does that delivers into a user's file.
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(600)
"""


class Place(Case):
    @classmethod
    def setUpClass(cls):
        cls.mallory = add_user(MALLORY)

    @classmethod
    def tearDownClass(cls):
        remove_user(MALLORY)

    def configure(self):
        return self.write_config('(name: "a", user: "root", tasks: [(name: "t", sh: "exec sleep 600")]),')

    def give(self, path):
        os.chown(path, self.mallory.pw_uid, self.mallory.pw_gid, follow_symlinks=False)

    def test_a_way_to_run_root_that_a_user_made_anew_is_not_gone(self):
        shared, precious = self.path("shared"), self.path("precious")
        shared.mkdir()
        shared.chmod(0o1777)
        precious.mkdir()
        config = self.configure()
        config.write_text(config.read_text().replace(f'"{self.dir}/run"', f'"{shared}/x/run"'))
        (shared / "x").mkdir()
        master = self.start(config, ready=False)
        wait_for("the master", lambda: (shared / "x/run/control.sock").exists(), 20)
        # A cleaner of temporary files comes, and then the user.
        os.kill(master.pid, signal.SIGSTOP)
        shutil.rmtree(shared / "x")
        (shared / "x").mkdir()
        (shared / "x/run").symlink_to(precious)
        self.give(shared / "x/run")
        self.give(shared / "x")
        os.kill(master.pid, signal.SIGCONT)
        wait_for("it is told", lambda: "cannot be made anew" in self.log(), 20)
        self.assertIn("it belongs to " + MALLORY, self.log())
        self.assertEqual(os.listdir(precious), [])
        shutil.rmtree(shared / "x")
        wait_for("it is made anew", lambda: (shared / "x/run/control.sock").exists(), 20)
        self.assertEqual(self.stop(master), 0)

    def test_a_users_file_that_a_service_of_roots_has_locked_is_nobodys_lock(self):
        (self.path("mallory") / "lock").mkdir(parents=True)
        forged = self.path("mallory/lock/master.lock")
        forged.write_text(json.dumps({"run_root": f"{self.dir}/run", "drain_ms": 0, "kill_ms": 0}))
        for path in forged.parent, forged:
            self.give(path)
        for mode, owner in (0o644, self.mallory.pw_uid), (0o600, self.mallory.pw_uid), (0o666, 0):
            with self.subTest(oct(mode), owner=owner):
                os.chown(forged, owner, -1)
                forged.chmod(mode)
                with subprocess.Popen([sys.executable, "-c", HOLD, forged.name], cwd=forged.parent,
                                      stdout=subprocess.PIPE) as service:
                    try:
                        service.stdout.readline()
                        master = self.start(self.configure())
                        self.assertIsNone(service.poll(), self.stderr())
                        self.assertEqual(self.stop(master), 0)
                    finally:
                        service.kill()
