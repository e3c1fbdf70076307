"""A disk under run_root and state_root without a free byte or without a free inode, or read-only, while
chains are killed, upgrades and stops and starts happen: what runs goes on, never two, a start and an upgrade work
or say why not, and what was remembered is written when there is room again. Bound: 2 minutes.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib.harness import children_of, wait_for
from test_upgrade import Upgrades as Base


class Disk(Base):
    def setUp(self):
        super().setUp()
        self.disk = self.path("disk")
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200,mode=0755", "tmpfs", self.disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.disk])

    def config(self):
        """Its folders lie on the small disk, what it says and its ledgers do not."""
        chains = self.one("a", 0.1, chain='output: Discard,') + (
            '(name: "b", user: Current, cwd: "/", kill_timeout: "1s", output: Discard, tasks: [(name: "t",'
            f' sh: "echo start >>{self.dir}/ledger.b; exit 3", fail_cooldown: "200ms")]),')
        path = self.write_config(chains)
        path.write_text(path.read_text().replace(f"{self.dir}/run", f"{self.disk}/run").replace(
            f"{self.dir}/state", f"{self.disk}/state"))
        if not self.path("run").is_symlink():
            self.path("run").symlink_to(self.disk / "run")
        return path

    def break_it(self, fault):
        if fault == "full":
            with open(self.disk / "full", "wb", buffering=0) as full:
                for size in (65536, 4096, 1):
                    try:
                        while full.write(bytes(size)) == size:
                            pass
                    except OSError:
                        pass
        else:
            try:
                for number in range(1000):
                    (self.disk / f"inode{number}").touch()
            except OSError:
                pass

    def mend_it(self):
        for path in [self.disk / "full", *self.disk.glob("inode*")]:
            path.unlink(missing_ok=True)

    def failures(self):
        return self.chain("b")["tasks"][0]["failed"]

    def ride(self, fault):
        config = self.config()
        master = self.start(config)
        self.goes_on()
        self.break_it(fault)
        # What runs goes on, and what it tells is known.
        have = wait_for("status", lambda: self.chain("b") and self.failures(), 30)
        wait_for("failures are told", lambda: self.failures() >= have + 3, 30)
        # A chain dies, as often as it likes.
        for _ in range(3):
            os.kill(wait_for("pid", lambda: self.chain("a")["pid"], 90), signal.SIGKILL)
            self.goes_on("a", limit=90)
        if fault == "inodes":
            self.assertIn("cannot write pidfile a.pid", self.log())
        # An upgrade is decided, the one way or the other, and costs nothing.
        done = self.ctl("reload", "--wait")
        self.assertTrue("accepted" in done.stdout or "refused" in done.stdout + done.stderr, done.stdout + done.stderr)
        self.assertIsNone(master.poll())
        self.goes_on("a", runs=2, limit=60)
        # The master dies, too: a start works, or says why not, and what was left ends all the same.
        os.kill(master.pid, signal.SIGSTOP)
        for pid in children_of(master.pid):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runner: chain a"):
                os.kill(pid, signal.SIGKILL)
        master.kill()
        master.wait()
        self.path("stderr").write_text("")
        master = self.start(config, ready=False)
        # Without an inode there is no socket to ask it by.
        wait_for("it starts or says why not", lambda: master.poll() is not None or len(children_of(master.pid)) >= 3, 60)
        if master.poll() is None:
            self.goes_on("a", limit=60)
            master.terminate()
            self.assertEqual(master.wait(60), 0)
        else:
            self.assertIn(master.returncode, (71, 78), self.stderr())
            self.assertRegex(self.stderr(), "No space left")
        self.mend_it()
        master = self.start(config)
        self.goes_on("a", runs=2, limit=60)
        ran = self.starts("b")
        wait_for("failures are told", lambda: self.failures() >= 3, 30)
        self.assertEqual(self.ctl("reload", "--wait").returncode, 0)
        self.goes_on("a", runs=2, limit=60)
        self.assertEqual(self.stop(master), 0)
        self.assertGreaterEqual(self.starts("b"), ran)
        # What it remembers has been written.
        master = self.start(config)
        told = [json.loads(line) for line in self.ctl("history", "b", "--jsonl", check=True).stdout.splitlines()]
        self.assertGreaterEqual(sum(run.get("outcome") == "exit 3" for run in told), 3)
        self.assertEqual(self.stop(master), 0)
        self.assertNotIn("panicked", self.log() + self.stderr())
        self.never_two("a", "b")

    def test_without_a_free_byte(self):
        self.ride("full")

    def test_without_a_free_inode(self):
        self.ride("inodes")


class ReadOnly(Base):
    """run_root on a file system that becomes read-only by an error of its disk. (The kernel refuses to
    remount one so while the master's lock is open for writing.)"""

    def setUp(self):
        super().setUp()
        self.path("run").mkdir()
        with open(self.path("image"), "wb") as image:
            image.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", self.path("image")], check=True)
        self.mount()

    def mount(self):
        done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", self.path("image"), self.path("run")])
        if done.returncode:
            self.skipTest("no loop device here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.path("run")], capture_output=True)
        self.path("run").chmod(0o755)

    def break_it(self):
        device = self.path("run").stat().st_dev
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        pathlib.Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("as asked by a test")

        def read_only():
            try:
                self.path("run/probe").write_text("")
            except OSError:
                return True
            return False
        wait_for("it is read-only", read_only)

    def kill_chain(self):
        dead = wait_for("pid", lambda: self.chain("a")["pid"], 30)
        os.kill(dead, signal.SIGKILL)
        wait_for("it is replaced", lambda: self.chain("a")["pid"] not in (None, dead), 60)
        self.goes_on(limit=60)

    def locked(self):
        """Who holds the lock of chain a, exclusive or shared, so that another one has to wait for it."""
        inode = self.path("run/lock/a.lock").stat().st_ino
        lines = [line.split() for line in pathlib.Path("/proc/locks").read_text().splitlines()]
        return [int(line[4]) for line in lines if line[1] == "POSIX" and line[5].rpartition(":")[2] == str(inode)]

    def test_what_runs_goes_on_and_what_cannot_be_is_refused(self):
        config = self.write_config(self.one())
        master = self.start(config)
        self.goes_on()
        self.break_it()
        for _ in range(3):
            self.kill_chain()
            self.assertEqual(self.locked(), [self.chain("a")["pid"]])
        self.assertIn("cannot write pidfile a.pid", self.log())
        wait_for("it is well", lambda: self.chain("a")["health"] == "ok", 30)
        done = self.ctl("reload", "--wait")
        self.assertEqual(done.returncode, 1)
        self.assertIn("it cannot be written (Read-only file system)", done.stdout + done.stderr)
        self.assertEqual(self.status()["master"]["last_upgrade"]["outcome"], "refused")
        self.goes_on()
        # A start beside it changes nothing either.
        second = self.start(config, ready=False)
        self.assertEqual(second.wait(30), 78, self.stderr())
        self.assertIn("it cannot be written (Read-only file system)", self.stderr())
        self.goes_on()
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_everything_dies_meanwhile(self):
        config = self.write_config(self.one(seconds=1))
        master = self.start(config)
        self.goes_on()
        self.break_it()
        self.kill_chain()
        os.kill(master.pid, signal.SIGSTOP)
        os.kill(self.locked()[0], signal.SIGKILL)
        master.kill()
        master.wait()
        self.assertEqual(self.start(config, ready=False).wait(30), 78, self.stderr())
        subprocess.run(["umount", self.path("run")], check=True)
        self.mount()
        master = self.start(config)
        self.goes_on()
        self.kill_chain()
        self.assertEqual(self.stop(master), 0)
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
