"""A master that gets no memory, or is killed for its memory: nothing of it goes on without it, and the
next start goes on where it was."""

import os
import pathlib
import signal
import subprocess
import unittest

from lib.harness import Case, add_user, alive, remove_user, status_field, wait_for

ALICE = "runner-idm-alice"


class Memory(Case):
    @classmethod
    def setUpClass(cls):
        cls.alice = add_user(ALICE)

    @classmethod
    def tearDownClass(cls):
        remove_user(ALICE)

    def setUp(self):
        super().setUp()
        work = self.path("work")
        work.mkdir()
        os.chown(work, self.alice.pw_uid, -1)
        self.config = self.write_config(f"""
            (name: "one", user: "{ALICE}", cwd: "{work}", tasks: [
                (name: "t", sh: "echo start $$ >> ledger; sleep 0.3; echo end $$ >> ledger; echo broken $$ >&2; exit 1",
                 fail_cooldown: "100ms")]),
        """, self.mail_to_maildir())

    def ledger_is_never_two(self):
        open_runs = set()
        for line in self.lines("work/ledger"):
            what, pid = line.split()
            if what == "start":
                self.assertFalse([p for p in open_runs if alive(int(p)) and p != pid], self.lines("work/ledger"))
                open_runs.add(pid)
            else:
                open_runs.discard(pid)

    def test_a_master_without_memory_for_a_while_lives_on_or_is_started_again_and_tells_the_failure(self):
        master = self.start(self.config)
        wait_for("runs", lambda: len(self.lines("work/ledger")) > 4)
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", str(self.path("trace")), "-e", "trace=mmap,brk,mremap", "-e",
             "inject=mmap,brk,mremap:error=ENOMEM", "-p", str(master.pid)], stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (tracer.kill(), tracer.wait()))
        wait_for("strace", lambda: status_field(master.pid, "TracerPid") != ["0"])
        master.send_signal(signal.SIGHUP)
        for _ in range(20):
            self.ctl("status", "--json")
        tracer.terminate()
        tracer.wait()
        died = master.poll() is not None
        if died:
            wait_for("nothing goes on without it", lambda: not [
                line for line in self.lines("work/ledger")[-1:] if line.startswith("start") and alive(int(line.split()[1]))], 30)
            master = self.start(self.config)
        self.assertIn("ENOMEM", self.path("trace").read_text(), "nothing was asked for: the test shows nothing")
        before = len(self.lines("work/ledger"))
        wait_for("runs go on", lambda: len(self.lines("work/ledger")) > before + 3, 30)
        wait_for("the admins know", lambda: any(s.startswith("[t] First exception caught") for s in self.subjects()), 30)
        self.ledger_is_never_two()
        self.assertEqual(self.stop(master), 0)

    def test_a_master_killed_for_its_memory_takes_its_runs_with_it_and_the_next_goes_on(self):
        group = self.memory_group("runner-it-master", "64M")
        master = self.start(self.config)
        wait_for("runs", lambda: len(self.lines("work/ledger")) > 4)
        wait_for("the first mail", lambda: self.subjects())
        # The master alone is in the group, and somebody who eats all of it and is spared.
        (group / "cgroup.procs").write_text(str(master.pid))
        pathlib.Path(f"/proc/{master.pid}/oom_score_adj").write_text("1000")
        eater = subprocess.Popen(
            ["/usr/bin/python3", "-c", f"import os\nopen('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
             "eaten = []\nwhile True:\n eaten.append(b'x' * (1 << 20))"])
        self.addCleanup(lambda: (eater.kill(), eater.wait()))
        self.assertEqual(master.wait(60), -signal.SIGKILL)
        eater.kill()
        wait_for("no run goes on", lambda: not (line := self.lines("work/ledger")[-1]).startswith("start") or not alive(
            int(line.split()[1])), 30)
        master = self.start(self.config)
        before = len(self.lines("work/ledger"))
        wait_for("runs go on", lambda: len(self.lines("work/ledger")) > before + 3, 30)
        self.ledger_is_never_two()
        wait_for("told in the new generation", lambda: len(
            [s for s in self.subjects() if s.startswith("[t] First exception caught")]) >= 2, 30)
        self.assertEqual(self.stop(master), 0)


if __name__ == "__main__":
    unittest.main()
