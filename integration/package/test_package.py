"""The Debian package in a fresh Debian: built, linted, installed, started, upgraded in place, purged.

The root is made by mmdebstrap from Debian's mirror (a minute, once: it stays in target/) and is
the lower layer of an overlay in a mount and pid namespace, so each story begins with it as it was and
nothing reaches this machine. Where no mirror can be reached the lower layer is this machine, which is
said. Needs root, cargo-deb and lintian.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from room import PROJECT, build, fresh_root

STORY_LIMIT = 180

# Runs as process 1 of the namespaces; "$1" is the scratch folder, the rest runs inside.
ROOM = r"""
set -e
scratch=$1; shift
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/up" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$scratch/up,workdir=$scratch/work" "$scratch/root"
mount --rbind /dev "$scratch/root/dev"
mount -t proc proc "$scratch/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$scratch/root/run"
mount -t tmpfs tmpfs "$scratch/root/tmp"
cp "$DEB" "$scratch/root/tmp/package.deb"
export HOME=/root; cd /
chroot "$scratch/root" /bin/sh -eu -c "$STORY"
"""

# What every story begins with: bounded polling, and the installation as an operator types it.
PRELUDE = r"""
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
fail() { echo "FAILED: $*" >&2; [ ! -f /tmp/log ] || tail -50 /tmp/log >&2; exit 1; }
until_() { n=0; until eval "$1"; do n=$((n+1)); [ $n -lt 300 ] || fail "never: $1"; sleep 0.1; done; }
# The machine below may have the accounts already.
for account in runner-log runner-mail shop; do userdel $account >/dev/null 2>&1 || true; done
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
# Everything but what dpkg, apt and the account database themselves remember.
everything() {
    find / -xdev \( -path /proc -o -path /run -o -path /tmp -o -path /dev -o -path /var/lib/dpkg -o -path /var/cache \
        -o -path /var/log/apt -o -path /var/lib/apt \) -prune -o -print |
        grep -vE '^/(etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|etc/\.pwd\.lock|var/log/(dpkg|alternatives|lastlog|faillog).*)$' | sort
}
everything >/tmp/before
dpkg_() { dpkg "$@" >/tmp/dpkg 2>&1 || { cat /tmp/dpkg >&2; fail "dpkg $*"; }; }
apt-get install -y -q /tmp/package.deb >/tmp/apt 2>&1 || { cat /tmp/apt >&2; fail "apt install"; }
"""

INSTALL_AND_PURGE = PRELUDE + r"""
for account in runner-log runner-mail; do
    getent passwd $account | grep -q ':/nonexistent:/usr/sbin/nologin$' || fail "no account $account"
done
[ "$(stat -c %U:%G:%a /var/log/runner)" = runner-log:adm:750 ] || fail "mode of the log folder"
for page in man8/runner.8 man8/runner-master.8 man8/runnerctl.8 man5/runner.ron.5 man7/runner-worker.7; do
    gzip -t /usr/share/man/$page.gz || fail "no manual $page"
done
grep -q _runnerctl /usr/share/bash-completion/completions/runnerctl || fail "completions of bash"
grep -q '#compdef runnerctl' /usr/share/zsh/vendor-completions/_runnerctl || fail "completions of zsh"
grep -q 'complete -c runnerctl' /usr/share/fish/vendor_completions.d/runnerctl.fish || fail "completions of fish"
[ -f /usr/lib/systemd/system/runner-master.service ] || fail "no unit"
dpkg-query -W -f '${Conffiles}' runner-master | grep -q ' /etc/runner/runner.ron ' || fail "no conffile"
dpkg-query -W -f '${Conffiles}' runner-master | grep -q ' /etc/logrotate.d/runner-master ' || fail "no logrotate file"
runnerctl --version | grep -q '^runnerctl ' || fail "runnerctl --version"
runnerctl status 2>/dev/null && fail "status without a master" || [ $? = 3 ] || fail "exit status"

# What an operator wrote outlives a reinstallation and a removal, but not a purge.
echo '// mine' >>/etc/runner/runner.ron
dpkg_ -i /tmp/package.deb
grep -q mine /etc/runner/runner.ron || fail "the conffile was overwritten"
dpkg_ -r runner-master
[ ! -e /usr/sbin/runner-master ] && grep -q mine /etc/runner/runner.ron || fail "removal"
dpkg_ -P runner-master
everything >/tmp/after
diff /tmp/before /tmp/after >&2 || fail "the purge left something"
"""

RUN_AND_UPGRADE = PRELUDE + r"""
runner-master --check /etc/runner/runner.ron || fail "the shipped configuration is refused"
useradd shop
cat >/etc/runner/runner.ron <<'END'
(
    log: (to: File("/var/log/runner/master.log"), level: Debug),
    chains: [(name: "count", user: "shop", cwd: "/", kill_timeout: "1s", tasks: [
        (name: "tick", sh: "echo x >>/tmp/ticks/all; id -un >/tmp/ticks/.who && mv /tmp/ticks/.who /tmp/ticks/who", success_cooldown: "200ms"),
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

generation() { runnerctl status --json | sed 's/.*"generation":\([0-9]*\),"binary.*/\1/'; }
ticks_go_on() { ticks=$(wc -l </tmp/ticks/all); until_ '[ "$(wc -l </tmp/ticks/all)" -gt '"$ticks"' ]'; }

# An upgrade of the package is an upgrade in place, and a HUP is one too.
[ "$(readlink /proc/$pid/exe)" = /usr/sbin/runner-master ] || fail "the program"
dpkg_ -i /tmp/package.deb
[ "$(generation)" = 2 ] || fail "the package did not upgrade it"
[ "$(readlink /proc/$pid/exe)" = /usr/sbin/runner-master ] || fail "the old program goes on"
kill -HUP "$pid"
until_ '[ "$(generation)" = 3 ]'
runnerctl status --json | grep -q '"outcome":"accepted"' || fail "refused"
[ "$(master_pid)" = "$pid" ] || fail "the master's pid changed"
ticks_go_on

# logrotate takes the log away and the next record begins a new one.
if command -v logrotate >/dev/null; then
    logrotate -f -s /tmp/rotated /etc/logrotate.d/runner-master >/tmp/rotate 2>&1 || { cat /tmp/rotate >&2; fail "logrotate"; }
    ls /var/log/runner/master.log-* >/dev/null || { cat /tmp/rotate >&2; fail "not rotated"; }
    until_ '[ -s /var/log/runner/master.log ]'
    [ "$(stat -c %U /var/log/runner/master.log)" = runner-log ] || fail "the new log's owner"
fi

# Removal stops it, without systemd too, and nothing of it is left.
dpkg_ -P runner-master
until_ '[ ! -e "/proc/$pid" ] || grep -q "^State:.Z" "/proc/$pid/status"'
for process in /proc/[0-9]*; do
    ! tr '\0' ' ' <$process/cmdline 2>/dev/null | grep -q '^runner: ' || fail "$process is left"
done
everything | diff /tmp/before - >&2 || fail "the purge left something"
"""


@unittest.skipIf(os.geteuid() != 0, "needs root")
class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deb = build()
        # Without systemd; where no root can be made, this machine's.
        wanted = ["systemd-standalone-sysusers", "systemd-standalone-tmpfiles", "logrotate"]
        cls.root = fresh_root("fresh-root", wanted) or pathlib.Path("/")

    def story(self, story):
        scratch = tempfile.mkdtemp()
        try:
            done = subprocess.run(
                ["unshare", "-mpf", "--kill-child", "/bin/sh", "-c", ROOM, "room", scratch],
                env={**os.environ, "DEB": str(self.deb), "STORY": story, "LOWER": str(self.root)},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=STORY_LIMIT)
        finally:
            os.rmdir(scratch)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_install_and_purge(self):
        self.story(INSTALL_AND_PURGE)

    def test_run_and_upgrade(self):
        self.story(RUN_AND_UPGRADE)

    def test_lintian(self):
        # The development binaries are not stripped; everything else counts.
        done = subprocess.run(
            ["lintian", "--suppress-tags", "unstripped-binary-or-object", "--fail-on",
             "error,warning", str(self.deb)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)

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
