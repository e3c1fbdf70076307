"""`runnerctl metrics` as the OpenMetrics project's own parser reads it (prometheus_client of PyPI, in an
environment of its own below target/).
"""

import subprocess

from lib import harness
from lib.harness import wait_for
from room import Operator, setUpModule, tearDownModule  # noqa: F401

PARSER = "prometheus_client==0.23.1"
FAMILIES = """
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(family.type, family.unit or "-", sample.name, sorted(sample.labels.items()), float(sample.value))
"""


def parser():
    """The python that has the parser; made at the first use."""
    folder = harness.PROJECT / "target/openmetrics-parser"
    python = folder / "bin/python"
    if subprocess.run([python, "-c", "import prometheus_client.openmetrics.parser"],
                      capture_output=True).returncode if python.exists() else True:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", folder], check=True, timeout=120)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", PARSER],
                       check=True, timeout=180)
    return python


class Metrics(Operator):
    @classmethod
    def setUpClass(cls):
        cls.python = parser()

    def parsed(self, text):
        done = subprocess.run([self.python, "-c", FAMILIES], input=text, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, f"{done.stderr[-2000:]}\n{text}")
        return done.stdout.splitlines()

    def test_every_sample_is_what_the_official_parser_reads(self):
        self.start(self.write_config(
            self.chain("bad", "exit 3", fail="100ms") + self.chain("fine") + self.chain("held"),
            extra=self.mail_to_maildir()))
        wait_for("all have run", lambda: self.runs("bad") >= 3 and self.runs("fine") and self.runs("held"))
        self.ctl("pause", "held", check=True)
        self.wait_state("held", "paused")
        self.ctl("reload", "--wait=drained", check=True)
        self.wait_state("fine", "cooling")
        done = self.went(self.ctl("metrics"), 0)
        self.assertTrue(done.stdout.endswith("# EOF\n"))
        seen = self.parsed(done.stdout)
        for sample in (
                "gauge - runner_up [] 1.0",
                "gauge - runner_generation [] 2.0",
                "gauge - runner_upgrade_accepted [] 1.0",
                "counter - runner_log_dropped_total [] 0.0",
                "gauge - runner_chain_failing [('chain', 'bad')] 1.0",
                "gauge - runner_chain_failing [('chain', 'fine')] 0.0",
                "stateset - runner_chain_state [('chain', 'held'), ('runner_chain_state', 'paused')] 1.0",
                "stateset - runner_chain_state [('chain', 'fine'), ('runner_chain_state', 'cooling')] 1.0",
                "counter - runner_task_runs_total [('chain', 'bad'), ('result', 'ok'), ('task', 'badt')] 0.0",
                "counter - runner_task_runs_total [('chain', 'fine'), ('result', 'ok'), ('task', 'finet')] 1.0",
                "gauge - runner_task_down [('chain', 'bad'), ('task', 'badt')] 1.0"):
            self.assertIn(sample, seen, done.stdout)
        failed = [line for line in seen if "('result', 'failed'), ('task', 'badt')" in line]
        self.assertGreaterEqual(float(failed[0].split()[-1]), 3)
        down = [line for line in seen if line.startswith("gauge seconds runner_task_down_since_seconds ")]
        self.assertEqual(len(down), 1)
        states = [line for line in seen if "runner_chain_state [('chain', 'held')" in line]
        self.assertEqual((len(states), sum(float(line.split()[-1]) for line in states)), (6, 1.0))

    def test_without_chains_and_without_a_master(self):
        done = self.went(self.ctl("metrics"), 3)
        self.assertEqual(self.parsed(done.stdout), ["gauge - runner_up [] 0.0"])
        self.start(self.write_config(""))
        self.assertIn("gauge - runner_up [] 1.0", self.parsed(self.went(self.ctl("metrics"), 0).stdout))
