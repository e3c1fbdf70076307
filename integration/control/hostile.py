"""What a hostile local user does to the master, from processes of its own."""

import array
import contextlib
import ctypes
import json
import multiprocessing
import os
import socket
import time

PIDFD_OPEN, PIDFD_GETFD = 434, 438
# Of include/linux/socket.h and socket(7); Python has no names for them.
SEQPACKET = socket.SOCK_SEQPACKET


def ask(path, request=b'{"verb":"status"}\n', patience=20.0):
    """The first line of the master's answer, and how long it took."""
    begin = time.monotonic()
    with socket.socket(socket.AF_UNIX) as client:
        # As runnerctl does, which waits for its turn in the queue.
        client.connect(str(path))
        client.settimeout(patience)
        with contextlib.suppress(OSError):
            client.sendall(request)
        answer = b""
        while not answer.endswith(b"\n"):
            with contextlib.suppress(ConnectionResetError):
                if part := client.recv(1 << 16):
                    answer += part
                    continue
            break
    return answer, time.monotonic() - begin


def slowest(path, seconds, limit=20.0):
    """The slowest answer to a normal client that asks again and again for so long."""
    end = time.monotonic() + seconds
    worst = 0.0
    while time.monotonic() < end:
        answer, took = ask(path, patience=limit)
        assert b'"status"' in answer, answer[:200]
        worst = max(worst, took)
        time.sleep(0.05)
    return worst


@contextlib.contextmanager
def attacker(what, *arguments, uid=0):
    """Runs `what(*arguments)` in a process of its own as `uid` until the block ends."""

    def life():
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        what(*arguments)

    process = multiprocessing.get_context("fork").Process(target=life, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def connected(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


def hoard(path, request, every):
    """Connections by the dozen, each of which sends a part of a request every so often and never
    reads; ended ones are replaced."""
    held = []
    while True:
        with contextlib.suppress(OSError):
            while len(held) < 60:
                held.append(connected(path))
                held[-1].setblocking(False)
                held[-1].sendall(request)
        if every:
            for client in list(held):
                try:
                    client.send(b" ")
                except BlockingIOError:
                    pass
                except OSError:
                    client.close()
                    held.remove(client)
        time.sleep(every or 0.2)


def storm(path, requests):
    """Connects, sends, goes away, at full speed."""
    turn = 0
    while True:
        turn += 1
        with contextlib.suppress(OSError), connected(path) as client:
            client.sendall(requests[turn % len(requests)])


def send_with_descriptors(client, request, descriptors):
    rights = array.array("i", descriptors)
    client.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def chain_end(pid):
    """A copy of the descriptor by which a chain's process reports to the master: what a chain
    that was taken over would have. Needs root, and works against dumpable off."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = libc.syscall(PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            copy = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            end = socket.socket(fileno=copy)
            if end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == SEQPACKET:
                found.append(end)
            else:
                end.close()
    finally:
        os.close(pidfd)
    # The other one is the lane to the logger, which has more room.
    found.sort(key=lambda end: end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
    for end in found[1:]:
        end.close()
    return found[0]


def ended(task, **fields):
    """A report of a failed run, with whatever its sender likes to say."""
    report = {"run": 1, "task": task, "outcome": {"Exit": 1}, "success": False, "started": 0,
              "ended": 1, "wall": 0, "millis": 1, "count": 1, "fingerprint": "f", "message": "m",
              "stderr": "e"}
    report.update(fields)
    return json.dumps({"Ended": report}).encode()


def flood(end, packets):
    """All packets again and again, at full speed, until the master closes its end."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            for packet in packets:
                with contextlib.suppress(BlockingIOError):
                    end.send(packet)


def lies(task):
    """Reports that no honest chain makes, of every kind."""
    far = 2**63 - 1
    return [
        b"\xff\x00garbage", b"{", b"[" * 30_000, b'"Nothing"', b'{"Ended":{}}', b"x" * 60_000,
        b" ", json.dumps({"Started": {"run": 2**64 - 1, "task": "x" * 5000, "at": -far}}).encode(),
        json.dumps({"Started": {"run": 1, "task": task, "at": far}}).encode(),
        json.dumps({"Cooling": {"next": "\x1b[2J" * 900, "until": far, "after_failure": True}}).encode(),
        json.dumps({"Leaving": {"next": "", "until": -far, "after_failure": False, "signal": -7}}).encode(),
        json.dumps({"Said": {"level": "error", "text": "\n[other] forged\x1b]0;x\x07" * 400}}).encode(),
        json.dumps({"Leftovers": {"task": "x" * 9000, "count": 2**32 - 1, "ended": False}}).encode(),
        ended(task, count=2**64 - 1, started=-far, ended=far, wall=2**64 - 1, millis=2**64 - 1,
              message="\r\nBcc: evil@example.org" * 90, fingerprint="f" * 20_000,
              stderr="\x1b[31m" * 3000),
        ended("t", outcome={"Signal": -2**31}), ended(task, outcome="Interrupted", success=True),
        ended("no such task"),
        json.dumps({"CannotStart": {"what": "\x1b[2J\n" * 9000}}).encode(), b'"Ready"',
    ]
