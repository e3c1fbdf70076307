"""A log that takes nothing: no chain, no HUP, no notice and no TERM waits for it. Each way in which
that happens is measured, and printed as a table.
"""

import os
import pty
import shutil
import signal
import subprocess
import termios
import threading
import time
import unittest

from room import LOG_USER, Story, busy, chain, fill, until

PAUSE = 0.005


class Blocked(Story):
    def begin(self, log="to: Stderr, level: Trace", stderr=None, more=0):
        self.word = self.room.path / "word"
        self.word.write_text("first")
        os.chmod(self.word, 0o644)
        self.room.write(
            chain("fast", [("tick", "true")], pause="5ms", output="Discard")
            + ", " + chain("chatty", [("talk", "seq 2000")], pause="5ms")
            + ", " + chain("bad", [("fail", f"cat {self.word} >&2; exit 1")], output="Discard",
                           fail="1h")
            + "".join(", " + one for one in busy(more)),
            log=log, rest=self.room.mail(),
        )
        self.room.start(stderr=stderr)

    def mails(self, text):
        return [letter for letter in self.room.letters() if text in letter]

    def fast_runs(self):
        chains = self.room.status()["chains"]
        return sum(task["ok"] for one in chains if one["name"] == "fast" for task in one["tasks"])

    def pace(self, seconds=0.8):
        begun, first = time.monotonic(), self.fast_runs()
        while time.monotonic() < begun + seconds:
            time.sleep(PAUSE)
        return (self.fast_runs() - first) / (time.monotonic() - begun)

    def blocked(self, what, shown):
        """With a log that is blocked from now on: everything goes on as before."""
        free = self.free
        told = lambda: shown in (self.room.status()["master"]["log_error"] or "")
        until(told, f"status shows {shown!r}, not {self.room.status()['master']['log_error']!r}")
        pace = self.pace()
        self.word.write_text(f"altogether {what.translate(str.maketrans('', '', '^ '))}")
        begun = time.monotonic()
        self.room.ctl("run", "bad")
        until(lambda: self.mails("altogether"), "the notice")
        notice = time.monotonic() - begun
        begun = time.monotonic()
        # A folder that is gone refuses an upgrade unless it is forced.
        self.room.ctl("reload", "--wait", "--force")
        upgrade = time.monotonic() - begun
        self.assertEqual(self.room.status()["master"]["generation"], 2)
        begun = time.monotonic()
        self.room.ctl("status")
        status = time.monotonic() - begun
        return lambda end: print(
            f"\n  {what:24} runs/s {free:5.1f} -> {pace:5.1f}  notice {notice:.2f} s  HUP {upgrade:.2f} s"
            f"  status {status:.3f} s  TERM {end:.2f} s",
        ) or self.check(free, pace, notice, upgrade, end)

    def check(self, free, pace, notice, upgrade, end):
        self.assertGreater(pace, free * 0.3)
        self.assertLess(max(notice, upgrade, end), 8)

    def test_a_pipe_that_nobody_reads(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.set_blocking(reader, False)
        reading = threading.Event()
        reading.set()
        seen = bytearray()

        def drain():
            try:
                while piece := os.read(reader, 1 << 20):
                    seen.extend(piece)
            except BlockingIOError:
                pass

        def read_on():
            while reading.is_set():
                drain()
                time.sleep(PAUSE)

        thread = threading.Thread(target=read_on)
        thread.start()
        self.begin(stderr=writer, more=6)
        os.close(writer)
        self.free = self.pace()
        reading.clear()
        thread.join()
        report = self.blocked("a pipe nobody reads", "nobody reads")
        until(lambda: self.room.status()["master"]["log_dropped"] > 0, "records are dropped")
        until(lambda: any(one["output_lost"] for one in self.room.status()["chains"]), "and lines")

        def told():
            drain()
            return b"records dropped" in seen and b"lines dropped" in seen

        until(told, "what was dropped is told once somebody reads")
        # And again full: the end is not delayed by more than a moment.
        until(lambda: self.room.status()["master"]["log_error"], "blocked again")
        report(self.room.stop())

    def test_a_terminal_after_control_s(self):
        terminal, slave = pty.openpty()
        self.addCleanup(os.close, terminal)
        attributes = termios.tcgetattr(slave)
        attributes[0] |= termios.IXON
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        reading = threading.Event()
        reading.set()
        os.set_blocking(terminal, False)
        seen = bytearray()

        def read_on():
            while reading.is_set():
                try:
                    seen.extend(os.read(terminal, 1 << 16))
                except BlockingIOError:
                    time.sleep(PAUSE)
                except OSError:
                    return

        thread = threading.Thread(target=read_on)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(reading.clear)
        self.begin(stderr=slave)
        os.close(slave)
        self.free = self.pace()
        os.write(terminal, b"\x13")
        report = self.blocked("a terminal after ^S", "nobody reads")
        before = len(seen)
        os.write(terminal, b"\x11")
        until(lambda: b"lines dropped" in seen[before:], "the terminal goes on after ^Q")
        until(lambda: self.room.status()["master"]["log_error"] is None, "all is well")
        os.write(terminal, b"\x13")
        until(lambda: self.room.status()["master"]["log_error"], "blocked again")
        report(self.room.stop())

    def in_a_file(self, folder):
        main = folder / "master.log"
        self.begin(log=f'to: File("{main}"), level: Trace')
        until(main.exists, "the log")
        self.free = self.pace()
        return main

    def test_a_full_disk(self):
        disk = self.room.tmpfs("disk", "size=64m", LOG_USER)
        main = self.in_a_file(disk)
        filler = fill(disk)
        report = self.blocked("a full disk", "No space left")
        self.room.until_said("records wait for it")
        filler.unlink()
        until(lambda: self.room.status()["master"]["log_error"] is None, "all is well")
        until(lambda: self.mails("is written again"), "the mail that it is over")
        self.assertEqual(len(self.mails("Subject: [runner] Cannot write the log to ")), 1)
        self.assertIn("cannot write the log", main.read_text())
        report(self.room.stop())

    def test_errors_of_the_disk(self):
        main = self.in_a_file(self.room.folder("log", LOG_USER))
        logger = self.room.child("logger")
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e",
             "inject=write:error=EIO", "-P", main, "-p", str(logger)],
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(tracer.wait)
        self.addCleanup(tracer.kill)
        told = lambda: "Input/output error" in (self.room.status()["master"]["log_error"] or "")
        until(told, "status shows it")
        pace = self.pace()
        self.room.until_said("Input/output error; records wait for it")
        tracer.terminate()
        tracer.wait()
        until(lambda: self.room.status()["master"]["log_error"] is None, "all is well")
        self.assertEqual(len(until(lambda: self.mails("[runner] Cannot write the log"), "a mail")), 1)
        end = self.room.stop()
        print(f"\n  {'EIO':24} runs/s {self.free:5.1f} -> {pace:5.1f}  TERM {end:.2f} s")
        self.assertGreater(pace, self.free * 0.3)

    def test_a_deleted_folder(self):
        folder = self.room.folder("log", LOG_USER)
        main = self.in_a_file(folder)
        shutil.rmtree(folder)
        report = self.blocked("a deleted folder", "No such file")
        self.room.folder("log", LOG_USER)
        until(lambda: main.exists() and "dropped" in main.read_text(), "it is found again")
        report(self.room.stop())

    def test_a_logger_that_is_killed_again_and_again(self):
        self.in_a_file(self.room.folder("log", LOG_USER))
        killing = threading.Event()
        killing.set()

        def kill_on():
            while killing.is_set():
                pid = self.room.children().get("runner: logger")
                if pid:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
                time.sleep(PAUSE)

        thread = threading.Thread(target=kill_on)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(killing.clear)
        report = self.blocked("a killed logger", "the logger ended")
        killing.clear()
        until(lambda: self.room.status()["master"]["log_error"] is None, "a logger that lives")
        report(self.room.stop())


if __name__ == "__main__":
    unittest.main()
