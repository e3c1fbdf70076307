"""A hostile user who owns a chain and has a shell: every attack is really tried, and a victim's
chain beside it must not notice."""

import ctypes
import email
import json
import os
import pathlib
import platform
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

from lib.harness import MASTER, alive, children_of, status_field, wait_for
from pair import Pair

HERE = pathlib.Path(__file__).resolve().parent
MALLORY, VICTIM = "runner-idh-mallory", "runner-idh-victim"
libc = ctypes.CDLL(None, use_errno=True)


def memory_of(pid):
    """Every readable byte of a process, as root."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if mode[0] != "r" or line.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            try:
                yield memory.read(end - start)
            except OSError:
                continue


def rss(pid):
    return int(status_field(pid, "VmRSS")[0])


@unittest.skipUnless(platform.machine() == "x86_64", "attack.py has the system call numbers of x86-64")
class Hostile(Pair):
    maxDiff = None

    names = MALLORY, VICTIM

    def setUp(self):
        super().setUp()
        for name, user in (("mallory", self.mallory), ("victim", self.victim)):
            self.path(name).mkdir()
            os.chown(self.path(name), user.pw_uid, user.pw_gid)

    def configure(self, mallorys="", task='sh: "exec sleep 600"', extra="", more=""):
        return self.write_config(f"""
            (name: "mallory", user: "{MALLORY}", cwd: "{self.path("mallory")}", kill_timeout: "2s", drain_timeout: "1s", {mallorys}
             tasks: [(name: "evil", {task}, success_cooldown: "200ms", fail_cooldown: "200ms")]),
            (name: "victim", user: "{VICTIM}", cwd: "{self.path("victim")}",
             tasks: [(name: "work", sh: "echo ran >> ledger", success_cooldown: "200ms")]),
            {more}
        """, extra or self.mail_to_maildir())

    def as_mallory(self, *arguments, **more):
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)], user=self.mallory.pw_uid, group=self.mallory.pw_gid, extra_groups=[],
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)

    def attack(self, *arguments):
        shutil.copy(HERE / "attack.py", self.path("attack.py"))
        with self.as_mallory(self.path("attack.py"), *arguments) as process:
            answers = json.loads(process.stdout.readline())
        return answers

    def victim_goes_on(self, limit=30):
        before = len(self.lines("victim/ledger"))
        wait_for("the victim's chain goes on", lambda: len(self.lines("victim/ledger")) >= before + 2, limit)
        self.assertEqual(self.chain("victim")["tasks"][0]["failed"], 0)

    def mallorys_pid(self):
        return wait_for("a dropped process", lambda: (c := self.chain("mallory")) and c["pid"] and (
            c["state"] in ("running", "cooling")) and c["pid"])

    # Reaching in.

    def test_nobody_reaches_into_a_chains_process(self):
        master = self.start(self.configure())
        answers = self.attack("reach", self.mallorys_pid())
        worked = {name: answer for name, answer in answers.items() if answer.startswith("done")}
        self.assertEqual(worked, {}, answers)
        for name in ("open mem", "open environ", "list fd", "attach", "process_vm_readv", "pidfd_getfd 5"):
            self.assertIn(answers[name], ("EACCES", "EPERM", "ENOENT"), name)
        self.victim_goes_on()
        self.assertEqual(self.stop(master), 0)

    def test_a_task_finds_no_way_to_speak_for_its_chain(self):
        """By a descriptor of its own, of its parent, or by the socket's names."""
        shutil.copy(HERE / "attack.py", self.path("attack.py"))
        task = f'''sh: "/usr/bin/python3 {self.path("attack.py")} reach $PPID > answers; for n in 3 4 5 6 7 8 9; do echo '\\"Ready\\"' >&$n || :; done; sleep 600"'''
        task = task.replace('\\"Ready\\"', "Ready")
        master = self.start(self.configure(task=task))
        answers = wait_for("the task's answers", lambda: (t := "".join(self.lines("mallory/answers"))) and json.loads(t))
        self.assertEqual([name for name, answer in answers.items() if answer.startswith("done")], [])
        self.victim_goes_on()
        self.assertNotIn("ignored a report", self.log())
        self.assertEqual(self.stop(master), 0)

    def test_root_and_the_mailer_alone_know_the_password(self):
        """Scanned in every process of ours and in a task's environment, after the start, after HUP, and
        while mail is tried."""
        secret = "swordfish-" + os.urandom(8).hex()
        file = self.path("password")
        file.write_text(secret + "\n")
        file.chmod(0o600)
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        extra = (f'mail: (from: "runner@example.org", to: ["admin@example.org"], user: Current, spool: "{self.dir}/spool",'
                 f' transport: Smtp(host: "127.0.0.1", port: {server.getsockname()[1]}, username: "runner",'
                 f' password_file: "{file}")),')
        config = self.configure(task='sh: "echo bad >&2; sleep 0.5; exit 1"', extra=extra)
        os.environ["RUNNER_IT_CONTROL"] = secret
        self.assertTrue(any(secret.encode() in part for part in memory_of(os.getpid())), "the search finds what is there")
        del os.environ["RUNNER_IT_CONTROL"]
        master = self.start(config)

        def look(when):
            connection, _ = server.accept()  # a mailer waits for our banner, the password in its hands
            everybody = marked_tree(master.pid)
            mailers = {pid for pid in everybody if b"mailer" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()}
            self.assertTrue(mailers, when)
            seen = set()
            for pid in everybody:
                try:
                    environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
                    found = secret.encode() in environment or any(secret.encode() in part for part in memory_of(pid))
                except OSError:
                    continue
                if found:
                    seen.add(pid)
            self.assertLessEqual(seen, mailers, when)
            self.assertTrue(seen, "the mailer has it")
            connection.close()

        server.settimeout(60)
        look("after the start")
        generation = self.status()["master"]["generation"]
        master.send_signal(signal.SIGHUP)
        wait_for("the upgrade", lambda: (s := self.status()) and s["master"]["generation"] > generation, 60)
        look("after HUP")
        self.assertNotIn(secret, self.log() + self.stderr())
        master.send_signal(signal.SIGTERM)
        self.assertEqual(master.wait(60), 0)

    # A chain's process that was taken over.

    def sockets_of(self, pid):
        """Copies of a chain's packet sockets: its way to the master, and the lane to the logger."""
        held, found = os.pidfd_open(pid), []
        for number in map(int, os.listdir(f"/proc/{pid}/fd")):
            if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                continue
            copy = libc.syscall(438, held, number, 0)
            if copy >= 0:
                found.append(socket.socket(fileno=copy))
        os.close(held)
        self.addCleanup(lambda: [s.close() for s in found])
        return found

    def test_whatever_a_chains_process_says_concerns_that_chain_alone(self):
        """As if it had been broken into: nonsense, lengths, numbers at their ends, other chains' names."""
        master = self.start(self.configure())
        self.victim_goes_on()
        ways = self.sockets_of(self.mallorys_pid())
        self.assertGreaterEqual(len(ways), 2)
        ends = (-(1 << 63), (1 << 63) - 1, 0, -1)
        long = "A\r\nBcc: victim@example.org\r\n.\r\n\x1b]0;x\x07\u202e" * 400
        packets = [b"x", b"\0" * 4096, b"[" * 60000, b"{" * 60000, b'"' + b"\\u0000" * 9000 + b'"', b"\xff\xfe" * 9,
                   b"null", b"{}", b'{"Ended":null}', b'{"Ready":1}', b'{"Unknown":{"a":1}}', b"9" * 60000, b'"Ready"',
                   b'{"Started":{"run":1,"task":"evil","at":1e999}}', b'{"Started":{"run":-1,"task":"evil","at":1}}']
        for one in ends:
            for task in ("evil", "work", long, ""):
                packets.append(json.dumps({"Started": {"run": (1 << 64) - 1, "task": task, "at": one}}).encode())
                packets.append(json.dumps({"Cooling": {"next": task, "until": one, "after_failure": True}}).encode())
                packets.append(json.dumps({"Leftovers": {"task": task, "count": (1 << 32) - 1, "ended": False}}).encode())
                for other in ends:
                    for outcome, success in (({"Exit": 255}, False), ({"Signal": -(1 << 31)}, False), ("Interrupted", True),
                                             ({"Exit": 0}, True), ("CannotStart", False)):
                        packets.append(json.dumps({"Ended": {
                            "run": (1 << 64) - 1, "task": task[:200], "outcome": outcome, "success": success, "started": one,
                            "ended": other, "wall": (1 << 64) - 1, "millis": (1 << 64) - 1, "count": (1 << 64) - 1,
                            "fingerprint": long[:9000], "message": long[:9000], "stderr": long[:9000], "stdout": long[:9000],
                        }}).encode())
        for level in ("critical", "x", long[:100]):
            packets.append(json.dumps({"Said": {"level": level, "text": long}}).encode())
        packets.append(json.dumps({"at": (1 << 64) - 1, "level": 1, "msg": long[:900], "kv": [["chain", "victim"]]}).encode())
        for way in ways:
            way.setblocking(True)
            way.settimeout(20)
            for packet in packets:
                try:
                    way.send(packet)
                except (BrokenPipeError, ConnectionResetError):
                    break
                except OSError:
                    continue
        self.assertIsNone(master.poll(), self.stderr())
        self.victim_goes_on()
        for way in ways:
            for last in (json.dumps({"CannotStart": {"what": long}}), json.dumps(
                    {"Leaving": {"next": long[:200], "until": -(1 << 63), "after_failure": True, "signal": -7}}), ""):
                try:
                    way.send(last.encode())
                except OSError:
                    pass
        self.victim_goes_on()
        self.assertIsNone(master.poll(), self.stderr())
        log = self.log()
        self.assertIn("ignored a report of its process", log)
        self.assertLess(log.count("ignored a report"), 20)
        for bad in ("\x1b", "\x07", "\u202e"):
            self.assertNotIn(bad, log)
        for mail in self.path("mail/new").iterdir() if self.path("mail/new").is_dir() else []:
            head = email.message_from_bytes(mail.read_bytes())
            self.assertEqual((head["To"], head["Bcc"], head["X-Runner-Chain"]), ("admin@example.org", None, "mallory"))
        # It is restarted like any other and works again.
        self.ctl("restart", "mallory", "--now", check=True)
        wait_for("a fresh process", lambda: (c := self.chain("mallory")) and c["state"] == "running", 60)
        master.send_signal(signal.SIGHUP)
        wait_for("an upgrade after all that", lambda: (s := self.status()) and s["master"]["last_upgrade"]
                 and s["master"]["last_upgrade"]["outcome"] == "accepted", 60)
        self.victim_goes_on()
        self.assertEqual(self.stop(master), 0)

    def test_what_a_process_said_too_much_is_counted_when_it_dies_and_at_an_upgrade(self):
        master = self.start(self.configure())

        def say(times):
            for way in self.sockets_of(self.mallorys_pid()):
                way.settimeout(20)
                for number in range(times):
                    try:
                        way.send(json.dumps({"Said": {"level": "info", "text": f"word {number}"}}).encode())
                    except OSError:
                        break
        say(500)
        wait_for("the first words", lambda: "word 50" in self.log())
        self.assertNotIn("left out", self.log())
        os.kill(self.mallorys_pid(), signal.SIGKILL)
        wait_for("the rest is counted at its death", lambda: self.log().count("] left out ") == 1)
        say(300)
        wait_for("the first words again", lambda: self.log().count("word 50") > 1)
        self.ctl("reload", "--wait", check=True)
        wait_for("the rest is counted at an upgrade", lambda: self.log().count("] left out ") == 2)
        self.assertEqual(self.stop(master), 0)

    def test_a_flood_of_reports_costs_no_memory_and_no_time_of_others(self):
        master = self.start(self.configure())
        self.victim_goes_on()
        ways = self.sockets_of(self.mallorys_pid())
        before = rss(master.pid)
        end = time.monotonic() + 4
        number = 0
        slowest = 0.0
        while time.monotonic() < end:
            for way in ways:
                way.setblocking(False)
                for _ in range(400):
                    number += 1
                    try:
                        way.send(json.dumps({"Ended": {
                            "run": number, "task": "evil", "outcome": {"Exit": number % 250 + 1}, "success": False, "started": 1,
                            "ended": number, "wall": number, "millis": 1, "fingerprint": f"print {number}" * 100,
                            "message": f"message {number}", "stderr": "x" * 4000}}).encode())
                    except OSError:
                        break
            begun = time.monotonic()
            self.assertIsNotNone(self.status())
            slowest = max(slowest, time.monotonic() - begun)
        self.assertLess(slowest, 5)
        self.assertGreater(number, 1000)
        self.victim_goes_on()
        self.assertLess(rss(master.pid) - before, 64 * 1024, "KiB more")
        wait_for("the mails", lambda: self.subjects())
        time.sleep(0)
        self.assertLessEqual(len(self.subjects()), 40)
        self.assertEqual(self.stop(master), 0)

    # Signals and limits.

    def test_signals_and_limits_of_its_own_chain_harm_the_user_alone(self):
        master = self.start(self.configure())
        self.victim_goes_on()
        code = """
import os, resource, signal, sys
pid = int(sys.argv[1])
for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA):
    resource.prlimit(pid, which, (0 if which != resource.RLIMIT_CPU else 1, -1 if resource.prlimit(pid, which)[1] == -1 else resource.prlimit(pid, which)[1]))
os.sched_setaffinity(pid, {0})
os.setpriority(os.PRIO_PROCESS, pid, 19)
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGWINCH, signal.SIGALRM, 34, 64): os.kill(pid, number)
print('{}', flush=True)
"""
        for _ in range(3):
            with self.as_mallory("-c", code, self.mallorys_pid()) as process:
                self.assertEqual(process.stdout.readline(), "{}\n")
            self.victim_goes_on()
        self.ctl("restart", "mallory", "--now", check=True)
        pid = wait_for("a process with limits of its own again", lambda: (c := self.chain("mallory")) and (
            c["state"] == "running") and (p := c["pid"]) and "Max open files            1024" in
            pathlib.Path(f"/proc/{p}/limits").read_text() and p, 60)
        # Stopped for good: the rest lives, is upgraded, and the end is bounded.
        with self.as_mallory("-c", f"import os, signal; os.kill({pid}, signal.SIGSTOP)") as process:
            process.wait(10)
        self.victim_goes_on()
        generation = self.chain("victim")["generation"]
        master.send_signal(signal.SIGHUP)
        wait_for("the victim's new generation", lambda: (c := self.chain("victim")) and c["generation"] > generation, 60)
        self.victim_goes_on()
        self.assertEqual(self.stop(master, limit=60), 0)
        self.assertFalse(alive(pid))

    def test_a_user_that_kills_its_chain_again_and_again_delays_nobody(self):
        master = self.start(self.configure())
        self.victim_goes_on()
        killed = set()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            pid = (self.chain("mallory") or {}).get("pid")
            if pid and status_field(pid, "Uid") == [str(self.mallory.pw_uid)] * 4:
                with self.as_mallory("-c", f"import os; os.kill({pid}, 9)") as process:
                    process.wait(10)
                killed.add(pid)
        self.assertGreater(len(killed), 1)
        self.assertLess(len(killed), 8, "there is a growing pause")
        self.victim_goes_on()
        self.assertEqual(self.stop(master), 0)

    def test_a_fork_bomb_is_ended_with_its_chain(self):
        bomb = self.path("bomb")
        bomb.write_text("#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do (setsid \"$0\" &) 2>/dev/null; sleep 0.02; done\n")
        bomb.chmod(0o755)
        master = self.start(self.configure('rlimits: { "NPROC": 60 },', f'run: ["{bomb}"]'))

        def running():
            return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                    if (uids := field_or_none(pid, "Uid")) and uids[0] == str(self.mallory.pw_uid)]
        wait_for("a bomb", lambda: len(running()) > 40, 60)
        self.victim_goes_on()
        self.ctl("stop", "mallory", "--now", check=True)
        wait_for("nothing of it left", lambda: not running() and self.chain("mallory")["state"] == "stopped", 60)
        self.victim_goes_on()
        self.assertEqual(self.stop(master, limit=60), 0)

    def test_a_task_killed_for_its_memory_is_a_failed_run_and_nothing_else(self):
        group = self.memory_group("runner-it", "48M")
        eat = ("import itertools, os, time; any(os.path.exists('go') or time.sleep(.05) for _ in itertools.count());"
               " x = b'x' * (400 << 20); time.sleep(60)")
        go = self.path("mallory/go")
        master = self.start(self.configure(task=f'run: ["/usr/bin/python3", "-c", "{eat}"]'))
        pid = self.mallorys_pid()
        (group / "cgroup.procs").write_text(str(pid))
        for task in children_of(pid):
            os.kill(task, signal.SIGTERM)  # the next run is born in the group
        go.touch()
        wait_for("a run killed by the kernel", lambda: (t := self.chain("mallory")["tasks"][0]) and (
            t["last"] or {}).get("outcome") == "signal 9", 60)
        self.assertEqual(self.chain("mallory")["pid"], pid)
        self.assertTrue(alive(pid))
        wait_for("the mail", lambda: any(
            re.search(r"\[evil\] (First|New) .*: (likely )?killed by the kernel for want of memory: signal 9$", subject) for subject in self.subjects()))
        # Nobody tells the master who killed a chain's process: it says what the kernel counted.
        os.kill(pid, signal.SIGKILL)
        wait_for("the mail about the chain", lambda: any(
            re.search(r"\[chain mallory\] First .* killed by signal 9; the kernel killed \d+ for want of memory since 2", subject)
            for subject in self.subjects()), 60)
        self.victim_goes_on()
        self.assertEqual(self.stop(master), 0)

    # Files.

    def test_output_files_are_the_users_own_business(self):
        """Links, FIFOs, folders, devices and races where a chain's output goes: root opens none of it."""
        secret = self.path("roots")
        secret.mkdir()
        secret.chmod(0o755)
        for name in ("secret", "victims"):
            (secret / name).write_text("untouched\n")
            (secret / name).chmod(0o600)
        os.chown(secret / "victims", self.victim.pw_uid, -1)
        home = self.path("mallory")
        out = home / "out.log"
        more = "\n".join(
            f'(name: "m{kind}{n}", user: "{MALLORY}", output: {kind}("{path}"), tasks: [(name: "evil", sh: "echo gotcha", '
            f'success_cooldown: "100ms", fail_cooldown: "100ms")]),'
            for kind in ("Lines", "Raw")
            for n, path in enumerate([out, home / "fifo", home / "dir", home / "sub/log", home / "hard", home / "tty"]))
        os.symlink(secret / "secret", out)
        os.mkfifo(home / "fifo")
        (home / "dir").mkdir()
        os.symlink(secret, home / "sub")
        os.symlink(secret / "victims", home / "tty")
        os.link(secret / "secret", home / "hard")
        (secret / "log").write_text("untouched\n")
        (secret / "log").chmod(0o600)
        master = self.start(self.configure(f'output: Lines("{home}/race"), rotate: (max_size: "4KiB", keep: 2),', 'sh: "yes gotcha | head -c 3000"',
                                           more=more))
        flip = """
import os, sys, time
end = time.monotonic() + 4
while time.monotonic() < end:
    for name in ("race", "race.1", "race.2", "race.1.gz"):
        try:
            os.symlink(sys.argv[1], "x"); os.rename("x", name)
        except OSError: pass
    try: os.unlink("race")
    except OSError: pass
"""
        with subprocess.Popen([sys.executable, "-c", flip, str(secret / "secret")], cwd=home, user=self.mallory.pw_uid,
                              group=self.mallory.pw_gid, extra_groups=[]) as racer:
            while racer.poll() is None:
                master.send_signal(signal.SIGUSR1)
                time.sleep(0.05)
        self.victim_goes_on()
        for name in ("secret", "victims", "log"):
            self.assertEqual((secret / name).read_text(), "untouched\n", name)
            self.assertEqual((secret / name).stat().st_mode & 0o777, 0o600)
        self.assertEqual(sorted(os.listdir(secret)), ["log", "secret", "victims"])
        for kind in ("Lines", "Raw"):
            for n in range(6):
                wait_for(f"{kind} {n} is told: {self.chain(f'm{kind}{n}')}",
                         lambda: self.chain(f"m{kind}{n}")["health"] == "failing", 60)
        self.assertEqual(self.stop(master), 0)

    def test_the_runners_folders_are_closed_and_locks_of_others_hold_nothing_up(self):
        config = self.configure()
        master = self.start(config)
        self.mallorys_pid()
        shutil.copy(HERE / "attack.py", self.path("attack.py"))
        with self.as_mallory(self.path("attack.py"), "ground", self.dir) as process:
            answers = json.loads(process.stdout.readline())
            self.assertEqual(len(answers.pop("kept")), 2)
            self.assertEqual({n: a for n, a in answers.items() if a not in ("EACCES", "EPERM", "ENOENT", "EBUSY")}, {})
            # Its locks on the pidfiles are held meanwhile: a restart and a takeover go on.
            self.ctl("restart", "victim", "--now", check=True)
            second = self.start(config)
            self.assertEqual(master.wait(30), 0)
            self.victim_goes_on()
            process.stdin.close()
            process.wait(10)
        self.assertEqual(self.stop(second), 0)

    def test_a_forged_mark_ends_nobody_elses_process(self):
        """Marks are believed of the chain's own user only, and where no control group tells."""
        self.path("run").mkdir()
        for name in ("mallory", "victim"):
            self.path(f"run/{name}.pid").write_text("1\n")
        first = self.start(self.configure())

        def mark_of_a_run():
            for child in children_of(self.mallorys_pid()):
                try:
                    environ = pathlib.Path(f"/proc/{child}/environ").read_bytes().decode()
                except OSError:
                    continue
                if "RUNNER_INSTANCE=" in environ:
                    return environ.split("RUNNER_INSTANCE=")[1].split("\0")[0]
            return None
        instance = wait_for("a run of mallory's", mark_of_a_run)
        self.assertEqual(self.stop(first), 0)
        for name in ("mallory", "victim"):
            self.path(f"run/{name}.pid").write_text("1\n")
        marks = {"RUNNER_INSTANCE": instance, "PATH": os.environ["PATH"]}
        decoys = [self.as_mallory("-c", "import sys; sys.stdin.read()", env={**marks, "RUNNER_CHAIN": "victim"}),
                  subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={**marks, "RUNNER_CHAIN": "mallory"})]
        self.addCleanup(lambda: [(d.stdin.close(), d.wait(), d.stdout and d.stdout.close()) for d in decoys])
        master = self.start(self.configure())
        self.victim_goes_on()
        self.mallorys_pid()
        self.assertEqual([decoy.poll() for decoy in decoys], [None, None])
        self.assertEqual(self.stop(master), 0)
        self.assertEqual([decoy.poll() for decoy in decoys], [None, None])

    def test_a_terminal_of_roots_gets_nothing(self):
        """A master in the foreground of root's terminal; dev.tty.legacy_tiocsti lets the attack work."""
        controller, terminal = pty.openpty()
        device = os.ttyname(terminal)
        shutil.copy(HERE / "attack.py", self.path("attack.py"))
        task = f'sh: "/usr/bin/python3 {self.path("attack.py")} terminal $PPID {device} > answers; sleep 600"'
        config = self.configure(task=task).rename(self.path("foreground.ron"))
        text = config.read_text().replace(f'to: File("{self.dir}/log")', "to: Stderr")
        config.write_text(text)
        run = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        master = subprocess.Popen([sys.executable, "-c", run, MASTER, str(config)], stdin=terminal, stdout=terminal,
                                  stderr=terminal, start_new_session=True)
        os.close(terminal)
        self.addCleanup(os.close, controller)
        self.masters.append(master)
        seen = bytearray()
        os.set_blocking(controller, False)

        def answers():
            try:
                seen.extend(os.read(controller, 65536))
            except OSError:
                pass
            text = "".join(self.lines("mallory/answers"))
            return text and json.loads(text)
        told = wait_for("the attacks", answers, 60)
        self.assertEqual([name for name, answer in told.items() if answer.startswith("done")], [], told)
        self.victim_goes_on()
        wait_for("its log", lambda: answers() and b"mallory" in seen)
        self.assertNotIn(b"touch", seen)
        self.assertFalse(os.path.exists("/tmp/runner-it-pwned"))
        self.assertEqual(self.stop(master), 0)


def field_or_none(pid, name):
    try:
        return status_field(pid, name)
    except OSError:
        return None


def marked_tree(pid):
    """A process and everything below it."""
    found = [pid]
    for one in found:
        found.extend(children_of(one))
    return found


if __name__ == "__main__":
    unittest.main()
