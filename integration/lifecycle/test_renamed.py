"""A command whose chain has another name at the next start, after the master and everything that knew of the
old name were killed at once: it runs when what the dead run left is gone, and not beside it. The tasks' own
ledger tells (ledger.c). Bound: 2 minutes.
"""

import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, children_of, wait_for
from test_races import Races as Base


class Renamed(Base):
    def setUp(self):
        super().setUp()
        self.tool = harness.ledger_tool(self.dir)
        self.path("ledgers").mkdir()
        self.path("ledgers").chmod(0o777)

    def users(self, *names):
        """Users that may all write the ledger of `k`."""
        for name in ("ledger.k", "flock.k"):
            self.path(f"ledgers/{name}").touch()
            self.path(f"ledgers/{name}").chmod(0o666)
        made = [harness.add_user(f"rit-{name}-{os.getpid()}") for name in names]
        for user in made:
            self.addCleanup(harness.remove_user, user.pw_name)
        return made

    def doing(self, name, *keys, user="Current", millis=600000, more="", kill_timeout="2s"):
        """A chain with a task for each key; each deaf to SIGTERM, but the first one's runs alone are long."""
        tasks = ", ".join(
            f'(name: "{key}", run: ["{self.tool}", "{self.dir}/ledgers", "{key}", "{millis}"], success_cooldown: "100ms",'
            ' fail_cooldown: "100ms")' for key in keys)
        return (f'(name: "{name}", user: {user}, cwd: "/", kill_timeout: "{kill_timeout}", drain_timeout: "2s", {more}'
                f' tasks: [{tasks}]),\n')

    def runs(self, key):
        path = self.path(f"ledgers/ledger.{key}")
        words = map(str.split, path.read_text().splitlines() if path.exists() else [])
        return [(word[0], *map(int, word[1:])) for word in words]

    def run_under(self, master, key, limit=40):
        """The living run of that ledger which this master has started."""
        def found():
            return next((line[1] for line in reversed(self.runs(key))
                         if line[0] == "start" and line[3] == master.pid and alive(line[1])), None)
        try:
            return wait_for(f"{key} runs under {master.pid}", found, limit)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {self.runs(key)[-6:]}\n{self.stderr()[-1000:]}\n{self.log()[-3000:]}")

    def killed_together(self, master):
        """Neither the master nor a chain can end what goes on."""
        os.kill(master.pid, signal.SIGSTOP)
        for pid in children_of(master.pid):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runner: chain"):
                os.kill(pid, signal.SIGKILL)
        master.kill()
        master.wait()

    def never_beside(self, *keys):
        for key in keys:
            lines = self.runs(key)
            self.assertFalse([line for line in lines if line[0] == "overlap"], f"{key}: {lines}\n{self.log()[-4000:]}")

    def begins_under_another_name(self, start, before, after, meanwhile=None, keys=("k",), ready=None):
        """Runs of `keys` go on when all is killed; those of the next start come after them."""
        master = start(self.write_config(before))
        if meanwhile is not None:
            for key in keys:
                self.run_under(master, key)
            self.write_config(meanwhile)
            master.send_signal(signal.SIGHUP)
            wait_for("upgraded", lambda: " upgraded: " in self.log(), 30)
        left = [self.run_under(master, key) for key in keys]
        self.killed_together(master)
        self.assertTrue(all(map(alive, left)))
        master = start(self.write_config(after))
        for key in keys:
            self.run_under(master, key)
        self.assertFalse(any(map(alive, left)))
        self.never_beside(*keys)
        self.assertEqual(self.stop(master), 0)
        self.never_beside(*keys)

    def test_renamed_while_everything_is_dead(self):
        self.begins_under_another_name(self.start, self.doing("old", "k"), self.doing("new", "k"))

    def test_renamed_while_everything_is_dead_without_groups(self):
        self.begins_under_another_name(self.start_without_groups, self.doing("old", "k"), self.doing("new", "k"))

    def test_killed_while_the_new_name_waits_for_the_old_one(self):
        """The upgrade was done, the old chain drains: who has its command begins after it, at the next start, too."""
        for start in (self.start, self.start_without_groups):
            with self.subTest(start.__name__):
                self.begins_under_another_name(start, self.doing("old", "k"), self.doing("new", "k"), self.doing("new", "k"))

    def test_renamed_twice_and_killed_twice(self):
        master = self.start_without_groups(self.write_config(self.doing("first", "k")))
        left = self.run_under(master, "k")
        self.killed_together(master)
        # This one waits for the first one's run, and is killed before that is over.
        slow = self.doing("second", "k", kill_timeout="60s")
        second = self.start_without_groups(self.write_config(slow))
        wait_for("it waits", lambda: "of an earlier run" in self.log(), 20)
        self.killed_together(second)
        self.assertTrue(alive(left))
        third = self.start_without_groups(self.write_config(self.doing("third", "k")))
        self.run_under(third, "k")
        self.assertFalse(alive(left))
        self.never_beside("k")
        self.assertEqual(self.stop(third), 0)

    def test_a_command_that_moves_to_another_chain_of_the_file(self):
        """Both exchange theirs, and each of both runs goes on."""
        before = self.doing("a", "k") + self.doing("b", "m")
        after = self.doing("a", "m") + self.doing("b", "k")
        for start in (self.start, self.start_without_groups):
            with self.subTest(start.__name__):
                self.begins_under_another_name(start, before, after, keys=("k", "m"))

    def test_a_command_that_moves_out_of_a_chain_that_cannot_start(self):
        before = self.doing("a", "k")
        after = self.doing("a", "m", more='output: Lines("/proc/none/at/all"),') + self.doing("b", "k")
        self.begins_under_another_name(self.start_without_groups, before, after)

    def test_another_name_and_another_user(self):
        old, new = self.users("oldn", "newn")
        before = self.doing("old", "k", user=f'"{old.pw_name}"')
        after = self.doing("new", "k", user=f'"{new.pw_name}"')
        self.begins_under_another_name(self.start_without_groups, before, after)

    def test_another_user_while_the_run_of_the_old_one_drains(self):
        """The name stays: what goes on as the user of before is still looked for when all is killed."""
        old, new = self.users("oldu", "newu")
        before = self.doing("c", "k", user=f'"{old.pw_name}"')
        after = self.doing("c", "k", user=f'"{new.pw_name}"')
        self.begins_under_another_name(self.start_without_groups, before, after, after)

    def test_what_has_nothing_in_common_with_it_does_not_wait(self):
        master = self.start_without_groups(self.write_config(self.doing("old", "k") + self.doing("stays", "s", millis=50)))
        left = self.run_under(master, "k")
        self.killed_together(master)
        again = self.start_without_groups(self.write_config(
            self.doing("new", "k", kill_timeout="60s") + self.doing("stays", "s", millis=50) + self.doing("other", "o")))
        self.run_under(again, "o")
        wait_for("the chain that stays runs", lambda: any(
            line[0] == "end" and line[3] == again.pid for line in self.runs("s")), 20)
        # Nobody of them has waited for it: it is given ten seconds.
        self.assertTrue(alive(left), self.log()[-2000:])
        self.run_under(again, "k")
        self.assertFalse(alive(left))
        self.never_beside("k", "s", "o")
        again.terminate()
        wait_for("it hears", lambda: "got SIGTERM" in self.log(), 20)
        self.assertEqual(self.stop(again), 0)

    def test_an_upgrade_moves_a_command_while_the_old_one_is_looked_for(self):
        """Before the chain that had the command has looked for what its dead run left, it leaves the file."""
        master = self.start_without_groups(self.write_config(self.doing("old", "k")))
        left = self.run_under(master, "k")
        self.killed_together(master)
        again = self.start_without_groups(self.write_config(self.doing("old", "k", kill_timeout="60s")))
        wait_for("it is asked to end", lambda: "of an earlier run" in self.log(), 20)
        self.write_config(self.doing("new", "k"))
        again.send_signal(signal.SIGHUP)
        self.run_under(again, "k")
        self.assertFalse(alive(left))
        self.never_beside("k")
        self.assertEqual(self.stop(again), 0)


del Base

if __name__ == "__main__":
    unittest.main()
