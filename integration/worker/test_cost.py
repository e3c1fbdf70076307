"""What a run of a warm worker costs the runner, counted exactly: its chain's system calls."""

import subprocess
import unittest

from lib.harness import Case, wait_for

# Says DONE to whatever it is asked.
WORKER = """
import os
os.write(4, b"HELLO 1 smallest\\nREADY\\n")
while True:
    line = os.read(3, 4096)
    if not line or line.startswith(b"STOP"):
        break
    os.write(4, b"DONE " + line.split()[1] + b"\\n")
"""


class Cost(Case):
    def test_a_run_wakes_the_master_once_and_takes_eight_calls(self):
        script = self.path("worker.py")
        script.write_text(WORKER)
        master = self.start(self.write_config(
            f'(name: "bench", user: Current, cwd: "/", worker: Command(["/usr/bin/python3", "{script}"]),'
            ' success_cooldown: "0s", tasks: [(call: "noop")])', level="Info"))
        runs = lambda: self.chain("bench")["tasks"][0]["ok"]
        wait_for("runs", lambda: runs() >= 100)
        trace = self.path("calls")
        # One call of the trace for each run, so runs and calls are of the same window.
        tracer = subprocess.Popen(["strace", "-c", "-o", str(trace), "-p", str(self.chain("bench")["pid"])],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begin = runs()
        wait_for("some thousand runs", lambda: runs() >= begin + 3000, 60)
        tracer.terminate()
        tracer.wait(30)
        calls = {}
        for line in trace.read_text().splitlines():
            words = line.split()
            if len(words) >= 5 and words[3].isdigit():
                calls[words[-1]] = int(words[3])
        # A worker is asked once a run.
        per_run = {name: count / calls["write"] for name, count in calls.items()}
        self.assertGreater(calls["write"], 1000)
        self.assertLess(per_run["sendto"], 1.05, per_run)
        self.assertLess(per_run["total"], 8.5, per_run)
        self.assertEqual(self.stop(master), 0)


if __name__ == "__main__":
    unittest.main()
