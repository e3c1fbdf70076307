"""A run_root that is taken away from a running master: by a cleaner, a boot script, an operator. The next
start makes it anew and must see the older master all the same. Bound: 2 minutes.
"""

import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import wait_for
from test_lifecycle import Lifecycle as Base


class Removed(Base):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(self.one())
        self.first = self.start(self.config)
        self.goes_on()

    def rm(self, what="run"):
        # A master that makes it anew at once lets the removal of the folder itself fail.
        subprocess.run(["rm", "-rf", str(self.path(what))], capture_output=True)

    def holder(self):
        """Who holds the lock of the file that is in place."""
        try:
            inode = self.path("run/lock/master.lock").stat().st_ino
        except OSError:
            return None
        for line in pathlib.Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "POSIX" and words[5].rpartition(":")[2] == str(inode):
                return int(words[4])
        return None

    def made_anew(self, master):
        wait_for(f"the lock is {master.pid}'s\n{self.log()[-1500:]}", lambda: self.holder() == master.pid, 20)
        wait_for("runnerctl reaches it", lambda: (self.status() or {}).get("master", {}).get("pid") == master.pid, 20)
        wait_for("its pidfile", lambda: self.lines("run/master.pid") == [str(master.pid)], 10)
        wait_for("its chain's pidfile", lambda: self.lines("run/a.pid") == [str(self.chain("a")["pid"])], 10)
        self.assertEqual(self.path("run/lock").stat().st_mode & 0o777, 0o700)
        self.assertEqual(self.path("run/lock/master.lock").stat().st_mode & 0o777, 0o600)

    def replaced(self, by, code=0):
        """The first has ended for the second, and that one alone works."""
        self.assertEqual(self.first.wait(40), code)
        self.goes_on(runs=2)
        self.made_anew(by)
        self.assertEqual(self.stop(by), 0)
        self.never_two()

    def test_what_is_removed_is_made_anew_at_once(self):
        for what in ("run/lock/master.lock", "run/lock", "run", "run/control.sock"):
            self.rm(what)
            self.made_anew(self.first)
        for what in ("run", "run/lock", "run/lock/master.lock"):
            self.path(what).rename(self.path("away"))
            self.made_anew(self.first)
            self.rm("away")
        self.assertIn("made anew", self.log())
        self.goes_on()
        self.replaced(self.start(self.config))

    def test_a_start_right_after_the_removal(self):
        for _ in range(50 if harness.FULL else 8):
            self.rm()
            second = self.start(self.config)
            self.assertEqual(self.first.wait(40), 0, self.stderr()[-600:])
            self.first = second
            self.goes_on()
        self.assertEqual(self.stop(self.first), 0)
        self.never_two()

    def stopped_master_and(self, take_away):
        os.kill(self.first.pid, signal.SIGSTOP)
        take_away()
        self.replaced(self.start(self.config), -signal.SIGKILL)

    def test_a_master_that_cannot_see_it_is_ended_by_the_next_start(self):
        self.stopped_master_and(self.rm)

    def test_a_folder_that_was_moved_away_still_names_its_master(self):
        self.stopped_master_and(lambda: self.path("run").rename(self.path("away")))

    def test_the_file_of_the_held_lock_that_is_put_back_into_another_folder(self):
        """To open it once more and close either descriptor would drop the lock (fcntl(2))."""
        os.kill(self.first.pid, signal.SIGSTOP)
        inode = self.path("run/lock/master.lock").stat().st_ino
        self.path("run/lock").rename(self.path("away"))
        self.path("run/lock").mkdir(mode=0o700)
        self.path("away/master.lock").rename(self.path("run/lock/master.lock"))
        os.kill(self.first.pid, signal.SIGCONT)
        wait_for("it is seen", lambda: "made anew" in self.log(), 20)
        self.made_anew(self.first)
        self.assertEqual(self.path("run/lock/master.lock").stat().st_ino, inode)
        # The new folder is watched, too.
        self.rm("run/lock")
        self.made_anew(self.first)
        self.config.write_text(self.config.read_text().replace("log:", "kill_concurrent: false, log:", 1))
        self.assertEqual(self.start(self.config, ready=False).wait(20), 69, self.stderr()[-600:])
        self.config.write_text(self.config.read_text().replace("kill_concurrent: false, ", ""))
        self.replaced(self.start(self.config))

    def test_kill_concurrent_refuses_all_the_same(self):
        self.config.write_text(self.config.read_text().replace("log:", "kill_concurrent: false, log:", 1))
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        self.assertEqual(self.start(self.config, ready=False).wait(20), 69)
        self.assertIn(str(self.first.pid), self.stderr())
        os.kill(self.first.pid, signal.SIGCONT)
        self.made_anew(self.first)
        self.goes_on()
        self.assertEqual(self.stop(self.first), 0)
        self.never_two()

    def test_an_upgrade_meanwhile(self):
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        self.first.send_signal(signal.SIGHUP)
        os.kill(self.first.pid, signal.SIGCONT)
        wait_for("upgraded", lambda: "upgraded" in self.log(), 30)
        self.made_anew(self.first)
        # The new image watches, too.
        self.rm("run/lock")
        self.made_anew(self.first)
        self.replaced(self.start(self.config))

    def test_what_cannot_be_made_anew_is_told_and_tried_again(self):
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        self.path("run").write_text("in the way")
        os.kill(self.first.pid, signal.SIGCONT)
        wait_for("it is told", lambda: "cannot open run_root" in self.log(), 20)
        self.goes_on()
        self.assertEqual(self.log().count("trying again every"), 1)
        # A chain that dies meanwhile cannot write its pidfile: it waits, and the master goes on.
        chain = next(pid for pid in harness.children_of(self.first.pid)
                     if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runner: chain"))
        os.kill(chain, signal.SIGKILL)
        wait_for("it is told", lambda: "cannot write pidfile" in self.log() or "cannot take lock" in self.log(), 20)
        self.assertIsNone(self.first.poll())
        self.path("run").unlink()
        self.goes_on(limit=60)
        self.made_anew(self.first)
        self.replaced(self.start(self.config))

    def test_the_admins_are_told_once(self):
        self.assertEqual(self.stop(self.first), 0)
        self.config = self.write_config(self.one(), self.mail_to_maildir())
        self.first = self.start(self.config)
        told = lambda: [subject for subject in self.subjects() if subject.startswith("[runner]")]
        lost = f"[runner] Lost run_root {self.dir}/run or the locks in it: "
        for n in range(2):
            self.path("run").rename(self.path(f"away{n}"))
            self.made_anew(self.first)
            wait_for("a mail", told, 20)
        # Remembered over an upgrade, too.
        self.first.send_signal(signal.SIGHUP)
        wait_for("upgraded", lambda: "upgraded" in self.log(), 30)
        self.path("run/lock").rename(self.path("away2"))
        self.made_anew(self.first)
        self.ctl("mail", "test", check=True)
        wait_for("all mails", lambda: len(told()) == 2, 30)
        self.assertEqual(told()[0], lost + "they are made anew")
        self.assertIn("Test mail", told()[1])
        self.assertEqual(self.log().count("run_root or the locks in it were removed: they are made anew"), 3)
        self.replaced(self.start(self.config))

    def test_the_admins_are_told_that_it_is_back(self):
        self.assertEqual(self.stop(self.first), 0)
        self.config = self.write_config(self.one(), self.mail_to_maildir())
        self.first = self.start(self.config)
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        self.path("run").write_text("in the way")
        os.kill(self.first.pid, signal.SIGCONT)
        wait_for("a mail", self.subjects, 20)
        self.path("run").unlink()
        self.made_anew(self.first)
        wait_for("another mail", lambda: len(self.subjects()) == 2, 20)
        lost, back = self.subjects()
        self.assertRegex(lost, r"^\[runner\] Lost run_root .*: they cannot be made anew: cannot open run_root")
        self.assertEqual(back, "[runner] Run_root and the locks in it are there again")
        self.replaced(self.start(self.config))

    def test_two_that_do_not_see_each_other_do_not_go_on_both(self):
        """The second is kept from looking: it is up beside the first, and the first yields."""
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        second = self.start(self.config, prefix=(
            "strace", "-f", "-o", "/dev/null", "-e", "trace=openat", "-P", "/proc/locks",
            "-e", "inject=openat:error=ENOENT"), ready=False)
        wait_for("the second is up", lambda: self.holder(), 20)
        os.kill(self.first.pid, signal.SIGCONT)
        self.assertEqual(self.first.wait(40), 0)
        self.assertIn("another master", self.log())
        self.goes_on()
        os.kill(self.holder(), signal.SIGTERM)
        self.assertEqual(second.wait(30), 0)

    def test_a_master_of_the_same_path_in_another_mount_namespace_is_another(self):
        """As in a container: its run_root has this one's name and is not this one."""
        self.path("in").mkdir()
        inner = self.path("in/runner.ron")
        text = self.config.read_text().replace(f"{self.dir}/log", f"{self.dir}/in/log")
        inner.write_text(text.replace('name: "a"', 'name: "b"').replace('"a", "0.3"', '"b", "0.3"'))
        script = f"mount -t tmpfs -o mode=755 runner-it {self.dir}/run && mkdir {self.dir}/run/lock && chmod 700 {self.dir}/run/lock && exec \"$@\""
        other = self.start(inner, prefix=("unshare", "-m", "sh", "-c", script, "sh"), ready=False)
        self.goes_on("b")
        # A fresh start outside, without a lock file of its own, looks for older masters.
        os.kill(self.first.pid, signal.SIGSTOP)
        self.rm()
        second = self.start(self.config)
        self.assertEqual(self.first.wait(40), -signal.SIGKILL)
        self.goes_on()
        self.assertIsNone(other.poll())
        self.goes_on("b")
        other.terminate()
        self.assertEqual(other.wait(30), 0)
        self.assertEqual(self.stop(second), 0)
        self.never_two("a", "b")


del Base

if __name__ == "__main__":
    unittest.main()
