"""A soak: one master with many chains, and one fault after the other, chosen by a seed. Processes are killed and
stopped, alone and together; the file changes, breaks and is mended; the program is replaced by a broken one
and by a good one; other starts come between; the disk of the spool fills, the mail server goes away, an
operator stops, pauses and restarts what is there. After every few steps everything is as the last accepted
file says, and the tasks' own ledger has no overlap.

    integration/run lifecycle                             one seed, a minute
    RUNNER_SEED=7 RUNNER_STEPS=40 python3 -m unittest …   that one again, so many steps
    integration/run --full lifecycle                      many seeds, some minutes each

Every run has an exit status of its own (1 to 250): one that ended by itself, whose chain process handed it
over and whose master was never killed, must be in the history. Bound: 4 minutes.
"""

import collections
import datetime
import email
import email.policy
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import CTL, Case, alive, children_of, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "mail"))
from sink import SILENT, Sink

SEED = int(os.environ.get("RUNNER_SEED", "1"))
SEEDS = int(os.environ.get("RUNNER_SEEDS", "12" if harness.FULL else "1"))
STEPS = int(os.environ.get("RUNNER_STEPS", "160" if harness.FULL else "40"))
SECONDS = float(os.environ.get("RUNNER_SECONDS", "600" if harness.FULL else "60"))
CHAINS = 24
# A chain that was killed again and again waits up to a minute before it comes up.
SETTLED = 150.0

# How a chain's one run behaves: milliseconds, the mode of ledger.c, whether its statuses are successes.
KINDS = (
    ("200", "", True), ("50", "polite", True), ("30", "", False), ("700", "", True), ("2500", "polite", True),
    ("100", "leave", True), ("60", "leave", False), ("1500", "", False),
)
GOOD = ", ".join(map(str, range(1, 251)))


class Chain:
    """What the file says of one: `key` names its ledger and stays, its name may change."""

    def __init__(self, key, kind, second):
        self.key, self.name, self.kind, self.tasks = key, f"c{key}", kind, ["one", "two"] if second else ["one"]
        # The runs before this line of the ledger may be forgotten, as a name or a task of it was; None:
        # all of them until all is settled.
        self.since = 0
        # What all its runs last, for sure.
        self.millis = kind[0]

    def ron(self, tool, folder):
        millis, mode, good = self.kind
        def task(name):
            argv = ", ".join(f'"{word}"' for word in (tool, str(folder), str(self.key), millis, *([mode] if mode else [])))
            return f'(name: "{name}", run: [{argv}], success_cooldown: "300ms", fail_cooldown: "1s")'
        tasks = ", ".join(map(task, self.tasks))
        ok = f"ok_exit: [{GOOD}]," if good else ""
        return (f'(name: "{self.name}", user: Current, cwd: "/", kill_timeout: "700ms", drain_timeout: "4s",'
                f' {ok} tasks: [{tasks}]),\n')


class Soak(Case):
    """One seed."""

    def begin(self, seed):
        self.chance, self.seed, self.steps = random.Random(seed), seed, []
        self.sink, self.killed, self.decided, self.at_work = Sink(), set(), set(), set()
        self.addCleanup(self.sink.down)
        self.tool = harness.ledger_tool(self.dir)
        self.binary = self.path("bin/runner-master")
        self.binary.parent.mkdir()
        shutil.copy2(harness.MASTER, self.binary)
        was, harness.MASTER = harness.MASTER, str(self.binary)
        self.good_binary = was
        self.addCleanup(setattr, harness, "MASTER", was)
        self.path("ledgers").mkdir()
        self.path("disk").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", self.path("disk")], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.path("disk")])
        self.chains = [Chain(key, KINDS[key % len(KINDS)], key % 3 == 0) for key in range(CHAINS)]
        self.spare = CHAINS
        self.accepted = list(self.chains)
        # Every second seed: nothing but marks tells what a dead chain has left.
        self.prefix = () if seed % 2 else (
            "unshare", "-m", "sh", "-c",
            "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts) && exec \"$@\"", "sh")
        self.write()
        self.master = self.start(self.config, prefix=self.prefix)

    def write(self):
        """The file as `chains` says, whole at once."""
        mail = (f'mail: (from: "r@example.org", to: ["a@example.org"], user: Current, spool: "{self.dir}/disk/spool",'
                f' transport: Smtp(host: "127.0.0.1", port: {self.sink.port}, security: None),'
                ' limit: (mails: 10000, per: "1h")),')
        rons = "".join(chain.ron(self.tool, self.path("ledgers")) for chain in self.chains)
        fresh = self.write_config(rons, extra=mail, name="fresh.ron")
        self.config = self.path("runner.ron")
        fresh.rename(self.config)

    # What is to be seen.

    def ledger(self, key):
        path = self.path(f"ledgers/ledger.{key}")
        text = path.read_text() if path.exists() else ""
        return [(words[0], *map(int, words[1:])) for words in map(str.split, text.splitlines()) if len(words) == 5]

    def ledgers(self):
        return {key: self.ledger(key) for key in range(self.spare)}

    def overlaps(self):
        return [(key, line) for key, lines in self.ledgers().items() for line in lines if line[0] == "overlap"]

    def titled(self, word):
        """The master's children with such a title."""
        found = []
        for pid in children_of(self.master.pid):
            try:
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"runner: {word}".encode()):
                    found.append(pid)
            except OSError:
                pass
        return found

    def masters_at_work(self):
        """Masters that have chain processes."""
        found = []
        for master in self.masters:
            if master.poll() is None:
                for pid in children_of(master.pid):
                    try:
                        if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runner: chain"):
                            found.append(master.pid)
                            break
                    except OSError:
                        pass
        return found

    def send(self, pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def quickly(self, *arguments):
        """runnerctl that may find nobody; what it says is not the matter here."""
        try:
            return subprocess.run([CTL, "--run-root", str(self.path("run")), *arguments], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=60).stdout
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runnerctl {arguments} did not come back")

    # The faults. Each returns what is written in the log of steps.

    def kill_chain(self):
        chains = self.titled("chain")
        for pid in (chosen := self.chance.sample(chains, min(len(chains), self.chance.randint(1, 4)))):
            self.killed.add(pid)
            self.send(pid, signal.SIGKILL)
        return chosen

    def stop_chain(self):
        pids = self.titled("chain")
        if pids:
            pid = self.chance.choice(pids)
            # Noticed, ended and replaced.
            self.killed.add(pid)
            self.send(pid, signal.SIGSTOP)
            return pid

    def signal_chain(self):
        pids = self.titled("chain")
        number = self.chance.choice((signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1))
        if pids:
            pid = self.chance.choice(pids)
            self.send(pid, number)
            return pid, number.name

    def kill_helper(self):
        word = self.chance.choice(("logger", "mailer"))
        for pid in (pids := self.titled(word)):
            self.send(pid, signal.SIGKILL)
        return word, pids

    def kill_any_child(self):
        """A check, a saver, whatever there is."""
        pids = [pid for pid in children_of(self.master.pid) if pid not in self.titled("chain")]
        if pids:
            pid = self.chance.choice(pids)
            self.send(pid, signal.SIGKILL)
            return pid

    def kill_run(self):
        pids = [run for pid in self.titled("chain") for run in children_of(pid)]
        number = self.chance.choice((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM))
        if pids and number != signal.SIGSTOP:
            pid = self.chance.choice(pids)
            self.send(pid, number)
            return pid, number.name

    def kill_master(self):
        self.killed.add(self.master.pid)
        self.master.kill()
        self.master.wait()
        self.pause_a_little()
        self.again()

    def kill_both(self):
        self.killed.add(self.master.pid)
        self.send(self.master.pid, signal.SIGSTOP)
        chains = self.titled("chain")
        for pid in (chosen := self.chance.sample(chains, self.chance.randint(0, len(chains)))):
            self.killed.add(pid)
            self.send(pid, signal.SIGKILL)
        self.master.kill()
        self.master.wait()
        self.pause_a_little()
        self.again()
        return len(chosen)

    def freeze_master(self):
        self.send(self.master.pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 2))
        self.send(self.master.pid, signal.SIGCONT)

    def take_over(self):
        """One or more starts at once; now and then of a master that is stopped."""
        count, frozen = self.chance.choice((1, 1, 2, 5)), self.chance.random() < 0.1
        if frozen:
            # It is killed by its successor, in the end.
            self.killed.add(self.master.pid)
            self.send(self.master.pid, signal.SIGSTOP)
        for _ in range(count):
            self.again()
        return count, frozen

    def stop_and_start(self):
        self.master.send_signal(self.chance.choice((signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)))
        if self.chance.random() < 0.3:
            self.pause_a_little()
            self.send(self.master.pid, signal.SIGTERM)
        if self.chance.random() < 0.5:
            # It may not have been a program that hears: settling looks at its status.
            self.master.wait(60)
        self.again()

    def again(self):
        self.master = self.start(self.config, ready=False, prefix=self.prefix)

    def edit(self):
        """A HUP with another file, which is accepted by the next settling at the latest."""
        what = self.chance.choice(("add", "remove", "rename", "swap", "more", "less", "kind", "none"))
        chain = self.chance.choice(self.chains)
        if what == "add" and len(self.chains) < CHAINS + 6:
            kind = self.chance.choice(KINDS)
            self.chains.insert(self.chance.randint(0, len(self.chains)), Chain(self.spare, kind, False))
            self.spare += 1
        elif what == "remove" and len(self.chains) > CHAINS - 6:
            self.chains.remove(chain)
        elif what == "rename":
            # The same program, which is one chain under any name; unless it is another by now, whose runs
            # may begin beside one of before.
            if chain.millis != chain.kind[0]:
                chain.key, chain.millis = self.spare, chain.kind[0]
                self.spare += 1
            chain.name, chain.since = f"c{chain.key}n{len(self.steps)}", None
        elif what == "swap":
            chain.tasks.reverse()
        elif what == "more" and len(chain.tasks) < 4:
            chain.tasks.insert(self.chance.randint(0, len(chain.tasks)), f"t{len(self.steps)}")
        elif what == "less" and len(chain.tasks) > 1:
            # Its runs are forgotten with it.
            chain.tasks.remove(self.chance.choice(chain.tasks))
            chain.since = None
        elif what == "kind":
            # Another length of its runs.
            chain.kind = (self.chance.choice(("20", "400", "1200")), *chain.kind[1:])
        self.write()
        for _ in range(self.chance.choice((1, 1, 2, 20))):
            self.send(self.master.pid, signal.SIGHUP)
        return what, chain.name

    def break_file(self):
        text = self.config.read_text()
        what = self.chance.choice(("gone", "half", "empty", "unknown", "mode"))
        if what == "gone":
            self.config.unlink()
        elif what == "half":
            self.config.write_text(text[:self.chance.randint(0, len(text) - 20)])
        elif what == "empty":
            self.config.write_text("")
        elif what == "unknown":
            self.config.write_text(text.replace("chains:", "chians:", 1))
        else:
            self.config.chmod(0o666)
        self.send(self.master.pid, signal.SIGHUP)
        time.sleep(self.chance.uniform(0, 1))
        self.write()
        return what

    def replace_binary(self):
        what = self.chance.choice(("good", "garbage", "false", "hang", "gone"))
        fresh = self.binary.with_name("fresh")
        if what == "good":
            shutil.copy2(self.good_binary, fresh)
        else:
            fresh.write_text({"garbage": "\x7fELF?", "false": "#!/bin/false\n", "hang": "#!/bin/sh\nsleep 1\n",
                              "gone": ""}[what])
            fresh.chmod(0o755)
        fresh.rename(self.binary)
        if what == "gone":
            self.binary.unlink()
        self.send(self.master.pid, signal.SIGHUP)
        time.sleep(self.chance.uniform(0, 1))
        if what != "good":
            shutil.copy2(self.good_binary, fresh)
            fresh.rename(self.binary)
        return what

    def operator(self):
        chain = self.chance.choice(self.chains).name
        words = self.chance.choice((
            ("stop", chain), ("stop", "--now", chain), ("start", chain), ("restart", chain), ("restart", "--now", chain),
            ("pause", chain), ("pause", chain, "--for", "1s"), ("resume", chain), ("run", chain),
            ("silence", chain, "--for", "1s"), ("restart", "--all"), ("reload",), ("reload", "--wait"),
            ("reload", chain), ("reload", "--dry-run"), ("mail", "flush"), ("status", "--json"), ("explain", chain)))
        self.quickly(*words)
        return words

    def fill_disk(self):
        """No byte is left in the spool for a while."""
        with open(self.path("disk/full"), "wb", buffering=0) as full:
            try:
                while True:
                    full.write(bytes(65536))
            except OSError:
                pass
        if self.chance.random() < 0.5:
            self.free_disk()

    def free_disk(self):
        self.path("disk/full").unlink(missing_ok=True)

    def no_mail_server(self):
        self.sink.down()
        time.sleep(self.chance.uniform(0, 1))
        self.mail_server(self.chance.choice(({}, {"DATA.": None}, {"RCPT": "451 later"}, {"banner": SILENT})))
        return self.sink.modes

    def mail_server(self, modes):
        self.sink.down()
        self.sink.modes = modes
        wait_for("the port is there again", self.listens, 20)

    def listens(self):
        try:
            self.sink.up()
            return True
        except OSError:
            return False

    def pause_a_little(self):
        time.sleep(self.chance.choice((0, 0, 0.01, 0.1, 0.5)))

    FAULTS = (
        (kill_chain, 6), (stop_chain, 2), (signal_chain, 3), (kill_helper, 3), (kill_any_child, 2), (kill_run, 3),
        (kill_master, 4), (kill_both, 4), (freeze_master, 2), (take_over, 4), (stop_and_start, 3), (edit, 10),
        (break_file, 3), (replace_binary, 3), (operator, 10), (fill_disk, 2), (free_disk, 1), (no_mail_server, 2),
    )

    # What must hold.

    def step(self):
        fault = self.chance.choices([fault for fault, _ in self.FAULTS], [weight for _, weight in self.FAULTS])[0]
        self.steps.append([f"{time.monotonic() - self.begun:.2f}", fault.__name__])
        self.steps[-1].append(fault(self))
        self.pause_a_little()
        self.assertEqual(self.overlaps(), [])
        at_work = self.masters_at_work()
        self.at_work.update(at_work)
        self.assertLessEqual(len(at_work), 1)

    def settle(self):
        """No fault more: one master, the file accepted, every chain of it at work."""
        self.free_disk()
        self.mail_server({})
        for master in self.masters:
            if master.poll() is None:
                # One that was stopped before it had the lock is in nobody's way.
                self.send(master.pid, signal.SIGCONT)
        def alone():
            living = [master for master in self.masters if master.poll() is None]
            if not living:
                self.again()
            elif len(living) == 1:
                self.master = living[0]
                status = self.status()
                # One that was told to leave does not take it any more.
                return (status and status["master"]["pid"] == self.master.pid
                        and "accepted" in self.quickly("reload", "--wait"))
        try:
            wait_for("one master, and it accepts the file", alone, SETTLED)
        except AssertionError as failure:
            living = [(m.pid, harness.status_field(m.pid, "State")) for m in self.masters if m.poll() is None]
            raise AssertionError(f"{failure}; alive {living}, {self.quickly('reload', '--wait')}")
        for master in self.masters:
            if master.poll() is not None and master.pid not in self.killed:
                # It met another that had just begun, or its check was killed; or it was told to leave before
                # it was a program that hears.
                # The file may have been broken just then, and what became it killed.
                fine = (0, 69, 71) if master.pid in self.at_work else (0, 69, 71, 78, 137, -1, -2, -3, -9, -15)
                self.assertIn(master.returncode, fine, self.stderr()[-2000:])
        self.masters = [self.master]
        self.quickly("start", "--all")
        names = {chain.name for chain in self.chains}
        wait_for("the chains of the file", lambda: {c["name"] for c in (self.status() or {"chains": []})["chains"]
                                                   if c["state"] != "draining"} >= names, SETTLED)
        for chain in self.status()["chains"]:
            if chain["paused_since"]:
                self.quickly("resume", chain["name"])
        have = {chain.key: len(self.ledger(chain.key)) for chain in self.chains}
        def silent():
            return [chain.name for chain in self.chains
                    if not any(line[0] == "start" and line[3] == self.master.pid
                               for line in self.ledger(chain.key)[have[chain.key]:])]
        try:
            wait_for("every chain runs", lambda: not silent(), SETTLED)
        except AssertionError:
            status = {c["name"]: c for c in self.status()["chains"]}
            self.fail(f"these do not run: {[status.get(name, name) for name in silent()]}")
        self.gone_chains_are_gone()
        for chain in self.chains:
            chain.millis = chain.kind[0]
            if chain.since is None:
                chain.since = len(self.ledger(chain.key))
        self.assertEqual(self.overlaps(), [])
        self.assertEqual(self.masters_at_work(), [self.master.pid])

    def gone_chains_are_gone(self):
        names = {chain.name for chain in self.chains}
        wait_for("what left the file is gone", lambda: {c["name"] for c in self.status()["chains"]} == names, SETTLED)

    def rename(self):
        """The same chain under another name, which begins when the old one has ended."""
        chain = self.chance.choice(self.chains)
        chain.name, chain.since = f"c{chain.key}s{len(self.steps)}", None
        self.write()
        self.settle()

    def remember(self):
        """What the histories know, for they keep only the last hundred runs."""
        for chain in self.chains:
            for line in self.quickly("history", chain.name, "--jsonl").splitlines():
                run = json.loads(line)
                self.decided.add((chain.key, run.get("outcome", ""), run["at"]))

    def certain(self):
        """Runs that were handed over to the master of now, which is to live; of each chain the last ones only."""
        certain = set()
        for chain in self.chains:
            lines = [] if chain.since is None else self.ledger(chain.key)[chain.since:]
            ended = [line[4] for at, line in enumerate(lines) if line[0] == "end" and line[3] == self.master.pid
                     and (line[2] not in self.killed or any(
                         later[0] == "start" and later[2] == line[2] for later in lines[at + 1:]))]
            certain |= {(chain.key, code) for code in ended[-60:]}
        return certain

    def nothing_lost(self):
        """A run that was told to end and ended by itself all the same is interrupted, whatever its status."""
        certain = self.certain()
        def lost():
            self.remember()
            interrupted = collections.Counter(key for key, outcome, _ in self.decided if outcome == "interrupted")
            known = {(key, outcome) for key, outcome, _ in self.decided}
            unknown = [(key, code) for key, code in certain if (key, f"exit {code}") not in known]
            return [(key, code) for key, code in unknown
                    if sum(other == key for other, _ in unknown) > interrupted[key]]
        end = time.monotonic() + 60
        while (found := lost()) and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual(found, [], "runs that no history knows")

    def size(self):
        """Descriptors and memory of a master that has just become what is on disk."""
        self.gone_chains_are_gone()
        self.assertIn("accepted", self.quickly("reload", "--wait"))
        wait_for("every chain is replaced", lambda: all(
            c["generation"] == s["master"]["generation"] and c["state"] not in ("backoff", "draining")
            for c in s["chains"]) if (s := self.status()) else False, SETTLED)
        wait_for("mail is away", lambda: not self.titled("mailer"), 60)
        status = pathlib.Path(f"/proc/{self.master.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return len(os.listdir(f"/proc/{self.master.pid}/fd")), resident

    def mails_are_bounded(self):
        mails = collections.defaultdict(set)
        for _, _, message in self.sink.messages:
            mail = email.message_from_bytes(message, policy=email.policy.default)
            mails[str(mail["Message-ID"])].add((mail["Subject"], mail.get_content()))
        twice = {identity: texts for identity, texts in mails.items() if len(texts) > 1}
        self.assertEqual(twice, {}, "one Message-ID, several mails")
        chains = self.spare + sum(step[2] is not None and step[2][0] == "rename" for step in self.steps
                                  if step[1] == "edit")
        # Twenty of a task in an hour, and as many of a chain process; refused and accepted upgrades.
        self.assertLess(len(mails), 40 * 3 * chains + 4 * len(self.steps))
        return len(mails)

    def soak(self, seed):
        self.begin(seed)
        self.begun = time.monotonic()
        self.settle()
        first = self.size()
        settled = 0
        while len(self.steps) < STEPS and time.monotonic() - self.begun < SECONDS:
            for _ in range(self.chance.randint(1, 8)):
                self.step()
            self.settle()
            self.nothing_lost()
            settled += 1
            self.rename()
        # The same number of chains as at first.
        while len(self.chains) > CHAINS:
            self.chains.pop()
        while len(self.chains) < CHAINS:
            self.chains.append(Chain(self.spare, KINDS[0], False))
            self.spare += 1
        self.write()
        self.settle()
        self.nothing_lost()
        last = self.size()
        self.assertLessEqual(last[0], first[0] + 2, "descriptors")
        self.assertLess(last[1], first[1] * 1.5 + 2048, "KiB of memory")
        failing = [c["name"] for c in self.status()["chains"] if any(t["failed"] > 3 for t in c["tasks"])]
        wait_for("the mail is away", lambda: not self.quickly("mail", "list", "--json").strip(), 120)
        mails = self.mails_are_bounded()
        self.assertTrue(not failing or mails)
        self.assertEqual(self.stop(self.master, limit=60), 0)
        self.assertNotIn("panicked", self.log() + self.stderr())
        self.assertEqual(self.overlaps(), [])
        runs = sum(line[0] == "start" for lines in self.ledgers().values() for line in lines)
        print(f"\n[soak: seed {seed}, {len(self.steps)} faults, {settled} settlings, {runs} runs, 0 overlaps, 0 lost, "
              f"{mails} mails, descriptors {first[0]} → {last[0]}, memory {first[1]} → {last[1]} KiB, "
              f"{time.monotonic() - self.begun:.0f} s]", file=sys.stderr)

    def told(self, seed):
        try:
            self.soak(seed)
        except BaseException as cause:
            steps = "\n".join(map(str, self.steps[-25:]))
            if folder := os.environ.get("RUNNER_KEEP"):
                shutil.copytree(self.dir, pathlib.Path(folder) / f"soak-{seed}", symlinks=True, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns("*.sock", "bin"))
            raise AssertionError(f"seed {seed}, step {len(self.steps)}: {cause!r}\n{steps}\n"
                                 f"{self.stderr()[-1500:]}\n{self.log()[-4000:]}") from cause

    def test_faults_one_after_the_other(self):
        for seed in range(SEED, SEED + SEEDS):
            with self.subTest(seed=seed):
                try:
                    self.told(seed)
                finally:
                    # Each seed has a folder of its own.
                    self.doCleanups()
                    self.setUp()


if __name__ == "__main__":
    unittest.main()
