"""The worker of ten lines of shell in conf/examples keeps the protocol."""

import json
import os
import unittest

from lib.harness import PROJECT, Case, add_user, children_of, remove_user, wait_for

USER = "runner-it-shell"


class Example(Case):
    @classmethod
    def setUpClass(cls):
        cls.user = add_user(USER)
        cls.addClassCleanup(remove_user, USER)

    def test_functions_of_a_shell(self):
        program = self.path("worker.sh")
        program.write_bytes((PROJECT / "conf/examples/worker.sh").read_bytes())
        program.chmod(0o755)
        self.path("tasks.sh").write_text(
            'send() { echo "sent by $$"; }\nretry() { echo "no server" >&2; return 3; }\n')
        self.path("tasks.sh").chmod(0o644)
        code = [line for line in program.read_text().splitlines() if not line.startswith("#")]
        self.assertLessEqual(len(code), 12)
        master = self.start(self.write_config(
            f'(name: "shell", user: "{USER}", cwd: "{self.dir}", worker: Command(["{program}"]),'
            ' success_cooldown: "100ms", fail_cooldown: "1s", tasks: [(call: "send"), (call: "retry")])'))
        wait_for("rounds", lambda: self.chain("shell")["tasks"][0]["ok"] >= 3)
        chain = self.chain("shell")
        self.assertGreaterEqual(chain["tasks"][1]["failed"], 2)
        self.assertEqual(chain["tasks"][1]["last"]["outcome"], "raised")
        # Warm: one process for all of them.
        said = {line.split()[-1] for line in self.log().splitlines() if "sent by" in line}
        self.assertEqual(said, {str(pid) for pid in children_of(chain["pid"])})
        notices = [json.loads(row)["subject"] for row in self.ctl("notices", "--json").stdout.splitlines()]
        self.assertEqual(notices, ["[retry] First exception caught: retry ended with status 3"])
        self.assertEqual(self.stop(master), 0)
        self.assertNotIn("did not end", self.log())


if __name__ == "__main__":
    unittest.main()
