"""What survives: a kill of the master, a stopped master, a restart, a reboot (another boot_id in a mount
namespace, everything killed), a damaged file. Bound: 2 minutes.
"""

import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, children_of, marked, wait_for
from test_races import Races as Base


class Killed(Base):
    def test_a_killed_master_takes_chains_and_runs_with_it(self):
        for seconds in (60, 0):  # in a run, and idle
            config = self.write_config(self.one(seconds=seconds, cooldown="1h"))
            self.path("ledger.a").write_text("")
            master = self.start(config)
            wait_for("it runs", lambda: len(self.ledger()) >= (1 if seconds else 2), 20)
            chain, run = self.chain("a")["pid"], int(self.ledger()[0].split()[1])
            master.kill()
            master.wait()
            wait_for("chain and run are gone", lambda: not alive(chain) and not alive(run), 15)
            wait_for("nothing is left", lambda: not marked(self.dir), 15)
        self.never_two()

    def test_killed_and_started_at_once_again_and_again(self):
        config = self.write_config(self.one(seconds=0.2))
        for _ in range(100 if harness.FULL else 25):
            master = self.start(config)
            have = self.starts()
            wait_for("a run", lambda: self.starts() > have, 20)
            master.kill()
            master.wait()
        master = self.start(config)
        self.goes_on()
        self.stop(master)
        self.never_two()

    def test_a_stopped_master_loses_no_report(self):
        """The chain goes on; what does not fit into its pair becomes reports with a count."""
        fail = (f'(name: "a", user: Current, cwd: "/", tasks: [(name: "t",'
                f' sh: "echo start >>{self.dir}/ledger.a; echo end >>{self.dir}/ledger.a; exit 3",'
                ' success_cooldown: "0s", fail_cooldown: "0s")]),')
        master = self.start(self.write_config(fail))
        wait_for("it runs", self.starts, 20)
        os.kill(master.pid, signal.SIGSTOP)
        have = self.starts()
        # More than its pair holds: each failure is a packet of some hundred bytes.
        end = time.monotonic() + (60 if harness.FULL else 6)
        wait_for("runs while the master is stopped", lambda: self.starts() >= have + 700 and
                 (not harness.FULL or time.monotonic() > end), 120)
        os.kill(master.pid, signal.SIGCONT)
        self.ctl("pause", "a", check=True)
        wait_for("paused", lambda: self.chain("a")["state"] == "paused", 30)
        ran = sum(line == "end" for line in self.ledger())
        told = lambda: (task := self.chain("a")["tasks"][0])["failed"] + task["ok"]
        try:
            wait_for("all are told", lambda: told() == ran, 10)
        except AssertionError:
            self.fail(f"{ran} runs, {told()} told")
        self.stop(master)


class Reboot(Base):
    def start_in_boot(self, config, boot):
        """A master that sees this boot_id."""
        file = self.path(f"boot.{boot}")
        file.write_text(f"{boot}\n")
        return self.start_by(["unshare", "-m", "sh", "-c",
                              f"mount --bind {file} /proc/sys/kernel/random/boot_id && exec \"$@\"", "sh"], config)

    def chains(self):
        fail = (f'(name: "f", user: Current, cwd: "/", tasks: [(name: "t", sh: "echo start >>{self.dir}/ledger.f;'
                ' exit 1", fail_cooldown: "1h", non_recoverable_downtime: "6s")]),')
        return fail + self.one("p", 0.1) + self.one("s", 0.1)

    def test_outages_pauses_silences_and_histories_over_a_reboot(self):
        config = self.write_config(self.chains(), extra=self.mail_to_maildir())
        first = uuid.uuid4()
        master = self.start_in_boot(config, first)
        since = wait_for("down", lambda: self.chain("f")["tasks"][0]["down_since"], 20)
        self.goes_on("p")
        self.ctl("pause", "p", "--for", "1h", "--reason", "look", check=True)
        self.ctl("silence", "s", "--for", "1h", "--reason", "later", check=True)
        wait_for("paused", lambda: self.chain("p")["state"] == "paused", 20)
        wait_for("mailed", lambda: any("First exception caught" in s for s in self.subjects()), 20)
        before = {name: self.chain(name) for name in "ps"}
        wait_for("the state is written", lambda: "look" in self.state(), 20)
        self.assertIn(str(first), self.state(), "it did not see the boot_id of this story")
        wait_for("with the silence", lambda: "later" in self.state(), 20)
        history = self.ctl("history", "f", "--jsonl", check=True).stdout
        # The power goes: nobody has time for anything.
        os.kill(master.pid, signal.SIGSTOP)
        for pid in [*children_of(master.pid), master.pid]:
            os.kill(pid, signal.SIGKILL)
        master.wait()
        wait_for("nothing is left", lambda: not marked(self.dir), 20)
        mails = len(self.subjects())
        master = self.start_in_boot(config, uuid.uuid4())
        f, p, s = (wait_for(name, lambda: self.chain(name), 10) for name in "fps")
        self.assertEqual(f["tasks"][0]["down_since"], since)
        self.assertEqual(p["state"], "paused")
        self.assertEqual(p["reason"], before["p"]["reason"])
        self.assertEqual(s["silenced_until"], before["s"]["silenced_until"])
        self.assertTrue(self.ctl("history", "f", "--jsonl", check=True).stdout.startswith(history.rstrip("\n")))
        # A restart is a new generation: the failure that goes on is told again, the outage is the old one.
        wait_for("told", lambda: len(self.subjects()) > mails, 20)
        wait_for("its second run", lambda: self.starts("f") >= 2, 20)
        self.assertEqual(self.chain("f")["tasks"][0]["down_since"], since)
        runs = self.starts("p")
        self.ctl("resume", "p", check=True)
        wait_for("p runs again", lambda: self.starts("p") > runs, 20)
        self.assertEqual(self.stop(master), 0)

    def test_a_boot_clock_that_steps_between_two_starts(self):
        """A year on and a year back, in the same boot: a time namespace of the master's own."""
        config = self.write_config(self.chains(), extra=self.mail_to_maildir())
        year = ["unshare", "--time", "--boottime", "31536000", "--monotonic", "31536000"]
        master = self.start_by(year, config)
        since = wait_for("down", lambda: self.chain("f")["tasks"][0]["down_since"], 20)
        self.ctl("pause", "p", "--for", "1h", check=True)
        self.ctl("silence", "s", "--for", "1h", check=True)
        until = self.chain("s")["silenced_until"]
        pause = wait_for("paused", lambda: self.chain("p")["state"] == "paused" and self.chain("p")["until"], 20)

        def same(one, other):
            one, other = (datetime.datetime.fromisoformat(text) for text in (one, other))
            self.assertLess(abs(one - other), datetime.timedelta(seconds=5))
        for clock in ([], year):
            self.assertEqual(self.stop(master), 0)
            master = self.start_by(clock, config)
            same(self.chain("s")["silenced_until"], until)
            self.assertEqual(self.chain("p")["state"], "paused")
            same(self.chain("p")["until"], pause)
            same(self.chain("f")["tasks"][0]["down_since"], since)
            self.goes_on("s")
            # Mail that waited is no later for it.
            self.ctl("mail", "test", check=True)
            tests = lambda: sum("Test mail" in subject for subject in self.subjects())
            mails = 1 if clock == [] else 2
            wait_for("a mail", lambda: tests() == mails, 20)
        self.assertEqual(self.stop(master), 0)

    def state(self):
        path = self.path("state/state.json")
        return path.read_text() if path.exists() else ""

    def test_a_foreign_state_costs_only_itself(self):
        config = self.write_config(self.one())
        master = self.start(config)
        self.goes_on()
        self.stop(master)
        state = self.path("state/state.json")
        good = json.loads(state.read_text())
        def foreign(change):
            copy = json.loads(json.dumps(good))
            change(copy)
            return json.dumps(copy).encode()
        cases = [b"[]", b"null", b'{"version":1,"boot":7}', os.urandom(4096), state.read_bytes()[:-10],
                 foreign(lambda s: s.update(version=99)), foreign(lambda s: s.update(now="x")),
                 foreign(lambda s: s.update(pauses=[["a", 1], ["nobody", None]])),
                 foreign(lambda s: s.update(now=9e18, wall=0)), foreign(lambda s: s.update(later={"x": 1}))]
        for bad in cases:
            state.write_bytes(bad)
            master = self.start(config)
            self.goes_on()
            self.assertEqual(self.stop(master), 0, bad[:60])
        for odd in ("fifo", "folder", "link"):
            state.unlink(missing_ok=True)
            if odd == "fifo":
                os.mkfifo(state)
            elif odd == "folder":
                state.mkdir()
            else:
                self.path("victim").write_text("keep me")
                state.symlink_to(self.path("victim"))
            master = self.start(config)
            self.goes_on()
            self.assertEqual(self.stop(master), 0, odd)
            self.assertTrue(state.is_file() and not state.is_symlink(), odd)
        self.assertEqual(self.path("victim").read_text(), "keep me")
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
