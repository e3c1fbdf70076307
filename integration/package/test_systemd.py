"""The package under a real systemd: process 1 of its own namespaces, on a fresh Debian, with control
groups of version 2 alone. What an operator types at systemctl does what the manual of the unit says."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from lib.harness import children_of, wait_for
from room import build, fresh_root

# Becomes process 1: "$1" is the scratch folder, "$2" the root below.
BOOT = r"""
set -e
scratch=$1 lower=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/up" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$scratch/up,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
cp "$DEB" root/package.deb
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $folder; done
chmod 1777 tmp
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm oldroot
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s /proc/self/fd dev/fd; ln -s pts/ptmx dev/ptmx
pivot_root . oldroot
umount -l /oldroot
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=false
"""

CONFIG = r"""
(
    mail: (from: "r@example.org", to: ["ops@example.org"], transport: Maildir("/var/mail/runner"), spool: "/var/spool/runner"),
    chains: [
        (name: "work", user: "shop", kill_timeout: "2s", tasks: [(
            name: "tick", success_cooldown: "100ms",
            sh: "exec 9>>/home/shop/lock; flock -n 9 || echo overlap >>/home/shop/ledger; echo run >>/home/shop/ledger; sleep 0.5",
        )]),
        (name: "leaves", user: "shop", tasks: [(
            name: "daemon", success_cooldown: "1s",
            sh: "setsid env -i /bin/sleep 7777 >/dev/null 2>&1 & echo left",
        )]),
        (name: "bad", user: "shop", tasks: [(name: "oops", sh: "echo no such table >&2; exit 3", fail_cooldown: "1s")]),
    ],
)
"""

UNIT = "runner-master"
FILE = "/etc/runner/runner.ron"


def unified():
    """Where control groups of version 2 are mounted and can be made, or `None`."""
    mounts = (line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines())
    return next((pathlib.Path(mount[1]) for mount in mounts if mount[2] == "cgroup2" and os.access(mount[1], os.W_OK)), None)


@unittest.skipIf(os.geteuid() != 0, "needs root")
class UnderSystemd(unittest.TestCase):
    def setUp(self):
        top = unified()
        if top is None:
            self.skipTest("needs control groups of version 2")
        root = fresh_root("systemd-root", ["systemd-sysv"])
        if root is None:
            self.skipTest("needs a mirror of Debian")
        deb = build()
        self.scratch = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.scratch)
        self.group = top / f"runner-systemd-{os.getpid()}"
        self.group.mkdir()
        self.addCleanup(self.remove_group)
        enter = f'echo $$ >"{self.group}/cgroup.procs"; exec unshare -pmuiCf --kill-child /bin/sh -c "$BOOT" boot "$@"'
        room = subprocess.Popen(
            ["/bin/sh", "-c", enter, "room", self.scratch, root], env={**os.environ, "DEB": str(deb), "BOOT": BOOT},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        self.addCleanup(room.stderr.close)
        self.addCleanup(room.wait)
        self.addCleanup(room.kill)
        self.room = room
        wait_for("systemd", self.is_up, 60)

    def remove_group(self):
        """With all that systemd made below."""
        (self.group / "cgroup.kill").write_text("1")

        def gone():
            for folder, below, _ in os.walk(self.group, topdown=False):
                for name in below:
                    os.rmdir(os.path.join(folder, name))
            os.rmdir(self.group)
            return True

        def is_gone():
            try:
                return gone()
            except OSError:
                return False

        wait_for("the control group to be empty", is_gone, 30)

    def is_up(self):
        if self.room.poll() is not None:
            self.fail(f"no boot: {self.room.stderr.read().decode()}")
        children = children_of(self.room.pid)
        self.init = children[0] if children else None
        return self.init and self.inside("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def inside(self, *words, stdin=""):
        return subprocess.run(
            ["nsenter", "-t", str(self.init), "-a", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
             "DEBIAN_FRONTEND=noninteractive", *words],
            input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)

    def must(self, *words, stdin=""):
        done = self.inside(*words, stdin=stdin)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout}")
        return done.stdout

    def show(self, what):
        return self.must("systemctl", "show", "-P", what, UNIT).strip()

    def ledger(self):
        return self.inside("cat", "/home/shop/ledger").stdout.split()

    def write(self, text):
        self.must("tee", FILE, stdin=text)

    def work_goes_on(self):
        before = len(self.ledger())
        wait_for("two more runs", lambda: len(self.ledger()) >= before + 2, 30)

    def journal(self, *words):
        return self.must("journalctl", "-u", UNIT, "-o", "cat", "--no-pager", *words)

    def test_what_an_operator_types_at_systemctl(self):
        # Installed: it is enabled and runs.
        self.must("dpkg", "-i", "/root/package.deb")
        self.assertEqual(self.must("systemctl", "is-active", UNIT).strip(), "active")
        self.assertEqual(self.must("systemctl", "is-enabled", UNIT).strip(), "enabled")
        self.must("useradd", "-m", "shop")

        # reload waits for the upgrade, which keeps the process.
        self.write(CONFIG)
        master = self.show("MainPID")
        self.must("systemctl", "reload", UNIT)
        self.assertEqual(self.show("MainPID"), master)
        self.work_goes_on()
        status = self.inside("runnerctl", "status", "--json")
        self.assertEqual(status.returncode, 150, "up, but something fails")
        self.assertIn('"strays_by":"cgroup"', status.stdout)
        self.assertIn("chain-work", self.must("systemd-cgls", "--no-pager", "-u", UNIT))
        wait_for("the mail", lambda: "First exception caught: no such table" in self.inside(
            "sh", "-c", "cat /var/mail/runner/new/*").stdout)
        wait_for("the daemon to be ended", lambda: "left 1 process behind" in self.journal())

        # A broken file fails the reload and changes nothing; the journal has it as an error.
        self.write("(chains: [")
        self.assertNotEqual(self.inside("systemctl", "reload", UNIT).returncode, 0)
        self.assertEqual((self.show("ActiveState"), self.show("MainPID")), ("active", master))
        wait_for("the error", lambda: "upgrade refused" in self.journal("-p", "err"))
        self.write(CONFIG)
        self.work_goes_on()

        # The killed master is started again, and what it had running is not doubled.
        self.must("sh", "-c", f"kill -KILL {master}")
        wait_for("another master", lambda: self.show("ActiveState") == "active" and self.show("MainPID") not in ("0", master), 60)
        self.assertEqual(self.show("NRestarts"), "1")
        self.work_goes_on()

        # One that hangs is ended by the watchdog that an operator asked for, one that works is not.
        self.must("mkdir", "-p", f"/etc/systemd/system/{UNIT}.service.d")
        self.must("tee", f"/etc/systemd/system/{UNIT}.service.d/watchdog.conf", stdin="[Service]\nWatchdogSec=3\n")
        self.must("systemctl", "daemon-reload")
        self.must("systemctl", "restart", UNIT)
        master, began = self.show("MainPID"), time.monotonic()
        while time.monotonic() < began + 7:
            self.work_goes_on()
            self.assertEqual((self.show("MainPID"), self.show("NRestarts")), (master, "0"))
        self.must("sh", "-c", f"kill -STOP {master}")
        wait_for("the watchdog", lambda: self.show("ActiveState") == "active" and self.show("MainPID") not in ("0", master), 90)
        self.work_goes_on()

        # Stopped: in order, and nothing is left.
        self.must("systemctl", "stop", UNIT)
        self.assertEqual((self.show("ActiveState"), self.show("Result")), ("inactive", "success"))
        self.assertEqual(self.inside("sh", "-c", "cat /proc/[0-9]*/comm | grep -cx -e sleep -e runner-master").stdout.strip(), "0")
        self.assertFalse(re.search("runner", self.must("ls", "/sys/fs/cgroup/system.slice")))
        self.assertNotIn("overlap", self.ledger())
        self.must("dpkg", "-P", UNIT)
        self.assertNotIn(UNIT, self.must("systemctl", "list-unit-files", "--no-pager"))


if __name__ == "__main__":
    unittest.main()
