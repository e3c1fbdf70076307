"""Becomes a master in the dirtiest world that a launcher can leave:

    dirty.py TERMINAL NUMBER PROGRAM ARGUMENT…

NUMBER (1 or 2) chooses between two kinds of dirt, so that a takeover comes from another one.
"""

import ctypes
import fcntl
import os
import resource
import signal
import sys
import termios

SECRET = "s3cret-of-the-launcher"

libc = ctypes.CDLL(None, use_errno=True)
terminal, number, *command = sys.argv[1:]
other = number == "2"

# A controlling terminal; the session is ours already.
tty = os.open(terminal, os.O_RDWR)
fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
os.dup2(tty, 0)

# Descriptors that nobody closes, one of them onto something that only root reads.
shadow = os.open("/etc/shadow", os.O_RDONLY)
for fd in (7, 77) if other else (3, 5, 77, 500):
    os.dup2(shadow, fd)
os.dup2(os.open("/", os.O_RDONLY), 78)

for name in ("SIGPIPE", "SIGCHLD", "SIGXFSZ", "SIGUSR1", "SIGQUIT") if other else ("SIGPIPE", "SIGINT", "SIGHUP", "SIGRTMIN"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))

for name, soft in {
    "RLIMIT_NOFILE": 40, "RLIMIT_CORE": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "RLIMIT_FSIZE": 1 << 22, "RLIMIT_STACK": 1 << 20, "RLIMIT_MEMLOCK": 4096,
    "RLIMIT_NPROC": 900, "RLIMIT_MSGQUEUE": 4096, "RLIMIT_SIGPENDING": 7, "RLIMIT_CPU": 3600,
}.items():
    which = getattr(resource, name)
    resource.setrlimit(which, (soft + (1 if other else 0), resource.getrlimit(which)[1]))

with open("/proc/self/oom_score_adj", "w") as file:
    file.write("250")
cpus = os.sched_getaffinity(0)
os.sched_setaffinity(0, {max(cpus) if other else min(cpus)})
os.sched_setscheduler(0, os.SCHED_IDLE if other else os.SCHED_BATCH, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, 0, 3 if other else 11)
libc.syscall(251, 1, 0, 3 << 13 if other else (2 << 13 | 7))  # ioprio_set
libc.personality(0x0040000 | 0x0200000)  # ADDR_NO_RANDOMIZE, ADDR_COMPAT_LAYOUT
libc.prctl(28, 1 << 2 if other else 1 << 4)  # PR_SET_SECUREBITS: NO_SETUID_FIXUP or KEEP_CAPS
libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
libc.prctl(1, signal.SIGUSR2)  # PR_SET_PDEATHSIG
libc.prctl(29, 10_000_000)  # PR_SET_TIMERSLACK


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


header, sets = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capget(ctypes.byref(header), sets)
sets[2], sets[5] = sets[1], sets[4]  # inheritable: all that is permitted
assert libc.capset(ctypes.byref(header), sets) == 0
libc.prctl(47, 2, 10, 0, 0)  # PR_CAP_AMBIENT, RAISE, CAP_NET_BIND_SERVICE

# A session keyring of root's with a secret in it.
libc.syscall(250, 1, b"runner-it-root", 0, 0, 0)
libc.syscall(248, b"user", b"runner-it-secret", SECRET.encode(), len(SECRET), -3)

os.setgroups([4, 24, 27] if other else [0, 1, 2, 4242])
os.umask(0o777 if other else 0)
gone = "/tmp/runner-it-gone.%d" % os.getpid()
os.mkdir(gone)
os.chdir(gone)
os.rmdir(gone)
env = {
    "PATH": os.environ["PATH"], "HOME": "/root", "USER": "root", "SHELL": "/bin/false", "LANG": "xx_XX",
    "TERM": "xterm", "SMTP_PASSWORD": SECRET, "LD_LIBRARY_PATH": "/tmp/evil", "LD_BIND_NOW": "1",
    "GLIBC_TUNABLES": "glibc.malloc.check=0", "MALLOC_ARENA_MAX": "1", "BASH_ENV": "/tmp/evil", "ENV": "/tmp/evil",
    "IFS": "x", "PYTHONPATH": "/tmp/evil", "PERL5LIB": "/tmp/evil", "RUNNER_CHAIN": "forged", "TZ": "Mars/Base",
    "TMPDIR": "/tmp/evil", "SUDO_USER": "mallory",
}
os.execve(command[0], command, env)
