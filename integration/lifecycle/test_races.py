"""Races that once went wrong: a run that outlives its chain where leftovers are kept, waiting chains and
masters that are told to leave, two crashes out of different control groups, and what else a kill at
the wrong moment can do. Bound: 4 minutes.
"""

import fcntl
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

    def group_folder(self, name):
        """A version 2 control group of the test's own."""
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        mount = next(mount[1] for mount in mounts if mount[2] == "cgroup2")
        path = pathlib.Path(mount) / f"{self.dir.name}-{name}"
        path.mkdir()
        def gone():
            for below in sorted(path.rglob("*"), reverse=True):
                if below.is_dir():
                    below.rmdir()
            path.rmdir()
            return True
        def remove():
            (path / "cgroup.kill").write_text("1")
            def try_it():
                try:
                    return gone()
                except OSError:
                    return False
            wait_for("the group is empty", try_it)
        self.addCleanup(remove)
        return path

    def group(self, name):
        """What moves the next program into such a group."""
        return ["sh", "-c", f"echo $$ > {self.group_folder(name)}/cgroup.procs && exec \"$@\"", "sh"]

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


# Deaf to TERM, holds the flock, and of its threads the first has ended: a zombie by /proc/PID/stat.
HEADLESS = """#!/usr/bin/python3
import ctypes, fcntl, os, signal, threading, time
here = os.path.dirname(os.path.abspath(__file__))
def say(word):
    with open(f"{here}/ledger.a", "a") as ledger:
        ledger.write(f"{word} {os.getpid()}\\n")
lock = os.open(f"{here}/flock.a", os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    say("overlap")
    os._exit(1)
say("start")
if os.path.exists(f"{here}/deaf.pid"):
    time.sleep(0.05)
    say("end")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def live():
    time.sleep(0.3)
    open(f"{here}/deaf.pid.new", "w").write(str(os.getpid()))
    os.rename(f"{here}/deaf.pid.new", f"{here}/deaf.pid")
    time.sleep(600)
threading.Thread(target=live).start()
ctypes.CDLL(None).syscall(60, 0)
"""


class Orphans(Races):
    """What a dead chain or a dead master leaves is found again, and waiting for it can be ended."""

    def deaf(self, kill_timeout, drain="60s"):
        """A chain whose first run is deaf to TERM and outlives everything; marked, in no session of ours."""
        self.path("keeper").write_text(KEEPER)
        self.path("keeper").chmod(0o755)
        self.path("daemon.pid").touch()
        return (f'(name: "a", user: Current, cwd: "/", kill_timeout: "{kill_timeout}", drain_timeout: "{drain}",'
                f' tasks: [(name: "t", run: ["{self.dir}/keeper", "a", "marks"],'
                f' success_cooldown: "50ms", fail_cooldown: "50ms")]),')

    def kill_both(self, master):
        os.kill(master.pid, signal.SIGSTOP)
        pid = self.path("run/a.pid").read_text().strip()
        if pid:
            os.kill(int(pid), signal.SIGKILL)
        os.kill(master.pid, signal.SIGKILL)
        master.wait()

    def ends_the_deaf_one(self, deaf):
        have = self.starts()
        wait_for("it runs again", lambda: self.starts() >= have + 2 or "overlap" in " ".join(self.ledger()), 60)
        self.never_two()
        self.assertFalse(alive(deaf))

    def test_marks_are_looked_for_after_an_unclean_end_whatever_the_pidfile_says(self):
        master = self.start_without_groups(self.write_config(self.deaf("10m")))
        deaf = self.pid_of("deaf")
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        wait_for("the pidfile is emptied", lambda: self.path("run/a.pid").read_text() == "")
        master.kill()
        master.wait()
        master = self.start_without_groups(self.write_config(self.deaf("500ms")))
        self.ends_the_deaf_one(deaf)
        self.stop(master)

    def test_marks_of_a_chain_that_left_the_file_are_looked_for_with_its_rights(self):
        """Once at a start without it, once at the upgrade that removes it before it was ever ready."""
        user = harness.add_user(f"rit-left-{os.getpid()}")
        self.addCleanup(harness.remove_user, user.pw_name)
        theirs = self.path("theirs")
        theirs.mkdir()
        os.chown(theirs, user.pw_uid, -1)
        def left():
            (theirs / "deaf.pid").unlink(missing_ok=True)
            chain = self.deaf("10m").replace("user: Current", f'user: "{user.pw_name}"')
            chain = chain.replace(f"{self.dir}/keeper", f"{theirs}/keeper")
            shutil.copy2(self.path("keeper"), theirs)
            (theirs / "daemon.pid").touch()
            master = self.start_without_groups(self.write_config(chain + self.one("b", 0.1)))
            pid = theirs / "deaf.pid"
            deaf = int(wait_for("the deaf one", lambda: pid.exists() and pid.read_text(), 30))
            self.assertEqual(status_field(deaf, "Uid")[0], str(user.pw_uid))
            self.kill_both(master)
            # Somebody else's with the same marks.
            environ = pathlib.Path(f"/proc/{deaf}/environ").read_text().split("\0")
            environ = dict(line.split("=", 1) for line in environ if line.startswith("RUNNER_"))
            other = subprocess.Popen(["/bin/sleep", "600"], env=environ)
            self.addCleanup(other.wait)
            self.addCleanup(other.kill)
            self.assertTrue(alive(deaf))
            return chain, deaf, other
        chain, deaf, other = left()
        master = self.start_without_groups(self.write_config(self.one("b", 0.1)))
        wait_for("what it left is ended", lambda: not alive(deaf), 30)
        self.goes_on("b")
        self.stop_but(master, other)
        chain, deaf, other = left()
        broken = chain.replace('cwd: "/"', f'cwd: "{self.dir}/missing"').replace(user.pw_name, "rit-nobody-here")
        master = self.start_without_groups(self.write_config(broken + self.one("b", 0.1)))
        wait_for("it cannot start", lambda: self.chain("a")["health"] == "failing", 20)
        self.assertTrue(alive(deaf))
        self.write_config(self.one("b", 0.1))
        master.send_signal(signal.SIGHUP)
        wait_for("what it left is ended", lambda: not alive(deaf), 40)
        self.stop_but(master, other)

    def stop_but(self, master, bystander):
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        self.assertIsNone(bystander.poll())
        bystander.kill()
        bystander.wait()

    def test_after_a_clean_end_no_marks_are_looked_for(self):
        self.path("run").mkdir(mode=0o755)
        config = self.write_config(self.one())
        master = self.start_without_groups(config)
        self.goes_on()
        self.stop(master)
        self.assertTrue(json.loads(self.lines("run/lock/master.lock")[-1])["ended"])
        forged = subprocess.Popen(["/bin/sleep", "600"], env={"RUNNER_CHAIN": "a", "RUNNER_INSTANCE": "x"})
        self.addCleanup(forged.wait)
        self.addCleanup(forged.kill)
        master = self.start_without_groups(config)
        self.assertFalse(json.loads(self.lines("run/lock/master.lock")[-1])["ended"])
        self.goes_on()
        self.stop(master)
        self.assertIsNone(forged.poll())

    def test_groups_of_two_crashes_are_remembered(self):
        one, two, three = (self.group(name) for name in ("one", "two", "three"))
        master = self.start_by(one, self.write_config(self.deaf("10m")))
        deaf = self.pid_of("deaf")
        self.kill_both(master)
        master = self.start_by(two, self.write_config(self.deaf("10m")))
        wait_for("the chain waits", lambda: self.log().count("started as process") >= 2)
        self.kill_both(master)
        master = self.start_by(three, self.write_config(self.deaf("500ms")))
        self.ends_the_deaf_one(deaf)
        self.stop(master)

    def test_the_old_group_is_remembered_over_an_upgrade(self):
        one, two = (self.group(name) for name in ("one", "two"))
        master = self.start_by(one, self.write_config(self.deaf("10m")))
        deaf = self.pid_of("deaf")
        self.kill_both(master)
        master = self.start_by(two, self.write_config(self.deaf("10m")))
        wait_for("the chain waits", lambda: "of an earlier run" in self.log())
        self.write_config(self.deaf("500ms"))
        master.send_signal(signal.SIGHUP)
        self.ends_the_deaf_one(deaf)
        self.stop(master)

    def test_a_chain_that_waits_for_orphans_leaves_when_it_is_told_to(self):
        master = self.start_without_groups(self.write_config(self.deaf("10m", "10m")))
        self.pid_of("deaf")
        self.kill_both(master)
        master = self.start_without_groups(self.write_config(self.deaf("10m", "10m")))
        wait_for("the chain waits", lambda: "of an earlier run" in self.log())
        # An upgrade replaces it, and it waits again: it has not been ready yet.
        master.send_signal(signal.SIGHUP)
        wait_for("a new generation", lambda: (self.chain("a") or {"generation": 0})["generation"] == 2, 30)
        wait_for("it waits again", lambda: self.log().count("of an earlier run") >= 2, 30)
        master.send_signal(signal.SIGQUIT)
        self.assertEqual(master.wait(30), 0)
        self.never_two()

    def test_a_chain_that_waits_for_its_lock_leaves_when_it_is_told_to(self):
        config = self.write_config(self.deaf("10m", "10m"))
        master = self.start_without_groups(config)
        self.pid_of("deaf")
        chain = self.chain("a")["pid"]
        # A stopped master kills no stopped chain; SIGTERM of its death reaches no stopped one either.
        os.kill(master.pid, signal.SIGSTOP)
        os.kill(chain, signal.SIGSTOP)
        wait_for("the chain is stopped", lambda: status_field(chain, "State")[0] == "T")
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        self.addCleanup(os.kill, chain, signal.SIGKILL)
        master = self.start_without_groups(config)
        wait_for("the chain waits", lambda: "of an earlier master" in self.log())
        master.send_signal(signal.SIGQUIT)
        self.assertEqual(master.wait(30), 0)

    def test_a_waiting_chain_ends_with_its_master(self):
        master = self.start_without_groups(self.write_config(self.deaf("10m")))
        self.pid_of("deaf")
        self.kill_both(master)
        master = self.start_without_groups(self.write_config(self.deaf("10m")))
        wait_for("the chain waits", lambda: "of an earlier run" in self.log())
        chain = wait_for("pid", lambda: self.chain("a")["pid"])
        master.kill()
        master.wait()
        wait_for("it has ended", lambda: not alive(chain), 20)

    def test_a_process_without_its_first_thread_is_no_zombie(self):
        self.path("headless").write_text(HEADLESS)
        self.path("headless").chmod(0o755)
        master = self.start_without_groups(self.write_config(
            f'(name: "a", user: Current, cwd: "/", kill_timeout: "500ms",'
            f' tasks: [(name: "t", run: ["{self.dir}/headless"], success_cooldown: "50ms", fail_cooldown: "50ms")]),'))
        self.pid_of("deaf")
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        wait_for("it runs again", lambda: self.starts() >= 3 or "overlap" in " ".join(self.ledger()), 60)
        self.never_two()
        self.stop(master)

    def test_what_comes_up_after_the_second_term_is_killed_at_once(self):
        master = self.start_without_groups(self.write_config(self.deaf("10m")))
        deaf = self.pid_of("deaf")
        master.terminate()
        wait_for("it is told", lambda: self.log().count("got SIGTERM") == 1)
        master.terminate()
        self.assertEqual(master.wait(30), 0)
        self.assertFalse(alive(deaf))


@unittest.skipUnless(os.path.isdir("/sys/fs/cgroup/freezer"), "no version 1 freezer")
class Unkillable(Races):
    """A process that nobody can end (frozen by the version 1 freezer, it does not even take SIGKILL)
    holds up its own chain and no other."""

    def test_it_holds_up_its_own_chain_alone(self):
        ice = pathlib.Path("/sys/fs/cgroup/freezer") / self.dir.name
        ice.mkdir()
        self.path("keeper").write_text(KEEPER)
        self.path("keeper").chmod(0o755)
        self.path("daemon.pid").touch()
        a = (f'(name: "a", user: Current, cwd: "/", kill_timeout: "300ms", drain_timeout: "300ms",'
             f' tasks: [(name: "t", run: ["{self.dir}/keeper", "a", "bare"],'
             f' success_cooldown: "50ms", fail_cooldown: "50ms")]),')
        master = self.start_without_groups(self.write_config(a + self.one("b") + self.one("c", 600, chain='upgrade_drain: "100ms",')))
        deaf = self.pid_of("deaf")
        def thaw():
            (ice / "freezer.state").write_text("THAWED")
        def gone():
            for pid in (ice / "tasks").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            try:
                ice.rmdir()
            except OSError:
                return False
            return True
        self.addCleanup(wait_for, "the freezer is empty", gone)
        self.addCleanup(thaw)
        (ice / "tasks").write_text(str(deaf))
        (ice / "freezer.state").write_text("FROZEN")
        wait_for("it is frozen", lambda: (ice / "freezer.state").read_text() == "FROZEN\n")
        os.kill(self.chain("a")["pid"], signal.SIGKILL)
        wait_for("it is being ended", lambda: "killed its processes" in self.log(), 30)
        for generation in (2, 3):
            os.kill(self.chain("b")["pid"] or wait_for("pid", lambda: self.chain("b")["pid"]), signal.SIGKILL)
            self.goes_on("b", limit=40)
            master.send_signal(signal.SIGHUP)
            for name in "bc":
                wait_for(f"{name} is replaced", lambda: (self.chain(name) or {"generation": 0})["generation"] == generation
                         and self.chain(name)["pid"], 30)
            self.goes_on("b", limit=40)
        self.assertEqual(self.starts("a"), 1)
        thaw()
        self.goes_on("a", limit=40)
        self.stop(master)
        self.never_two("a", "b", "c")


class Waiting(Races):
    """A master that waits for its predecessor can be told to leave."""

    def test_a_master_that_waits_leaves_at_once(self):
        config = self.write_config(self.one(chain="").replace('drain_timeout: "2s"', 'drain_timeout: "10m"'))
        first = self.start(config)
        self.goes_on()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            os.kill(first.pid, signal.SIGSTOP)
            second = self.start(config, ready=False)
            wait_for("it waits", lambda: self.stderr().count("replacing the running master") > 0)
            second.send_signal(number)
            self.assertEqual(second.wait(15), 0, number)
            self.assertIsNone(first.poll())
            self.path("stderr").write_text("")
        os.kill(first.pid, signal.SIGCONT)
        self.assertEqual(first.wait(30), 0)
        self.never_two()


class Crowd(Races):
    """A start that looks for older masters looks into whoever holds a lock, and keeps its own (fcntl(2):
    the close of any descriptor of a file drops the lock on it)."""

    def room(self, name):
        folder = self.path(name)
        folder.mkdir()
        config = folder / "runner.ron"
        config.write_text(f'(run_root: "{folder}/run", state_root: "{folder}/state",'
                          f' log: (user: Current, to: File("{folder}/log")), chains: [])')
        return folder, config

    def holder(self, folder):
        inode = (folder / "run/lock/master.lock").stat().st_ino
        for line in pathlib.Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "POSIX" and words[5].rpartition(":")[2] == str(inode):
                return int(words[4])
        return None

    def works(self, folder):
        done = subprocess.run([harness.CTL, "--run-root", str(folder / "run"), "status"], capture_output=True)
        return done.returncode == 0

    def leave(self, masters):
        for master in masters:
            master.terminate()
        self.assertEqual([master.wait(30) for master in masters], [0] * len(masters))

    def test_another_process_has_the_lock_file_open(self):
        folder, config = self.room("one")
        (folder / "run/lock").mkdir(parents=True, mode=0o700)
        with open(folder / "own", "w") as own, open(folder / "run/lock/master.lock", "w") as theirs:
            os.fchmod(theirs.fileno(), 0o600)
            # Who holds no lock at all is not looked into.
            fcntl.lockf(own, fcntl.LOCK_EX)
            master = self.start_by([], config, ready=False)
            wait_for("it answers", lambda: self.works(folder), 30)
            self.assertEqual(self.holder(folder), master.pid, self.stderr())
            self.leave([master])

    def test_eight_starts_at_once_with_a_run_root_each(self):
        for number in range(24 if harness.FULL else 6):
            rooms = [self.room(f"{number}.{n}") for n in range(8)]
            masters = [self.start_by([], config, ready=False) for _, config in rooms]
            for folder, _ in rooms:
                wait_for("it answers", lambda: self.works(folder), 30)
            self.assertEqual([self.holder(folder) for folder, _ in rooms], [master.pid for master in masters])
            self.leave(masters)


class Wishes(Races):
    """Requests for upgrades that meet a check at work."""

    def frozen_check(self, master):
        """Begins an upgrade whose check is frozen in mid-air: its pid and what lets it go on. (One that
        is stopped is continued by the master.)"""
        ice = self.group_folder("ice")
        (ice / "cgroup.freeze").write_text("1")
        def caught():
            master.send_signal(signal.SIGHUP)
            end = time.monotonic() + 1
            while time.monotonic() < end:
                for pid in children_of(master.pid):
                    try:
                        if b"--internal-check" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                            (ice / "cgroup.procs").write_text(str(pid))
                            # An empty group counts as frozen, and who is on the way out is not held.
                            held = lambda: {"populated 1", "frozen 1"} <= set(
                                (ice / "cgroup.events").read_text().splitlines())
                            wait_for("it is frozen", lambda: not alive(pid) or held())
                            return held() and alive(pid) and pid
                    except OSError:
                        pass
        check = wait_for("a check is caught", caught, 60)
        return check, lambda: (ice / "cgroup.freeze").write_text("0")

    def test_a_look_takes_no_upgrades_place(self):
        master = self.start(self.write_config(self.one()))
        self.goes_on()
        check, melt = self.frozen_check(master)
        self.write_config(self.one() + self.one("b"))
        master.send_signal(signal.SIGHUP)
        wait_for("it is heard", lambda: "got SIGHUP" in self.log().splitlines()[-1] or
                 self.log().count("got SIGHUP") >= 2)
        look = subprocess.Popen([harness.CTL, "--run-root", str(self.dir / "run"), "reload", "--dry-run"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        begun = subprocess.Popen([harness.CTL, "--run-root", str(self.dir / "run"), "reload", "a"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertIn("begun", begun.communicate(timeout=60)[0])
        time.sleep(0.2)  # the look is on its way, too
        melt()
        wait_for("chain b", lambda: self.chain("b"), 40)
        self.assertIn("would be accepted", look.communicate(timeout=60)[0])
        self.goes_on("b")
        self.stop(master)
        self.never_two("a", "b")

    def test_a_reload_that_cannot_begin_is_answered(self):
        binary = self.path("bin/runner-master")
        binary.parent.mkdir()
        shutil.copy2(harness.MASTER, binary)
        was, harness.MASTER = harness.MASTER, str(binary)
        self.addCleanup(setattr, harness, "MASTER", was)
        master = self.start(self.write_config(self.one()))
        binary.rename(binary.with_name("away"))
        begun = time.monotonic()
        # The child that checks it opens it, too: who does not wait hears that it has begun.
        self.assertIn("upgrade begun", self.ctl("reload", check=True).stdout)
        done = self.ctl("reload", "--wait")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot open the program", done.stdout + done.stderr)
        self.assertLess(time.monotonic() - begun, 30)
        binary.with_name("away").rename(binary)
        self.stop(master)

    def test_those_who_wait_hear_that_the_master_ends(self):
        master = self.start(self.write_config(self.one()))
        check, melt = self.frozen_check(master)
        look = subprocess.Popen([harness.CTL, "--run-root", str(self.dir / "run"), "reload", "--dry-run"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.5)  # it is on its way
        self.stop(master)
        self.assertFalse(alive(check))
        self.assertRegex(look.communicate(timeout=60)[0], "stopping|not running|no master")


class Pressed(Races):
    """A chain process whose user lowers its limits, and one whose master is gone."""

    def cpu(self, pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_without_descriptors_nothing_counts_as_gone(self):
        master = self.start(self.write_config(
            f'(name: "a", user: Current, cwd: "/", kill_timeout: "300ms", output: Discard,'
            f' tasks: [(name: "t", run: ["{self.dir}/hostile", "a", "leave"],'
            f' success_cooldown: "50ms", fail_cooldown: "50ms")]),'))
        self.goes_on(limit=40)
        for _ in range(3):
            have = self.starts()
            wait_for("a run", lambda: self.starts() > have, 60)
            chain = wait_for("pid", lambda: self.chain("a")["pid"])
            subprocess.run(["prlimit", "--pid", str(chain), "--nofile=1:4096"], check=True)
            before = self.cpu(chain)
            begun = time.monotonic()
            while time.monotonic() < begun + 1 and alive(chain):
                time.sleep(0.02)
            if alive(chain):
                self.assertLess(self.cpu(chain) - before, 0.5, "it spins")
                subprocess.run(["prlimit", "--pid", str(chain), "--nofile=1024:4096"])
            self.goes_on(limit=60)
        self.stop(master)
        self.never_two()

    def test_a_chain_whose_master_is_gone_does_not_spin(self):
        master = self.start(self.write_config(
            f'(name: "a", user: Current, cwd: "/", kill_timeout: "3s", tasks: [(name: "t",'
            f' sh: "trap : TERM; echo start >> {self.dir}/ledger.a; while :; do sleep 0.5 || :; done")]),'))
        wait_for("it runs", self.starts)
        chain = self.chain("a")["pid"]
        before = self.cpu(chain)
        master.kill()
        master.wait()
        used = before
        end = time.monotonic() + 30
        while alive(chain) and time.monotonic() < end:
            try:
                used = self.cpu(chain)
            except OSError:
                break
            time.sleep(0.02)
        self.assertFalse(alive(chain))
        self.assertLess(used - before, 0.3)


class Pidfiles(Races):
    def test_the_masters_pidfile_is_written_kept_and_removed(self):
        pidfile = self.path("run/master.pid")
        self.path("run").mkdir(mode=0o755)
        self.path("victim").write_text("keep me")
        pidfile.symlink_to(self.path("victim"))
        config = self.write_config(self.one())
        master = self.start(config)
        self.assertEqual(pidfile.read_text(), f"{master.pid}\n")
        self.assertFalse(pidfile.is_symlink())
        self.assertEqual(self.path("victim").read_text(), "keep me")
        found = pidfile.stat()
        self.assertEqual((found.st_uid, found.st_gid, found.st_mode & 0o7777), (0, 0, 0o644))
        master.send_signal(signal.SIGHUP)
        wait_for("upgraded", lambda: (self.status() or {"master": {"generation": 0}})["master"]["generation"] == 2)
        self.assertEqual(pidfile.read_text(), f"{master.pid}\n")
        second = self.start(config)
        self.assertEqual(master.wait(20), 0)
        self.assertEqual(pidfile.read_text(), f"{second.pid}\n")
        self.stop(second)
        self.assertFalse(pidfile.exists())

    def test_what_is_said_of_a_chains_pidfile(self):
        self.path("run").mkdir(mode=0o755)
        self.path("run/a.pid").write_text("")
        self.path("run/b.pid").write_text("1\n")
        master = self.start(self.write_config(self.one() + self.one("b")))
        self.goes_on()
        self.goes_on("b")
        self.assertIn("Found pidfile a empty", self.log())
        self.assertIn("Found pidfile b containing: 1", self.log())
        self.assertNotIn("containing: \n", self.log())
        self.stop(master)


del Base

if __name__ == "__main__":
    unittest.main()
