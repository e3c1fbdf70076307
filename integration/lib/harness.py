"""What every whole-system suite needs: a folder of its own, a configuration in it, the real program,
bounded waiting, and the certainty that nothing is left. Root, Linux, standard library only.

The programs come from $RUNNER_BIN_DIR, else from target/debug.
"""

import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("RUNNER_BIN_DIR", PROJECT / "target/debug"))
MASTER = str(BIN / "runner-master")
CTL = str(BIN / "runnerctl")
FULL = os.environ.get("RUNNER_FULL") == "1"


def wait_for(what, condition, limit=15.0):
    """Polls until `condition()` is true; fails with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"never within {limit} s: {what}")
        time.sleep(0.02)


def alive(pid):
    """Whether a process exists and is no zombie."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def children_of(pid):
    """The direct children of a process, by /proc."""
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def status_field(pid, name):
    """A line of /proc/PID/status without its name."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].split()
    return None


def marked(folder):
    """Every living process whose command line or environment names the folder."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            text = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes()
            text += pathlib.Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and alive(int(entry)):
            found.append(int(entry))
    return found


def free_port():
    """A TCP port of the loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def add_user(name):
    """Makes a system account for a test; returns its passwd entry."""
    remove_user(name)
    subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/sh", name],
                   check=True, capture_output=True)
    return pwd.getpwnam(name)


def remove_user(name):
    subprocess.run(["userdel", name], capture_output=True)
    subprocess.run(["groupdel", name], capture_output=True)


def ledger_tool(folder):
    """The task that tells of itself (lifecycle/ledger.c), compiled into a folder; its path."""
    source = pathlib.Path(__file__).resolve().parents[1] / "lifecycle/ledger.c"
    program = str(folder / "ledger-tool")
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, source], check=True)
    return program


class Case(unittest.TestCase):
    """A test with a root-owned folder (mode 0755) that is gone afterwards, with every process."""

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="runner-it."))
        self.dir.chmod(0o755)
        self.masters = []
        self.addCleanup(self._sweep)

    def _sweep(self):
        for master in self.masters:
            if master.poll() is None:
                master.kill()
            try:
                master.wait(10)
            except subprocess.TimeoutExpired:
                pass
        deadline = time.monotonic() + 15
        while (left := marked(self.dir)) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            time.sleep(0.05)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return self.dir / name

    def memory_group(self, name, limit):
        """A group of the memory controller with a limit, empty and gone at the test's end."""
        groups = pathlib.Path("/sys/fs/cgroup/memory")
        if not (groups / "memory.limit_in_bytes").exists():
            self.skipTest("no memory controller of cgroup v1 here")
        group = groups / f"{name}.{os.getpid()}"
        group.mkdir()

        def take_away():
            for pid in (group / "cgroup.procs").read_text().split():
                (groups / "cgroup.procs").write_text(pid)
            group.rmdir()
        self.addCleanup(take_away)
        (group / "memory.limit_in_bytes").write_text(limit)
        return group

    def write_config(self, chains, extra="", name="runner.ron", level="Debug", log=None):
        """A configuration with everything in the test's folder. `chains` is RON; `log` a RON value
        of `log:`."""
        log = log or f'(level: {level}, user: Current, to: File("{self.dir}/log"))'
        text = (
            f'(run_root: "{self.dir}/run", state_root: "{self.dir}/state",\n log: {log},\n'
            f" {extra}\n chains: [\n{chains}\n])\n"
        )
        path = self.path(name)
        path.write_text(text)
        path.chmod(0o644)
        return path

    def mail_to_maildir(self):
        """RON of a `mail:` section into the test's Maildir."""
        return (
            f'mail: (from: "runner@example.org", to: ["admin@example.org"], user: Current,'
            f' transport: Maildir("{self.dir}/mail"), spool: "{self.dir}/spool"),'
        )

    def subjects(self):
        """The subjects in the Maildir, oldest first."""
        import email
        import email.policy
        new = self.path("mail/new")
        mails = sorted(new.iterdir(), key=lambda m: m.stat().st_mtime_ns) if new.is_dir() else []
        return [
            str(email.message_from_bytes(m.read_bytes(), policy=email.policy.default)["Subject"])
            for m in mails
        ]

    def start(self, config, *arguments, ready=True, env=None, prefix=(), **kwargs):
        """Starts a master; waits until its control socket answers, if `ready`. `prefix`: words of a
        program that becomes the master by exec, such as unshare(1)."""
        err = open(self.dir / "stderr", "ab")
        master = subprocess.Popen(
            [*prefix, MASTER, *arguments, str(config)], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            start_new_session=True, env=env, **kwargs)
        err.close()
        self.masters.append(master)
        if ready:
            def up():
                if master.poll() is not None:
                    raise AssertionError(f"the master ended with {master.returncode}: {self.stderr()}")
                status = self.status()
                return status and status["master"]["pid"] == master.pid
            wait_for("the master answers", up, 20)
        return master

    def stderr(self):
        path = self.dir / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self):
        path = self.dir / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ctl(self, *arguments, check=False):
        done = subprocess.run([CTL, "--run-root", str(self.dir / "run"), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
        if check:
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def status(self):
        """The whole status; None while nobody answers."""
        done = self.ctl("status", "--json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            return None

    def chain(self, name):
        status = self.status()
        for chain in status["chains"] if status else []:
            if chain["name"] == name:
                return chain
        return None

    def stop(self, master, with_signal=signal.SIGTERM, limit=30):
        """Ends a master and checks that nothing of it is left. Returns the exit status."""
        master.send_signal(with_signal)
        code = master.wait(limit)
        wait_for(f"nothing is left but {marked(self.dir)}", lambda: not marked(self.dir), 10)
        return code

    def lines(self, name):
        """The lines of a file that tasks append to."""
        path = self.path(name)
        return path.read_text().splitlines() if path.exists() else []
