"""What users can do to the check of a configuration, which is root's: it looks at their files and starts
their workers before every upgrade."""

import ctypes
import os
import subprocess
import sys
import unittest

from lib.harness import MASTER, wait_for
from pair import Pair

MALLORY, VICTIM = "runner-idc-mallory", "runner-idc-victim"

# Puts a link in the place of a file, as soon as somebody has read the file and closed it.
SWAP = """
import ctypes, os, sys
own, secret = sys.argv[1:]
libc = ctypes.CDLL(None)
watcher = libc.inotify_init1(0)
libc.inotify_add_watch(watcher, own.encode(), 0x10)  # IN_CLOSE_NOWRITE
os.symlink(secret, own + ".link")
print("ready", flush=True)
os.read(watcher, 4096)
os.rename(own + ".link", own)
"""

# Keeps every process of its user but itself stopped.
STOP = """
import os, signal
print("ready", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""

# A file system that answers the first question (FUSE_INIT) and no other.
SILENT = """
import os, struct, sys
fd = int(sys.argv[1])
print("ready", flush=True)
request = os.read(fd, 1 << 20)
length, opcode, unique = struct.unpack_from("<IIQ", request)
answer = struct.pack("<IIIIHHII", 7, 31, 0, 0, 1, 1, 65536, 1).ljust(64, b"\\0")
os.write(fd, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
while True:
    os.read(fd, 1 << 20)
"""


class Check(Pair):
    names = MALLORY, VICTIM

    def setUp(self):
        super().setUp()
        self.home = self.path("mallory")
        self.home.mkdir()
        os.chown(self.home, self.mallory.pw_uid, self.mallory.pw_gid)

    def as_mallory(self, program, *arguments, **more):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)], user=self.mallory.pw_uid,
            group=self.mallory.pw_gid, extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True, **more)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    def check(self, config):
        return subprocess.run([MASTER, "--check", str(config)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)

    def test_a_worker_that_is_tried_sees_no_file_that_its_user_cannot_read(self):
        secret = self.path("secret")
        secret.write_text("SECRET=of-the-victim\n")
        secret.chmod(0o600)
        os.chown(secret, self.victim.pw_uid, self.victim.pw_gid)
        (self.home / "tasks.py").write_text(
            f"import os\nopen('{self.home}/seen', 'w').write(os.environ.get('SECRET', 'nothing'))\n"
            "def work(): pass\n")
        own = self.home / "env"
        own.write_text("SECRET=mine\n")
        os.chown(own, self.mallory.pw_uid, self.mallory.pw_gid)
        config = self.write_config(
            f'(name: "mallory", user: "{MALLORY}", cwd: "{self.home}", env_file: "{own}",'
            ' worker: Python("/usr/bin/python3"), tasks: [(call: "tasks.work")])')
        self.assertEqual(self.check(config).returncode, 0)
        self.assertEqual((self.home / "seen").read_text(), "mine")
        (self.home / "seen").unlink()
        self.as_mallory(SWAP, own, secret)
        checked = self.check(config)
        self.assertTrue(own.is_symlink(), checked.stderr)
        seen = self.home / "seen"
        self.assertNotIn("victim", seen.read_text() if seen.exists() else "")

    def chains(self, cwd):
        """Mallory's, as four accounts, and the victim's."""
        groups = ["", "groups: [],", f'groups: ["{VICTIM}"],', f'groups: ["{VICTIM}", "{MALLORY}"],']
        mallorys = "".join(
            f'(name: "mallory{n}", user: "{MALLORY}", {group} cwd: "{cwd}", kill_timeout: "1s",'
            ' tasks: [(name: "evil", sh: "exec sleep 600")]),\n' for n, group in enumerate(groups))
        return self.write_config(
            f'{mallorys}(name: "victim", user: "{VICTIM}", cwd: "/", kill_timeout: "1s",'
            ' tasks: [(name: "work", sh: "true", success_cooldown: "200ms")]),')

    def begin(self, cwd):
        """A master that looks at Mallory's accounts for ten seconds before it is up."""
        master = self.start(self.chains(cwd), ready=False)
        wait_for("the master answers", self.status, 60)
        return master

    def victim_works(self, more=2):
        def runs():
            chain = self.chain("victim")
            return chain["tasks"][0]["ok"] if chain else 0
        before = runs()
        wait_for("the victim's chain works", lambda: runs() >= before + more, 40)

    def test_a_user_that_stops_all_its_processes_holds_no_start_and_no_upgrade_up(self):
        self.as_mallory(STOP)
        master = self.begin(self.home)
        self.victim_works()
        # Told, and refused; what the operator insists on is done.
        self.assertIn("no answer within", self.ctl("reload", "--wait").stderr)
        forced = self.ctl("reload", "--force", "--wait")
        self.assertNotIn("took more than", forced.stdout + forced.stderr)
        wait_for("the upgrade", lambda: "upgraded" in self.log(), 40)
        self.victim_works()
        self.stop(master)

    def test_a_folder_that_never_answers_holds_no_start_and_no_upgrade_up(self):
        silent = self.path("silent")
        silent.mkdir()
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no file systems of users here")
        device = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={device},rootmode=40000,user_id={self.mallory.pw_uid},group_id={self.mallory.pw_gid}"
        if libc.mount(b"silent", bytes(silent), b"fuse", 6, options.encode()) != 0:
            self.skipTest(f"cannot mount a file system of a user: {os.strerror(ctypes.get_errno())}")
        self.addCleanup(libc.umount2, bytes(silent), 2)
        server = self.as_mallory(SILENT, device, pass_fds=[device])
        os.close(device)
        master = self.begin(silent / "folder")
        self.victim_works()
        forced = self.ctl("reload", "--force", "--wait")
        self.assertNotIn("took more than", forced.stdout + forced.stderr)
        wait_for("the upgrade", lambda: "upgraded" in self.log(), 40)
        self.victim_works()
        server.kill()
        self.stop(master)
