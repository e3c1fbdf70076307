"""Rotation, by us and by logrotate: nothing is written twice, and nothing is lost that was in the
file, whenever the writer is killed.
"""

import gzip
import os
import re
import subprocess
import unittest

from room import LOG_USER, TASK_USER, TIME, Story, chain, until

LINES = 40
RENAME, UNLINK = "rename,renameat,renameat2", "unlink,unlinkat"


def all_lines(path):
    """The lines of a file and of its old ones, oldest first."""
    old = {}
    for one in path.parent.glob(f"{path.name}.*"):
        number = one.name[len(path.name) + 1:].removesuffix(".gz")
        if number.isdigit():
            # Where both forms lie, the compressed one is whole.
            if int(number) not in old or one.suffix == ".gz":
                old[int(number)] = one
    lines = []
    for _, one in sorted(old.items(), reverse=True):
        text = gzip.decompress(one.read_bytes()) if one.suffix == ".gz" else one.read_bytes()
        lines += text.decode().splitlines()
    if path.exists():
        lines += path.read_text().splitlines()
    return lines


class Kill(Story):
    # Which call, the how manieth after a moment at random, and, if only such count, of which file.
    POINTS = [
        (RENAME, 1, ""), (RENAME, 1, ".1"), (RENAME, 1, ".gz.tmp"), (UNLINK, 1, ".2"),
        ("openat", 1, ""), ("openat", 1, ".gz.tmp"), ("write", 2, None), ("fdatasync", 1, None),
    ]
    if os.environ.get("RUNNER_FULL") == "1":
        POINTS += [(calls, n, None) for calls in (RENAME, UNLINK, "openat", "write") for n in range(1, 9)]

    # Dead loggers in a row are replaced with growing pauses: the fewer the better.
    OF_LOGGER = [(RENAME, 1, ".gz.tmp"), ("openat", 1, ""), ("write", 2, None)]

    def killed_at(self, title, calls, when, path, threads=()):
        """The process of that title is killed in this call, and another takes its place."""
        pid = self.room.child(title)
        tracer = subprocess.Popen(
            ["strace", *threads, "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
             "-e", f"inject={calls}:signal=KILL:when={when}", *(["-P", path] if path else []),
             "-p", str(pid)],
            stderr=subprocess.DEVNULL,
        )
        try:
            gone = lambda: self.room.children().get(f"runner: {title}") != pid
            until(gone, f"{title} is killed at {calls} {when} {path}")
        finally:
            tracer.terminate()
            tracer.wait()

    def test_a_chain_killed_at_any_step_of_a_rotation_loses_only_what_it_had_not_read(self):
        out = self.room.folder("out", TASK_USER)
        mine, count = out / "mine", out / "count"
        count.write_text("0")
        os.chown(count, TASK_USER, TASK_USER)
        task = (
            f"n=$(($(cat {count})+1)); echo $n >{count}.new; mv {count}.new {count}; i=0; "
            f"while [ $i -lt {LINES} ]; do i=$((i+1)); echo word $n.$i; done"
        )
        self.room.write(
            chain("mine", [("send", task)], output=f'Lines("{mine}")', pause="20ms",
                  rotate='(max_size: "4KiB", keep: 1000)')
        )
        self.room.start()
        windows = []
        for calls, when, suffix in self.POINTS:
            path = None if suffix is None else f"{mine}{suffix}"
            first = int(count.read_text())
            self.killed_at("chain mine", calls, when, path)
            windows.append(range(first, int(count.read_text()) + 1))
            before = self.room.runs()
            until(lambda: self.room.runs() > before + 2, "runs go on")
        self.room.stop()
        last = int(count.read_text())
        seen = {}
        for line in all_lines(mine):
            found = re.search(f"^{TIME} mine send \\d+ out: word (\\d+)\\.(\\d+)$", line)
            self.assertTrue(found, line)
            seen.setdefault(int(found[1]), []).append(int(found[2]))
        self.assertEqual(sorted(seen), list(seen), "in order")
        for run, words in seen.items():
            self.assertEqual(words, list(range(1, len(words) + 1)), f"run {run}: once, in order")
        torn = {run for run in range(1, last) if len(seen.get(run, [])) != LINES}
        print(f"\n  {len(self.POINTS)} kills, {last} runs, {len(torn)} of them not whole")
        for window in windows:
            self.assertLessEqual(len(torn & set(window)), 1, "a kill costs one run, and that in part")
        self.assertLessEqual(torn, {run for window in windows for run in window})

    def test_a_logger_killed_at_any_step_of_a_rotation_tears_nothing(self):
        logs = self.room.folder("log", LOG_USER)
        main = logs / "master.log"
        self.room.write(
            chain("mine", [("send", "echo word")], pause="10ms"),
            log=f'to: File("{main}"), level: Info, rotate: (max_size: "4KiB", keep: 1000)',
        )
        self.room.start()
        until(main.exists, "the log")
        for calls, when, suffix in self.OF_LOGGER:
            path = None if suffix is None else f"{main}{suffix}"
            self.killed_at("logger", calls, when, path, threads=["-f"])
            before = self.room.runs()
            self.room.child("logger")
            until(lambda: self.room.runs() > before + 10, "runs go on")
        last = self.room.runs()
        self.room.stop()
        numbers = []
        for line in all_lines(main):
            self.assertRegex(line, f"^{TIME} [A-Z]{{4}} .")
            if found := re.search(r"\[mine send (\d+) out\] word$", line):
                numbers.append(int(found[1]))
        self.assertEqual(numbers, sorted(set(numbers)), "once, in order")
        missing = last - len([n for n in numbers if n <= last])
        print(f"\n  {len(self.OF_LOGGER)} kills of the logger, {last} lines, {missing} were in its hands")
        self.assertLess(missing, last // 4)


class Logrotate(Story):
    def rotate(self, words):
        config = self.room.path / "logrotate.conf"
        config.write_text(words)
        os.chmod(config, 0o644)
        subprocess.run(
            ["logrotate", "-f", "-s", self.room.path / "logrotate.state", config], check=True)

    def test_logrotate_moves_files_and_usr1_opens_new_ones_as_the_right_users(self):
        logs, out = self.room.folder("log", LOG_USER), self.room.folder("out", TASK_USER)
        main, mine = logs / "master.log", out / "mine"
        self.room.write(
            chain("mine", [("send", "echo said")], output=f'Lines("{mine}")')
            + ", " + chain("other", [("talk", "echo word")], pause="20ms"),
            log=f'to: File("{main}"), level: Info, rotate: (max_size: None)',
        )
        self.room.start()
        for turn in range(3):
            until(lambda: all(one.exists() and one.stat().st_size > 300 for one in (main, mine)), "lines")
            self.rotate(
                f"{main} {mine} {{\n rotate 9\n nocreate\n missingok\n sharedscripts\n"
                f" postrotate\n  kill -USR1 {self.room.master.pid}\n endscript\n}}\n"
            )
            until(lambda: main.exists() and mine.exists(), "new files")
        self.assertEqual((main.stat().st_uid, mine.stat().st_uid), (LOG_USER, TASK_USER))
        self.room.stop()
        for path, words in ((main, r"\[other talk (\d+) out\] word"), (mine, r"mine send (\d+) out: said")):
            runs = [int(found[1]) for line in all_lines(path) if (found := re.search(words, line))]
            self.assertEqual(runs, list(range(1, len(runs) + 1)))
            self.assertEqual(len(list(path.parent.glob(f"{path.name}.*"))), 3)

    def test_logs_follows_over_copytruncate(self):
        mine = self.room.folder("out", TASK_USER) / "mine"
        self.room.write(chain("mine", [("send", "echo said; echo worse >&2")], output=f'Lines("{mine}")'))
        self.room.start()
        until(lambda: mine.exists() and mine.stat().st_size > 3000, "lines")
        follow = self.follow("mine", "err")
        seen = []
        for text in follow.stdout:
            found = re.search(" send (\\d+) err: worse$", text.rstrip("\n"))
            self.assertTrue(found, text)
            seen.append(int(found[1]))
            if len(seen) == 10:
                self.rotate(f"{mine} {{\n rotate 9\n copytruncate\n}}\n")
            if len(seen) == 30:
                break
        # logrotate itself loses what is written between its copy and its truncation.
        self.assertEqual(seen, sorted(set(seen)))
        self.assertLess(seen[-1] - seen[0], 29 + 8)


if __name__ == "__main__":
    unittest.main()
