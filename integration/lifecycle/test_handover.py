"""The record that one image leaves for the next, changed on its way by a program that stands between two real
ones: another version, cut off, damaged, empty. What the check sees is refused and changes nothing; what only
the new image sees costs at most itself. Bound: 2 minutes.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import marked, wait_for
from test_upgrade import Upgrades as Base

HERE = pathlib.Path(__file__).resolve().parent
SEED = int(os.environ.get("RUNNER_SEED", "1"))


class Forged(Base):
    def setUp(self):
        super().setUp()
        self.binary = self.path("bin/runner-master")
        self.binary.parent.mkdir()
        self.real = self.path("bin/real")
        shutil.copy2(harness.MASTER, self.real)
        shutil.copy2(harness.MASTER, self.binary)
        was, harness.MASTER = harness.MASTER, str(self.binary)
        self.addCleanup(setattr, harness, "MASTER", was)

    def put(self, when, way, number=0):
        """The new program: with `way` None the real one."""
        fresh = self.binary.with_name("fresh")
        if way is None:
            shutil.copy2(self.real, fresh)
        else:
            subprocess.run(["cc", "-O1", "-Wall", f'-DREAL="{self.real}"', f'-DWHEN="{when}"', f"-DWAY='{way}'",
                            f"-DNUMBER={number}", "-o", fresh, HERE / "forge.c"], check=True)
        fresh.rename(self.binary)

    def ways(self):
        chance = random.Random(SEED)
        yield from (("z", 0), ("l", 0))
        for _ in range(25 if harness.FULL else 3):
            yield "t", chance.randint(1, 999)
            yield "g", chance.randint(3, 400)

    def test_of_a_program_of_another_version(self):
        """The one before and the one after this one: refused by its check, with the reason, and mailed."""
        master = self.start(self.write_config(self.one("a", seconds=0.2), extra=self.mail_to_maildir()))
        self.goes_on()
        for version in (0, 2):
            self.put("--internal", "v", version)
            self.hup(master, "refused", f"the handover is of version {version}, this program knows 1")
            self.goes_on(runs=2)
        wait_for("it is mailed", lambda: any("the handover is of version" in subject for subject in self.subjects()), 30)
        self.put("--internal", None)
        self.hup(master, "accepted")
        self.goes_on(runs=2)
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_field_that_this_program_does_not_know_is_left_out(self):
        master = self.start(self.write_config(self.one("a", seconds=0.2)))
        self.goes_on()
        self.put("--internal", "n")
        self.hup(master, "accepted")
        self.goes_on(runs=2)
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_that_is_damaged_is_refused_by_the_check(self):
        master = self.start(self.write_config(self.one("a", seconds=0.2)))
        self.goes_on()
        for way, number in self.ways():
            self.put("--internal", way, number)
            with self.subTest(way=way, number=number):
                self.hup(master, "refused", "take over")
                self.goes_on()
        self.put("--internal", None)
        self.hup(master, "accepted")
        self.goes_on(runs=2)
        self.assertNotIn("panicked", self.log() + self.stderr())
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_that_is_damaged_after_its_check(self):
        """Memory that breaks between check and execution: the process goes on with what it can know, or it ends,
        says why, and leaves nothing; never two."""
        for way, number in (("v", 2), *self.ways()):
            with self.subTest(way=way, number=number):
                self.put("--internal", None)
                config = self.write_config(self.one("a", seconds=0.5))
                master = self.start(config)
                self.goes_on()
                self.put("--internal-resume", way, number)
                master.send_signal(signal.SIGHUP)
                wait_for("it is told", lambda: "handover" in self.stderr() + self.log() or master.poll() is not None, 40)
                self.put("--internal", None)
                if master.poll() is None:
                    try:
                        master.wait(3)
                    except subprocess.TimeoutExpired:
                        self.goes_on(runs=2)
                if master.poll() is not None:
                    self.assertEqual(master.returncode, 71, self.stderr()[-600:])
                    self.assertIn("handover", self.stderr())
                    wait_for(f"nothing is left but {marked(self.dir)}", lambda: not marked(self.dir), 30)
                    master = self.start(config)
                self.goes_on(runs=2)
                self.assertEqual(self.stop(master), 0)
                self.path("stderr").write_text("")
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
