"""What tasks and the master say: where it goes, and that nothing is in the way of it.

    cargo build && /usr/bin/python3 -m unittest discover integration/output

Needs root. RUNNER_BIN names another folder than target/debug.
"""

import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import unittest

from room import LOG_USER, MAIL_USER, TASK_USER, TIME, Story, busy, chain, fill, until

class TaskOutput(Story):
    def test_each_line_says_from_whom_and_when(self):
        out = self.room.folder("out", TASK_USER) / "mail.log"
        self.room.write(
            chain("mail", [("send", "echo said; echo bad >&2; printf 'no end'")], output=f'Lines("{out}")')
        )
        self.room.start()
        until(lambda: out.exists() and " mail send 2 " in out.read_text(), "a second run in the file")
        self.room.stop()
        lines = [line for line in out.read_text().splitlines() if " send 1 " in line]
        self.assertEqual(
            sorted(re.sub(f"^{TIME} ", "", line) for line in lines),
            ["mail send 1 err: bad", "mail send 1 out: no end", "mail send 1 out: said"],
        )
        self.assertEqual((out.stat().st_uid, out.stat().st_mode & 0o777), (TASK_USER, 0o640))
        self.assertNotIn("said", self.room.said().replace("got SIGTERM", ""))

    def test_what_could_harm_is_shown_as_an_escape_and_mails_are_one_message(self):
        corpus = self.room.path / "corpus"
        corpus.write_bytes(
            b"NUL \0 ESC \x1b[31m BEL \x07\r\n.\r\n..\r\nFrom x\r\nSubject: forged\r\n"
            b"bidi \xe2\x80\xae C1 \xc2\x9b bad \xff\xfe\n" + b"x" * (1 << 20) + b"\nlast words\n"
        )
        self.room.write(
            chain("hostile", [("say", f"cat {corpus} >&2; exit 1")], pause="2s"), rest=self.room.mail()
        )
        self.room.start()
        self.room.until_said("last words")
        letter = until(lambda: list(self.room.maildir.glob("**/new/*")), "a mail")[0].read_bytes()
        self.room.stop()
        log = self.room.said()
        for line in log.splitlines():
            self.assertRegex(line, f"^{TIME} [A-Z]{{4}} ")
        self.assertRegex(log, r"\[hostile say 1 err\] NUL \\x00 ESC \\x1b\[31m BEL \\x07\n")
        self.assertRegex(log, r"\[hostile say 1 err\] bidi \\u\{202e\} C1 \\u\{9b\} bad \\xff\\xfe\n")
        pieces = re.findall(r"\[hostile say 1 err\+?\] (x+)\n", log)
        self.assertEqual(sum(map(len, pieces)), 1 << 20)
        head, _, body = letter.partition(b"\n\n")
        self.assertNotIn(b"forged", head)
        self.assertEqual(head.count(b"\nSubject:") + head.startswith(b"Subject:"), 1)
        self.assertNotIn(0, letter)
        self.assertNotIn(0x1B, letter)
        self.assertLess(max(map(len, letter.split(b"\n"))), 999)
        status = self.room.path / "nothing"
        self.assertFalse(status.exists())

    def test_raw_is_the_bytes_themselves_and_discard_is_nothing(self):
        out = self.room.folder("out", TASK_USER) / "raw"
        self.room.write(
            chain("raw", [("say", r"printf '\000\377raw'; printf end >&2")], output=f'Raw("{out}")', pause='1h')
            + ", "
            + chain("quiet", [("say", "echo never seen")], output="Discard")
        )
        self.room.start()
        until(lambda: out.exists() and out.read_bytes() == b"\0\xffrawend", "the bytes")
        until(lambda: self.room.runs(1) + self.room.runs(0) > 3, "some runs")
        self.room.stop()
        self.assertNotIn("never seen", self.room.said())

    def test_a_background_child_that_keeps_stdout_holds_nothing_up(self):
        self.room.write(chain("back", [("leave", "sleep 100 & echo done")], leftovers="Keep"))
        self.room.start()
        self.room.until_said("[back leave 5 out] done", 10)

    def test_a_flood_costs_no_memory_and_the_next_run_comes(self):
        size = int(os.environ.get("FLOOD", 1 << 30 if os.environ.get("RUNNER_FULL") == "1" else 64 << 20))
        out = self.room.folder("out", TASK_USER) / "flood.log"
        self.room.write(
            chain(
                "flood",
                [("pour", f"head -c {size} /dev/zero | tr '\\0' x >&2; printf '\\nthe end' >&2; exit 3"), ("next", "true")],
                output=f'Lines("{out}")', rotate='(max_size: "16MiB", keep: 2)',
            )
        )
        self.room.start()
        pid = self.room.child("chain flood")
        until(lambda: self.room.runs() >= 2, "both runs", 300)
        peak = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
        seconds = self.room.status()["chains"][0]["tasks"][0]["last"]["seconds"]
        print(f"\n  {size >> 20} MiB in {seconds} s: the chain's process peaks at {peak[1]} KiB")
        self.assertLess(int(peak[1]), 24 << 10, "KiB")
        self.room.until_said("First exception caught: the end")

    def test_logs_follows_over_rotations_and_tells_streams_apart(self):
        out = self.room.folder("out", TASK_USER) / "mail.log"
        line = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $RUNNER_RUN.$i; echo odd >&2; done"
        self.room.write(
            chain("mail", [("send", line)], output=f'Lines("{out}")', rotate='(max_size: "4KiB", keep: 500)')
        )
        self.room.start()
        until(out.exists, "the file")
        follow = self.follow("mail", "out")
        seen = []
        for text in follow.stdout:
            self.assertIn(" out: line ", text)
            seen.append(tuple(map(int, text.split()[-1].split("."))))
            if len(seen) == 400:
                break
        first = seen[0]
        expected = [(first[0] + n // 40, n % 40 + 1) for n in range(first[1] - 1, first[1] - 1 + 400)]
        self.assertEqual(seen, expected)
        packed = until(lambda: list(out.parent.glob("mail.log.*.gz")), "a compressed file")
        with gzip.open(packed[0], "rt") as old:
            self.assertRegex(old.readline(), f"^{TIME} mail send ")
        apart = self.room.ctl("logs", "mail", "--stream", "err", "-n", "5")
        self.assertEqual({text.split(": ", 1)[1] for text in apart.splitlines()}, {"odd"})


class MainLog(Story):
    def test_a_file_is_reopened_at_usr1_by_the_logger_and_the_chain(self):
        logs = self.room.folder("log", LOG_USER)
        out = self.room.folder("out", TASK_USER)
        main, mine = logs / "master.log", out / "mail.log"
        self.room.write(
            chain("mail", [("send", "echo said")], output=f'Lines("{mine}")'),
            log=f'to: File("{main}"), level: Debug, format: Json',
        )
        self.room.start()
        for path in (main, mine):
            until(lambda: path.exists() and path.stat().st_size > 200, f"{path}")
            path.rename(f"{path}.old")
        self.room.master.send_signal(signal.SIGUSR1)
        for path in (main, mine):
            until(lambda: path.exists() and path.stat().st_size > 200, f"{path} again")
        self.assertEqual(main.stat().st_uid, LOG_USER)
        self.room.stop()
        for path in (pathlib.Path(f"{main}.old"), main):
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.assertEqual(list(record)[:3], ["ts", "level", "msg"])
        said = [line.split()[3] for path in (pathlib.Path(f"{mine}.old"), mine) for line in path.read_text().splitlines()]
        self.assertEqual(said, [str(n + 1) for n in range(len(said))])

    def test_a_killed_logger_is_replaced_and_loses_nothing_that_waits(self):
        self.room.write(chain("mail", [("send", "echo said")]))
        self.room.start()
        self.room.until_said("[mail send 3 out] said")
        old = self.room.child("logger")
        os.kill(old, signal.SIGSTOP)
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 3, "the chain goes on")
        os.kill(old, signal.SIGKILL)
        until(lambda: self.room.child("logger") != old, "another logger")
        self.room.until_said(f"[mail send {before + 3} out] said")
        self.room.stop()
        runs = re.findall(r"\[mail send (\d+) out\] said", self.room.said())
        self.assertEqual(runs, [str(n + 1) for n in range(len(runs))])


class Forms(Story):
    def test_the_words_at_debug_are_those_that_people_know(self):
        self.room.write(chain("mail", [("send", "echo broken >&2; exit 1")]), rest=self.room.mail())
        self.room.start()
        self.room.until_said("Sent email to admins: First exception caught: broken")
        until(lambda: self.room.letters(), "the mail")
        self.assertIsNone(self.room.status()["master"]["mail_error"])
        os.kill(self.room.child("chain mail"), signal.SIGKILL)
        self.room.until_said("Found pidfile")
        said = self.room.said()
        for words in ("[chain mail] Wrote pidfile", "[send] Execution failed", "[send] Sleeping 1 seconds",
                      "[send] Sent email to admins: First exception caught: broken",
                      "[chain mail] Found pidfile"):
            self.assertIn(f"DEBG {words}", said)

    def test_under_journald_each_line_has_its_priority(self):
        self.room.write(chain("mail", [("send", "echo said")]))
        with open(self.room.path / "stderr", "ab") as stderr:
            stat = os.fstat(stderr.fileno())
            self.room.start(stderr=stderr, JOURNAL_STREAM=f"{stat.st_dev}:{stat.st_ino}")
        self.room.until_said("[mail send 3 out] said")
        self.room.stop()
        levels = {}
        for line in self.room.said().splitlines():
            found = re.match(f"^<([0-7])>{TIME} ([A-Z]{{4}}) ", line)
            self.assertTrue(found, line)
            levels.setdefault(found[2], set()).add(found[1])
        self.assertEqual(levels["INFO"], {"6"})
        self.assertEqual(levels["DEBG"], {"7"})

    def test_json_lines_have_keys_that_stay(self):
        self.room.write(
            chain("mail", [("send", "printf 'a\\000b\\n'; exit 3")]),
            log="to: Stderr, level: Debug, format: Json",
        )
        self.room.start()
        self.room.until_said("Execution failed")
        self.room.stop()
        records = [json.loads(line) for line in self.room.said().splitlines()]
        for record in records:
            self.assertEqual(list(record)[:3], ["ts", "level", "msg"])
            self.assertRegex(record["ts"], f"^{TIME}$")
            self.assertIn(record["level"], ("critical", "error", "warning", "info", "debug", "trace"))
        line = next(one for one in records if one["msg"] == "a\\x00b")
        self.assertEqual(list(line), ["ts", "level", "msg", "chain", "task", "run", "stream"])
        self.assertEqual([line[key] for key in ("chain", "task", "run", "stream")], ["mail", "send", "1", "out"])
        failed = next(one for one in records if one["msg"].endswith("Execution failed"))
        self.assertEqual((failed["chain"], failed["task"], failed["level"]), ("mail", "send", "debug"))

    def test_the_level_changes_without_a_restart(self):
        body = chain("mail", [("send", "true")], upgrade_drain='"0s"')
        self.room.write(body, log="to: Stderr, level: Info")
        self.room.start()
        until(lambda: self.room.runs() > 2, "runs")
        self.assertNotIn("DEBG", self.room.said())
        pid = self.room.master.pid
        self.room.write(body, log="to: Stderr, level: Debug")
        self.room.ctl("reload", "--wait")
        self.room.until_said("DEBG [send] Execution succeeded")
        self.assertEqual(self.room.status()["master"]["pid"], pid)


class Many(Story):
    def test_ten_thousand_lines_a_second_of_twenty_chains_are_written_or_counted(self):
        logs = self.room.folder("log", LOG_USER)
        main = logs / "master.log"
        burst = "for k in 1 2 3; do seq 500; sleep 1; done"
        self.room.write(
            ", ".join(chain(f"c{n}", [("talk", burst)], pause="1h") for n in range(20)),
            log=f'to: File("{main}"), level: Info',
        )
        self.room.start()
        done = lambda: all(one["tasks"][0]["ok"] for one in self.room.status()["chains"])
        until(done, "all bursts")
        lost = sum(one["output_lost"] for one in self.room.status()["chains"])
        took = max(one["tasks"][0]["last"]["seconds"] for one in self.room.status()["chains"])
        self.assertLess(self.room.stop(), 8)
        seen = re.findall(r"\[(c\d+) talk 1 out\] (\d+)\n", main.read_text())
        print(f"\n  {len(seen)} lines in {took:.1f} s, {lost} lost and counted")
        self.assertEqual(len(seen) + lost, 20 * 1500)
        for n in range(20):
            mine = [int(number) for name, number in seen if name == f"c{n}"]
            if not lost:
                self.assertEqual(mine, 3 * list(range(1, 501)))


class Disk(Story):
    def test_a_full_disk_of_logs_stops_no_task_and_what_is_lost_is_counted(self):
        disk = self.room.tmpfs("disk", "size=64k")
        logs, out = disk / "log", disk / "out"
        for path, owner in ((logs, LOG_USER), (out, TASK_USER)):
            path.mkdir()
            os.chown(path, owner, owner)
        main, mine = logs / "master.log", out / "mail.log"
        self.room.write(
            chain("mine", [("send", "seq 50")], pause="10ms", output=f'Lines("{mine}")')
            + ", " + chain("main", [("talk", "seq 200")], pause="10ms")
            + "".join(", " + one for one in busy(6)),
            log=f'to: File("{main}"), level: Trace', rest=self.room.mail(),
        )
        self.room.start()
        until(lambda: os.statvfs(disk).f_bavail == 0, "a full disk")
        until(lambda: self.room.status()["master"]["log_dropped"] > 0, "the loss is counted", 60)
        before = [self.room.runs(0), self.room.runs(1)]
        until(lambda: self.room.runs(0) > before[0] + 5 and self.room.runs(1) > before[1] + 5, "tasks go on")
        error = lambda: self.room.status()["chains"][0]["output_error"]
        self.assertIn("No space left", until(error, "status shows it"))
        self.assertGreater(self.room.status()["chains"][0]["output_lost"], 50)
        self.assertIn("lines lost: cannot write output to", self.room.ctl("status"))
        # The emergency word on standard error.
        self.room.until_said("records wait for it")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        until(lambda: " records dropped" in main.read_text(), "the log tells the loss")
        until(lambda: " runner: " in mine.read_text(), "the chain's file tells the loss")
        until(lambda: "lines dropped" in main.read_text(), "the output lane tells the loss")
        until(lambda: error() is None, "status shows no trouble")
        self.assertIsNone(self.room.status()["master"]["log_error"])
        counted = lambda: (s := self.room.status()) and (s["master"]["log_dropped"], s["chains"][0]["output_lost"])
        lost = counted()
        self.room.ctl("reload", "--wait")
        for before, after in zip(lost, counted()):
            self.assertGreaterEqual(after, before, "an upgrade forgot what was lost")
        until(lambda: len(self.room.letters()) >= 4, "the mails")
        self.room.stop()
        subjects = sorted(re.search("Subject: (.*)", letter)[1] for letter in self.room.letters())
        self.assertEqual(
            [re.sub("(to|log) .*", r"\1", subject) for subject in subjects],
            ["[chain mine] Cannot write output to", "[chain mine] The output is written again",
             "[runner] Cannot write the log", "[runner] The log"],
        )
        lines = mine.read_text().splitlines()
        for line, after in zip(lines, lines[1:]):
            # What the disk cut in the middle is ended before the loss is told.
            if " runner: " not in after:
                self.assertRegex(line, f"^{TIME} mine send \\d+ (out|runner): .")
        torn = [line for line in main.read_text().splitlines() if not re.match(f"^{TIME} [A-Z]{{4}} ", line)]
        self.assertEqual(torn, [])

    def test_a_folder_that_goes_away_is_found_again(self):
        out = self.room.folder("out", TASK_USER)
        mine = out / "mail.log"
        self.room.write(chain("mail", [("send", "echo said")], output=f'Lines("{mine}")'))
        self.room.start()
        until(lambda: mine.exists() and mine.stat().st_size, "the file")
        mine.unlink()
        out.rmdir()
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 3, "the chain goes on")
        self.room.folder("out", TASK_USER)
        until(lambda: mine.exists() and "lines dropped" in mine.read_text(), "the file again")

    def test_without_inodes_a_rotation_waits_and_lines_are_kept(self):
        disk = self.room.tmpfs("disk", "size=16m,nr_inodes=8", TASK_USER)
        mine = disk / "mail.log"
        self.room.write(
            chain("mail", [("send", "seq 100")], pause="10ms", output=f'Lines("{mine}")',
                  rotate='(max_size: "8KiB", keep: 3, compress: false)')
        )
        self.room.start()
        until(mine.exists, "the file")
        left = []
        try:
            while True:
                left.append(disk / f"filler{len(left)}")
                left[-1].touch()
        except OSError:
            left.pop()
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 30, "the chain goes on")
        newest = max(disk.glob("mail.log*"), key=lambda path: path.stat().st_mtime_ns)
        last = int(newest.read_text().splitlines()[-1].split()[3])
        self.assertGreater(last, before)
        self.assertNotIn("lines dropped", newest.read_text())
        for path in left:
            path.unlink()
        until(lambda: mine.exists() and mine.stat().st_size < 9000, "rotation goes on")

    def test_a_full_spool_keeps_every_notice_until_there_is_room(self):
        # The spool, the mailbox and the state lie on one disk, so nothing can take the mail.
        disk = self.room.tmpfs("disk", "size=256k")
        box = disk / "box"
        box.mkdir()
        os.chown(box, MAIL_USER, MAIL_USER)
        state = disk / "state"
        mail = (
            f'mail: (from: "a@example.org", to: ["b@example.org"], user: {MAIL_USER}, '
            f'transport: Maildir("{box}")),'
        )
        gate = self.room.path / "gate"
        self.room.write(
            chain("bad", [("fail", f"test ! -e {gate} || {{ echo lost words >&2; exit 1; }}")])
            + ", " + chain("good", [("tick", "true")]),
            rest=mail, state_root=state,
        )
        self.room.start()
        until(lambda: self.room.runs(0) > 2, "runs")
        filler = fill(disk)
        gate.touch()
        master = lambda: self.room.status()["master"]
        error = until(lambda: master()["mail_error"], "status shows the trouble")
        self.assertRegex(error, "(?i)no space|no room|full")
        self.assertEqual(master()["mail_waiting"], 1)
        # It survives an upgrade, and the chains go on.
        self.room.ctl("reload", "--wait", "--force")
        before = self.room.runs(1)
        until(lambda: self.room.runs(1) > before + 5, "runs go on")
        self.assertEqual(list(box.glob("**/new/*")), [])
        gate.unlink()
        filler.unlink()
        told = lambda: [one.read_text() for one in box.glob("**/new/*")]
        until(lambda: any("lost words" in letter for letter in told()), "the notice")
        until(lambda: master()["mail_waiting"] == 0 and master()["mail_error"] is None, "all is well")
        # One of each generation, and each once.
        firsts = [letter for letter in told() if "X-Runner-Notice: FIRST" in letter]
        self.assertEqual(len(firsts), 2)
        self.assertEqual(len({re.search("(?i)message-id: (.*)", letter)[1] for letter in firsts}), 2)

    def test_a_run_root_that_is_full_stops_nothing(self):
        disk = self.room.tmpfs("run", "size=256k")
        self.room.write(chain("mail", [("send", "echo said")]), run_root=disk)
        self.room.start()
        self.room.until_said("[mail send 2 out] said")
        fill(disk)
        self.goes_on()

    def test_a_run_root_that_becomes_read_only_stops_nothing(self):
        # The kernel refuses remount,ro while the lock is open for writing: an error of the file
        # system is what makes it read-only in life.
        image = self.room.path / "image"
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        disk = self.room.folder("run")
        done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, disk])
        if done.returncode:
            self.skipTest("no loop device here")
        self.room.mounts.append(disk)
        os.chmod(disk, 0o755)
        device = os.stat(disk).st_dev
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        self.room.write(chain("mail", [("send", "echo said")]), run_root=disk)
        self.room.start()
        self.room.until_said("[mail send 2 out] said")
        pathlib.Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("as asked by a test")

        def read_only():
            try:
                (disk / "probe").write_text("")
            except OSError:
                return True
            return False

        until(read_only, "a read-only file system")
        self.goes_on()

    def goes_on(self):
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 5, "the chain goes on")
        os.kill(self.room.child("logger"), signal.SIGKILL)
        self.room.until_said(f"[mail send {before + 6} out] said")
        os.kill(self.room.child("chain mail"), signal.SIGKILL)
        self.room.until_said("Sleeping")
        status = self.room.status()["chains"][0]
        print(f"\n  after kill -9 of the chain: {status['state']} {status['reason']}")
        self.assertLess(self.room.stop(), 5)


if __name__ == "__main__":
    unittest.main()
