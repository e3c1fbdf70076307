"""runner-master as process 1 of a container: the example of packaging/container in namespaces of its own,
with a root that has nothing but two programs and what they link to, a shell and the accounts.

It reaps whatever becomes its child, passes an operator's runnerctl, and ends clean on TERM. Needs root.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import wait_for

PROGRAMS = ("/bin/sh", "/bin/sleep", "/bin/date", "/usr/bin/setsid", "/usr/bin/id", "/bin/cat", "/bin/kill")
PASSWD = """root:x:0:0:root:/:/bin/sh
runner-log:x:101:101::/nonexistent:/usr/sbin/nologin
runner-mail:x:102:102::/nonexistent:/usr/sbin/nologin
shop:x:1000:1000::/home/shop:/bin/sh
"""

# What `docker run` does, as far as process 1 can tell; $0 is the root.
ENTER = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
cd "$0"
mkdir -p old
pivot_root . old
exec ./usr/sbin/runner-master /etc/runner/runner.ron
"""


class Container(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("needs root")
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="runner-container."))
        self.root.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.root, True)
        for folder in ("bin", "usr/bin", "usr/sbin", "etc/runner", "proc", "dev", "tmp", "run", "var/lib", "home/shop"):
            (self.root / folder).mkdir(parents=True)
        os.chown(self.root / "home/shop", 1000, 1000)
        (self.root / "tmp").chmod(0o1777)
        for name in PROGRAMS:
            self.take(name)
        self.take(harness.MASTER, "usr/sbin/runner-master")
        self.take(harness.CTL, "usr/bin/runnerctl")
        for line in PASSWD.splitlines():
            name, _, _, gid = line.split(":")[:4]
            with open(self.root / "etc/group", "a") as group:
                group.write(f"{name}:x:{gid}:\n")
        (self.root / "etc/passwd").write_text(PASSWD)
        (self.root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\n")
        self.container = None
        self.addCleanup(self.remove)

    def take(self, program, to=None):
        """Copies a program and the libraries that it links to."""
        target = self.root / (to or program.lstrip("/"))
        shutil.copy(program, target)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for word in linked.split():
            if word.startswith("/") and not (self.root / word.lstrip("/")).exists():
                (self.root / word.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, self.root / word.lstrip("/"))

    def configure(self, text):
        (self.root / "etc/runner/runner.ron").write_text(text)

    def start(self):
        self.log = open(self.root / "log", "wb")
        self.addCleanup(self.log.close)
        self.container = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount", "--kill-child", "/bin/sh", "-c", ENTER, str(self.root)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env={"PATH": os.environ["PATH"]})
        self.first = wait_for("process 1", lambda: harness.children_of(self.container.pid))[0]
        wait_for(f"it answers: {self.said()}", lambda: self.inside("runnerctl", "status").returncode == 0)

    def said(self):
        return (self.root / "log").read_text(errors="replace")

    def inside(self, *words):
        """docker exec."""
        return subprocess.run(
            ["nsenter", "-t", str(self.first), "-p", "-m", "-r", "-w", *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env={"PATH": "/usr/sbin:/usr/bin:/bin"})

    def remove(self):
        if self.container and self.container.poll() is None:
            self.container.kill()
            self.container.wait(20)

    def processes(self):
        """Every process of the container, with its state."""
        namespace = os.readlink(f"/proc/{self.first}/ns/pid")
        found = {}
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                    found[int(entry)] = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                pass
        return found

    def test_the_example_runs_and_ends_with_0(self):
        shutil.copy(harness.PROJECT / "packaging/container/runner.ron", self.root / "etc/runner/runner.ron")
        self.start()
        self.assertIn("NSpid:", pathlib.Path(f"/proc/{self.first}/status").read_text())
        self.assertEqual(harness.status_field(self.first, "NSpid")[-1], "1")
        wait_for(f"it says hello: {self.said()}", lambda: "hello from hello" in self.said(), 60)
        self.assertEqual(self.inside("runnerctl", "check").returncode, 0)
        began = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        self.assertEqual(self.container.wait(30), 0, self.said())
        self.assertLess(time.monotonic() - began, 10, "docker stop would have killed it")

    def test_orphans_are_reaped_and_strangers_are_left_alone(self):
        self.configure("""(chains: [(name: "orphans", user: "shop", cwd: "/", kill_timeout: "1s", tasks: [
            (name: "o", sh: "setsid -f sleep 0.3; setsid -f sleep 600; date", success_cooldown: "100ms")])])""")
        self.start()
        runs = lambda: json.loads(self.inside("runnerctl", "status", "--json").stdout)["chains"][0]["tasks"][0]["ok"]
        wait_for("runs", lambda: runs() >= 5, 60)
        # A shell of an operator (docker exec) leaves an orphan of its own: not the runner's to end.
        self.inside("sh", "-c", "setsid -f sleep 20 >/dev/null 2>&1")
        sleeping = lambda: [pid for pid in self.processes()
                            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0020\0"]
        mine = wait_for("the operator's sleep", sleeping)[0]
        self.inside("sh", "-c", "setsid -f sleep 0.2 >/dev/null 2>&1")
        had = runs()
        wait_for("more runs", lambda: runs() >= had + 5, 60)
        self.assertTrue(harness.alive(mine), "a stranger was ended")
        wait_for(f"no zombie stays: {self.processes()}", lambda: "Z" not in self.processes().values())
        self.assertLess(len(self.processes()), 12, "what the runs left behind stays")
        os.kill(self.first, signal.SIGTERM)
        self.assertEqual(self.container.wait(30), 0, self.said())

    def test_a_deaf_task_does_not_outlast_docker_stop(self):
        self.configure("""(chains: [(name: "deaf", user: "shop", cwd: "/", kill_timeout: "1s", tasks: [
            (name: "d", sh: "trap '' TERM; while :; do sleep 1; done")])])""")
        self.start()
        wait_for("it runs", lambda: "running" in self.inside("runnerctl", "status").stdout)
        began = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        self.assertEqual(self.container.wait(30), 0, self.said())
        self.assertLess(time.monotonic() - began, 10)

    def test_a_wrong_configuration_ends_the_container_with_78(self):
        self.configure('(chains: [(name: "x", usr: "shop", tasks: [(run: ["true"])])])')
        with self.assertRaises(AssertionError):
            self.start()
        self.assertEqual(self.container.wait(10), 78)
        self.assertIn("did you mean `user`?", self.said())

    def test_an_upgrade_as_process_1(self):
        self.configure("""(chains: [(name: "a", user: "shop", cwd: "/", tasks: [
            (name: "a", sh: "date", success_cooldown: "100ms")])])""")
        self.start()
        done = self.inside("runnerctl", "reload", "--wait=drained")
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (0, "upgrade accepted"), done.stderr)
        self.assertEqual(json.loads(self.inside("runnerctl", "status", "--json").stdout)["master"]["pid"], 1)
        os.kill(self.first, signal.SIGTERM)
        self.assertEqual(self.container.wait(30), 0, self.said())


if __name__ == "__main__":
    unittest.main()
