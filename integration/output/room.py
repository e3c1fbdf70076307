"""A master in a room of its own: folders, configuration, the process, and bounded looks at all of it.

The accounts are numbers without a name: nothing on this machine is touched. Needs root.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("RUNNER_BIN", PROJECT / "target" / "debug"))
LOG_USER, TASK_USER, MAIL_USER = 61001, 61002, 61003


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def until(look, what, limit=60.0):
    """Looks again and again until there is something to see, and returns it."""
    end = time.monotonic() + limit
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.02)


def fill(disk):
    """Takes all room of a file system; the file that has it."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


class Room:
    """One master. `log` and `chains` are the texts of the configuration."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="runner-output."))
        os.chmod(self.path, 0o755)
        self.mounts = []
        self.master = None
        self.stderr = None

    def folder(self, name, owner=0):
        path = self.path / name
        path.mkdir(exist_ok=True)
        os.chown(path, owner, owner)
        return path

    def tmpfs(self, name, options, owner=0):
        path = self.folder(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
        self.mounts.append(path)
        os.chmod(path, 0o755)
        os.chown(path, owner, owner)
        return path

    def write(self, chains, log="to: Stderr, level: Debug", rest="", run_root=None, state_root=None):
        text = f"""(
            run_root: "{run_root or self.path / 'run'}", state_root: "{state_root or self.path / 'state'}",
            log: ({log}, user: {LOG_USER}), {rest}
            defaults: (user: {TASK_USER}, cwd: "/", kill_timeout: "2s"),
            chains: [{chains}],
        )"""
        config = self.path / "runner.ron"
        config.write_text(text)
        os.chmod(config, 0o644)

    def mail(self):
        """Of a configuration: mail into `maildir`."""
        self.maildir = self.folder("maildir", MAIL_USER)
        return (
            f'mail: (from: "a@example.org", to: ["b@example.org"], user: {MAIL_USER}, '
            f'transport: Maildir("{self.maildir}")),'
        )

    def letters(self):
        """What lies in `maildir`, header lines unfolded."""
        return [one.read_text().replace("\n ", " ") for one in self.maildir.glob("**/new/*")]

    def start(self, stderr=None, **env):
        """`stderr`: a descriptor; otherwise the file that `said` reads."""
        if stderr is None:
            stderr = self.stderr = open(self.path / "stderr", "ab")
        self.master = subprocess.Popen(
            [BIN / "runner-master", self.path / "runner.ron"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            env={**os.environ, **env},
        )
        until(self.answers, "a master that answers")

    def answers(self):
        if self.master.poll() is not None:
            raise AssertionError(f"the master ended: {self.master.returncode}\n{self.said()}")
        return self.ctl("status", check=False)

    def said(self):
        return (self.path / "stderr").read_text(errors="replace")

    def until_said(self, text, limit=60.0):
        try:
            until(lambda: text in self.said(), f"{text!r} in the log", limit)
        except AssertionError as never:
            raise AssertionError(f"{never}\n{self.said()[-3000:]}") from None

    def ctl_words(self):
        return [BIN / "runnerctl", "-c", self.path / "runner.ron"]

    def ctl(self, *words, check=True):
        done = subprocess.run(
            [*self.ctl_words(), *words],
            capture_output=True, text=True, timeout=30,
        )
        if check and done.returncode not in (0, 150):
            raise AssertionError(f"runnerctl {words}: {done.returncode} {done.stderr}")
        return done.stdout

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def runs(self, chain=0):
        return sum(task["ok"] + task["failed"] for task in self.status()["chains"][chain]["tasks"])

    def children(self):
        """Pids of the master's children by their titles."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            except (OSError, IndexError):
                continue
            if parent == self.master.pid:
                found[title] = int(entry.name)
        return found

    def child(self, title):
        return until(lambda: self.children().get(f"runner: {title}"), f"a process {title}")

    def stop(self, limit=10.0):
        """TERM; returns how long the end took."""
        begun = time.monotonic()
        self.master.send_signal(signal.SIGTERM)
        self.master.wait(limit)
        return time.monotonic() - begun

    def close(self):
        if self.master and self.master.poll() is None:
            self.master.send_signal(signal.SIGTERM)
            try:
                self.master.wait(10)
            except subprocess.TimeoutExpired:
                self.master.kill()
                self.master.wait()
        if self.stderr:
            self.stderr.close()
        for mount in reversed(self.mounts):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.path, ignore_errors=True)


def chain(name, tasks, **fields):
    """A chain's text; tasks are (name, shell line). `pause`: after a run, 50 ms unless said; `fail`:
    after a failed one."""
    parts = [f'name: "{name}"', *(f"{key}: {value}" for key, value in fields.items())]
    parts = [part for part in parts if not part.startswith(("pause:", "fail:"))]
    pause, fail = fields.get("pause", "50ms"), fields.get("fail", "1s")
    lines = ", ".join(
        f'(name: "{task}", sh: r#"{line}"#, success_cooldown: "{pause}", fail_cooldown: "{fail}")'
        for task, line in tasks
    )
    return f"({', '.join(parts)}, tasks: [{lines}])"


def busy(count):
    """Chains that make the master say much: a lane for its records is full sooner."""
    return [chain(f"busy{n}", [("tick", "true")], pause="5ms", output="Discard") for n in range(count)]


class Story(unittest.TestCase):
    """A test with a room of its own."""

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("needs root")
        self.room = Room()
        self.addCleanup(self.room.close)

    def follow(self, chain, stream):
        """`runnerctl logs CHAIN -f` from now on, for one stream."""
        follow = subprocess.Popen(
            [*self.room.ctl_words(), "logs", chain, "-f", "-n", "0", "--stream", stream],
            stdout=subprocess.PIPE, text=True,
        )
        self.addCleanup(follow.wait)
        self.addCleanup(follow.kill)
        self.addCleanup(follow.stdout.close)
        return follow
