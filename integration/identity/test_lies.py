"""System calls that fail, and system calls that say they succeeded and did nothing, while a chain
becomes its user: no task runs as somebody else, the admins hear of it, the master lives on.

One chain a case. Each first process is held at its lock until strace(1) sits on it; the process
after it is left alone, so every chain recovers.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

from lib.harness import Case, add_user, alive, children_of, remove_user, status_field, wait_for

ALICE = "runner-idl-alice"

HOLDER = """
import fcntl, sys, time
held = []
for name in sys.argv[1:]:
    file = open(name, "w")
    fcntl.lockf(file, fcntl.LOCK_EX)
    held.append(file)
print("held", flush=True)
sys.stdin.read()
"""

LAST = max(os.sched_getaffinity(0))

# What is injected, what the chain has to be configured with, what is told.
USER = "cannot become user"
CASES = {
    "groups-lie": ("setgroups:retval=0", "", "the list of groups did not change"),
    "groups-fail": ("setgroups:error=EPERM", "", "cannot set the groups"),
    "gid-lie": ("setresgid:retval=0", "", "the group id did not change"),
    "gid-fail": ("setresgid:error=EPERM", "", "cannot become group"),
    "uid-lie": ("setresuid:retval=0", "", "the user id did not change"),
    "uid-fail": ("setresuid:error=EPERM", "", USER),
    "uid-again": ("setresuid:error=EAGAIN", "", USER),
    "uid-back": ("setresuid:retval=0:when=2+", "", "root came back"),
    "nice-lie": ("setpriority:retval=0", "nice: 5,", "cannot set nice to 5: it did not change"),
    "nice-fail": ("setpriority:error=EACCES", "nice: 5,", "cannot set nice to 5"),
    "io-lie": ("ioprio_set:retval=0", "ionice: BestEffort(6),", "cannot set ionice to 0x4006: it did not change"),
    "io-fail": ("ioprio_set:error=EPERM", "", "cannot set ionice"),
    "sched-lie": ("sched_setscheduler:retval=0", "scheduler: Batch,", "cannot set scheduler 3 with priority 0: it did"),
    "sched-fail": ("sched_setscheduler:error=EPERM", "", "cannot set scheduler 0"),
    "cpu-lie": ("sched_setaffinity:retval=0", f"cpu_affinity: [{LAST}],", f"cannot set cpu_affinity to [{LAST}]: it did not change"),
    "cpu-fail": ("sched_setaffinity:error=EPERM", "", "cannot set all CPUs"),
    "oom-lie": ("write:retval=3", "oom_score_adj: 300,", "cannot set oom_score_adj to 300: it did not change"),
    "oom-fail": ("write:error=EACCES", "oom_score_adj: 300,", "cannot set oom_score_adj to 300"),
    "limit-lie": ("prlimit64:retval=0", "", "cannot set the limit"),
    "limit-fail": ("prlimit64:error=EPERM", "", "cannot set the limit"),
    "umask-lie": ("umask:retval=18", 'umask: "077",', "cannot set umask to 077: it did not change"),
    "umask-fail": ("umask:error=EPERM", 'umask: "077",', "cannot set umask to 077"),
    "prctl-lie": ("prctl:retval=0", "", "cannot ask for a signal at the master's death"),
    "privs-lie": ("prctl:retval=0", "no_new_privs: true,", "cannot set no_new_privs: it did not change"),
    "prctl-fail": ("prctl:error=EPERM", "", "cannot"),
    "caps-fail": ("capget:error=EPERM", "", "cannot read capabilities"),
    "keys-fail": ("keyctl:error=ENOMEM", "", "cannot leave root's session keyring"),
    "getuid-fail": ("getresuid:error=EFAULT", "", "cannot read my user ids"),
    # In the task's own process, before its program is executed.
    "cwd-lie": ("fchdir:retval=0", "", "cannot enter the working folder"),
    "cwd-fail": ("fchdir:error=EACCES", "", "cannot enter the working folder"),
    "session-lie": ("setsid:retval=1", "", "cannot make a session"),
    "session-fail": ("setsid:error=EPERM", "", "cannot make a session"),
}
if os.cpu_count() == 1:
    del CASES["cpu-lie"]  # nothing to be changed: no lie
IN_THE_TASK = ("cwd-lie", "cwd-fail", "session-lie", "session-fail")


class Lies(Case):
    @classmethod
    def setUpClass(cls):
        cls.alice = add_user(ALICE)
        subprocess.run(["usermod", "-aG", "adm", ALICE], check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        remove_user(ALICE)

    def mails(self, chain):
        """Subject and body of each mail to a chain's own address."""
        import email
        import email.policy
        found = []
        folder = self.path("mail/new")
        for path in folder.iterdir() if folder.is_dir() else []:
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if mail["To"] == f"{chain}@example.org":
                found.append(f"{mail['Subject']}\n{mail.get_body().get_content()}")
        return found

    def test_a_call_that_fails_or_lies_never_lets_a_task_run_as_somebody_else(self):
        work = self.path("work")
        work.mkdir()
        os.chown(work, self.alice.pw_uid, self.alice.pw_gid)
        locks = self.path("run/lock")
        locks.mkdir(parents=True)
        locks.chmod(0o700)
        chains = "\n".join(
            f'(name: "{name}", user: "{ALICE}", cwd: "{work}", {fields} kill_timeout: "60s", to: ["{name}@example.org"], '
            f'tasks: [(name: "t", sh: "echo $(id -u) $(id -ru) $(id -g) $(id -G) >> {name}",'
            f' success_cooldown: "100ms", fail_cooldown: "1s")]),'
            for name, (_, fields, _) in CASES.items())
        config = self.write_config(chains, self.mail_to_maildir())
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *(str(locks / f"{name}.lock") for name in CASES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.assertEqual(holder.stdout.readline(), "held\n")
        for name in CASES:
            (locks / f"{name}.lock").chmod(0o600)
        master = self.start(config)
        pids = wait_for("a process of each chain", lambda: (s := self.status()) and (
            p := {c["name"]: c["pid"] for c in s["chains"]}) and all(p.values()) and p, 60)
        tracers = []
        for name, (inject, _, _) in CASES.items():
            call = inject.split(":")[0]
            only = ["-P", f"/proc/{pids[name]}/oom_score_adj"] if call == "write" else []
            tracers.append(subprocess.Popen(
                ["strace", "-f", "-qq", "-o", str(self.path(f"trace.{name}")), *only, "-e", f"trace={call}",
                 "-e", f"inject={inject}", "-p", str(pids[name])], stderr=subprocess.DEVNULL))
        self.addCleanup(lambda: [(tracer.kill(), tracer.wait()) for tracer in tracers])
        for name, pid in pids.items():
            wait_for(f"strace on {name}", lambda: status_field(pid, "TracerPid") != ["0"], 60)
        holder.stdin.close()
        holder.wait(30)

        groups = sorted(os.getgrouplist(ALICE, self.alice.pw_gid))
        end = time.monotonic() + 120

        def soon():
            return max(2, end - time.monotonic())
        for name, (inject, _, words) in CASES.items():
            with self.subTest(name, inject=inject):
                first = "[t] First" if name in IN_THE_TASK else f"[chain {name}] First"
                told = wait_for(f"a mail of {name}: {self.chain(name)}, not only {self.mails(name)}", lambda: [
                    mail for mail in self.mails(name) if mail.startswith(first)], soon())
                self.assertIn(words, told[0])
                if name not in IN_THE_TASK:
                    wait_for(f"{name} has let go of its first process", lambda: not alive(pids[name]), soon())
                    wait_for(f"{name} runs again", lambda: self.lines(f"work/{name}"), soon())
                for line in self.lines(f"work/{name}"):
                    real = [int(word) for word in line.split()]
                    self.assertEqual(real[:3], [self.alice.pw_uid, self.alice.pw_uid, self.alice.pw_gid])
                    self.assertEqual(sorted(real[3:]), groups)
        self.assertIsNone(master.poll())
        for tracer in tracers:
            tracer.kill()
        self.assertEqual(self.stop(master), 0)


# The same calls while mailer, logger and checker become their accounts: what is told of it.
DROPS = {
    "setgroups:retval=0": "the list of groups did not change",
    "setgroups:error=EPERM": "cannot set the groups",
    "setresgid:retval=0": "the group id did not change",
    "setresgid:error=EPERM": "cannot become group",
    "setresuid:retval=0": "the user id did not change",
    "setresuid:retval=0:when=2+": "root came back",
    "setresuid:error=EAGAIN": "cannot become user",
    "capset:retval=0": None,
    "getresuid:error=EFAULT": "cannot read my user ids",
}
LOG_USER, MAIL_USER = 61011, 61012


class OtherProcesses(Case):
    """Mailer, logger and checker: none of them goes on as root, and all is well when the calls are true again."""

    @classmethod
    def setUpClass(cls):
        cls.alice = add_user(ALICE)

    @classmethod
    def tearDownClass(cls):
        remove_user(ALICE)

    def logger(self, master):
        for pid in children_of(master.pid):
            if b"runner: logger" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def test_no_process_of_the_runner_goes_on_as_root(self):
        for inject, words in DROPS.items():
            with self.subTest(inject):
                self.one(inject, words)

    def one(self, inject, words):
        for name in ("run", "state", "spool", "mail", "logs"):
            shutil.rmtree(self.path(name), ignore_errors=True)
        logs, mail = self.path("logs"), self.path("mail")
        for folder, owner in ((logs, LOG_USER), (mail, MAIL_USER)):
            folder.mkdir()
            os.chown(folder, owner, owner)
        log = logs / "log"
        config = self.write_config(
            f'(name: "c", user: "{ALICE}", tasks: [(name: "t", sh: "exit 0", success_cooldown: "1h")]),',
            f'mail: (from: "runner@example.org", to: ["admin@example.org"], user: {MAIL_USER}, '
            f'transport: Maildir("{mail}"), spool: "{self.dir}/spool"),',
            log=f'(level: Debug, user: {LOG_USER}, to: File("{log}"))')
        master = self.start(config)
        old = wait_for("a logger that writes", lambda: log.exists() and self.logger(master))
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", str(self.path("trace")), "-e", f"trace={inject.split(':')[0]}",
             "-e", f"inject={inject}", "-p", str(master.pid)], stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (tracer.kill(), tracer.wait()))
        wait_for("strace on the master", lambda: status_field(master.pid, "TracerPid") != ["0"], 60)
        log.unlink()
        os.kill(old, signal.SIGKILL)
        letters = lambda: [one for one in mail.glob("**/*") if one.is_file()]
        if words:
            wait_for("a logger that is no good is told", lambda: "the logger ended" in (self.status()["master"]["log_error"] or ""), 60)
            refused = self.ctl("reload", "--wait")
            self.assertIn(words, refused.stdout + refused.stderr)
            self.assertNotEqual(refused.returncode, 0)
            self.ctl("mail", "test")
            wait_for("why no mail is sent", lambda: words in (self.status()["master"]["mail_error"] or ""), 60)
            listed = self.ctl("mail", "list")
            self.assertIn(words, listed.stdout + listed.stderr)
            self.assertEqual(letters(), [])
            self.assertFalse(log.exists(), "somebody who is not the log's user wrote a log")
        else:
            self.ctl("mail", "test")
            wait_for("what is written", lambda: log.exists() and letters(), 60)
            self.assertEqual({os.stat(log).st_uid, *(os.stat(one).st_uid for one in letters())}, {LOG_USER, MAIL_USER})
        tracer.terminate()
        tracer.wait()
        wait_for("a logger that writes again", lambda: log.exists() and os.stat(log).st_uid == LOG_USER, 90)
        self.ctl("mail", "flush")
        wait_for("the mail", letters, 60)
        self.assertEqual({os.stat(one).st_uid for one in letters()}, {MAIL_USER})
        self.ctl("reload", "--wait", check=True)
        self.assertEqual(self.stop(master), 0)


if __name__ == "__main__":
    unittest.main()
