"""Signals, starts, edits and kills one upon the other, in the order that hurts most: each ends with one master,
the chains of the last file, no overlap in the tasks' own ledger (ledger.c), and every run that was handed over
in the history. Bound: 2 minutes.
"""

import json
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import Case, wait_for

GOOD = ", ".join(map(str, range(1, 251)))
# Of each command: how long a run takes, deaf to SIGTERM; the first ones are at work whenever something happens.
SLOW, QUICK = {"k": 1500, "l": 1100}, {"m": 150, "n": 40}
ROUNDS = 10 if harness.FULL else 2


class Sequences(Case):
    def setUp(self):
        super().setUp()
        self.tool = harness.ledger_tool(self.dir)
        self.path("ledgers").mkdir()

    def file(self, **named):
        """The file with a chain for each key, called as `named` says; None: without it."""
        names = {key: named.get(key, f"c-{key}") for key in (*SLOW, *QUICK)}
        rons = "".join(
            f'(name: "{name}", user: Current, cwd: "/", kill_timeout: "700ms", drain_timeout: "3s", ok_exit: [{GOOD}],'
            f' tasks: [(name: "t", run: ["{self.tool}", "{self.dir}/ledgers", "{key}", "{(SLOW | QUICK)[key]}"],'
            ' success_cooldown: "50ms", fail_cooldown: "50ms")]),\n' for key, name in names.items() if name)
        fresh = self.write_config(rons, name="fresh.ron")
        fresh.rename(self.path("runner.ron"))
        self.names = {key: name for key, name in names.items() if name}
        return self.path("runner.ron")

    def begin(self):
        self.master = self.start(self.file())
        for key in self.names:
            self.runs_on(key)

    def lines(self, key):
        path = self.path(f"ledgers/ledger.{key}")
        words = map(str.split, path.read_text().splitlines() if path.exists() else [])
        return [(word[0], *map(int, word[1:])) for word in words if len(word) == 5]

    def starts(self, key):
        return sum(line[0] == "start" and line[3] == self.master.pid for line in self.lines(key))

    def runs_on(self, key, runs=1):
        have = self.starts(key)
        try:
            wait_for(f"{key} runs", lambda: self.starts(key) >= have + runs, 60)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.stderr()[-800:]}\n{self.log()[-4000:]}")

    def in_a_run(self):
        """A slow run has just begun."""
        for key in SLOW:
            if key in self.names:
                return self.runs_on(key)

    def hup(self, master=None):
        (master or self.master).send_signal(signal.SIGHUP)

    def second(self):
        self.master = self.start(self.path("runner.ron"), ready=False)

    def kill(self):
        self.master.kill()
        self.master.wait()

    def ends_well(self):
        def one():
            living = [master for master in self.masters if master.poll() is None]
            status = self.status()
            return len(living) == 1 and status and status["master"]["pid"] == living[0].pid and living[0]
        self.master = wait_for("one master", one, 60)
        self.assertIn("accepted", self.ctl("reload", "--wait").stdout)
        wait_for(f"the chains of the file: {self.names}\n{self.log()[-3000:]}", lambda: sorted(
            chain["name"] for chain in (self.status() or {"chains": []})["chains"]) == sorted(self.names.values()), 60)
        for key in self.names:
            self.runs_on(key, 2)
        self.nothing_lost()
        self.assertEqual(self.stop(self.master, limit=60), 0)
        for key in SLOW | QUICK:
            overlaps = [line for line in self.lines(key) if line[0] == "overlap"]
            self.assertEqual(overlaps, [], f"{key}: {self.lines(key)[-8:]}\n{self.log()[-4000:]}")
        self.assertNotIn("panicked", self.log() + self.stderr())

    def nothing_lost(self):
        """A run of a chain that is in the file under its name of always, whose process went on to its next one."""
        for key, name in self.names.items():
            if name != f"c-{key}" or key not in self.kept:
                continue
            lines = self.lines(key)
            ended = [line[4] for at, line in enumerate(lines) if line[0] == "end" and line[3] == self.master.pid
                     and any(later[0] == "start" and later[2] == line[2] for later in lines[at + 1:])][-60:]
            def known():
                history = [json.loads(line) for line in self.ctl("history", name, "--jsonl").stdout.splitlines()]
                return {run.get("outcome") for run in history} >= {f"exit {code}" for code in ended}
            wait_for(f"every run of {name} is in the history: {ended}", known, 20)

    def each(self, sequence, kept=(*SLOW, *QUICK)):
        self.kept = kept
        for round in range(ROUNDS):
            with self.subTest(round=round):
                self.begin()
                self.in_a_run()
                sequence(round)
                self.ends_well()

    def test_hup_during_a_takeover(self):
        def sequence(round):
            first = self.master
            self.second()
            for _ in range(20):
                for master in (first, self.master):
                    if master.poll() is None:
                        # Before it blocks its signals it is no master, and ends.
                        if master is first or "replacing the running master" in self.stderr():
                            self.hup(master)
                time.sleep(0.01 * (round + 1))
        self.each(sequence)

    def test_takeover_during_the_check_of_a_hup(self):
        def sequence(round):
            self.hup()
            time.sleep(0.02 * round)
            self.second()
        self.each(sequence)

    def test_restart_of_a_chain_during_its_drain(self):
        def sequence(round):
            self.hup()
            wait_for("it drains", lambda: any(
                chain["state"] == "draining" for chain in (self.status() or {"chains": []})["chains"]), 30)
            self.ctl("restart", "c-k", *(("--now",) if round % 2 else ()))
            self.ctl("restart", "--all")
        self.each(sequence)

    def test_another_name_and_back_before_the_drain_ended(self):
        def sequence(round):
            self.file(k="other", m="else")
            self.assertIn("accepted", self.ctl("reload", "--wait").stdout)
            self.file()
            self.hup()
        self.each(sequence, kept=("l", "n"))

    def test_term_during_the_check_of_a_hup(self):
        def sequence(round):
            self.hup()
            time.sleep(0.02 * round)
            self.master.terminate()
            self.assertEqual(self.master.wait(30), 0)
            self.second()
        self.each(sequence)

    def test_killed_between_the_handover_and_the_replacement(self):
        def sequence(round):
            self.file(k="other")
            have = self.log().count(" upgraded: ")
            self.hup()
            if round % 2:
                wait_for("upgraded", lambda: self.log().count(" upgraded: ") > have, 30)
            else:
                wait_for("executed", lambda: b"--internal-resume" in pathlib.Path(
                    f"/proc/{self.master.pid}/cmdline").read_bytes() or self.log().count(" upgraded: ") > have, 30)
            self.kill()
            self.second()
        self.each(sequence)

    def test_removed_killed_and_back(self):
        def sequence(round):
            self.file(k=None, m=None)
            self.assertIn("accepted", self.ctl("reload", "--wait").stdout)
            self.kill()
            self.file(**({"k": "other"} if round % 2 else {}))
            self.second()
        self.each(sequence)

    def test_two_files_during_a_drain(self):
        def sequence(round):
            self.file(k="x", l=None)
            self.hup()
            time.sleep(0.05 * round)
            self.file(k="y", l="x", n=None)
            self.hup()
        self.each(sequence, kept=("m",))


if __name__ == "__main__":
    unittest.main()
