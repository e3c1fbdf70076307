"""The built-in Python worker with every Python that this machine has: Debian's, pyenv's, and those
that $RUNNER_PYTHONS names with colons between them."""

import json
import os
import pathlib
import subprocess
import unittest

from lib.harness import MASTER, Case, wait_for

TASKS = '''
import os, sys
from datetime import timedelta as td
from yourlabs import runner


@runner.task(success_cooldown=td(milliseconds=200), fail_cooldown=2)
def options():
    print("version", *sys.version_info[:2])


@runner.task
def bare():
    print("bare at", os.getpid())


@runner.task()
def fails():
    try:
        {}["first"]
    except KeyError as error:
        raise ValueError("no order \\u2709") from error


def leaves():
    sys.exit("no more")
'''


def pythons():
    """By version, as text: the interpreters that can be started here."""
    found = {}
    named = [path for path in os.environ.get("RUNNER_PYTHONS", "").split(":") if path]
    candidates = [pathlib.Path("/usr/bin/python3"), *map(pathlib.Path, named)]
    for folder in ("/usr/bin", "/usr/local/bin"):
        candidates += pathlib.Path(folder).glob("python3.*[0-9]")
    candidates += pathlib.Path.home().glob(".pyenv/versions/*/bin/python")
    for path in candidates:
        try:
            said = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        except OSError:
            continue
        if said.returncode == 0:
            found.setdefault(said.stdout.strip(), path)
    return found


class Versions(Case):
    def setUp(self):
        super().setUp()
        (self.path("app")).mkdir()
        (self.path("app") / "tasks.py").write_text(TASKS)

    def chain_of(self, name, python, more=""):
        return (f'(name: "{name}", user: Current, cwd: "{self.path("app")}", worker: Python("{python}"), {more}\n'
                f' env: {{"PYTHONDONTWRITEBYTECODE": "1"}}, success_cooldown: "200ms", fail_cooldown: "1s",\n'
                ' tasks: [(call: "tasks.options"), (call: "tasks.bare"), (call: "tasks.fails"),'
                ' (call: "tasks.leaves")]),\n')

    def test_every_python_from_3_8_on_runs_the_same_tasks_alike(self):
        known = {version: path for version, path in pythons().items()
                 if tuple(map(int, version.split("."))) >= (3, 8)}
        print(f"Python {', '.join(sorted(known, key=lambda v: int(v.split('.')[1])))}", flush=True)
        chains = "".join(self.chain_of(f"warm{v}", p) + self.chain_of(f"fork{v}", p, "isolation: Fork,")
                         for v, p in known.items())
        config = self.write_config(chains)
        checked = subprocess.run([MASTER, "--check", str(config)], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, timeout=120)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        master = self.start(config)
        wait_for("two rounds of all", lambda: all(
            chain["tasks"][3]["failed"] >= 2 for chain in self.status()["chains"]), 120)
        subjects = [json.loads(row)["subject"] for row in self.ctl("notices", "--json").stdout.splitlines()]
        self.assertEqual(sorted(set(subjects)), ["[fails] First exception caught: no order \u2709",
                                                 "[leaves] First exception caught: no more"])
        self.assertEqual(len(subjects), 2 * 2 * len(known))
        log = self.log()
        for version in known:
            with self.subTest(version):
                for name in (f"warm{version}", f"fork{version}"):
                    tasks = self.chain(name)["tasks"]
                    self.assertEqual([(task["ok"] > 0, task["failed"] > 0) for task in tasks],
                                     [(True, False), (True, False), (False, True), (False, True)])
                    self.assertIn(f"options: success_cooldown 200ms (the configuration", self.ctl("explain", name).stdout)
                self.assertIn(f"version {version.replace('.', ' ')}", log)
        self.assertEqual(self.stop(master), 0)

    def test_an_older_python_is_told_so(self):
        for version, path in pythons().items():
            if tuple(map(int, version.split("."))) >= (3, 8):
                continue
            with self.subTest(version):
                checked = subprocess.run([MASTER, "--check", str(self.write_config(self.chain_of("old", path)))],
                                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
                self.assertEqual(checked.returncode, 78)
                self.assertIn(f"the built-in worker needs Python 3.8 or newer, this is {version}", checked.stderr)


if __name__ == "__main__":
    unittest.main()
