"""The crash-point sweep: one process is killed with SIGKILL as it enters its n-th call of one kind,
at a start, at an upgrade, at a takeover and while notices are mailed, each time another process at another
call. Then a clean start must work, the tasks' own ledger must know of no overlap, no report may be lost, and after TERM
nothing may be left.

    RUNNER_SEED=7 integration/run lifecycle     another sample
    integration/run --full lifecycle            every point

A report counts as lost when a run ended by itself, its chain process handed the report over (it was not
killed, or went on to its next run first), the master that it was handed to was not killed, and yet the
history of the last master does not know the run. Every run has an exit status of its own, so every
failure is a notice of its own, too: one of a report that is not lost must be in the Maildir in the end.
"""

import concurrent.futures
import email
import email.policy
import json
import os
import pathlib
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import CTL, MASTER, alive, children_of, marked, wait_for

HERE = pathlib.Path(__file__).resolve().parent
SEED = int(os.environ.get("RUNNER_SEED", "1"))
# Points of each side in the bounded form, and the time after which no further one begins.
SAMPLE, LIMIT = 24, 150
# Most points wait for something: a few go on side by side.
AT_ONCE = 3
KINDS = ("openat", "write", "rename", "fcntl", "clone", "execve", "pidfd_send_signal", "sendto")
# Every point: of these kinds, and besides at every single call, whatever it is.
EVERY = (*KINDS, "any")
# Who is followed, and who dies: the process itself, its chains, what else it forks.
SIDES = {
    "start": (("master", "root"), ("master", "chain"), ("master", "other")),
    "hup": (("master", "root"), ("chain", "root"), ("master", "chain"), ("master", "other")),
    "mail": (("master", "root"), ("master", "other")),
    "takeover": (("old", "root"), ("oldchain", "root"), ("master", "root"), ("master", "chain")),
}


class Tool:
    """The two small C programs, compiled once."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="runner-tool."))
        self.dir.chmod(0o755)
        for name in ("crash", "ledger"):
            subprocess.run(["cc", "-O2", "-Wall", "-o", self.dir / name, HERE / f"{name}.c"], check=True)
        self.crash, self.ledger = str(self.dir / "crash"), str(self.dir / "ledger")


class Point:
    """One try in a folder of its own."""

    def __init__(self, tool, phase, side, kind="-", n=0):
        self.tool, self.phase, self.side, self.kind, self.n = tool, phase, side, kind, n
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="runner-it."))
        self.dir.chmod(0o755)
        self.processes, self.killed, self.counts, self.victim = [], set(), {}, None
        self.tracer = None
        self.config = self.dir / "runner.ron"
        # A run writes two lines: of the statuses that come, every second one is a success.
        good = ", ".join(str(code) for code in range(1, 251) if code % 4 in (0, 3))
        mail = "" if phase != "mail" else (
            f' mail: (from: "r@example.org", to: ["a@example.org"], user: Current, spool: "{self.dir}/spool",\n'
            f'  transport: Maildir("{self.dir}/mail"), limit: (mails: 1000, per: "1h")),\n')
        self.config.write_text(
            f'(run_root: "{self.dir}/run", state_root: "{self.dir}/state",\n'
            f' log: (level: Debug, user: Current, to: File("{self.dir}/log")),\n{mail}'
            f' chains: [(name: "a", user: Current, cwd: "/", kill_timeout: "2s", drain_timeout: "5s",\n'
            f'  success_cooldown: "30ms", fail_cooldown: "30ms", ok_exit: [{good}],\n'
            f'  tasks: [(name: "t", run: ["{tool.ledger}", "{self.dir}", "a", "120"])])])\n')

    def __str__(self):
        return f"{self.phase} {'/'.join(self.side)} {self.kind} {self.n}"

    def spawn(self, *command, **kwargs):
        with open(self.dir / "stderr", "ab") as err:
            process = subprocess.Popen([*command], stderr=err, start_new_session=True, **kwargs)
        self.processes.append(process)
        return process

    def start(self):
        """A master that nobody follows, up to its first answer."""
        master = self.spawn(MASTER, str(self.config), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        def up():
            if master.poll() is not None:
                raise AssertionError(f"it ended with {master.returncode}")
            status = self.status()
            return status and status["master"]["pid"] == master.pid
        wait_for("a clean start answers", up, 60)
        return master

    def held(self):
        """A master that waits for a byte before it begins."""
        return self.spawn(self.tool.crash, "hold", MASTER, str(self.config),
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def let_go(self, held):
        """The byte that it waits for; it may have been killed in that very call."""
        try:
            held.stdin.write(b"\n")
            held.stdin.close()
        except BrokenPipeError:
            pass

    def follow(self, pid):
        role = self.side[1] if self.n else "count"
        self.tracer = self.spawn(self.tool.crash, MASTER, role, self.kind, str(self.n), str(pid),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        if not select.select([self.tracer.stdout], [], [], 30)[0] or self.tracer.stdout.readline() != b"ready\n":
            raise AssertionError(f"cannot follow {pid}")

    def follow_until(self, condition, limit=20):
        """Until somebody was killed, or what was asked for has come about."""
        end = time.monotonic() + limit
        while self.tracer.poll() is None and not condition() and time.monotonic() < end:
            time.sleep(0.01)
        if self.tracer.poll() is None:
            self.tracer.terminate()
        self.tracer.wait(20)
        for line in self.tracer.stdout.read().decode().splitlines():
            words = line.split()
            if words[0] == "killed":
                self.victim = int(words[1])
                self.killed.add(self.victim)
            elif len(words) == 3:
                self.counts[words[0], words[1]] = int(words[2])

    def ctl(self, *arguments):
        done = subprocess.run([CTL, "--run-root", str(self.dir / "run"), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        return done.stdout

    def status(self):
        try:
            return json.loads(self.ctl("status", "--json"))
        except ValueError:
            return None

    def ledger(self):
        path = self.dir / "ledger.a"
        text = path.read_text() if path.exists() else ""
        return [(word, *map(int, rest)) for word, *rest in (line.split() for line in text.splitlines())]

    def starts(self, master=None):
        return sum(line[0] == "start" and master in (None, line[3]) for line in self.ledger())

    def chain_pid(self):
        return next((pid for line in reversed(self.ledger()) if alive(pid := line[2])), None)

    def provoke(self):
        """Brings the phase about, with the tracer on its side."""
        who = self.side[0]
        if self.phase in ("start", "mail"):
            master = self.held()
            self.follow(master.pid)
            self.let_go(master)
            self.follow_until(lambda: self.starts() >= 2 if self.phase == "start" else len(self.mails()) >= 2)
            return
        old = self.start()
        wait_for("runs", lambda: self.starts() >= 2, 30)
        if self.phase == "hup":
            self.follow(old.pid if who == "master" else self.chain_pid())
            chain = self.chain_pid()
            old.send_signal(signal.SIGHUP)
            self.follow_until(lambda: sum(l[0] == "start" and l[2] != chain for l in self.ledger()) >= 2)
            return
        if who == "master":
            new = self.held()
            self.follow(new.pid)
            self.let_go(new)
        else:
            self.follow(old.pid if who == "old" else self.chain_pid())
            new = self.spawn(MASTER, str(self.config), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.follow_until(lambda: self.starts(new.pid) >= 2)
        # One that still waits for the first would take the place of the clean start.
        wait_for("the second has begun or ended", lambda: new.poll() is not None or self.starts(new.pid), 40)

    def mails(self):
        """The subjects in the Maildir; a mail that is not whole is an error."""
        new = self.dir / "mail/new"
        subjects = []
        for path in new.iterdir() if new.is_dir() else ():
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_content()
            assert mail["Message-ID"] and body.endswith("\n") and "Host" in body, f"half a mail: {path.read_bytes()}"
            subjects.append(mail["Subject"])
        return subjects

    def unmailed(self):
        """Failures that no mail tells; twenty notices of a task an hour are told one by one."""
        if self.phase != "mail":
            return []
        told = " ".join(f"{subject} " for subject in self.mails())
        failed = [code for code in self.certain() if code % 4 in (1, 2)][:15]
        return [code for code in failed if f"exit {code} " not in told]

    def certain(self):
        """The runs whose reports were handed over to masters that lived."""
        ledger = self.ledger()
        # A run that began after its master's death finds another parent there.
        lived = {process.pid for process in self.processes} - self.killed
        codes = []
        for at, (word, pid, chain, master, code) in enumerate(ledger):
            handed_over = chain not in self.killed or any(
                later[0] == "start" and later[2] == chain for later in ledger[at + 1:])
            if word == "end" and handed_over and master in lived:
                codes.append(code)
        return codes

    def lost(self):
        """Those of them that are not remembered."""
        certain, remembered = self.certain(), set()
        for line in self.ctl("history", "a", "--jsonl").splitlines():
            outcome = json.loads(line).get("outcome", "")
            if outcome.startswith("exit "):
                remembered.add(int(outcome[5:]))
        return [code for code in certain if code not in remembered]

    def run(self):
        """What is wrong, as a list of words."""
        wrong = []
        self.provoke()
        have = self.starts()
        clean = self.start()
        wait_for("the clean start's runs", lambda: self.starts(clean.pid) >= 2, 60)
        assert self.starts() > have
        end = time.monotonic() + 10
        while (lost := self.lost()) and time.monotonic() < end:
            time.sleep(0.05)
        if lost:
            wrong.append(f"lost reports of the runs {lost}")
        while (unmailed := self.unmailed()) and time.monotonic() < end + 20:
            time.sleep(0.1)
        if unmailed:
            wrong.append(f"lost reports in the mail: {unmailed} of {self.mails()}")
        cgroups = self.groups()
        clean.terminate()
        if clean.wait(40) != 0:
            wrong.append(f"the clean master ended with {clean.returncode}")
        # A start whose check was killed says so.
        fine = (0, -signal.SIGKILL, 71) if self.side[1] == "other" else (0, -signal.SIGKILL)
        for process in self.processes:
            if process.wait(20) not in fine:
                wrong.append(f"{process.args[0]} ended with {process.returncode}")
        end = time.monotonic() + 20
        while (left := marked(self.dir)) and time.monotonic() < end:
            time.sleep(0.05)
        if left:
            wrong.append(f"left {[pathlib.Path(f'/proc/{p}/cmdline').read_bytes() for p in left]}")
        overlaps = [line for line in self.ledger() if line[0] == "overlap"]
        if overlaps:
            wrong.append(f"overlaps {overlaps}")
        stale = [str(p.relative_to(self.dir)) for root in ("run", "state", "mail/tmp")
                 for p in (self.dir / root).rglob("*") if p.name.startswith(".") or root == "mail/tmp"]
        if stale:
            wrong.append(f"left files {stale}")
        if groups := [path for path in cgroups if os.path.isdir(path)]:
            wrong.append(f"left groups {groups}")
        return wrong

    def groups(self):
        """Where this runner has its control groups, by its lock file."""
        try:
            holder = json.loads((self.dir / "run/lock/master.lock").read_text().splitlines()[-1])
        except ValueError:
            return []
        return [holder["cgroups"]] if holder.get("cgroups") else []

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(20)
            if process.stdout:
                process.stdout.close()
        end = time.monotonic() + 15
        while (left := marked(self.dir)) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            time.sleep(0.02)
        shutil.rmtree(self.dir, ignore_errors=True)

    def words(self):
        """What a failed point left to read."""
        def tail(name):
            path = self.dir / name
            return path.read_text(errors="replace")[-2500:] if path.exists() else ""
        lines = "\n".join(str(line) for line in self.ledger()[-14:])
        return f"victim {self.victim}\n{lines}\n{tail('stderr')[-700:]}\n{tail('log')}"


class Sweep(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tool = Tool()
        cls.addClassCleanup(shutil.rmtree, cls.tool.dir, ignore_errors=True)

    def points(self, phase):
        """Every point there is: what a run that nobody disturbs calls, side by side."""
        found = []
        for side in SIDES[phase]:
            point = Point(self.tool, phase, side)
            try:
                point.provoke()
                counts = point.counts
            finally:
                point.close()
            mine = [(side, kind, n) for kind in (EVERY if harness.FULL else KINDS)
                    for n in range(1, counts.get((side[1], kind), 0) + 1)]
            self.assertTrue(mine, f"nothing to choose from: {phase} {side} {counts}")
            if not harness.FULL:
                random.Random(f"{SEED} {phase} {side}").shuffle(mine)
            found.append(mine)
        return found

    def try_point(self, phase, side, kind, n):
        point = Point(self.tool, phase, side, kind, n)
        try:
            wrong = point.run()
            failure = f"{point}: {'; '.join(wrong)}\n{point.words()}" if wrong else None
        except (AssertionError, subprocess.TimeoutExpired) as cause:
            failure = f"{point}: {cause}\n{point.words()}"
        finally:
            point.close()
        text = failure or ""
        return failure, point.victim is not None, "overlaps" in text, "lost reports" in text

    def sweep(self, phase):
        sides = self.points(phase)
        chosen = [point for side in sides for point in (side if harness.FULL else side[:SAMPLE])]
        begun = time.monotonic()
        results = []
        def one(point):
            if not harness.FULL and time.monotonic() - begun > LIMIT / len(SIDES):
                return None
            return self.try_point(phase, *point)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            results = [result for result in pool.map(one, chosen) if result]
        died, overlaps, lost = (sum(r[i] for r in results) for i in (1, 2, 3))
        failures = [r[0] for r in results if r[0]]
        print(f"\n[sweep {phase}: {len(results)} of {sum(map(len, sides))} points tried (seed {SEED}), "
              f"{died} died there, {overlaps} with overlaps, {lost} with lost reports, "
              f"{len(failures)} failed, {time.monotonic() - begun:.0f} s]", file=sys.stderr)
        self.assertFalse(failures, "\n\n".join(failures[:4]))
        self.assertGreater(died, len(results) // 2)

    def test_at_a_start(self):
        self.sweep("start")

    def test_at_an_upgrade(self):
        self.sweep("hup")

    def test_while_notices_are_mailed(self):
        self.sweep("mail")

    def test_at_a_takeover(self):
        self.sweep("takeover")


if __name__ == "__main__":
    unittest.main()
