"""Every verb of runnerctl against a real master: what it does, what it prints, how it exits."""

import json
import re
import signal
import subprocess
import time

import room
from lib import harness
from lib.harness import alive, wait_for
from room import Operator, setUpModule, tearDownModule  # noqa: F401

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
STATES = {"running", "cooling", "draining", "backoff", "paused", "stopped"}


class Look(Operator):
    """Verbs that show."""

    def test_status_for_people_is_cut_by_awk_and_fails_with_a_failing_chain(self):
        self.start(self.write_config(
            self.chain("fine") + self.chain("bad", "echo it hurts >&2; exit 3") + self.chain("busy", "sleep 60")))
        wait_for("all have run", lambda: self.runs("fine") and self.runs("bad") and self.wait_state("busy", "running"))
        status = self.went(self.ctl("status"), 150)
        rows = [line.split() for line in status.stdout.splitlines()]
        self.assertEqual([row[0] for row in rows], ["bad", "fine", "busy"], "failing first")
        self.assertEqual([row[1] for row in rows], ["cooling", "cooling", "running"])
        self.assertEqual([row[2] for row in rows], ["failing", "ok", "ok"])
        for row in rows:
            self.assertGreaterEqual(len(row), 9, row)
            self.assertTrue(alive(int(row[3])), row)
        cut = subprocess.run(["awk", '$2 == "cooling" {print $1}'], input=status.stdout, capture_output=True, text=True)
        self.assertEqual(cut.stdout, "bad\nfine\n")
        self.assertNotRegex(status.stdout, r"[│─┌┐└┘|+]{2,}", "no boxes")
        self.assertNotIn("\x1b", status.stdout)

        self.went(self.ctl("status", "fine"), 0, out="fine")
        self.assertEqual([line.split()[0] for line in self.ctl("status", "b*").stdout.splitlines()], ["bad", "busy"])
        failing = self.went(self.ctl("status", "--failing"), 150)
        self.assertEqual([line.split()[0] for line in failing.stdout.splitlines()], ["bad"])
        self.assertIn("bad" + "t down", failing.stdout)
        self.went(self.ctl("status", "fien"), 4, err='did you mean "fine"?')
        self.went(self.ctl("status", "--failing", "fine"), 0)

    def keys(self, found, contract):
        """Those of the contract in its order; keys may be added while the version is 1, if the manual names them."""
        self.assertEqual([key for key in found if key in contract], contract)
        manual = (harness.PROJECT / "man/runnerctl.8").read_text()
        self.assertEqual([key for key in found if key not in contract and key not in manual], [])

    def test_output_that_cannot_be_written_is_no_success(self):
        self.start(self.write_config(self.chain("fine")))
        wait_for("it has run", lambda: self.runs("fine"))
        for words in (["status"], ["status", "--json"], ["metrics"], ["explain", "fine"], ["history", "fine"],
                      ["completions", "bash"], ["check"]):
            command = [harness.CTL, "--run-root", str(self.path("run")), *words]
            with open("/dev/full", "w") as full:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
            self.assertEqual((done.returncode, done.stderr),
                             (1, "runnerctl: cannot write the output: No space left on device (os error 28)\n"), words)
            # A reader that has seen enough is no fault.
            head = subprocess.run(["bash", "-c", '"$@" | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}', "-", *command],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True)
            self.assertEqual((head.returncode, head.stderr), (0, ""), words)

    def test_what_no_configuration_has_cannot_fail_in_a_simulation(self):
        config = self.write_config(self.chain("fine"))
        for spec in ("gone/*", "fine/gone"):
            self.went(self.ctl("-c", str(config), "simulate", "--fail", spec), 4, err="cannot fail")

    def test_a_chain_that_cannot_start_is_not_told_as_started(self):
        self.start(self.write_config(self.chain("good") + self.chain("lost", user="nobody-of-that-name")))
        self.wait_state("lost", "backoff")
        self.assertFalse(self.chain_of("lost")["ready"])
        self.went(self.ctl("start", "good", "--wait"), 0, out="good: started (1 of 1)")
        self.assertTrue(self.chain_of("good")["ready"])
        wait = subprocess.Popen([harness.CTL, "--run-root", self.path("run"), "start", "--all", "--wait"],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.addCleanup(wait.stdout.close)
        self.addCleanup(wait.kill)
        told = next(line for line in wait.stdout if line.startswith("lost: ") and line != "lost: starts\n")
        self.assertRegex(told, r"^lost: does not start: .*nobody-of-that-name.*; still waiting$")
        self.assertIsNone(wait.poll())
        wait.kill()
        wait.wait(30)

    def test_the_json_of_status_has_the_keys_of_the_contract_and_no_other(self):
        self.start(self.write_config(self.chain("bad", "exit 3") + self.chain("fine"), extra=self.mail_to_maildir()))
        wait_for("both have run", lambda: self.runs("fine") and self.runs("bad"))
        self.ctl("pause", "fine", "--reason", "disk", "--for", "2h", check=True)
        self.ctl("silence", "bad", "--for", "2h", check=True)
        self.ctl("reload", "--wait", check=True)
        self.wait_state("fine", "paused")
        done = self.went(self.ctl("status", "--json"), 150)
        self.assertEqual(len(done.stdout.splitlines()), 1)
        status = json.loads(done.stdout)
        self.assertEqual(list(status), ["version", "master", "chains"])
        self.assertEqual(status["version"], 1)
        master = status["master"]
        self.keys(master, ["pid", "since", "config", "generation", "binary_version", "mail_waiting", "mail_error",
                           "log_dropped", "strays_by", "last_upgrade"])
        self.assertEqual(list(master["last_upgrade"]), ["at", "outcome", "cause"])
        self.assertEqual(master["last_upgrade"]["outcome"], "accepted")
        self.assertIn(master["strays_by"], ("cgroup", "marks"))
        self.assertEqual(master["generation"], 2)
        self.assertEqual(master["config"], str(self.path("runner.ron")))
        self.assertEqual([chain["name"] for chain in status["chains"]], ["bad", "fine"])
        times = [master["since"], master["last_upgrade"]["at"]]
        for chain in status["chains"]:
            self.keys(chain, ["name", "health", "state", "pid", "user", "nice", "generation", "task", "since",
                              "until", "silenced_until", "paused_since", "reason", "tasks"])
            self.assertIn(chain["state"], STATES)
            self.assertIn(chain["health"], ("ok", "failing"))
            times += [chain[key] for key in ("since", "until", "silenced_until", "paused_since") if chain[key]]
            for task in chain["tasks"]:
                self.keys(task, ["name", "ok", "failed", "last", "down_since", "notices", "withheld"])
                self.assertEqual(list(task["last"]), ["outcome", "started", "seconds"])
                times.append(task["last"]["started"])
        bad, fine = status["chains"]
        self.assertEqual((bad["health"], bad["tasks"][0]["last"]["outcome"]), ("failing", "exit 3"))
        self.assertRegex(bad["tasks"][0]["down_since"], RFC3339)
        self.assertEqual((fine["state"], fine["pid"], fine["reason"]), ("paused", None, "disk"))
        self.assertEqual(fine["user"], "root")
        for time_ in times:
            self.assertRegex(time_, f"^{RFC3339}$")
        self.assertIsNotNone(fine["paused_since"])
        self.assertIsNotNone(bad["silenced_until"])

    def test_explain_says_why_and_until_when_and_what_comes(self):
        self.start(self.write_config(self.chain("bad", "exit 3") + self.chain("busy", "sleep 60"),
                                     extra=self.mail_to_maildir()))
        wait_for("it failed", lambda: self.runs("bad"))
        said = self.went(self.ctl("explain", "bad"), 0).stdout
        self.assertRegex(said, r"waits after a failure until \S+ \S+ UTC \(in [^)]+\), then runs badt")
        self.assertRegex(said, r"badt: failing since .* \(1 in a row, mailed\): exit 3")
        self.assertIn("badt: when a run succeeds, HEALED is mailed", said)
        self.wait_state("busy", "running")
        self.went(self.ctl("explain", "busy"), 0, out="runs busyt since")
        self.ctl("pause", "busy", "--reason", "the disk is swapped", check=True)
        self.went(self.ctl("explain", "busy"), 0, out="the disk is swapped")
        self.went(self.ctl("explain", "busy"), 0, out="finishes its current run and then pauses.")
        self.ctl("pause", "bad", "--for", "2h", check=True)
        self.wait_state("bad", "paused")
        said = self.went(self.ctl("explain", "bad"), 0).stdout
        self.assertRegex(said, r"It is paused until \S+ \S+ UTC \(in 1h 59m[^)]*\); `runnerctl resume bad`")
        self.went(self.ctl("explain", "nobody"), 4)

    def test_what_is_remembered_can_be_simulated_again(self):
        config = self.write_config(
            self.chain("bad", "echo Error: no disk >&2; exit 3", cooldown="50ms", fail="50ms"),
            extra=self.mail_to_maildir())
        self.start(config)
        wait_for("runs", lambda: self.runs("bad") >= 3)
        people = self.went(self.ctl("history", "bad"), 0).stdout.splitlines()
        self.assertRegex(people[0], rf"^{RFC3339} +badt +exit_3 ")
        done = self.went(self.ctl("history", "bad", "--jsonl"), 0)
        rows = self.lines_of(done.stdout)
        runs = [row for row in rows if "upgrade" not in row]
        self.assertGreaterEqual(len(runs), 3)
        for row in runs:
            self.assertEqual(set(row), {"at", "chain", "task", "seconds", "outcome", "stderr"})
        self.assertEqual((runs[0]["chain"], runs[0]["task"], runs[0]["outcome"]), ("bad", "badt", "exit 3"))
        self.assertIn("no disk", runs[0]["stderr"])
        self.path("runs.jsonl").write_text(done.stdout)
        replay = subprocess.run(
            [harness.CTL, "-c", config, "simulate", "--history", self.path("runs.jsonl"), "--json"],
            capture_output=True, text=True, timeout=60)
        decisions = self.lines_of(self.went(replay, 0).stdout)
        self.assertEqual(decisions[0]["notice"], "FIRST")
        self.assertEqual(list(decisions[0]), ["at", "chain", "task", "notice", "subject", "withheld"])
        self.assertEqual(decisions[0]["subject"], "[badt] First exception caught: Error: no disk")
        told = self.lines_of(self.went(self.ctl("notices", "--json"), 0).stdout)
        self.assertEqual([row["subject"] for row in told], [row["subject"] for row in decisions])
        self.went(self.ctl("notices"), 0, out="FIRST")

    def test_check_has_the_exit_status_of_a_plugin(self):
        self.went(self.ctl("check"), 2, out="RUNNER CRITICAL - no master runs")
        self.start(self.write_config(self.chain("fine") + self.chain("bad", f"test ! -e {self.dir}/bad")))
        wait_for("both have run", lambda: self.runs("fine") and self.runs("bad"))
        line = self.went(self.ctl("check"), 0).stdout
        self.assertRegex(line, r"^RUNNER OK - 2 chains \| chains=2 failing=0 held=0 mail_waiting=0\n$")
        self.ctl("pause", "fine", check=True)
        self.wait_state("fine", "paused")
        self.went(self.ctl("check"), 1, out="RUNNER WARNING - not running: fine")
        self.path("bad").touch()
        self.ctl("run", "bad", check=True)
        wait_for("it fails", lambda: self.chain_of("bad")["health"] == "failing")
        self.went(self.ctl("check"), 2, out="RUNNER CRITICAL - 1 of 2 chains failing: bad; not running: fine |")

    def test_logs_show_env_and_show_config_need_no_right_but_the_files(self):
        out = self.path("out.log")
        config = self.write_config(
            self.chain("say", "echo to out; echo to err >&2", more=f'output: Lines("{out}"), env: {{"A": "b c"}},'))
        self.start(config)
        wait_for("it said so", lambda: out.exists() and "to err" in out.read_text())

        def at(*arguments):
            return subprocess.run([harness.CTL, "-c", config, *arguments], capture_output=True, text=True, timeout=60)

        self.went(at("logs", "say"), 0, out="out: to out")
        only = self.went(at("logs", "say", "--stream", "err"), 0).stdout
        self.assertTrue("err: to err" in only and "out: to out" not in only, only)
        self.assertEqual(len(self.went(at("logs", "say", "-n", "1"), 0).stdout.splitlines()), 1)
        self.went(at("logs", "nobody"), 4)
        env = self.went(at("show-env", "say"), 0).stdout
        shell = subprocess.run(["sh", "-c", f"{env}\necho $A/$RUNNER_CHAIN"], capture_output=True, text=True)
        self.assertEqual(shell.stdout, "b c/say\n", env)
        shown = self.went(at("show-config", "say"), 0).stdout
        self.assertRegex(shown, r"(?m)kill_timeout: \"2s\".*runner.ron:\d+:\d+")
        self.assertRegex(shown, r"(?m)timeout: None.*default")
        self.went(at("show-config", "nobody"), 4)
        self.went(at("show-env", "nobody"), 4)
        follower = subprocess.Popen([harness.CTL, "-c", config, "logs", "say", "-f", "-n", "0"],
                                    stdout=subprocess.PIPE, text=True)
        try:
            # It stands at the end of the file once it has it open.
            wait_for("it has the file open", lambda: any(
                link.resolve() == out for link in harness.pathlib.Path(f"/proc/{follower.pid}/fd").iterdir()))
            time.sleep(0.5)
            self.ctl("run", "say", check=True)
            self.assertRegex(follower.stdout.readline(), "say sayt 2 (out|err): to ")
        finally:
            follower.kill()
            follower.wait(10)
            follower.stdout.close()

    def test_completions_of_every_shell(self):
        for shell in ("bash", "zsh", "fish"):
            self.went(self.ctl("completions", shell), 0, out="silence")
        script = self.ctl("completions", "bash").stdout
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)

    def test_wrong_usage_is_2_no_master_is_3_a_broken_file_78(self):
        for words in (["stop"], ["stop", "--all", "a"], ["silence", "a"], ["nonsense"], ["status", "--nonsense"],
                      ["pause", "a", "--for", "2"], ["reload", "--wait=later"], ["logs"], ["simulate"], []):
            self.went(self.ctl(*words), 2)
        for words in (["status"], ["reload", "--wait"], ["stop", "a"], ["start", "--all"], ["restart", "a", "--wait"],
                      ["pause", "a"], ["resume", "a"], ["run", "a"], ["silence", "a", "--for", "2h"], ["shutdown"],
                      ["explain", "a"], ["history", "a"], ["notices"], ["mail", "flush"], ["mail", "test"],
                      ["mail", "list"], ["log-level", "debug"], ["metrics"]):
            self.went(self.ctl(*words), 3, err="no master runs")
        config = self.write_config(self.chain("a"))
        self.start(config)
        broken = self.path("broken.ron")
        broken.write_text(f'(run_root: "{self.dir}/run", chains: [(nmae: "a")')
        for words in (["status"], ["show-config", "a"], ["show-env", "a"], ["logs", "a"],
                      ["simulate", "--fail", "a/at"]):
            done = subprocess.run([harness.CTL, "-c", broken, *words], capture_output=True, text=True, timeout=60)
            self.went(done, 78, err="broken.ron")
        self.went(self.ctl("status"), 0)
        # The running master's own file, broken just now: the master is found, and refuses it.
        whole = config.read_text()
        config.write_text(whole.rstrip().rstrip(")"))
        self.went(self.ctl("status"), 0, out="a ")
        self.went(self.ctl("reload", "--wait"), 1, err="never closed")
        config.write_text(whole)
        named = subprocess.run([harness.CTL, "status"], env={"RUNNER_CONFIG": str(config)},
                               capture_output=True, text=True, timeout=60)
        self.went(named, 0, out="a ")


class Steer(Operator):
    """Verbs that change."""

    def test_stop_ends_chains_and_never_the_master(self):
        master = self.start(self.write_config(self.chain("long", "sleep 60") + self.chain("short")))
        pid = self.wait_state("long", "running")["pid"]
        began = time.monotonic()
        done = self.went(self.ctl("stop", "long", "--now", "--wait"), 0)
        self.assertLess(time.monotonic() - began, 30)
        self.assertIn("long: stopped (1 of 1)", done.stdout)
        self.assertFalse(alive(pid))
        self.assertEqual((self.chain_of("long")["state"], self.chain_of("long")["pid"]), ("stopped", None))
        self.went(self.ctl("stop", "--all", "--wait"), 0, out="short: stopped")
        self.assertIsNone(master.poll(), "stop --all ended the master")
        self.assertEqual(self.status()["master"]["pid"], master.pid)
        # Stopped is stopped: again is no fault, and a run is refused with what to do.
        self.went(self.ctl("stop", "long", "--now", "--wait"), 0)
        self.went(self.ctl("run", "long"), 1, err="start or resume it")
        done = self.went(self.ctl("start", "--all", "--wait"), 0)
        self.assertIn("(2 of 2)", done.stdout)
        self.assertIsNotNone(self.wait_state("long", "running")["pid"])
        self.went(self.ctl("stop", "nobody"), 4)
        self.went(self.ctl("stop", "l*", "--now", "--wait"), 0)
        self.assertNotEqual(self.chain_of("short")["state"], "stopped")

    def test_stop_waits_for_the_run_unless_now(self):
        self.start(self.write_config(self.chain("two", f"echo begin >>{self.dir}/begun; sleep 2; echo end >>{self.dir}/two")))
        wait_for("the run has begun", lambda: self.lines("begun"))
        self.went(self.ctl("stop", "two"), 0, out="stops after its run")
        self.assertEqual(self.chain_of("two")["state"], "draining")
        self.went(self.ctl("stop", "two", "--wait"), 0, out="two: stopped")
        self.assertEqual(self.lines("two"), ["end"])

    def test_restart_is_a_new_generation_of_that_chain_alone(self):
        self.start(self.write_config(
            self.chain("one", f"echo begin >>{self.dir}/begun; sleep 1; echo x >>{self.dir}/one") + self.chain("long", "sleep 60")))
        wait_for("the run has begun", lambda: self.lines("begun"))
        before = self.wait_state("one", "running")
        long = self.wait_state("long", "running")
        done = self.went(self.ctl("restart", "one", "--wait"), 0)
        self.assertIn("one: replaced (1 of 1)", done.stdout)
        self.assertEqual(self.lines("one")[:1], ["x"], "the run was ended")
        after = self.chain_of("one")
        self.assertGreater(after["generation"], before["generation"])
        self.assertNotEqual(after["pid"], before["pid"])
        self.assertEqual(self.chain_of("long")["pid"], long["pid"])
        began = time.monotonic()
        self.went(self.ctl("restart", "long", "--now", "--wait"), 0)
        self.assertLess(time.monotonic() - began, 30)
        self.assertNotEqual(self.chain_of("long")["pid"], long["pid"])

    def test_shutdown_ends_the_master_after_the_runs(self):
        master = self.start(self.write_config(self.chain("two", f"echo begin >>{self.dir}/begun; sleep 2; echo end >>{self.dir}/two")))
        wait_for("the run has begun", lambda: self.lines("begun"))
        self.went(self.ctl("shutdown", "--wait"), 0, out="stopping")
        self.assertEqual(master.wait(30), 0)
        self.assertEqual(self.lines("two"), ["end"])
        self.went(self.ctl("status"), 3)

    def test_shutdown_now_ends_the_runs(self):
        master = self.start(self.write_config(self.chain("long", "sleep 600")))
        self.wait_state("long", "running")
        self.went(self.ctl("shutdown", "--now", "--wait"), 0)
        self.assertEqual(master.wait(30), 0)
        self.assertFalse(self.path("run/control.sock").exists())

    def test_run_skips_the_cooldown(self):
        config = self.path("runner.ron")
        self.write_config(
            f'(name: "c", user: Current, cwd: "/", success_cooldown: "1h", tasks: ['
            f'(name: "a", sh: "echo a >>{self.dir}/said"), (name: "b", sh: "echo b >>{self.dir}/said")]),')
        self.start(config)
        wait_for("the first", lambda: self.lines("said") == ["a"])
        self.went(self.ctl("run", "c"), 0, out="c: runs as soon as")
        wait_for("the next", lambda: self.lines("said") == ["a", "b"])
        self.went(self.ctl("run", "c", "b"), 0)
        wait_for("the named one", lambda: self.lines("said") == ["a", "b", "b"])
        self.went(self.ctl("run", "c", "nothing"), 4, err='no task "nothing"')

    def test_a_pause_finishes_the_run_and_survives_upgrade_and_restart(self):
        config = self.write_config(
            self.chain("two", f"echo begin >>{self.dir}/begun; sleep 2; echo end >>{self.dir}/two", cooldown="100ms"),
            extra=self.mail_to_maildir())
        master = self.start(config)
        wait_for("the run has begun", lambda: self.lines("begun"))
        self.went(self.ctl("pause", "two", "--reason", "database moves"), 0, out="pauses after its run")
        held = self.wait_state("two", "paused")
        self.assertEqual(self.lines("two"), ["end"])
        self.assertEqual((held["pid"], held["reason"]), (None, "database moves"))
        since = held["paused_since"]
        self.ctl("reload", "--wait=drained", check=True)
        held = self.chain_of("two")
        self.assertEqual((held["state"], held["paused_since"], held["reason"]), ("paused", since, "database moves"))
        self.assertEqual(self.stop(master), 0)
        self.start(config)
        held = self.wait_state("two", "paused")
        self.assertEqual((held["paused_since"], held["reason"]), (since, "database moves"))
        self.went(self.ctl("resume", "two"), 0, out="resumed")
        wait_for("it runs again", lambda: len(self.lines("two")) >= 2, 30)
        self.assertIsNone(self.chain_of("two")["paused_since"])

    def test_a_pause_with_an_end_resumes_by_itself_also_over_a_restart(self):
        config = self.write_config(self.chain("two", f"echo end >>{self.dir}/two", cooldown="100ms"))
        master = self.start(config)
        self.ctl("pause", "two", "--for", "3s", check=True)
        self.assertIsNotNone(self.wait_state("two", "paused")["until"])
        # Asked again, the later word holds.
        self.ctl("pause", "two", "--for", "6s", check=True)
        self.assertEqual(self.stop(master), 0)
        self.start(config)
        self.wait_state("two", "paused")
        had = len(self.lines("two"))
        wait_for("it runs again", lambda: len(self.lines("two")) > had, 40)

    def test_a_silence_expires_and_tells_then_what_is_still_broken(self):
        config = self.write_config(
            self.chain("bad", "echo Error: broken >&2; exit 3", fail="200ms"), extra=self.mail_to_maildir())
        self.path("bad.wait").touch()
        config.write_text(config.read_text().replace("echo Error", f"test ! -e {self.dir}/bad.wait || exit 0; echo Error")
                          .replace('success_cooldown: "1h"', 'success_cooldown: "200ms"'))
        master = self.start(config)
        done = self.went(self.ctl("silence", "bad", "--for", "12s", "--reason", "known"), 0)
        until = re.search(RFC3339, done.stdout).group()
        self.assertEqual(self.chain_of("bad")["silenced_until"], until)
        self.path("bad.wait").unlink()
        wait_for("it fails", lambda: self.chain_of("bad")["health"] == "failing")
        self.ctl("reload", "--wait", check=True)
        self.assertEqual(self.chain_of("bad")["silenced_until"], until, "an upgrade ended the silence")
        self.assertEqual(self.stop(master), 0)
        self.assertEqual(self.subjects(), [])
        self.start(config)
        self.assertEqual(self.chain_of("bad")["silenced_until"][:19], until[:19], "a restart ended the silence")
        self.assertEqual(self.subjects(), [])
        wait_for("it is told", lambda: self.subjects() == ["[badt] First exception caught: Error: broken"], 40)
        self.assertIsNone(self.chain_of("bad")["silenced_until"])
        # It always has an end, and can be ended.
        self.went(self.ctl("silence", "bad", "--for", "9000y"), 0)
        self.assertLess(self.chain_of("bad")["silenced_until"], time.strftime("%Y-12-31", time.gmtime(time.time() + 4e7)))
        self.went(self.ctl("silence", "bad", "--for", "0s"), 0, out="may speak again")
        self.assertIsNone(self.chain_of("bad")["silenced_until"])

    def test_mail_test_goes_out_and_a_dead_server_is_shown(self):
        maildir = self.write_config(self.chain("fine"), extra=self.mail_to_maildir(), name="maildir.ron")
        master = self.start(maildir)
        self.went(self.ctl("mail", "test"), 0, out=f"goes to the Maildir {self.dir}/mail")
        wait_for("it arrives", lambda: any("test" in subject.lower() for subject in self.subjects()))
        self.went(self.ctl("mail", "list"), 0)
        self.assertEqual(self.stop(master), 0)
        port = harness.free_port()
        config = self.write_config(self.chain("fine"), extra=(
            f'mail: (from: "runner@example.org", to: ["admin@example.org"], user: Current, spool: "{self.dir}/spool",'
            f' transport: Smtp(host: "127.0.0.1", port: {port}, security: None)),'))
        self.start(config)
        self.went(self.ctl("mail", "test"), 0)
        wait_for("it waits", lambda: self.status()["master"]["mail_error"])
        self.assertEqual(self.status()["master"]["mail_waiting"], 1)
        self.went(self.ctl("status"), 0, err="1 mail waits")
        rows = self.lines_of(self.went(self.ctl("mail", "list", "--json"), 0).stdout)
        self.assertEqual((len(rows), rows[0]["to"]), (1, "admin@example.org"))
        self.went(self.ctl("mail", "list"), 0, out="admin@example.org")
        named = subprocess.run([harness.CTL, "-c", config, "mail", "list"], capture_output=True, text=True, timeout=60)
        self.went(named, 0, out="admin@example.org")
        self.went(self.ctl("mail", "flush"), 0)
        self.went(self.ctl("check"), 1, out="1 mail")

    def test_the_log_level_holds_until_the_next_upgrade(self):
        self.start(self.write_config(self.chain("fine", cooldown="100ms"), level="Warning"))
        self.assertNotIn("DEBG", self.log())
        self.went(self.ctl("log-level", "debug"), 0)
        wait_for("it debugs", lambda: "DEBG" in self.log())
        self.ctl("reload", "--wait", check=True)
        wait_for("the new generation runs", lambda: self.runs("fine") > 3)
        size = len(self.log())
        have = self.runs("fine")
        wait_for("some runs", lambda: self.runs("fine") > have + 3)
        self.assertNotIn("DEBG", self.log()[size:])


class Reload(Operator):
    """Upgrades as the operator sees them."""

    def test_accepted_refused_and_only_tried(self):
        config = self.write_config(self.chain("a") + self.chain("b"))
        master = self.start(config)
        good = config.read_text()
        self.went(self.ctl("reload", "--wait"), 0, out="upgrade accepted")
        self.assertEqual(self.status()["master"]["generation"], 2)
        self.went(self.ctl("reload", "--dry-run"), 0)
        self.assertEqual(self.status()["master"]["generation"], 2, "a dry run upgraded")

        config.write_text(good.replace("kill_timeout", "kil_timeout", 1))
        for words in (["--wait"], ["--wait=drained"], ["--dry-run"], ["--wait", "--force"]):
            done = self.went(self.ctl("reload", *words), 1)
            self.assertRegex(done.stderr, r"runner\.ron:\d+:\d+", words)
            self.assertIn("did you mean `kill_timeout`?", done.stderr, words)
        last = self.status()["master"]
        self.assertEqual((last["generation"], last["pid"]), (2, master.pid))
        self.assertEqual(last["last_upgrade"]["outcome"], "refused")
        self.assertIn("kil_timeout", last["last_upgrade"]["cause"])
        self.went(self.ctl("status"), 0, err="the last upgrade")
        # Without --wait it is only asked for; the refusal stands in the log and in status.
        self.went(self.ctl("reload"), 0)
        wait_for("both go on", lambda: self.wait_state("a", "cooling") and self.wait_state("b", "cooling"))

        config.write_text(good)
        self.went(self.ctl("reload", "--wait"), 0)
        self.assertIsNone(self.status()["master"]["last_upgrade"]["cause"])

    def test_a_fault_of_the_surroundings_needs_force(self):
        config = self.write_config(self.chain("a", cooldown="1s") + self.chain("b"))
        self.start(config)
        config.write_text(config.read_text().replace('cwd: "/"', 'cwd: "/nowhere"', 1))
        done = self.went(self.ctl("reload", "--wait"), 1, err="/nowhere")
        self.assertRegex(done.stderr, r"runner\.ron:\d+:\d+")
        self.went(self.ctl("reload", "--wait", "--force"), 0)
        wait_for("only that chain fails", lambda: self.chain_of("a")["health"] == "failing", 30)
        self.assertEqual(self.chain_of("b")["health"], "ok")

    def test_drained_tells_of_each_chain(self):
        config = self.write_config(self.chain("quick") + self.chain("slow", "sleep 3", cooldown="1h")
                                   + self.chain("held"))
        self.start(config)
        self.ctl("pause", "held", check=True)
        self.wait_state("held", "paused")
        self.wait_state("slow", "running")
        # The progress is there while it goes on, not at its end.
        reload = subprocess.Popen([harness.CTL, "-c", config, "reload", "--wait=drained"],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seen = []
        for line in reload.stdout:
            seen.append((line.strip(), (self.chain_of("slow") or {}).get("state")))
        reload.stdout.close()
        self.assertEqual(reload.wait(30), 0, seen)
        # The first two as they come to be seen, and both while the third still drains.
        self.assertEqual({line.split(":")[0] for line, _ in seen[:2]}, {"held", "quick"}, seen)
        self.assertEqual([line.split(": ")[1] for line, _ in seen[:2]],
                         ["replaced (1 of 3)", "replaced (2 of 3)"], seen)
        self.assertEqual([state for _, state in seen[:2]], ["draining", "draining"], seen)
        self.assertEqual(seen[2][0], "slow: replaced (3 of 3)")
        self.assertEqual(seen[3][0], "upgrade accepted")

    def test_with_names_only_those_are_replaced(self):
        self.start(self.write_config(self.chain("a") + self.chain("b")))
        wait_for("both", lambda: self.runs("a") and self.runs("b"))
        before = {name: self.chain_of(name)["pid"] for name in "ab"}
        self.went(self.ctl("reload", "a", "--wait=drained"), 0)
        self.assertNotEqual(self.chain_of("a")["pid"], before["a"])
        self.assertEqual(self.chain_of("b")["pid"], before["b"])
        self.went(self.ctl("reload", "c", "--wait"), 4)

    def test_a_master_that_is_stopped_is_told_of(self):
        master = self.start(self.write_config(self.chain("a")))
        master.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            self.went(self.ctl("status"), 4, err="SIGSTOP")
            self.assertLess(time.monotonic() - began, 30)
        finally:
            master.send_signal(signal.SIGCONT)
        self.went(self.ctl("status"), 0)
