"""Nobody speaks for another in the log, and nobody makes us write where we should not."""

import array
import ctypes
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import unittest

from room import LOG_USER, TASK_USER, TIME, Story, chain, until

PROBE = r"""
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
said = {"fds": sorted(os.listdir("/proc/self/fd"))[:-1]}
parent = os.getppid()
try:
    said["parent"] = os.listdir(f"/proc/{parent}/fd")
except OSError as no:
    said["parent"] = no.errno
pidfd = libc.syscall(434, parent, 0)
said["taken"] = [fd for fd in range(64) if libc.syscall(438, pidfd, fd, 0) >= 0]
said["memory"] = "open"
try:
    open(f"/proc/{parent}/mem", "rb").close()
except OSError as no:
    said["memory"] = no.errno
print("PROBE " + json.dumps(said))
now = "2026-01-01T00:00:00.000Z"
for stream in (sys.stdout, sys.stderr):
    print(f"[victim send 1 out] forged", file=stream)
    print(f"{now} CRIT [send] forged", file=stream)
    print(f"\r{now} CRIT [send] forged\x1b[2K", file=stream)
    print(f"x\u2028{now} CRIT [send] forged", file=stream)
"""


def take_descriptor(pid, fd):
    """pidfd_getfd(2), for root."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        return libc.syscall(438, pidfd, fd, 0)
    finally:
        os.close(pidfd)


def lane_of(pid):
    """A copy of a chain's way into the main log: its roomiest socket."""
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:"):
            one = socket.socket(fileno=take_descriptor(pid, int(entry)))
            if one.type == socket.SOCK_SEQPACKET:
                found.append(one)
            else:
                one.close()
    found.sort(key=lambda one: one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
    lane = found.pop()
    for other in found:
        other.close()
    return lane


class Senders(Story):
    def test_a_task_cannot_speak_for_another_chain_nor_for_the_master(self):
        probe = self.room.path / "probe.py"
        probe.write_text(PROBE)
        self.room.write(
            chain("mallory", [("probe", f"exec /usr/bin/python3 {probe}")])
            + ", " + chain("victim", [("send", "echo mine")])
        )
        self.room.start()
        self.room.until_said("[mallory probe 2 err]", 30)
        said = json.loads(re.search(r"PROBE (\{.*\})", self.room.said())[1])
        # 3 is the listing itself.
        self.assertEqual(said["fds"], ["0", "1", "2"])
        self.assertEqual((said["parent"], said["taken"]), (13, []))
        self.assertEqual(said["memory"], 13)
        # Whoever gets hold of the lane by other means is no chain.
        lane = lane_of(self.room.child("chain mallory"))
        line = {"at": 1, "task": "send", "run": 1, "stream": "out", "line": "forged by a stranger"}
        packets = [
            line,
            {**line, "chain": "victim"},
            {**line, "task": "x] forged by a stranger"},
            {"at": 1, "level": 1, "msg": "forged by a stranger", "kv": []},
            {"pid": os.getpid(), "chain": "victim"},
            line,
        ]
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(TASK_USER, TASK_USER, TASK_USER)
                os.setresuid(TASK_USER, TASK_USER, TASK_USER)
                for packet in packets:
                    lane.send(json.dumps(packet).encode())
                # Descriptors that come along are closed unseen, with the line.
                lane.sendmsg(
                    [json.dumps(line).encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1, 2]))],
                )
                os._exit(0)
            except BaseException:
                os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        lane.close()

        def strangers():
            told = re.findall(r"WARN (\d+) lines? (?:was|were) dropped: no chain sent them", self.room.said())
            return sum(map(int, told))

        until(lambda: strangers() == 7, f"7 strangers told")
        os.kill(self.room.child("logger"), signal.SIGKILL)
        before = self.room.runs(0)
        self.room.until_said(f"[mallory probe {before + 2} err]", 30)
        self.room.ctl("reload", "--wait")
        self.room.until_said("generation 2")
        mark = len(self.room.said())
        until(lambda: "[victim send" in self.room.said()[mark:], "lines of the next generation")
        self.room.stop()
        log = self.room.said()
        self.assertNotIn("stranger", log)
        for line in log.splitlines():
            self.assertRegex(line, f"^{TIME} [A-Z]{{4}} ")
            if "forged" in line:
                self.assertRegex(line, f"^{TIME} INFO \\[mallory probe \\d+ (out|err)\\] ")
            if "victim" in line and "mallory" not in line:
                self.assertRegex(line, "^\\S+ (INFO \\[victim send \\d+ out\\] mine$|.*chain victim|.*chain: victim)")
        self.assertEqual(strangers(), 7)


class Files(Story):
    def replaced(self, make, output="Lines"):
        """A chain whose file its user replaces while it runs; what the master's user owns."""
        out = self.room.folder("out", TASK_USER)
        mine = out / "mine"
        treasure = self.room.path / "treasure"
        treasure.write_text("root's\n")
        os.chmod(treasure, 0o600)
        self.room.write(chain("mine", [("send", "echo said; echo worse >&2")], output=f'{output}("{mine}")'))
        self.room.start()
        until(lambda: mine.exists() and mine.stat().st_size, "the file")
        mine.unlink()
        make(mine, treasure)
        self.room.master.send_signal(signal.SIGUSR1)
        self.room.ctl("reload", "--wait", "--force")
        return mine, treasure

    def goes_on(self):
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 2, "runs go on")

    def test_a_link_to_a_file_of_roots_is_never_followed(self):
        for output in ("Lines", "Raw"):
            with self.subTest(output):
                mine, treasure = self.replaced(lambda mine, treasure: mine.symlink_to(treasure), output)
                failing = lambda: self.room.status()["chains"][0]["health"] == "failing"
                until(failing, "it is told", 30)
                self.assertEqual(treasure.read_text(), "root's\n")
                mine.unlink()
                self.room.ctl("restart", "mine")
                self.goes_on()
                self.assertEqual(treasure.read_text(), "root's\n")
                self.room.close()
                self.room.__init__()

    def test_a_fifo_or_a_folder_in_the_files_place_holds_nobody_up(self):
        for make in (lambda mine, _: os.mkfifo(mine), lambda mine, _: mine.mkdir()):
            mine, _ = self.replaced(make)
            failing = lambda: self.room.status()["chains"][0]["health"] == "failing"
            until(failing, "it is told", 30)
            self.assertLess(self.room.stop(), 8)
            self.room.close()
            self.room.__init__()

    def test_a_log_folder_that_others_own_is_told_and_delays_nothing(self):
        logs = self.room.folder("log", LOG_USER)
        main = logs / "master.log"
        self.room.write(chain("mail", [("send", "echo said")], output="Discard"), log=f'to: File("{main}")')
        self.room.start()
        until(main.exists, "the log")
        os.chown(logs, 0, 0)
        os.chmod(logs, 0o700)
        main.unlink()
        self.room.ctl("reload", "--wait", "--force")
        error = lambda: self.room.status()["master"]["log_error"]
        self.assertIn("Permission denied", until(error, "status shows it"))
        before = self.room.runs()
        until(lambda: self.room.runs() > before + 3, "runs go on")
        os.chmod(logs, 0o755)
        os.chown(logs, LOG_USER, LOG_USER)
        until(lambda: main.exists() and "cannot write the log" in main.read_text(), "what waited")
        until(lambda: error() is None, "status shows no trouble")
        self.assertEqual((main.stat().st_uid, main.stat().st_mode & 0o777), (LOG_USER, 0o640))


if __name__ == "__main__":
    unittest.main()
