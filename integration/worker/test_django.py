"""The real thing: a Django project with django-mailer, its `send_mail` and `retry_deferred` as the
chain, mails to a real SMTP server, the database on the disk; taken away and brought back."""

import email
import email.policy
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import unittest

from django_site import environment
from lib.harness import Case, add_user, alive, children_of, free_port, remove_user, wait_for

USER = "runner-it-django"
SETTINGS = """
from pathlib import Path
BASE = Path(__file__).resolve().parent.parent
SECRET_KEY = "not one"
USE_TZ = True
INSTALLED_APPS = ["mailer", "yourlabs.runner"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE / "data" / "db.sqlite3",
                         "OPTIONS": {"timeout": 20}}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
EMAIL_BACKEND = "mailer.backend.DbBackend"
MAILER_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
MAILER_USE_FILE_LOCK = False
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = @PORT@
RUN_ROOT = BASE / "run"
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"runner": {"level": "DEBUG"}}}
"""

# As in the README of the package whose place this takes.
TASKS = """
import time
from datetime import timedelta as td

from django.core.management import call_command

from yourlabs import runner


@runner.task(success_cooldown=td(seconds=1), fail_cooldown=td(seconds=1))
def send_mail():
    call_command('send_mail')


@runner.task(success_cooldown=td(seconds=1), fail_cooldown=td(seconds=1))
def retry_deferred():
    call_command('retry_deferred')
"""

QUEUE = """
import django
django.setup()
from django.core.mail import send_mail
import sys
send_mail(sys.argv[1], "Hello, ✉", "shop@example.org", ["customer@example.org"])
"""

SINK = """
import sys, time
from aiosmtpd.controller import Controller
class Handler:
    async def handle_DATA(self, server, session, envelope):
        with open(sys.argv[2], "ab") as out:
            out.write(envelope.content + b"\\n--end--\\n")
        return "250 OK"
controller = Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1]))
controller.start()
print("up", flush=True)
while True:
    time.sleep(3600)
"""


class Django(Case):
    @classmethod
    def setUpClass(cls):
        cls.user = add_user(USER)
        cls.addClassCleanup(remove_user, USER)
        cls.venv = environment()
        cls.addClassCleanup(shutil.rmtree, cls.venv, True)
        cls.python = str(cls.venv / "bin/python3")

    def setUp(self):
        super().setUp()
        self.port = free_port()
        self.site = self.path("main")
        (self.site / "bet").mkdir(parents=True)
        (self.site / "data").mkdir()
        (self.site / "bet/__init__.py").touch()
        (self.site / "bet/settings.py").write_text(SETTINGS.replace("@PORT@", str(self.port)))
        (self.site / "tasks.py").write_text(TASKS)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(self.site)], check=True)
        self.database = self.site / "data/db.sqlite3"
        self.received = self.path("received")
        self.sink = None

    def as_user(self, *argv, **kwargs):
        return subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", self.python, *argv],
            cwd=self.site, check=True, capture_output=True, text=True, timeout=60,
            env={"DJANGO_SETTINGS_MODULE": "bet.settings", "PYTHONPATH": str(self.site), "PATH": "/usr/bin:/bin",
                 "PYTHONDONTWRITEBYTECODE": "1"}, **kwargs)

    def serve(self):
        self.sink = subprocess.Popen([self.python, "-c", SINK, str(self.port), str(self.received)],
                                     stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.addCleanup(self.unserve)
        self.assertEqual(self.sink.stdout.readline(), b"up\n")

    def unserve(self):
        if self.sink:
            self.sink.kill()
            self.sink.wait(10)
            self.sink.stdout.close()
            self.sink = None

    def queue(self, subject):
        self.as_user("-c", QUEUE, subject)

    def arrived(self):
        text = self.received.read_text() if self.received.exists() else ""
        return re.findall(r"^Subject: (.*)$", text, re.M)

    def rows(self, table):
        with sqlite3.connect(self.database) as database:
            return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    def task(self, name):
        return next(task for task in self.chain("mail")["tasks"] if task["name"] == name)

    def test_the_mail_queue_of_a_project(self):
        # `yourlabs.runner` among the applications is provided by the worker; outside of one the
        # project needs it, too.
        (self.site / "yourlabs/runner").mkdir(parents=True)
        stub = "def task(**options):\n    return lambda function: function\n"
        (self.site / "yourlabs/__init__.py").touch()
        (self.site / "yourlabs/runner/__init__.py").write_text(stub)
        self.as_user("-m", "django", "migrate", "--verbosity=0")
        self.queue("first")
        shutil.move(self.site / "yourlabs", self.path("yourlabs"))

        chain = (f'(name: "mail", user: "{USER}", cwd: "{self.site}", path: ["{self.venv}/bin"],\n'
                 f' env: {{"DJANGO_SETTINGS_MODULE": "bet.settings", "PYTHONDONTWRITEBYTECODE": "1"}},\n'
                 f' worker: Python("python3"), tasks: [\n'
                 f'(call: "tasks.send_mail"), (call: "tasks.retry_deferred")])')
        config = self.write_config(chain, extra=self.mail_to_maildir())
        self.serve()
        master = self.start(config)
        wait_for("the first mail", lambda: self.arrived() == ["first"], 60)
        wait_for("both tasks run", lambda: self.task("retry_deferred")["ok"] >= 1, 30)
        worker = children_of(self.chain("mail")["pid"])

        # The mail server is away: django-mailer defers, retry_deferred brings it back.
        self.unserve()
        restored = self.path("yourlabs")
        shutil.copytree(restored, self.site / "yourlabs")
        self.queue("second")
        shutil.rmtree(self.site / "yourlabs")
        wait_for("it was tried", lambda: self.rows("mailer_messagelog") >= 2, 60)
        self.assertEqual(self.arrived(), ["first"])
        self.serve()
        wait_for("the second mail", lambda: self.arrived() == ["first", "second"], 60)

        # The database is taken away: the notice has Django's own exception.
        away = self.path("away")
        self.database.rename(away)
        (self.site / "data").chmod(0o555)
        wait_for("the failure is mailed",
                 lambda: any(s.startswith("[send_mail] First exception caught: ") for s in self.subjects()), 60)
        failing = self.task("send_mail")
        self.assertEqual(failing["last"]["outcome"], "raised")
        mails = [email.message_from_bytes(m.read_bytes(), policy=email.policy.default)
                 for m in self.path("mail/new").iterdir()]
        body = next(mail.get_content() for mail in mails if "[send_mail] First" in mail["Subject"])
        self.assertIn("OperationalError", body)
        self.assertIn("Traceback (most recent call last)", body)
        self.assertIn("tasks.py", body)

        # … and brought back.
        (self.site / "data").chmod(0o755)
        self.database.unlink(missing_ok=True)
        away.rename(self.database)
        wait_for("it heals", lambda: "[send_mail] Process healed" in self.subjects(), 60)
        shutil.copytree(restored, self.site / "yourlabs")
        self.queue("third")
        shutil.rmtree(self.site / "yourlabs")
        wait_for("the third mail", lambda: self.arrived()[-1] == "third", 60)
        # The same warm process all the time: a failed function is no failed worker.
        self.assertEqual(children_of(self.chain("mail")["pid"]), worker)

        # HUP loads changed code, in place.
        changed = TASKS.replace("    call_command('send_mail')", "    print('changed code')\n    call_command('send_mail')")
        (self.site / "tasks.py").write_text(changed)
        pid = master.pid
        master.send_signal(signal.SIGHUP)
        wait_for("the changed code", lambda: "changed code" in self.log(), 60)
        self.assertEqual(self.status()["master"]["pid"], pid)
        self.assertEqual(self.status()["master"]["generation"], 2)
        wait_for("the old worker is gone", lambda: not any(alive(old) for old in worker))
        self.unserve()
        self.assertEqual(self.stop(master), 0)
        self.assertNotIn(" ERRO ", self.log())


if __name__ == "__main__":
    unittest.main()
