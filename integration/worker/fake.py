"""A worker that goes wrong in the way that its argument names, when it is asked to run `bad`.
It writes what happens to it into a ledger in its working folder."""

import os
import signal
import subprocess
import sys
import time

MODE = sys.argv[1]


def note(*words):
    with open(f"ledger.{MODE}", "a") as ledger:
        print(*words, os.getpid(), file=ledger)


def say(text, newline=b"\n"):
    data = text if isinstance(text, bytes) else text.encode()
    data += newline
    while data:
        data = data[os.write(4, data):]


def orphan():
    """A process that nobody waits for any more, and that ignores SIGTERM; it is there before this
    returns."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note("orphan")
            os.write(write, b".")
            time.sleep(1000)
        os._exit(0)
    os.wait()
    os.read(read, 1)


def bad(number):
    if MODE == "garbage":
        say("!! garbage")
    elif MODE == "bytes":
        say(b"DONE \xff\xfe")
    elif MODE == "long":
        say("A" * 70_000)
    elif MODE == "endless":
        while True:
            say("A" * 4096, b"")
    elif MODE == "other":
        say(f"DONE {int(number) + 1000}")
    elif MODE == "twice":
        say(f"DONE {number}\nDONE {number}")
    elif MODE == "early_bye":
        say("BYE")
        time.sleep(1000)
    elif MODE == "status":
        print("half way", file=sys.stderr, flush=True)
        os._exit(3)
    elif MODE == "zero":
        os._exit(0)
    elif MODE == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif MODE == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        orphan()
        subprocess.Popen(["sleep", "1000"])
        time.sleep(1000)
    elif MODE == "no_replies":
        os.close(4)
        time.sleep(1000)
    elif MODE == "no_run":
        say("UNSUPPORTED RUN")
    elif MODE == "chatter":
        for _ in range(200):
            say("SHINY thing")
        time.sleep(1000)
    elif MODE == "daemon":
        read, write = os.pipe()
        if os.fork():
            os.read(read, 1)  # Not before it has left, or it may never have been there.
            os._exit(0)
        os.setsid()
        note("daemon")
        os.write(write, b".")
        time.sleep(2)
        say(f"DONE {number}")
        time.sleep(1000)
    elif MODE == "raises":
        say(f'FAIL {number} {{"type": "Shell::Error", "message": "no such table: mails"}}')
    elif MODE == "half_json":
        say(f'FAIL {number} {{"type": ')
    # From here on the run ends well.
    elif MODE == "no_requests":
        say(f"DONE {number}")
        os.close(3)
        time.sleep(1000)
    elif MODE == "late_reply":
        say(f"DONE {number}")
        time.sleep(0.3)
        say(f"DONE {number}")
    elif MODE == "late_exit":
        say(f"DONE {number}")
        time.sleep(0.2)
        orphan()
        os._exit(4)
    elif MODE == "late_silence":
        say(f"DONE {number}")
        os.close(4)
    elif MODE == "deaf":
        say(f"DONE {number}")
        os.close(4)
        while True:
            print("still here", flush=True)
            time.sleep(0.2)
    elif MODE == "streams":
        if number == "1":
            os.close(1)
            os.close(2)
        say(f"DONE {number}")
    elif MODE == "forks":
        child = subprocess.Popen(["sleep", "1000"])
        note("child", child.pid)
        orphan()
        say(f"DONE {number}")
    elif MODE == "prints":
        print(f"DONE {number}\nFAIL {number} {{}}\nBYE", flush=True)
        time.sleep(0.3)
        say(f"DONE {number}")
    elif MODE == "shiny":
        say("SHINY thing\nPING")
        note(input_line())
        note(input_line())
        say(f"DONE {number}")
    else:
        say(f"DONE {number}")


def input_line():
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(3, 1)
        if not piece:
            note("eof")
            sys.exit(0)
        line += piece
    return line.decode().strip()


note("start")
if MODE == "slow":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("HELLO 1 slow")
    time.sleep(1000)
elif MODE == "rude":
    say("READY {}")
elif MODE == "newer":
    say("HELLO 2 newer")
elif MODE == "broken":
    raise RuntimeError("no settings here")
elif MODE == "bad_option":
    say('HELLO 1 fake\nREADY {"tasks": {"bad": {"fail_cooldown": -1}}}')
elif MODE == "tells_much":
    say("HELLO 1 fake")
    while True:
        say('TASKS {"errors": {"none": {"message": "%s"}}}' % ("x" * 60_000))
elif MODE == "stays":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("HELLO 1 fake\nREADY {}")
while True:
    word, _, rest = input_line().partition(" ")
    if word == "RUN":
        number, _, name = rest.partition(" ")
        note("begin", name)
        if name == "bad":
            bad(number)
        else:
            say(f"DONE {number}")
        note("end", name)
    elif word == "STOP":
        note("stop")
        if MODE != "stays":
            say("BYE")
            break
