"""Which run brings which notice, decided a second time: a model of the table in another language, told
random histories beside `runnerctl simulate --history --json`. Both must say the same, to the second."""

import collections
import json
import pathlib
import random
import subprocess
import tempfile
import unittest

from lib.harness import CTL, FULL

HISTORIES = 3000 if FULL else 300
FIRSTS, FLAPS, PATIENCE = 20, 5, 60
WORDS = ["alpha beta", "gamma delta", "epsilon zeta", "eta theta"]
MANY = WORDS + [f"w{one}{two}" for one in "abcdefghij" for two in "klmnop"]


class Model:
    """One task. Times are seconds; `rules` has limit, remind, overdue and forget."""

    def __init__(self, rules):
        self.rules = rules
        self.notices = []
        self.withheld = self.flaps = 0
        self.since = None
        self.outage = None
        self.first, self.known, self.firsts = False, {}, []
        self.overdue_told, self.overdue_last = False, None

    def upgrade(self):
        self.first, self.known = False, {}

    def tell(self, at, kind):
        self.notices.append((at, kind, self.withheld))
        self.withheld, self.since, self.flaps = 0, at, 0

    def reminder_due(self):
        outage = self.outage
        return outage["start"] + self.rules["limit"] if outage["reminded"] is None else outage["reminded"] + self.rules["remind"]

    def reminder(self, at):
        self.outage["reminded"] = at
        again, self.outage["reached"] = self.outage["reached"], True
        return "AGAIN" if again else "REACHED"

    def told_while_it_ran(self, start, end):
        told = False
        while True:
            if self.outage:
                due = max(self.reminder_due(), start + PATIENCE)
                if due >= end:
                    return told
                self.tell(due, self.reminder(due))
                self.outage["told"] = told = True
            else:
                if self.rules["overdue"] is None:
                    return told
                due = start + self.rules["overdue"]
                if self.overdue_last is not None:
                    due = max(due, self.overdue_last + self.rules["remind"])
                if due >= end:
                    return told
                self.overdue_last, self.overdue_told = due, True
                self.tell(due, "OVERDUE")

    def run(self, start, end, outcome, words):
        if self.since is None:
            self.since = start
        told = self.told_while_it_ran(start, end)
        if outcome == "exit 0":
            self.success(end)
        elif outcome != "interrupted":
            self.failure(start, end, (outcome, words), told)

    def success(self, end):
        outage, self.outage = self.outage, None
        overdue, self.overdue_told = self.overdue_told, False
        if overdue or (outage and outage["told"]):
            self.tell(end, "HEALED")
        elif outage:
            self.flaps += 1
            if self.flaps >= FLAPS and end - self.since >= self.rules["limit"]:
                self.tell(end, "UNSTABLE")

    def may_tell(self, end):
        window = max(3600, self.rules["limit"])
        self.firsts = [told for told in self.firsts if end - told < window]
        if len(self.firsts) < FIRSTS:
            self.firsts.append(end)
            return True
        self.withheld += 1
        return False

    def failure(self, start, end, what, told_in_run):
        if not self.outage:
            self.outage = {"start": start, "told": self.overdue_told, "reached": False, "reminded": None}
            self.overdue_told = False
        known = what in self.known and end - self.known[what] < self.rules["forget"]
        if known:
            self.known[what] = end
        due = self.reminder_due() <= end
        if told_in_run and not due:
            return
        kind = None
        if not self.first:
            self.first, self.known[what] = True, end
            kind = "FIRST" if self.may_tell(end) else None
        elif not known:
            self.known[what] = end
            kind = "NEW" if not due and self.may_tell(end) else None
        if due:
            reminder = self.reminder(end)
            kind = kind or reminder
        if kind:
            self.outage["told"] = True
            self.tell(end, kind)


def rules(chance):
    limit = chance.choice([60, 600, 3600, 43200])
    return {
        "limit": limit,
        "remind": chance.choice([60, limit, limit * 2, limit // 2]),
        "overdue": chance.choice([None, 61, 700, 4000]),
        "forget": chance.choice([1000, 20000, 604800]),
    }


def history(chance):
    at, records = 1_000_000, []
    failing, words = chance.choice([0.1, 0.5, 0.9]), chance.choice([WORDS[:1], WORDS, MANY])
    hasty = chance.random() < 0.5
    for _ in range(chance.randint(5, 200)):
        if chance.random() < 0.02:
            records.append({"at": at, "upgrade": True})
            at += chance.choice([0, 1, 5])
            continue
        seconds = chance.choice([0, 1, 5, 30] if hasty else [0, 59, 61, 600, 601, 3601, 7203])
        outcome, said = "exit 0", ""
        if chance.random() < 0.05:
            outcome = "interrupted"
        elif chance.random() < failing:
            outcome = chance.choice(["exit 1", "exit 1", "exit 2", "signal 9", "timeout"])
            said = f"error: {chance.choice(words)}"
        records.append(
            {"at": at, "chain": "c", "task": "t", "seconds": seconds, "outcome": outcome, "stderr": said})
        at += seconds + chance.choice([1, 1, 10, 60, 300] if hasty else [1, 600, 1200, 1800, 3600, 4000, 30000])
    return records


def expected(records, of):
    model = Model(of)
    for record in records:
        if "upgrade" in record:
            model.upgrade()
        else:
            end = record["at"] + record["seconds"]
            model.run(record["at"], end, record["outcome"], record["stderr"])
    return model.notices


class TheTable(unittest.TestCase):
    def simulated(self, folder, records, of):
        overdue = "None" if of["overdue"] is None else f'"{of["overdue"]}s"'
        (folder / "runner.ron").write_text(f"""(
            run_root: "{folder}/run", state_root: "{folder}/state",
            mail: (from: "r@example.org", to: ["ops@example.org"], transport: Maildir("{folder}/mail"), spool: "{folder}/spool"),
            chains: [(name: "c", user: Current, tasks: [(name: "t", run: ["/bin/true"], overdue: {overdue},
                non_recoverable_downtime: "{of["limit"]}s", remind_every: "{of["remind"]}s", forget_after: "{of["forget"]}s")])],
        )""")
        (folder / "runs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        done = subprocess.run(
            [CTL, "-c", folder / "runner.ron", "simulate", "--history", folder / "runs.jsonl", "--json"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        told = map(json.loads, done.stdout.splitlines())
        return [(notice["at"], notice["notice"], notice["withheld"]) for notice in told]

    def test_a_model_and_the_program_tell_the_same_of_random_histories(self):
        kinds, withheld = collections.Counter(), 0
        with tempfile.TemporaryDirectory() as name:
            for seed in range(HISTORIES):
                chance = random.Random(seed)
                of, records = rules(chance), history(chance)
                wanted = expected(records, of)
                self.assertEqual(self.simulated(pathlib.Path(name), records, of), wanted, f"seed {seed}, {of}")
                kinds.update(kind for _, kind, _ in wanted)
                withheld += sum(count for _, _, count in wanted)
        # The histories reach every row of the table, and the bound.
        for kind in ("FIRST", "NEW", "REACHED", "AGAIN", "HEALED", "UNSTABLE", "OVERDUE"):
            self.assertGreater(kinds[kind], 5, kinds)
        self.assertGreater(withheld, 100, kinds)


if __name__ == "__main__":
    unittest.main()
