"""Everything that a worker can do wrong: a failure of the run that was going, told by what
happened; the chain goes on with a fresh worker; nothing is left."""

import json
import os
import pathlib
import re
import signal
import unittest

from lib.harness import Case, add_user, alive, children_of, remove_user, wait_for

USER = "runner-it-worker"
FAKE = pathlib.Path(__file__).with_name("fake.py")

# How the run of `bad` ends, and what its subject says.
FAILURES = {
    "garbage": ("raised", 'the worker sent a line that begins with no word: "!! garbage"'),
    "bytes": ("raised", "the worker sent a line that is not UTF-8"),
    "long": ("raised", "the worker sent a line of more than 65536 bytes"),
    "endless": ("raised", "the worker sent a line of more than 65536 bytes"),
    "other": ("raised", "which was not going"),
    "twice": ("raised", "the worker said more after the end of its run"),
    "early_bye": ("raised", "the worker said BYE in the middle of the run"),
    "status": ("raised", "the worker exited with status 3 in the middle of the run"),
    "zero": ("raised", "the worker exited with status 0 in the middle of the run"),
    "segv": ("signal 11", "the worker was killed by signal 11 in the middle of the run"),
    "hang": ("timeout", "timeout"),
    "no_replies": ("raised", "the worker closed its descriptor 4"),
    "no_run": ("raised", "the worker does not know the word RUN"),
    "chatter": ("raised", "the worker said more than 100 words that are not known"),
    "daemon": ("raised", "the worker exited with status 0 in the middle of the run"),
    "raises": ("raised", "no such table: mails"),
    "half_json": ("raised", "the worker sent a FAIL that cannot be read"),
    "slow": ("raised", "the worker was not ready after 1s"),
    "rude": ("raised", "the worker did not say HELLO first"),
    "newer": ("raised", "the worker speaks version 2 of the protocol, not 1"),
    "broken": ("raised", "no settings here"),
    "bad_option": ("raised", "the worker sent a READY that cannot be read"),
    "tells_much": ("raised", "the worker said more than 4 MiB of its tasks"),
}
# With these no worker ever becomes ready.
NEVER_READY = {"slow", "rude", "newer", "broken", "bad_option", "tells_much"}
# These do something odd that is no failure of any run.
HARMLESS = {
    "no_requests": "closed its descriptor 3 between two runs",
    "late_reply": "which was not going between two runs",
    "late_exit": "exited with status 4 between two runs",
    "late_silence": "closed its descriptor 4 between two runs",
    "streams": None, "forks": None, "prints": None, "shiny": None, "stays": None,
}


class Faults(Case):
    @classmethod
    def setUpClass(cls):
        cls.user = add_user(USER)

    @classmethod
    def tearDownClass(cls):
        remove_user(USER)

    def setUp(self):
        super().setUp()
        self.work = self.path("work")
        self.work.mkdir()
        os.chown(self.work, self.user.pw_uid, self.user.pw_gid)
        self.fake = self.path("fake.py")
        self.fake.write_bytes(FAKE.read_bytes())
        self.fake.chmod(0o644)

    def chain_of(self, mode, pause="400ms", more=""):
        return (f'(name: "{mode}", user: "{USER}", cwd: "{self.work}", kill_timeout: "1s",'
                f' worker: Command(["/usr/bin/python3", "{self.fake}", "{mode}"]), {more}'
                f' success_cooldown: "{pause}", fail_cooldown: "1s", tasks: ['
                f' (call: "bad", name: "{mode}.bad"{", timeout: " + chr(34) + "2s" + chr(34) if mode == "hang" else ""}),'
                f' (call: "good", name: "{mode}.good")]),')

    def ledger(self, mode):
        return [line.rsplit(" ", 1) for line in self.lines(f"work/ledger.{mode}")]

    def history(self, mode):
        return [json.loads(line) for line in self.ctl("history", mode, "--jsonl").stdout.splitlines()]

    def tasks(self, status, mode):
        chain = next(chain for chain in status["chains"] if chain["name"] == mode)
        return chain["tasks"]

    def test_each_is_a_failure_of_the_run_that_was_going_and_the_chain_goes_on(self):
        chains = "".join(
            self.chain_of(mode, more='ready_timeout: "1s",' if mode == "slow" else "")
            for mode in FAILURES)
        master = self.start(self.write_config(chains, self.mail_to_maildir()))

        def all_failed_twice():
            status = self.status()
            return status and all(self.tasks(status, mode)[0]["failed"] >= 2 for mode in FAILURES)
        wait_for("every chain has failed twice", all_failed_twice, 60)
        subjects = [json.loads(row)["subject"] for row in self.ctl("notices", "--json").stdout.splitlines()]
        for mode, (outcome, words) in FAILURES.items():
            with self.subTest(mode):
                of_bad = [row for row in self.history(mode) if row["task"] == f"{mode}.bad"]
                self.assertEqual({row["outcome"] for row in of_bad}, {outcome})
                told = [subject for subject in subjects if f"[{mode}.bad]" in subject]
                self.assertTrue(any("First exception" in line and words in line for line in told), told)
                self.assertFalse([line for line in told if "New exception" in line], told)
                good = self.tasks(self.status(), mode)[1]
                if mode in NEVER_READY:
                    self.assertEqual(good["ok"], 0)
                else:
                    self.assertGreaterEqual(good["ok"], 1)
                    self.assertEqual(good["failed"], 0)
                if mode == "raises":
                    # Its function failed, it did not: it is kept.
                    self.assertEqual(sum(what == "start" for what, _ in self.ledger(mode)), 1)
        # Never two workers of a chain at once, and none whose end was not seen to.
        for mode in FAILURES:
            living = [pid for what, pid in self.ledger(mode) if what == "start" and alive(int(pid))]
            self.assertLessEqual(len(set(living)), 1, mode)
        for mode in ("hang", "daemon"):
            old = [pid for what, pid in self.ledger(mode) if what in ("orphan", "daemon")]
            begun = [what for what, _ in self.ledger(mode)].count("begin good")
            self.assertGreaterEqual(begun, 1)
            self.assertFalse(alive(int(old[0])), f"{mode}: {old[0]} lives while other runs go on")
        self.assertEqual(self.stop(master), 0)
        self.assertNotIn(" ERRO ", self.log())

    def test_what_is_nobodys_fault_fails_no_run(self):
        chains = "".join(self.chain_of(mode, pause="1s") for mode in HARMLESS)
        master = self.start(self.write_config(chains, self.mail_to_maildir()))

        def all_ran_twice():
            status = self.status()
            return status and all(self.tasks(status, mode)[1]["ok"] >= 2 for mode in HARMLESS)
        wait_for("every chain has gone round twice", all_ran_twice, 60)
        status = self.status()
        for mode, told in HARMLESS.items():
            with self.subTest(mode):
                self.assertEqual([task["failed"] for task in self.tasks(status, mode)], [0, 0])
                starts = [what for what, _ in self.ledger(mode)].count("start")
                if told:
                    lines = [line for line in self.log().splitlines() if f"[chain {mode}]" in line]
                    self.assertTrue(any(told in line for line in lines), lines)
                    self.assertGreaterEqual(starts, 2)
                else:
                    self.assertEqual(starts, 1)
        self.assertEqual(self.subjects(), [])
        shiny = [what for what, _ in self.ledger("shiny")]
        self.assertIn("UNSUPPORTED SHINY", shiny)
        self.assertIn("PONG", shiny)
        # What it printed is the task's output.
        self.assertIn("prints prints.bad", self.log())
        # An orphan is ended after the run that left it; a child of the worker lives as long as it.
        forks = self.ledger("forks")
        orphans = [int(pid) for what, pid in forks if what == "orphan"]
        children = [int(what.split()[1]) for what, _ in forks if what.startswith("child")]
        self.assertFalse(alive(orphans[0]))
        self.assertTrue(alive(children[0]))
        # What an exit between two runs leaves behind is ended too.
        self.assertFalse(alive([int(pid) for what, pid in self.ledger("late_exit") if what == "orphan"][0]))
        # A drained chain ends its worker by STOP; one that ignores it is ended all the same.
        self.assertEqual(self.stop(master, signal.SIGQUIT), 0)
        self.assertIn("stop", [what for what, _ in self.ledger("forks")])
        self.assertIn("stop", [what for what, _ in self.ledger("stays")])
        self.assertIn("its worker did not end within 500ms after STOP", self.log())

    def worker_of(self, name):
        chain = self.chain(name)
        return chain and chain["pid"] and next(iter(children_of(chain["pid"])), None)

    def test_one_that_closed_its_replies_and_does_not_end_holds_up_no_stop(self):
        # It has a second to exit by itself, and half of kill_timeout after STOP.
        chain = self.chain_of("deaf", pause="60s").replace('"1s", worker', '"6s", worker')
        master = self.start(self.write_config(chain))
        wait_for("the run", lambda: self.chain("deaf")["tasks"][0]["ok"] == 1)
        self.assertEqual(self.stop(master, signal.SIGQUIT), 0)
        told = re.compile("its worker (closed its descriptor 4|did not end within 3s after STOP)")
        self.assertRegex(self.log(), told)

    def test_a_worker_lives_as_long_as_its_chain(self):
        config = self.write_config(self.chain_of("plain", pause="200ms") + self.chain_of("stays", pause="200ms"))
        master = self.start(config)
        first = wait_for("a worker", lambda: self.worker_of("plain"))
        wait_for("runs", lambda: self.chain("plain")["tasks"][0]["ok"] >= 3)
        self.assertEqual(self.worker_of("plain"), first)

        # kill -9 of the chain.
        for name in ("plain", "stays"):
            old, chain = self.worker_of(name), self.chain(name)["pid"]
            os.kill(chain, signal.SIGKILL)
            new = wait_for("another worker", lambda: (w := self.worker_of(name)) != old and w)
            self.assertFalse(alive(old), name)
            self.assertNotEqual(new, old)

        # Pause, resume, restart, HUP: each time it is asked to stop, and a fresh one starts.
        stopped = lambda pid: ["stop", str(pid)] in self.ledger("plain")
        old = self.worker_of("plain")
        self.ctl("pause", "plain", check=True)
        wait_for("the pause", lambda: self.chain("plain")["state"] == "paused")
        wait_for("its end", lambda: not alive(old))
        self.assertTrue(stopped(old))
        self.ctl("resume", "plain", check=True)
        old = wait_for("a worker", lambda: self.worker_of("plain"))
        self.ctl("restart", "plain", check=True)
        new = wait_for("a fresh one", lambda: (w := self.worker_of("plain")) != old and w)
        self.assertTrue(stopped(old))
        master.send_signal(signal.SIGHUP)
        wait_for("a fresh one", lambda: (w := self.worker_of("plain")) != new and w, 40)
        self.assertTrue(stopped(new))

        # kill -9 of the master: everything ends by itself.
        left = [self.worker_of(name) for name in ("plain", "stays")]
        master.kill()
        master.wait(10)
        wait_for("the workers end", lambda: not any(alive(pid) for pid in left if pid), 20)
        overlaps(self, self.ledger("plain"))

    def test_a_worker_is_replaced_when_it_has_had_its_time(self):
        more = "max_runs: 3,"
        grows = self.path("grows.py")
        grows.write_text(FAKE.read_text().replace(
            'note("end", name)', 'note("end", name); globals().setdefault("kept", []).append(bytearray(b"x") * (1 << 24))'))
        grows.chmod(0o644)
        chains = self.chain_of("plain", pause="50ms", more=more)
        chains += self.chain_of("grows", pause="50ms", more='max_rss: "80MiB",').replace("fake.py", "grows.py")
        master = self.start(self.write_config(chains))
        for name in ("plain", "grows"):
            wait_for(f"{name} is replaced twice",
                     lambda: [what for what, _ in self.ledger(name)].count("start") >= 3, 30)
        runs = []
        for what, _ in self.ledger("plain"):
            if what == "start":
                runs.append(0)
            elif what.startswith("begin"):
                runs[-1] += 1
        self.assertEqual(runs[:2], [3, 3])
        self.assertEqual(self.stop(master), 0)
        self.assertIn("replacing its worker: it has done 3 runs", self.log())
        self.assertIn("replacing its worker: it has grown to", self.log())
        self.assertNotIn("WARN", self.log())


def overlaps(case, ledger):
    """No run begins while another is going, unless its worker is gone."""
    going = None
    for what, pid in ledger:
        if what.startswith("begin"):
            case.assertTrue(going is None or (going != pid and not alive(int(going))), ledger)
            going = pid
        elif what.startswith("end"):
            going = None


if __name__ == "__main__":
    unittest.main()
