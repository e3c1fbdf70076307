"""The built-in Python worker: a tasks.py as the decorator's users write it, unmodified."""

import json
import os
import shutil
import signal
import subprocess
import unittest

from lib.harness import CTL, MASTER, Case, add_user, alive, children_of, remove_user, wait_for

USER = "runner-it-python"

TASKS = '''
import os
import sys
import time
from datetime import timedelta as td

from yourlabs import runner


@runner.task(success_cooldown=td(milliseconds=300), fail_cooldown=td(seconds=2))
def send_mail():
    print("sent by", os.getpid())


@runner.task(success_cooldown=td(minutes=15), fail_cooldown=td(seconds=1),
             non_recoverable_downtime=td(seconds=3))
def fails():
    print("before it", file=sys.stderr)
    if os.path.exists("mended"):
        return
    inner(int(time.time()))


def inner(number):
    raise ValueError("order %d cannot be read" % number)


class Mails:
    @runner.task(success_cooldown=td(milliseconds=200))
    @staticmethod
    def retry():
        print("retried by", os.getpid())

    @runner.task(fail_cooldown=td(seconds=7))
    @classmethod
    def of_class(cls):
        pass


def leaves():
    sys.exit("no more")


def leaves_well():
    sys.exit(0)


def crashes():
    os._exit(9)


def leaks():
    global kept
    kept = kept + 1 if "kept" in globals() else 1
    print("kept", kept, "by", os.getpid())
'''

ODD = '''
import os, sys

async def coroutine():
    raise ValueError("inside the coroutine")

def generator():
    yield 1

def forks():
    if os.fork() == 0:
        return

def fork_raises():
    if os.fork() == 0:
        raise ValueError("in the child")

def fork_exits():
    if os.fork() == 0:
        sys.exit(3)

class Rude(Exception):
    def __str__(self):
        sys.exit(5)

def rude_text():
    raise Rude

def half_characters():
    raise ValueError("half \\udcff of one")

def huge():
    raise ValueError("m" * 5000000)

def writes_replies():
    os.write(4, b"DONE 99\\n")

def closes():
    os.closerange(0, 10)

def closes_streams():
    sys.stdout.close()
    sys.stderr = None

def says_where():
    print("says_where", sys.stdout.fileno(), sys.stderr.fileno())
'''


class Python(Case):
    @classmethod
    def setUpClass(cls):
        cls.user = add_user(USER)

    @classmethod
    def tearDownClass(cls):
        remove_user(USER)

    def setUp(self):
        super().setUp()
        self.app = self.path("app")
        self.app.mkdir()
        self.write("tasks.py", TASKS)
        os.chown(self.app, self.user.pw_uid, self.user.pw_gid)

    def write(self, name, text):
        (self.app / name).write_text(text)
        (self.app / name).chmod(0o644)

    def config(self, tasks, more="", extra=None):
        chain = (f'(name: "mail", user: "{USER}", cwd: "{self.app}", worker: Python("/usr/bin/python3"),\n'
                 f' env: {{"PYTHONDONTWRITEBYTECODE": "1"}}, {more}\n tasks: [\n{tasks}\n])')
        return self.write_config(chain, extra=self.mail_to_maildir() if extra is None else extra)

    def check(self, config):
        return subprocess.run([MASTER, "--check", str(config)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)

    def test_the_decorator_says_the_pauses_and_the_file_is_stronger(self):
        config = self.config('(call: "tasks.send_mail", fail_cooldown: "7s"),\n'
                             '(call: "tasks.Mails.retry"),\n'
                             '(call: "tasks.leaves_well", success_cooldown: "100ms"),\n'
                             '(call: "tasks.Mails.of_class", success_cooldown: "100ms")')
        checked = self.check(config)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn("chain mail: send_mail: success_cooldown 300ms (its function), "
                      f"fail_cooldown 7s ({config}:8:42; its function says 2s), "
                      "non_recoverable_downtime 12h (default)", checked.stdout)
        # Above a static or a class method they are said as well.
        self.assertIn("retry: success_cooldown 200ms (its function)", checked.stdout)
        self.assertRegex(checked.stdout, r"of_class: .*fail_cooldown 7s \(its function\)")
        master = self.start(config)
        wait_for("rounds", lambda: self.chain("mail")["tasks"][2]["ok"] >= 3)
        self.assertEqual([task["failed"] for task in self.chain("mail")["tasks"]], [0, 0, 0, 0])
        # One warm process runs them all, as the chain's user.
        said = [line.split()[-1] for line in self.log().splitlines() if " by " in line]
        self.assertEqual(len(set(said)), 1, said)
        self.assertEqual(os.stat(f"/proc/{said[0]}").st_uid, self.user.pw_uid)
        self.assertIn("send_mail: success_cooldown 300ms (its function), fail_cooldown 7s "
                      "(the configuration; its function says 2s)", self.ctl("explain", "mail").stdout)
        shown = subprocess.run([CTL, "-c", str(config), "show-config", "mail"],
                               capture_output=True, text=True).stdout
        line = next(line for line in shown.splitlines() if "success_cooldown: \"300ms\"" in line)
        self.assertTrue(line.endswith("// its function"), line)
        self.assertEqual(self.stop(master), 0)
        # Where no master runs, the file is all that is known.
        shown = subprocess.run([CTL, "-c", str(config), "show-config", "mail"],
                               capture_output=True, text=True).stdout
        self.assertNotIn("its function", shown)
        self.assertIn("// Functions may say other values of themselves: runner-master --check asks them.", shown)

    def test_what_a_function_says_holds_over_an_upgrade_until_the_code_says_otherwise(self):
        config = self.config('(call: "tasks.fails", fail_cooldown: "300ms")')
        other = config.read_text().rstrip().removesuffix("])")
        config.write_text(other + ', (name: "other", user: Current, cwd: "/", tasks: [(name: "t", run: ["true"])])])')
        master = self.start(config)
        said = "non_recoverable_downtime 3s (its function)"
        explain = lambda: self.ctl("explain", "mail").stdout
        wait_for("the worker is ready", lambda: said in explain())
        worker = self.chain("mail")["pid"]
        # Its process goes on, so it does not say it again.
        self.ctl("reload", "other", "--wait", check=True)
        self.assertEqual(self.chain("mail")["pid"], worker)
        self.assertIn(said, explain())
        told = lambda: [s for s in self.subjects() if "[fails] Non recoverable downtime reached" in s]
        wait_for("the outage is told by the function's word", told, 30)
        self.write("tasks.py", TASKS.replace("non_recoverable_downtime=td(seconds=3)", ""))
        self.ctl("restart", "mail", check=True)
        wait_for("the new code's word", lambda: "non_recoverable_downtime 12h (default)" in explain(), 30)
        self.assertEqual(self.stop(master), 0)

    def test_as_many_functions_as_a_chain_may_have(self):
        self.write("many.py", """
from datetime import timedelta as td
from yourlabs import runner
for number in range(1000):
    def function(): pass
    if number % 100:
        globals()["function_%04d" % number] = runner.task(
            success_cooldown=td(seconds=1000 + number), fail_cooldown=td(hours=1), non_recoverable_downtime=td(days=1))(function)
""")
        good = [f'(call: "many.function_{n:04}")' for n in range(1000) if n % 100]
        config = self.config(", ".join(good))
        checked = self.check(config)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        told = [line for line in checked.stdout.splitlines() if "(its function)" in line]
        self.assertEqual(len(told), 990)
        self.assertIn("function_0999: success_cooldown 33m 19s (its function)", told[-1])
        # All those that are not there, in one go.
        checked = self.check(self.config(", ".join(good + [f'(call: "many.function_0{n}00")' for n in range(1, 10)])))
        self.assertEqual(checked.stderr.count("module 'many' has no attribute"), 9)
        master = self.start(config)
        wait_for("the last is known", lambda: "function_0999: success_cooldown 33m 19s (its function)"
                 in self.ctl("explain", "mail").stdout, 60)
        self.assertEqual(self.stop(master), 0)

    def test_what_a_function_says_is_not_guessed(self):
        self.write("tasks.py", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.1)\n" + TASKS)
        master = self.start(self.config('(call: "tasks.send_mail"), (call: "tasks.leaves_well")'))
        explain = lambda: self.ctl("explain", "mail").stdout
        self.assertEqual(explain().count("(default); what its function says is told once its worker is ready"), 2)
        (self.app / "go").touch()
        wait_for("both are known", lambda: "told once" not in explain())
        self.assertIn("success_cooldown 300ms (its function)", explain())
        self.assertEqual(self.stop(master), 0)

    def test_what_is_raised_is_told_with_its_traceback(self):
        master = self.start(self.config('(call: "tasks.fails"), (call: "tasks.leaves", fail_cooldown: "100ms")'))
        # The number in the message is another one each time: it is one failure all the same.
        wait_for("four failures", lambda: self.chain("mail")["tasks"][0]["failed"] >= 4)
        subjects = [row["subject"] for row in map(json.loads, self.ctl("notices", "--json").stdout.splitlines())]
        of_fails = [subject for subject in subjects if "[fails]" in subject]
        self.assertRegex(of_fails[0], r"\[fails\] First exception caught: order \d+ cannot be read")
        self.assertEqual(of_fails[1:2], ["[fails] Non recoverable downtime reached"])
        self.assertFalse([subject for subject in of_fails if "New exception" in subject])
        self.assertIn("[leaves] First exception caught: no more", subjects)
        wait_for("its mail", lambda: any("First exception" in s and "fails" in s for s in self.subjects()))
        import email
        import email.policy
        for path in self.path("mail/new").iterdir():
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if "[fails] First" in mail["Subject"]:
                body = mail.get_content()
        for words in ("Traceback (most recent call last):", f'File "{self.app}/tasks.py", line', "in fails",
                      "in inner", "ValueError: order", "before it", "call tasks.fails"):
            self.assertIn(words, body)
        self.assertNotIn("runner-worker", body)
        # Another place of the same exception is another failure.
        (self.app / "mended").touch()
        self.ctl("run", "mail", "fails", check=True)
        wait_for("it heals", lambda: self.chain("mail")["tasks"][0]["down_since"] is None)
        self.assertEqual(self.stop(master), 0)

    def test_a_call_that_cannot_be_imported_is_told_with_its_place_and_pythons_words(self):
        self.write("broken.py", "def ok():\n    return\n\ndef bad(:\n")
        self.write("skips.py", "class Skip(BaseException): pass\nraise Skip('not here')\n")
        self.write("missing.py", "import no_such_package\n")
        config = self.config('(call: "tasks.send_mial"),\n(call: "broken.ok"),\n(call: "missing.x"),\n'
                             '(call: "tasks.send_mail"),\n(name: "bare", call: "send_mail"),\n(call: "skips.y")')
        checked = self.check(config)
        self.assertEqual(checked.returncode, 78)
        for place, words in (
            ("8:8", f"as {USER}: cannot import tasks.send_mial: AttributeError: module 'tasks' has no attribute 'send_mial'"),
            ("9:8", f"as {USER}: cannot import broken.ok: SyntaxError: invalid syntax (broken.py, line 4)"),
            ("10:8", f"as {USER}: cannot import missing.x: ModuleNotFoundError: No module named 'no_such_package'"),
            ("13:8", f"as {USER}: cannot import skips.y: skips.Skip: not here"),
            ("12:22", f"as {USER}: cannot import send_mail: ImportError: send_mail names no module"),
        ):
            self.assertIn(words, checked.stderr)
            self.assertIn(f"{config}:{place}", checked.stderr)
        # At a start only these runs fail.
        master = self.start(config, env={**os.environ})
        wait_for("a failure", lambda: self.chain("mail")["tasks"][0]["failed"] >= 1)
        self.assertEqual(self.stop(master), 0)
        # A worker that is not there, or that does not start.
        for program, words in (("/nonexistent/python", "cannot start the worker: cannot execute it: No such file"),
                               ("/bin/false", "the worker exited with status 1 before it was ready")):
            text = config.read_text().replace("/usr/bin/python3", program)
            config.write_text(text)
            checked = self.check(config)
            self.assertIn(words, checked.stderr)
            self.assertEqual(checked.returncode, 78)
            config.write_text(text.replace(program, "/usr/bin/python3"))
        self.write("sitecustomize.py", "")
        self.write("tasks.py", "import time\ntime.sleep(1000)\n")
        checked = self.check(self.config('(call: "tasks.send_mail")', more='ready_timeout: "1s",'))
        self.assertIn("the worker was not ready after 1s", checked.stderr)

    def test_hup_loads_changed_code_and_refuses_code_that_cannot_be_imported(self):
        master = self.start(self.config('(call: "tasks.send_mail", success_cooldown: "100ms")'))
        wait_for("a run", lambda: "sent by" in self.log())
        pid = self.chain("mail")["pid"]
        self.write("tasks.py", TASKS.replace("sent by", "delivered by") + "\nimport no_such_package\n")
        reload = self.ctl("reload", "--wait")
        self.assertNotEqual(reload.returncode, 0)
        self.assertIn("No module named 'no_such_package'", reload.stdout + reload.stderr)
        self.assertEqual(self.chain("mail")["pid"], pid)
        self.assertNotIn("delivered by", self.log())
        self.write("tasks.py", TASKS.replace("sent by", "delivered by"))
        master.send_signal(signal.SIGHUP)
        wait_for("the new code", lambda: "delivered by" in self.log(), 60)
        wait_for("the old process ends", lambda: not alive(pid))
        self.assertEqual(self.stop(master), 0)

    def test_runs_forked_out_of_the_warm_worker_keep_what_they_break(self):
        master = self.start(self.config(
            '(call: "tasks.leaks"), (call: "tasks.crashes"), (call: "tasks.fails")',
            more='isolation: Fork, success_cooldown: "50ms", fail_cooldown: "1s",'))
        wait_for("rounds", lambda: self.chain("mail")["tasks"][0]["ok"] >= 3)
        chain = self.chain("mail")
        said = [line.split() for line in self.log().splitlines() if "kept " in line]
        self.assertEqual({words[-3] for words in said}, {"1"}, "nothing of a run is left for the next")
        self.assertGreaterEqual(len({words[-1] for words in said}), 3)
        workers = children_of(chain["pid"])
        self.assertEqual(len(workers), 1)
        starts = [line for line in self.log().splitlines() if "started its worker" in line]
        self.assertEqual(len(starts), 1, "a crash ends the run alone")
        subjects = [row["subject"] for row in map(json.loads, self.ctl("notices", "--json").stdout.splitlines())]
        self.assertIn("[crashes] First exception caught: the child that ran it exited with status 9", subjects)
        self.assertTrue(any(s.startswith("[fails] First exception caught: order") for s in subjects), subjects)
        self.assertEqual(self.stop(master), 0)

    def test_odd_functions(self):
        """Each is a success or a failure of its own run, told by its own words, and harms no other."""
        self.write("odd.py", ODD)
        names = [line[4:].partition("(")[0] for line in ODD.replace("async ", "").splitlines() if line.startswith("def ")]
        sound = {"forks", "fork_raises", "fork_exits", "closes", "closes_streams", "says_where"}
        for isolation in ("Warm", "Fork"):
            with self.subTest(isolation):
                # One worker for all of them.
                master = self.start(self.config(
                    ", ".join(f'(call: "odd.{name}")' for name in names),
                    more=f'isolation: {isolation}, success_cooldown: "20ms", fail_cooldown: "1s", kill_timeout: "2s",'))
                wait_for("two rounds", lambda: self.chain("mail")["tasks"][-1]["ok"] >= 2, 60)
                tasks = {task["name"]: task for task in self.chain("mail")["tasks"]}
                self.assertEqual({name for name, task in tasks.items() if task["ok"] and not task["failed"]}, sound)
                self.assertEqual({name for name, task in tasks.items() if task["failed"] and not task["ok"]},
                                 set(names) - sound)
                told = [json.loads(row)["subject"] for row in self.ctl("notices", "--json").stdout.splitlines()]
                for subject in ("[coroutine] First exception caught: inside the coroutine",
                                "[generator] First exception caught: odd.generator is a generator: a call of it would run nothing",
                                "[rude_text] First exception caught: (its message cannot be shown)",
                                "[half_characters] First exception caught: half \\udcff of one",
                                "[writes_replies] First exception caught: [Errno 9] Bad file descriptor"):
                    self.assertIn(subject, told)
                self.assertTrue(any(s.startswith("[huge] First exception caught: ValueError: mm") or
                                    s.startswith("[huge] First exception caught: mm") for s in told), told)
                self.assertFalse([subject for subject in told if "New" in subject])
                starts = self.log().count("started its worker")
                self.assertEqual(starts, 1, "the worker lives on")
                # After the one that closed its streams the next one is heard.
                self.assertIn("says_where 1 2", self.log())
                self.assertIn("ValueError: in the child", self.log())
                self.assertEqual(self.stop(master), 0)
                self.path("log").unlink()
                shutil.rmtree(self.path("state"))
                shutil.rmtree(self.path("mail"), True)

    def test_a_function_that_would_run_nothing_is_told_by_the_check(self):
        self.write("odd.py", ODD)
        checked = self.check(self.config('(call: "odd.generator"), (call: "odd.coroutine")'))
        self.assertIn("cannot import odd.generator: TypeError: odd.generator is a generator", checked.stderr)
        self.assertEqual(checked.stderr.count("cannot import"), 1)

    def test_the_example_of_the_package_and_one_that_is_installed(self):
        """yourlabs.runner.tasks.divide_by_zero mails at failures 1, 4, 7 and never between."""
        master = self.start(self.config('(call: "yourlabs.runner.tasks.divide_by_zero")'))
        wait_for("seven failures", lambda: self.chain("mail")["tasks"][0]["failed"] >= 7, 30)
        self.assertEqual(self.stop(master), 0)
        failure, told = 0, []
        for line in self.log().splitlines():
            failure += "[divide_by_zero] Execution failed" in line
            if "[divide_by_zero] Sent email to admins: " in line:
                told.append(failure)
        self.assertEqual(told[:3], [1, 4, 7])
        (self.app / "yourlabs").mkdir()
        self.write("yourlabs/__init__.py", "")
        self.write("yourlabs/runner.py", "def task(**options):\n    return lambda function: function\n")
        checked = self.check(self.config('(call: "tasks.send_mail")'))
        self.assertIn("send_mail: success_cooldown 5m (default)", checked.stdout)


if __name__ == "__main__":
    unittest.main()
