"""What a user's chain leaves when it dies comes up to the master, as much as the user likes: it costs
the master little, and no other user's chain waits for it."""

import contextlib
import os
import pathlib
import signal
import subprocess

from lib.harness import status_field, wait_for
from pair import Pair

MALLORY, VICTIM = "runner-ids-mallory", "runner-ids-victim"

# Leaves processes that do not end when asked: argv[1] of them side by side, or one below the other.
LEAVES = r"""
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int deep = strcmp(argv[2], "deep") == 0;
    signal(SIGTERM, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    for (int left = atoi(argv[1]); left > 0; left--) {
        int child = fork() == 0;
        if (child == deep) continue;
        // Side by side, without a parent of their own.
        if (child && fork() != 0) _exit(0);
        break;
    }
    for (;;) pause();
}
"""

# As a machine without control groups.
UNGROUPED = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]


class Strays(Pair):
    names = MALLORY, VICTIM

    def setUp(self):
        super().setUp()
        (self.dir / "leaves.c").write_text(LEAVES)
        subprocess.run(["cc", "-O1", "-o", str(self.path("leaves")), str(self.path("leaves.c"))], check=True)

    def configure(self, count, how, patience):
        return self.write_config(
            f'(name: "mallory", user: "{MALLORY}", kill_timeout: "{patience}",'
            f' tasks: [(name: "evil", run: ["{self.path("leaves")}", "{count}", "{how}"])]),'
            f'(name: "victim", user: "{VICTIM}", kill_timeout: "{patience}",'
            ' tasks: [(name: "work", sh: "exec sleep 600")]),')

    def processes(self):
        return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc"))
                if (uids := self.uids(pid)) and uids[0] == str(self.mallory.pw_uid)]

    @staticmethod
    def uids(pid):
        try:
            return status_field(pid, "Uid")
        except OSError:
            return None

    def running(self, count):
        """The processes of both chains, once Mallory's has so many below it."""
        def both():
            chains = [self.chain(name) for name in ("mallory", "victim")]
            return all(chain and chain["state"] == "running" for chain in chains) and [
                chain["pid"] for chain in chains]
        wait_for("the tree", lambda: len(self.processes()) >= count, 120)
        return wait_for("both chains", both)

    def replaced(self, name, pid, limit):
        wait_for(f"another process of {name}", lambda: (chain := self.chain(name)) and (
            chain["state"] == "running" and chain["pid"] not in (None, pid)), limit)

    def test_thousands_of_strays_cost_the_master_seconds(self):
        for how, count in ("wide", 2000), ("deep", 1000):
            with self.subTest(how):
                master = self.start(self.configure(count, how, "2s"))
                mallory, _ = self.running(count)

                def seconds():
                    fields = pathlib.Path(f"/proc/{master.pid}/stat").read_text().rpartition(")")[2].split()
                    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                before = seconds()
                os.kill(mallory, signal.SIGKILL)
                self.replaced("mallory", mallory, 120)
                self.assertLess(seconds() - before, 8)
                self.stop(master, limit=60)

    def test_nobody_waits_for_what_another_users_chain_left(self):
        for prefix in (), UNGROUPED:
            with self.subTest(prefix):
                # Longer than the test: who waits for it waits to the end.
                master = self.start(self.configure(1, "wide", "5m"), prefix=prefix)
                mallory, victim = self.running(3)
                # Both are dead when what Mallory's left comes up.
                os.kill(master.pid, signal.SIGSTOP)
                os.kill(mallory, signal.SIGKILL)
                os.kill(victim, signal.SIGKILL)
                os.kill(master.pid, signal.SIGCONT)
                self.replaced("victim", victim, 30)
                self.assertEqual(self.chain("mallory")["pid"], None)
                for pid in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.replaced("mallory", mallory, 60)
                master.send_signal(signal.SIGINT)
                self.stop(master)
