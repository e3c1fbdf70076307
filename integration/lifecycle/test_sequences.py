"""Orders that come while another one is still being carried out: an upgrade in a takeover, a stop in a check, a
name that goes and comes back before its last run is over. Each task tells by itself whether it ran beside
itself. Bound: 2 minutes.
"""

import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib.harness import marked, wait_for
from test_upgrade import Upgrades as Base

LONG = 1.5


class Sequences(Base):
    def named(self, chain, ledger, seconds=LONG):
        """A chain of any name whose task keeps one ledger."""
        return self.one(ledger, seconds).replace(f'(name: "{ledger}", user', f'(name: "{chain}", user')

    def in_a_run(self, ledger="a"):
        def running():
            words = [line.split()[0] for line in self.ledger(ledger)]
            return words and words[-1] == "start"
        wait_for(f"{ledger} is in a run", running, 20)

    def settled(self, *chains, ledgers=("a",)):
        """One master with exactly these chains, all of its generation, and their tasks go on."""
        def right():
            status = self.status()
            return status and {chain["name"] for chain in status["chains"]} == set(chains) and all(
                chain["pid"] and chain["generation"] >= status["master"]["generation"]
                for chain in status["chains"])
        try:
            wait_for(f"the chains {chains}", right, 40)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {self.status()}\n{self.log()[-2500:]}")
        wait_for("one master", lambda: len(self.holders()) == 1, 20)
        for ledger in ledgers:
            self.goes_on(ledger, runs=2)
        master = self.status()["master"]["pid"]
        os.kill(master, signal.SIGTERM)
        wait_for(f"nothing is left but {marked(self.dir)}", lambda: not marked(self.dir), 30)
        self.assertNotIn("panicked", self.log() + self.stderr())
        self.never_two(*ledgers)

    def held(self):
        """A master whose next check takes until `hold` is gone."""
        binary, real = self.own_binary()
        config = self.write_config(self.one())
        master = self.start(config)
        self.put(binary, self.held_program(real))
        self.path("hold").touch()
        self.goes_on()
        master.send_signal(signal.SIGHUP)
        wait_for("the check has read everything", self.checked, 30)
        return master, config

    def test_upgrades_in_a_takeover(self):
        config = self.write_config(self.one(seconds=LONG))
        first = self.start(config)
        self.in_a_run()
        second = self.start(config, ready=False)
        def over():
            for master in (first, second):
                if master.poll() is None:
                    master.send_signal(signal.SIGHUP)
            return first.poll() is not None
        # Before its handler stands, a HUP ends a program; the second is one that is told after that.
        wait_for("the second hears", lambda: "started" in self.log() and self.blocks_hup(second.pid), 20)
        self.assertEqual(wait_for("the first ends", lambda: over() and [first.returncode], 30), [0])
        self.assertIsNone(second.poll(), self.stderr()[-800:])
        self.settled("a")

    def blocks_hup(self, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
        return int(mask, 16) & 1

    def test_a_takeover_in_a_check(self):
        first, config = self.held()
        second = self.start(config)
        self.assertEqual(first.wait(20), 0)
        self.path("hold").unlink()
        self.goes_on()
        self.assertIsNone(second.poll())
        self.settled("a")

    def test_a_stop_in_a_check(self):
        master, _ = self.held()
        self.assertEqual(self.stop(master), 0)
        self.path("hold").unlink()
        self.never_two()

    def test_a_restart_in_a_drain(self):
        master = self.start(self.write_config(self.one(seconds=LONG) + self.one("b", 0.1)))
        for words in (("restart", "a"), ("restart", "--now", "a")):
            self.in_a_run()
            self.hup(master, "accepted")
            self.ctl(*words, check=True)
        self.settled("a", "b", ledgers=("a", "b"))

    def test_a_name_that_goes_and_comes_back_in_a_drain(self):
        master = self.start(self.write_config(self.one(seconds=LONG)))
        self.in_a_run()
        for chain in ("b", "a", "c", "a", "b"):
            self.write_config(self.named(chain, "a"))
            self.hup(master, "accepted")
        self.settled("b")

    def test_a_chain_that_leaves_the_file_and_is_back_after_its_master_was_killed(self):
        config = self.write_config(self.one(seconds=LONG) + self.one("b", 0.1))
        master = self.start(config)
        self.in_a_run()
        self.write_config(self.one("b", 0.1))
        self.hup(master, "accepted")
        master.kill()
        master.wait(20)
        self.start(self.write_config(self.one(seconds=LONG) + self.one("b", 0.1)))
        self.settled("a", "b", ledgers=("a", "b"))

    def test_a_master_killed_as_soon_as_it_is_the_new_one(self):
        config = self.write_config(self.one(seconds=LONG))
        for _ in range(5):
            master = self.start(config)
            self.in_a_run()
            before = self.log().count(" upgraded: ")
            master.send_signal(signal.SIGHUP)
            wait_for("the new one", lambda: self.log().count(" upgraded: ") > before, 30)
            master.kill()
            master.wait(20)
        self.start(config)
        self.settled("a")

    def test_two_files_in_one_drain(self):
        master = self.start(self.write_config(self.one(seconds=LONG) + self.one("b", 0.1)))
        self.in_a_run()
        self.write_config(self.one(seconds=LONG) + self.one("b", 0.1) + self.one("c", 0.1))
        self.hup(master, "accepted")
        self.goes_on("c")
        self.write_config(self.one(seconds=LONG) + self.one("c", LONG) + self.one("d", 0.1))
        self.hup(master, "accepted")
        self.settled("a", "c", "d", ledgers=("a", "c", "d"))


del Base

if __name__ == "__main__":
    unittest.main()
