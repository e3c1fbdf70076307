"""The Debian package in a root of its own: installed, started, upgraded in place, purged.

The fresh root is an overlay of this machine's in a mount and pid namespace: nothing that dpkg or the
package does reaches the machine, and it costs a second instead of a debootstrap. Needs root, cargo-deb
and lintian; only the standard library is used.

    /usr/bin/python3 -m unittest discover integration/package
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BUILD_LIMIT = 600
STORY_LIMIT = 180

# Runs as process 1 of the namespaces; "$1" is the scratch folder, the rest runs inside.
ROOM = r"""
set -e
scratch=$1; shift
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/up" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/up,workdir=$scratch/work" "$scratch/root"
mount --rbind /dev "$scratch/root/dev"
mount -t proc proc "$scratch/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$scratch/root/run"
mount -t tmpfs tmpfs "$scratch/root/tmp"
cp "$DEB" "$scratch/root/tmp/package.deb"
chroot "$scratch/root" /bin/sh -eu -c "$STORY"
"""

# What every story begins with: bounded polling, and the installation.
PRELUDE = r"""
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
fail() { echo "FAILED: $*" >&2; [ ! -f /tmp/log ] || tail -50 /tmp/log >&2; exit 1; }
until_() { n=0; until eval "$1"; do n=$((n+1)); [ $n -lt 300 ] || fail "never: $1"; sleep 0.1; done; }
# The machine below may have the accounts already.
for account in runner-log runner-mail shop; do userdel $account >/dev/null 2>&1 || true; done
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
dpkg -i /tmp/package.deb >/tmp/dpkg 2>&1 || { cat /tmp/dpkg >&2; fail "dpkg -i"; }
"""

INSTALL_AND_PURGE = PRELUDE + r"""
for account in runner-log runner-mail; do
    getent passwd $account | grep -q ':/nonexistent:/usr/sbin/nologin$' || fail "no account $account"
done
[ "$(stat -c %U:%G:%a /var/log/runner)" = runner-log:adm:750 ] || fail "mode of the log folder"
man -w runner >/dev/null && man -w runner-master >/dev/null || fail "manuals of section 8"
man -w runnerctl >/dev/null && man -w runner.ron >/dev/null || fail "manuals"
grep -q _runnerctl /usr/share/bash-completion/completions/runnerctl || fail "completions"
runnerctl --version | grep -q '^runnerctl ' || fail "runnerctl --version"
runnerctl status 2>/dev/null && fail "status without a master" || [ $? = 3 ] || fail "exit status"

# What an operator wrote outlives a reinstallation and a removal, but not a purge.
echo '// mine' >>/etc/runner/runner.ron
dpkg -i /tmp/package.deb >/dev/null 2>&1
grep -q mine /etc/runner/runner.ron || fail "the conffile was overwritten"
dpkg -r runner-master >/dev/null 2>&1
[ ! -e /usr/sbin/runner-master ] && grep -q mine /etc/runner/runner.ron || fail "removal"
dpkg -P runner-master >/dev/null 2>&1
for left in /etc/runner /var/lib/runner /var/log/runner /usr/share/doc/runner-master; do
    [ ! -e $left ] || fail "$left is left after the purge"
done
"""

RUN_AND_UPGRADE = PRELUDE + r"""
runner-master --check /etc/runner/runner.ron || fail "the shipped configuration is refused"
useradd shop
cat >/etc/runner/runner.ron <<'END'
(
    chains: [(name: "count", user: "shop", cwd: "/", kill_timeout: "1s", tasks: [
        (name: "tick", sh: "echo x >>/tmp/ticks/all; id -un >/tmp/ticks/who", success_cooldown: "200ms"),
    ])],
)
END
install -d -o shop /tmp/ticks
runner-master --check /etc/runner/runner.ron || fail "the test's configuration is refused"
runner-master /etc/runner/runner.ron >/tmp/log 2>&1 &
until_ 'runnerctl status >/dev/null 2>&1'
until_ '[ "$(wc -l </tmp/ticks/all)" -ge 3 ]'
[ "$(cat /tmp/ticks/who)" = shop ] || fail "the wrong user"
master_pid() { runnerctl status --json | sed 's/.*"master":{"pid":\([0-9]*\),.*/\1/'; }
pid=$(master_pid)

# An upgrade of the package is an upgrade in place.
dpkg -i /tmp/package.deb >/tmp/dpkg 2>&1 || { cat /tmp/dpkg >&2; fail "upgrade"; }
until_ 'runnerctl status --json | grep -q "\"outcome\":\"accepted\""'
[ "$(master_pid)" = "$pid" ] || fail "the master's pid changed"
runnerctl status --json | grep -q '"generation":1,"binary' && fail "no new generation"
ticks=$(wc -l </tmp/ticks/all)
until_ '[ "$(wc -l </tmp/ticks/all)" -gt '"$ticks"' ]'

# Removal stops it, without systemd too, and nothing of it is left.
dpkg -P runner-master >/tmp/dpkg 2>&1 || { cat /tmp/dpkg >&2; fail "purge"; }
until_ '[ ! -e "/proc/$pid" ] || grep -q "^State:.Z" "/proc/$pid/status"'
ps -eo comm,args | grep '[r]unner: ' && fail "something is left"
true
"""


def build():
    subprocess.run(
        [PROJECT / "packaging/build-deb.sh", "--quick"],
        check=True, stdout=subprocess.PIPE, timeout=BUILD_LIMIT)
    return max((PROJECT / "target/debian").glob("*.deb"), key=os.path.getmtime)


@unittest.skipIf(os.geteuid() != 0, "needs root")
@unittest.skipIf(shutil.which("cargo-deb") is None, "needs cargo-deb")
class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deb = build()

    def story(self, story):
        scratch = tempfile.mkdtemp()
        try:
            done = subprocess.run(
                ["unshare", "-mpf", "--kill-child", "/bin/sh", "-c", ROOM, "room", scratch],
                env={**os.environ, "DEB": str(self.deb), "STORY": story},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=STORY_LIMIT)
        finally:
            os.rmdir(scratch)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_install_and_purge(self):
        self.story(INSTALL_AND_PURGE)

    def test_run_and_upgrade(self):
        self.story(RUN_AND_UPGRADE)

    @unittest.skipIf(shutil.which("lintian") is None, "needs lintian")
    def test_lintian(self):
        # The development binaries are not stripped; everything else counts.
        done = subprocess.run(
            ["lintian", "--suppress-tags", "unstripped-binary-or-object", "--fail-on",
             "error,warning", str(self.deb)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)

    @unittest.skipIf(shutil.which("systemd-analyze") is None, "needs systemd-analyze")
    def test_unit(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / "runner-master.service"
            text = (PROJECT / "packaging/debian/runner-master.service").read_text()
            for program in ("/usr/sbin/runner-master", "/usr/bin/runnerctl"):
                text = text.replace(program, "/bin/true")
            unit.write_text(text)
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", str(unit)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
