"""What a chain's user tries with a shell of its own: run as that user, prints a JSON object with one
answer for each attempt ("done …" if it worked, else the error).

    attack.py reach PID        into the chain's process
    attack.py ground FOLDER    into the runner's folders
    attack.py terminal PID DEVICE   into a terminal
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
answers = {}


def attempt(name):
    def run(function):
        try:
            answers[name] = f"done {function()!r}"
        except OSError as cause:
            answers[name] = errno.errorcode[cause.errno]
    return run


def call(*arguments):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def reach(pid):
    for name in ("mem", "environ", "maps", "auxv", "fd/3", "fdinfo/0", "cwd/x", "root/etc/shadow", "stack", "syscall"):
        attempt(f"open {name}")(lambda: os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
    attempt("list fd")(lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt("readlink exe")(lambda: os.readlink(f"/proc/{pid}/exe"))
    for number in range(3, 32):
        attempt(f"write fd {number}")(lambda: os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY))
    attempt("write oom_score_adj")(lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
    attempt("attach")(lambda: call(101, 16, pid, 0, 0))
    attempt("seize")(lambda: call(101, 0x4206, pid, 0, 0))
    held = os.pidfd_open(pid)
    for number in range(0, 32):
        attempt(f"pidfd_getfd {number}")(lambda: call(438, held, number, 0))
    buffer = ctypes.create_string_buffer(64)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 64)
    attempt("process_vm_readv")(lambda: call(310, pid, vector, 1, vector, 1, 0))
    attempt("kcmp")(lambda: call(312, pid, os.getpid(), 0, 0, 0))


def ground(folder):
    run, lock, state, spool = (f"{folder}/{name}" for name in ("run", "run/lock", "state", "spool"))
    for where in (run, lock, state, spool):
        attempt(f"make in {where}")(lambda: os.close(os.open(f"{where}/evil", os.O_CREAT | os.O_WRONLY)))
        attempt(f"link in {where}")(lambda: os.symlink("/etc/passwd", f"{where}/evil.link"))
    for where in (lock, state, spool):
        attempt(f"list {where}")(lambda: os.listdir(where))
    for name in ("master.lock", "mallory.lock"):
        attempt(f"lock {name}")(lambda: fcntl.lockf(open(f"{lock}/{name}"), fcntl.LOCK_SH))
    for name in ("mallory.pid", "victim.pid", "master.pid"):
        attempt(f"write {name}")(lambda: open(f"{run}/{name}", "w"))
        attempt(f"rename {name}")(lambda: os.rename(f"{run}/{name}", f"{run}/x"))
        attempt(f"remove {name}")(lambda: os.unlink(f"{run}/{name}"))
        attempt(f"own {name}")(lambda: os.chown(f"{run}/{name}", os.getuid(), -1))
    attempt("remove control.sock")(lambda: os.unlink(f"{run}/control.sock"))
    attempt("rename run")(lambda: os.rename(run, f"{folder}/elsewhere"))
    # What can be read can be locked, for as long as this process lives: nothing waits for it.
    for name in ("mallory.pid", "victim.pid"):
        file = open(f"{run}/{name}")
        fcntl.flock(file, fcntl.LOCK_EX)
        answers.setdefault("kept", []).append(file.fileno())
        globals().setdefault("keep", []).append(file)


def terminal(pid, device):
    def push(fd):
        for byte in b"touch /tmp/runner-it-pwned\n":
            fcntl.ioctl(fd, 0x5412, bytes([byte]))  # TIOCSTI
    for name in ("/dev/tty", device, *(f"/proc/{pid}/fd/{n}" for n in range(3)), *(f"/proc/{os.getppid()}/fd/{n}" for n in range(3))):
        attempt(f"open {name}")(lambda: push(os.open(name, os.O_RDWR | os.O_NOCTTY)))
    for fd in range(3):
        attempt(f"fd {fd}")(lambda: push(fd))
    attempt("take it")(lambda: fcntl.ioctl(os.open(device, os.O_RDONLY), 0x540e, 1))  # TIOCSCTTY


what, *arguments = sys.argv[1:]
if what == "reach":
    reach(int(arguments[0]))
elif what == "ground":
    ground(arguments[0])
else:
    terminal(int(arguments[0]), arguments[1])
print(json.dumps(answers), flush=True)
if what == "ground":
    sys.stdin.read()
