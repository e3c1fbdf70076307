"""The main job as root: real users, real priorities, real signals."""

import os
import pathlib
import signal
import stat
import unittest

from lib.harness import Case, add_user, alive, children_of, remove_user, status_field, wait_for

ALICE, BOB = "runner-it-alice", "runner-it-bob"


class MainJob(Case):
    @classmethod
    def setUpClass(cls):
        cls.alice, cls.bob = add_user(ALICE), add_user(BOB)

    @classmethod
    def tearDownClass(cls):
        remove_user(ALICE)
        remove_user(BOB)

    def setUp(self):
        super().setUp()
        for user in (self.alice, self.bob):
            folder = self.path(user.pw_name)
            folder.mkdir()
            os.chown(folder, user.pw_uid, user.pw_gid)

    def chains(self):
        return f"""
        (name: "first", user: "{ALICE}", nice: 5, cwd: "{self.path(ALICE)}", tasks: [
            (name: "a", sh: "echo a >> ledger", success_cooldown: "100ms"),
            (name: "b", sh: "echo b >> ledger; exit 3", fail_cooldown: "200ms"),
            (name: "c", run: ["/nonexistent/program"], fail_cooldown: "100ms"),
            (name: "d", sh: "echo d >> ledger", success_cooldown: "100ms"),
        ]),
        (name: "second", user: "{BOB}", nice: 15, cwd: "{self.path(BOB)}", tasks: [
            (name: "long", sh: "echo start $$ >> ledger; sleep 1; echo end >> ledger", success_cooldown: "100ms"),
        ]),
        """

    def test_forks_a_child_per_chain_as_its_user_with_its_priority(self):
        """Forked without exec, nice'd, setuid'd, verified; the pidfile is root's."""
        master = self.start(self.write_config(self.chains()))
        wait_for("runs", lambda: self.lines(f"{ALICE}/ledger"))
        for name, user, nice in (("first", self.alice, 5), ("second", self.bob, 15)):
            pid = self.chain(name)["pid"]
            self.assertIn(pid, children_of(master.pid))
            self.assertEqual(os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{master.pid}/exe"))
            self.assertEqual(status_field(pid, "Uid"), [str(user.pw_uid)] * 4)
            self.assertEqual(status_field(pid, "Gid"), [str(user.pw_gid)] * 4)
            self.assertEqual(status_field(pid, "Groups"), [str(user.pw_gid)])
            self.assertEqual(os.getpriority(os.PRIO_PROCESS, pid), nice)
            title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            self.assertEqual(title, f"runner: chain {name}".encode())
            pidfile = self.path(f"run/{name}.pid")
            self.assertEqual(pidfile.read_text(), f"{pid}\n")
            found = pidfile.lstat()
            self.assertEqual((found.st_uid, stat.S_IMODE(found.st_mode)), (0, 0o644))
        locks = self.path("run/lock").lstat()
        self.assertEqual((locks.st_uid, stat.S_IMODE(locks.st_mode)), (0, 0o700))
        self.assertEqual(self.stop(master), 0)
        self.assertEqual(self.path("run/first.pid").read_text(), "")

    def test_runs_tasks_in_order_for_ever_and_a_failing_one_does_not_stop_the_chain(self):
        """A command that cannot be started is a failed run with its cooldown."""
        master = self.start(self.write_config(self.chains(), self.mail_to_maildir()))
        wait_for("three rounds", lambda: self.lines(f"{ALICE}/ledger").count("d") >= 3)
        ledger = self.lines(f"{ALICE}/ledger")
        self.assertEqual(ledger[:9], ["a", "b", "d"] * 3)
        tasks = {task["name"]: task for task in self.chain("first")["tasks"]}
        self.assertGreaterEqual(tasks["c"]["failed"], 2)
        self.assertEqual(tasks["c"]["last"]["outcome"], "cannot start")
        self.assertEqual(tasks["b"]["last"]["outcome"], "exit 3")
        wait_for("the mail", lambda: len(self.subjects()) >= 2)
        self.assertTrue(any(s.startswith("[c] First exception caught: ") for s in self.subjects()))
        self.assertEqual(self.stop(master), 0)

    def test_a_dead_chain_is_replaced_and_its_run_ended_first(self):
        for number in (signal.SIGKILL, signal.SIGABRT):
            with self.subTest(number):
                master = self.start(self.write_config(self.chains()))
                wait_for("a run", lambda: self.chain("second")["state"] == "running")
                old = self.chain("second")["pid"]
                task = wait_for("the task", lambda: children_of(old))[0]
                os.kill(old, number)
                fresh = wait_for(
                    "a replacement",
                    lambda: (c := self.chain("second")) and c["pid"] not in (None, old) and c["pid"])
                self.assertFalse(alive(task))
                wait_for("the drop", lambda: status_field(fresh, "Uid") == [str(self.bob.pw_uid)] * 4)
                self.assertIn(f"killed by signal {int(number)}", self.log())
                self.assertEqual(self.stop(master), 0)

    def test_term_int_and_quit_end_everything(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            with self.subTest(number):
                self.path(f"{BOB}/ledger").unlink(missing_ok=True)
                master = self.start(self.write_config(self.chains()))
                wait_for("a run", lambda: self.lines(f"{BOB}/ledger"))
                self.assertEqual(self.stop(master, number), 0)
                ledger = [line.split()[0] for line in self.lines(f"{BOB}/ledger")]
                if number == signal.SIGQUIT:
                    self.assertEqual(ledger[-1], "end", "the run was to be finished")
                self.assertEqual(self.ctl("status").returncode, 3)

    def test_hup_takes_the_new_file_at_the_run_boundary_in_the_same_process(self):
        # An upgrade refuses what a start only complains of: a program that is not there.
        chains = self.chains().replace("/nonexistent/program", "/bin/false")
        config = self.write_config(chains, self.mail_to_maildir())
        master = self.start(config)
        wait_for("a run", lambda: self.lines(f"{BOB}/ledger"))
        before = {name: self.chain(name)["pid"] for name in ("first", "second")}
        self.write_config(
            chains.replace("echo end", "echo finished"), self.mail_to_maildir())
        master.send_signal(signal.SIGHUP)
        wait_for("the new generation", lambda: all(
            (c := self.chain(name)) and c["generation"] == 2 and c["pid"] not in (None, before[name])
            for name in before))
        self.assertIsNone(master.poll())
        self.assertEqual(self.status()["master"]["pid"], master.pid)
        wait_for("the new task", lambda: "finished" in self.lines(f"{BOB}/ledger"))
        ledger = [line.split()[0] for line in self.lines(f"{BOB}/ledger")]
        self.assertEqual(ledger[:2], ["start", "end"], "the old run was to be finished")

        pids = {name: self.chain(name)["pid"] for name in before}
        config.write_text("(chains: [(usr: 1)])")
        master.send_signal(signal.SIGHUP)
        last = wait_for("the refusal", lambda: (
            (s := self.status()) and s["master"]["last_upgrade"]["outcome"] == "refused"
            and s["master"]["last_upgrade"]))
        self.assertIn("runner.ron:1:", last["cause"])
        self.assertEqual({name: self.chain(name)["pid"] for name in before}, pids)
        wait_for("the mail", lambda: any(
            s.startswith("[runner] Upgrade refused: ") for s in self.subjects()))
        self.write_config(chains, self.mail_to_maildir())
        self.ctl("reload", "--wait", check=True)
        wait_for("the good news", lambda: "[runner] Upgrade accepted" in self.subjects())
        self.assertEqual(self.stop(master), 0)


if __name__ == "__main__":
    unittest.main()
