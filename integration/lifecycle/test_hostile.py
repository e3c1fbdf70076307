"""What a task can do to its runner, its successor and to others: marks that are forged, a program with
another user's rights, what is kept because the file says so. Bound: 2 minutes.
"""

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
from lib.harness import alive, wait_for
from test_races import Races as Base

WITHOUT_GROUPS = ["unshare", "-m", "sh", "-c",
                  "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts) && exec \"$@\"", "sh"]


class Hostile(Base):
    def user(self, what):
        name = f"rit-{what}-{os.getpid()}"
        self.addCleanup(harness.remove_user, name)
        return harness.add_user(name)

    def ended(self, name="a"):
        return sum(line.startswith("end") for line in self.ledger(name))

    def give(self, account, *names):
        """Files of the ledger that belong to a chain's user."""
        for name in names:
            self.path(name).write_text("")
            os.chown(self.path(name), account.pw_uid, account.pw_gid)

    def test_forged_marks_get_nobody_killed(self):
        """A process of another user, and of root, that carries a chain's marks is never signalled."""
        owner, other = self.user("owner"), self.user("other")
        self.give(owner, "ledger.a", "flock.a")
        config = self.write_config(self.one(seconds=30).replace("user: Current", f'user: "{owner.pw_name}"'))
        master = self.start_by(WITHOUT_GROUPS, config)
        wait_for("it runs", self.starts, 20)
        run = int(self.ledger()[0].split()[1])
        marks = {name: value for name, value in (
            entry.split("=", 1) for entry in
            pathlib.Path(f"/proc/{run}/environ").read_text().split("\0") if "=" in entry)
            if name.startswith("RUNNER_")}
        self.assertIn("RUNNER_CHAIN", marks)
        forged = [subprocess.Popen(["/bin/sleep", "1000"], env=marks, user=uid, start_new_session=True)
                  for uid in (0, other.pw_uid)]
        mine = subprocess.Popen(["/bin/sleep", "1000"], env=marks, user=owner.pw_uid,
                                group=owner.pw_gid, extra_groups=[], start_new_session=True)
        for victim in (*forged, mine):
            self.addCleanup(victim.wait)
            self.addCleanup(victim.kill)
        os.kill(master.pid, signal.SIGSTOP)
        os.kill(int(self.path("run/a.pid").read_text()), signal.SIGKILL)
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        master = self.start_by(WITHOUT_GROUPS, config)
        wait_for("it runs again", lambda: self.starts() >= 2, 40)
        # The chain's own user can do this to itself: its own marked process is ended.
        wait_for("the user's own is ended", lambda: mine.poll() is not None, 10)
        self.stop(master)
        self.assertEqual([victim.poll() for victim in forged], [None, None])
        self.never_two()

    def test_a_setuid_program_is_ended_like_any_other(self):
        """The chain's user may not signal it; the master may."""
        owner = self.user("owner")
        self.give(owner, "ledger.a")
        sleeper = self.path("sleeper")
        self.path("sleeper.c").write_text(
            "#include <unistd.h>\n#include <signal.h>\n"
            "int main(void) { setuid(0); signal(SIGTERM, SIG_IGN); for (;;) pause(); }\n")
        subprocess.run(["cc", "-o", sleeper, self.path("sleeper.c")], check=True)
        sleeper.chmod(0o4755)
        for groups in (True, False):
            self.path("ledger.a").write_text("")
            chain = (f'(name: "a", user: "{owner.pw_name}", cwd: "/", kill_timeout: "300ms", tasks: [(name: "t",'
                     f' sh: "echo start $$ >>{self.dir}/ledger.a; {sleeper} & sleep 0.1",'
                     f' success_cooldown: "100ms", fail_cooldown: "100ms")]),')
            config = self.write_config(chain)
            master = self.start(config) if groups else self.start_by(WITHOUT_GROUPS, config)
            sleepers = lambda: [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                                if exe(pid) == str(sleeper) and alive(pid)]
            wait_for("it runs as root", lambda: any(
                harness.status_field(pid, "Uid")[1] == "0" for pid in sleepers()), 20)
            wait_for("the next run", lambda: self.starts() >= 2, 40)
            self.assertLessEqual(len(sleepers()), 1)
            self.stop(master, limit=40)
            self.assertEqual(sleepers(), [])

    def test_leftovers_are_kept_where_the_file_says_so(self):
        """A daemon that a run started lives on beside the next runs, over an upgrade, until the stop."""
        daemon = self.path("daemon")
        daemon.write_text(f"#!/bin/sh\necho start >>{self.dir}/ledger.a\n[ -e {self.dir}/pid ] && exit\n"
                          f"setsid sleep 1000 & echo $! >{self.dir}/pid\n")
        daemon.chmod(0o755)
        config = self.write_config(
            f'(name: "a", user: Current, cwd: "/", leftovers: Keep, kill_timeout: "1s", tasks: [(name: "t",'
            f' run: ["{daemon}"], success_cooldown: "50ms", fail_cooldown: "50ms")]),')
        master = self.start(config)
        kept = int(wait_for("the daemon", lambda: self.path("pid").exists() and self.path("pid").read_text(), 20))
        wait_for("runs beside it", lambda: self.starts() >= 4, 20)
        self.assertTrue(alive(kept))
        self.assertIn("it is kept", self.log())
        before = self.chain("a")["generation"]
        master.send_signal(signal.SIGHUP)
        wait_for("a new generation", lambda: (self.chain("a") or {"generation": 0})["generation"] > before, 20)
        have = self.starts()
        wait_for("runs beside it", lambda: self.starts() >= have + 2, 20)
        self.assertTrue(alive(kept))
        self.assertEqual(self.stop(master), 0)
        self.assertFalse(alive(kept))

    def test_leftovers_are_ended_by_default(self):
        chain = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "1s", tasks: [(name: "t",'
                 f' sh: "setsid sleep 1000 & echo start $! >>{self.dir}/ledger.a",'
                 ' success_cooldown: "100ms", fail_cooldown: "100ms")]),')
        master = self.start(self.write_config(chain))
        wait_for("runs", lambda: self.starts() >= 4, 30)
        pids = [int(line.split()[1]) for line in self.ledger()]
        self.assertFalse([pid for pid in pids[:-1] if alive(pid)])
        self.assertIn("left 1 process behind; it was ended", self.log())
        self.stop(master)

    def test_a_task_that_outlives_every_signal_but_kill_is_timed_out(self):
        chain = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "300ms", tasks: [(name: "t", timeout: "300ms",'
                 f' sh: "trap : TERM HUP INT QUIT; echo start $$ >>{self.dir}/ledger.a; while :; do sleep 1; done",'
                 ' success_cooldown: "100ms", fail_cooldown: "100ms")]),')
        master = self.start(self.write_config(chain))
        wait_for("timed out and run again", lambda: self.starts() >= 3, 30)
        first = int(self.ledger()[0].split()[1])
        self.assertFalse(alive(first))
        self.assertEqual(self.chain("a")["tasks"][0]["last"]["outcome"], "timeout")
        self.stop(master)


def exe(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


del Base

if __name__ == "__main__":
    unittest.main()
