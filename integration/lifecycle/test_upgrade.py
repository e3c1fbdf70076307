"""HUP with everything that can be wrong on disk, the rules for positions, and what systemd is told. A
program that hangs costs 30 s of the clock. Bound: 3 minutes.
"""

import os
import pathlib
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import harness
from lib.harness import alive, wait_for
from test_lifecycle import Lifecycle as Base

SEED = int(os.environ.get("RUNNER_SEED", "1"))


class Upgrades(Base):
    def last(self):
        status = self.status()
        return (status or {"master": {}})["master"].get("last_upgrade") or {}

    def generation(self):
        return (self.status() or {"master": {"generation": 0}})["master"]["generation"]

    def hup(self, master, outcome, word="", limit=45):
        """A HUP, up to its decision; what was refused changes nothing. Returns the cause."""
        def decisions():
            return self.log().count(" upgrade refused: ") + self.log().count(" upgraded: ")
        before, generation = decisions(), self.generation()
        master.send_signal(signal.SIGHUP)
        wait_for(f"{outcome} {word}", lambda: decisions() > before, limit)
        last = wait_for("status", self.last, 20)
        self.assertEqual(last["outcome"], outcome, last)
        self.assertIsNone(master.poll())
        if outcome == "refused":
            self.assertIn(word, last["cause"])
            self.assertEqual(self.generation(), generation)
        else:
            wait_for("a new generation", lambda: self.generation() > generation, 20)
        return last.get("cause")

    def listener(self):
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        path = str(self.path("notify"))
        server.bind(path)
        server.settimeout(0.05)
        return server, path

    def heard(self, server, into):
        try:
            while True:
                into.append(server.recv(4096).decode())
        except OSError:
            return into

    def own_binary(self, extra=""):
        binary = self.path("bin/runner-master")
        binary.parent.mkdir()
        shutil.copy2(harness.MASTER, binary)
        was, harness.MASTER = harness.MASTER, str(binary)
        self.addCleanup(setattr, harness, "MASTER", was)
        return binary, was

    def put(self, binary, content, mode=0o755):
        fresh = binary.with_name("fresh")
        if isinstance(content, bytes):
            fresh.write_bytes(content)
        else:
            shutil.copy2(content, fresh)
        fresh.chmod(mode)
        fresh.rename(binary)

    def held_program(self, real):
        """A program that is the real one, but for a check that ends only when the file `hold` is gone: by
        then it has read everything. Counts its checks in `checked`."""
        self.path("held.c").write_text("""
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int i, status, check = 0;
    for (i = 1; i < argc; i++) check |= !strcmp(argv[i], "--internal-check");
    if (!check) { execv(REAL, argv); return 71; }
    if (fork() == 0) { execv(REAL, argv); _exit(71); }
    wait(&status);
    FILE *checked = fopen(HERE "/checked", "a");
    fputs("x", checked);
    fclose(checked);
    while (access(HERE "/hold", F_OK) == 0) usleep(10000);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 72;
}""")
        program = self.path("bin/held")
        subprocess.run(["cc", f'-DREAL="{real}"', f'-DHERE="{self.dir}"', "-o", program,
                        self.path("held.c")], check=True)
        return program

    def checked(self):
        return len(self.path("checked").read_text()) if self.path("checked").exists() else 0


class Files(Upgrades):
    def test_whatever_is_wrong_with_the_file_changes_nothing(self):
        config = self.write_config(self.one())
        master = self.start(config)
        self.goes_on()
        pid, good = self.chain("a")["pid"], config.read_text()
        for bad, word in ((good.replace("run_root", "run_rot"), "run_rot"), (good[:len(good) // 2], ""),
                          ("", ""), (good.replace('"a"', "7"), ""), ("\0\xff" * 50, ""),
                          (good.replace('user: Current, cwd', 'usr: Current, cwd'), "usr")):
            config.write_text(bad)
            self.hup(master, "refused", word)
        config.unlink()
        self.hup(master, "refused", "runner.ron")
        os.mkfifo(config)
        self.hup(master, "refused", "no regular file")
        config.unlink()
        config.mkdir()
        self.hup(master, "refused", "folder")
        config.rmdir()
        config.symlink_to(config)
        self.hup(master, "refused", "links")
        config.unlink()
        config.write_text(good)
        config.chmod(0o666)
        self.hup(master, "refused", "write")
        config.chmod(0o644)
        os.chown(config, 65534, 65534)
        self.hup(master, "refused", "")
        os.chown(config, 0, 0)
        self.assertEqual(self.chain("a")["pid"], pid)
        self.hup(master, "accepted")
        self.goes_on()
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_user_that_is_gone_refuses_an_upgrade_and_costs_one_chain_at_a_start(self):
        name = f"rit-gone-{os.getpid()}"
        user = harness.add_user(name)
        self.addCleanup(harness.remove_user, name)
        for file in ("ledger.b", "flock.b"):
            self.path(file).write_text("")
            os.chown(self.path(file), user.pw_uid, -1)
        config = self.write_config(self.one("a") + self.one("b").replace("user: Current", f'user: "{name}"'))
        master = self.start(config)
        self.goes_on("b")
        # Its processes are still there: userdel wants to be forced.
        subprocess.run(["userdel", "-f", name], check=True, capture_output=True)
        self.hup(master, "refused", name)
        self.goes_on("a")
        self.goes_on("b")
        self.stop(master)
        master = self.start(config)
        self.goes_on("a")
        have = self.starts("b")
        wait_for("b fails", lambda: self.chain("b")["health"] == "failing" and name in self.log(), 20)
        self.assertEqual(self.starts("b"), have)
        self.assertEqual(self.chain("a")["health"], "ok")
        self.stop(master)
        self.never_two("a", "b")


class Programs(Upgrades):
    def test_no_x_bit_another_machine_a_folder(self):
        binary, good = self.own_binary()
        master = self.start(self.write_config(self.one()))
        self.goes_on()
        self.put(binary, good, 0o644)
        self.hup(master, "refused", "ermission")
        other = bytearray(pathlib.Path("/bin/true").read_bytes())
        other[18:20] = b"\xf7\x00"  # e_machine: BPF
        self.put(binary, bytes(other))
        self.hup(master, "refused", "format")
        binary.unlink()
        binary.mkdir()
        self.hup(master, "refused", "")
        binary.rmdir()
        self.goes_on()
        self.put(binary, good)
        self.hup(master, "accepted")
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def test_a_program_that_hangs_is_given_up_and_a_stop_does_not_wait_for_it(self):
        binary, good = self.own_binary()
        master = self.start(self.write_config(self.one()))
        self.goes_on()
        # Deaf to TERM, too.
        self.path("hang.c").write_text("#include <signal.h>\n#include <unistd.h>\n"
                                       "int main(void) { signal(SIGTERM, SIG_IGN); for (;;) pause(); }\n")
        subprocess.run(["cc", "-o", self.path("hang"), self.path("hang.c")], check=True)
        self.put(binary, self.path("hang"))
        begun = time.monotonic()
        self.hup(master, "refused", "more than 30 s", 60)
        self.assertLess(time.monotonic() - begun, 45)
        self.goes_on()
        master.send_signal(signal.SIGHUP)
        wait_for("the check runs", lambda: any(
            b"--internal-check" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in harness.children_of(master.pid) if alive(pid)), 10)
        begun = time.monotonic()
        self.assertEqual(self.stop(master), 0)
        self.assertLess(time.monotonic() - begun, 15)
        self.never_two()

    def test_a_program_on_a_file_system_that_hangs_holds_up_nothing_but_its_check(self):
        binary, good = self.own_binary()
        master = self.start(self.write_config(self.one(seconds=0.1)))
        self.goes_on()
        server = self.hang(binary.parent)
        begun = time.monotonic()
        master.send_signal(signal.SIGHUP)
        wait_for("the check", lambda: "got SIGHUP" in self.log(), 10)
        slowest = 0
        while (time.monotonic() - begun) < 3:
            asked = time.monotonic()
            self.assertIsNotNone(self.status(), "the master hangs with the file system")
            slowest = max(slowest, time.monotonic() - asked)
        self.assertLess(slowest, 2)
        wait_for("it is given up", lambda: "upgrade refused: the check took more than 30 s" in self.log(), 60)
        self.goes_on()
        os.close(server)
        subprocess.run(["umount", "-l", binary.parent], check=True)
        self.hup(master, "accepted")
        self.assertEqual(self.stop(master), 0)
        self.never_two()

    def hang(self, folder):
        """Mounts a file system over a folder whose server never answers (fuse(4)); returns its descriptor."""
        import ctypes
        server = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        words = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"hangs", str(folder).encode(), b"fuse", 0, words) != 0:
            self.skipTest(f"no FUSE here: {os.strerror(ctypes.get_errno())}")

        def away():
            try:
                os.close(server)
            except OSError:
                pass
            subprocess.run(["umount", "-l", folder], capture_output=True)
        self.addCleanup(away)
        return server

    def held(self):
        """A master whose next check takes until `hold` is gone, in that check."""
        binary, real = self.own_binary()
        config = self.write_config(self.one())
        master = self.start(config)
        self.put(binary, self.held_program(real))
        self.path("hold").touch()
        self.goes_on()
        master.send_signal(signal.SIGHUP)
        wait_for("the check has read everything", self.checked, 30)
        return master, config

    def test_a_takeover_in_a_check(self):
        first, config = self.held()
        second = self.start(config)
        self.assertEqual(first.wait(20), 0)
        self.path("hold").unlink()
        self.goes_on(runs=2)
        self.assertEqual(len(self.holders()), 1)
        self.assertEqual(self.stop(second), 0)
        self.never_two()

    def test_a_stop_in_a_check(self):
        master, _ = self.held()
        self.assertEqual(self.stop(master), 0)
        self.path("hold").unlink()
        self.never_two()

    def test_hup_after_hup_while_a_long_run_drains(self):
        master = self.start(self.write_config(self.one(seconds=3) + self.one("b", 0.1)))
        wait_for("it runs", self.starts)
        for _ in range(4):
            self.hup(master, "accepted")
        self.assertEqual(self.starts(), 1)
        wait_for("its replacement", lambda: self.starts() == 2, 20)
        self.assertEqual(self.ledger()[1].split()[0], "end")
        wait_for("the newest generation", lambda: self.chain("a")["generation"] == self.generation(), 10)
        self.assertEqual(self.stop(master), 0)
        self.never_two("a", "b")


    def test_a_waiting_reload_hears_of_its_own_upgrade_and_not_of_the_one_before_it(self):
        binary, good = self.own_binary()
        config = self.write_config(self.one(seconds=0.1))
        master = self.start(config)
        self.goes_on()
        self.put(binary, self.held_program(good))

        def behind_another(*words):
            """A reload that comes while another's check has read the files already."""
            begun = self.checked()
            self.path("hold").write_text("")
            master.send_signal(signal.SIGHUP)
            wait_for("the first has read the files", lambda: self.checked() > begun, 20)
            yield
            waiting = subprocess.Popen([harness.CTL, "--run-root", self.path("run"), "reload", *words],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.addCleanup(waiting.kill)
            # It is with the master when it is queued there: no answer, and a connection more.
            time.sleep(0.5)
            self.assertIsNone(waiting.poll())
            self.path("hold").unlink()
            said = waiting.communicate(timeout=60)[0]
            yield waiting.returncode, said
        text = config.read_text()
        turn = behind_another("--wait")
        next(turn)
        config.write_text(text.replace('"a"', '"a b"', 1))
        code, said = next(turn)
        self.assertEqual(code, 1, said)
        self.assertIn("refused", said)
        turn = behind_another("--wait=drained")
        config.write_text(text)
        next(turn)
        self.write_config(self.one(seconds=0.1) + self.one("b", seconds=0.1))
        code, said = next(turn)
        self.assertEqual(code, 0, said)
        status = self.status()
        self.assertEqual({chain["name"]: chain["generation"] for chain in status["chains"]},
                         dict.fromkeys("ab", status["master"]["generation"]))
        self.assertEqual(self.stop(master), 0)
        self.never_two("a")


class Broken(Upgrades):
    """An image that finds nothing of what the one before left for it begins like a first start, in the
    same process, and leaves no second copy of anything."""

    def breaking(self, real, how):
        """The real program, but before it takes over, `how` happens to what it is given."""
        self.path("breaking.c").write_text("""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char text[1 << 20];
int main(int argc, char **argv) {
    int i, plan, handover;
    for (i = 1; i < argc; i++)
        if (sscanf(argv[i], "%d,%d", &plan, &handover) == 2 && !strcmp(argv[i - 1], "--internal-resume")) {
            pread(handover, text, sizeof text - 1, 0);
            HOW
        }
    execv(REAL, argv);
    return 71;
}""")
        program = self.path("bin/breaking")
        subprocess.run(["cc", "-w", f'-DREAL="{real}"', f"-DHOW={how}", "-o", program, self.path("breaking.c")],
                       check=True)
        return program

    def test_what_cannot_be_taken_over_is_begun_anew_in_the_same_process(self):
        binary, good = self.own_binary()
        config = self.write_config(self.one(seconds=0.5) + self.one("b", 600), self.mail_to_maildir())
        number = 'strstr(text, "\\"%s\\":") + sizeof "\\"%s\\":" - 1'
        for how, word in (("close(handover);", "cannot go on"),
                          ("close(plan);", "cannot go on"),
                          (f"close(atoi({number % ('lock', 'lock')}));", "cannot go on"),
                          (f"close(atoi({number % ('lanes', 'lanes')} + 1));", "cannot go on")):
            self.put(binary, good)
            master = self.start(config)
            self.goes_on()
            wait_for("b runs", lambda: self.chain("b")["state"] == "running", 20)
            chains = {name: self.chain(name)["pid"] for name in "ab"}
            have, before = self.starts("b"), self.log().count("in part: ")
            self.put(binary, self.breaking(good, how))
            master.send_signal(signal.SIGHUP)
            try:
                wait_for("it is told", lambda: self.log().count("in part: ") > before, 60)
            except AssertionError as failure:
                raise AssertionError(f"{how}: {failure}\n{self.stderr()[-1000:]}\n{self.log()[-1500:]}")
            self.assertIsNone(master.poll())
            wait_for("the old ones are gone", lambda: not any(alive(pid) for pid in chains.values()), 40)
            wait_for("the run that was ended begins again", lambda: self.starts("b") > have, 40)
            self.goes_on()
            wait_for("status", self.last, 20)
            self.assertIn(word, self.last()["cause"])
            self.put(binary, good)
            self.hup(master, "accepted")
            self.assertEqual(self.stop(master), 0)
        self.assertTrue(any("Upgrade refused" in subject for subject in self.subjects()), self.subjects())
        self.never_two("a", "b")


class Storm(Upgrades):
    def test_upgrades_of_a_file_that_changes_all_the_time_while_everything_of_it_is_killed(self):
        """Chains come and go, the file is torn or not there, and every child is killed, stopped, told to
        leave; then the file is good, and everything is as it says."""
        chance = random.Random(SEED)
        config = self.write_config(self.one("a", 0.05))
        master = self.start(config)
        self.goes_on()
        end = time.monotonic() + (120 if harness.FULL else 8)
        while time.monotonic() < end:
            names = chance.sample("abcd", chance.randint(1, 4))
            self.write_config("".join(self.one(name, 0.05) for name in names))
            what = chance.random()
            if what < 0.2:
                config.write_text(config.read_text()[:chance.randint(0, 300)])
            elif what < 0.3:
                config.unlink()
            os.kill(master.pid, signal.SIGHUP)
            for pid in harness.children_of(master.pid):
                if chance.random() < 0.2:
                    try:
                        os.kill(pid, chance.choice((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP,
                                                    signal.SIGQUIT)))
                    except ProcessLookupError:
                        pass
            time.sleep(chance.uniform(0, 0.1))
        self.write_config("".join(self.one(name, 0.05) for name in "abcd"))
        os.kill(master.pid, signal.SIGHUP)
        for name in "abcd":
            self.goes_on(name, limit=90)
        self.assertIsNone(master.poll())
        self.assertEqual(self.stop(master), 0)
        self.never_two(*"abcd")


class Image(Upgrades):
    """What the new image cannot have although its check had it: the chains are kept, all the same."""

    def struck(self, master, trace, *injections, path=None):
        """A tracer of the master alone, not of its children, that lets calls of its fail."""
        words = ["strace", "-o", self.path("strace"), "-p", str(master.pid), "-e", f"trace={trace}"]
        for injection in injections:
            words += ["-e", f"inject={injection}"]
        tracer = subprocess.Popen([*words, *(["-P", str(path)] if path else [])], stderr=subprocess.DEVNULL)
        self.addCleanup(tracer.wait)
        self.addCleanup(tracer.terminate)
        traced = lambda: harness.status_field(master.pid, "TracerPid") == [str(tracer.pid)]
        wait_for("it is traced", traced, 10)
        return tracer

    def upgraded(self, master, config):
        """A HUP brings the chain b, and what runs of a runs on."""
        self.assertEqual(self.starts("a"), 1)
        config.write_text(config.read_text().replace("chains: [", "chains: [\n" + self.one("b", 0.1)))
        master.send_signal(signal.SIGHUP)
        wait_for("b runs", lambda: self.starts("b") > 1, 30)
        self.assertIsNone(master.poll())

    def test_a_folder_that_does_not_open_any_more(self):
        config = self.write_config(self.one("a", seconds=4), extra=self.mail_to_maildir())
        master = self.start(config)
        wait_for("it runs", self.starts, 20)
        tracer = self.struck(master, "open,openat", "open,openat:error=EIO", path=self.path("run"))
        self.upgraded(master, config)
        wait_for("it is told", lambda: "cannot open run_root" in (self.last().get("cause") or ""), 20)
        wait_for("it is mailed", lambda: any("cannot open run_root" in s for s in self.subjects()), 20)
        self.assertEqual(self.starts("a"), 1)
        tracer.terminate()
        tracer.wait()
        wait_for("a is replaced at its run's end", lambda: self.starts("a") == 2, 20)
        self.hup(master, "accepted")
        wait_for("the end of it", lambda: any("Upgrade accepted" in s for s in self.subjects()), 20)
        self.assertEqual(self.stop(master), 0)
        self.never_two("a", "b")

    def test_no_descriptors_for_a_moment(self):
        config = self.write_config(self.one("a", seconds=4))
        master = self.start(config)
        wait_for("it runs", self.starts, 20)
        tracer = self.struck(master, "epoll_create1,signalfd4,timerfd_create", "epoll_create1:error=ENFILE:when=1..2",
                             "signalfd4:error=ENOMEM:when=1", "timerfd_create:error=EMFILE:when=1")
        self.upgraded(master, config)
        self.assertIn("cannot watch my descriptors after the upgrade", self.log())
        self.assertIn("cannot receive signals after the upgrade", self.log())
        tracer.terminate()
        tracer.wait()
        wait_for("a is replaced at its run's end", lambda: self.starts("a") == 2, 20)
        self.assertEqual(self.stop(master), 0)
        self.never_two("a", "b")


class Positions(Upgrades):
    """A replaced chain goes on at its next task; if that left the file it begins at the first."""

    def test_swapped_added_renamed_removed(self):
        def chain(names):
            tasks = "".join(
                f'(name: "{n}", run: ["{self.dir}/step", "{n}"], success_cooldown: "0s"),' for n in names)
            return f'(name: "seq", user: Current, cwd: "/", tasks: [{tasks}]),'
        # Every run waits for its permit, so the moment of the HUP is exact.
        step = self.path("step")
        step.write_text(f"#!/bin/sh\necho $1 >>{self.dir}/order\nwhile ! mv {self.dir}/permit {self.dir}/used"
                        " 2>/dev/null; do sleep 0.02; done\n")
        step.chmod(0o755)
        config = self.write_config(chain("ABC"))
        master = self.start(config)
        def order(count):
            wait_for(f"{count} runs", lambda: len(self.lines("order")) >= count, 20)
            return self.lines("order")[-1]
        count = 1
        def permit():
            nonlocal count
            self.path("permit").write_text("")
            count += 1
            return order(count)
        self.assertEqual(order(1), "A")
        # (the list after the HUP, the run that goes on, the one that comes after it): the next one by
        # the list under which the run began, looked for by its name in the new list.
        for names, running, after in (
                ("BAC", "A", "B"),       # swapped
                ("BACD", "C", "B"),      # added after
                ("XBACD", "D", "B"),     # added before
                ("XBAC", "X", "B"),      # a later one removed
                ("XAC", "B", "A"),       # the running one removed
                ("XAY", "A", "X"),       # the next one renamed: it left the file, so the first
        ):
            while self.lines("order")[-1] != running:
                permit()
            self.write_config(chain(names))
            self.hup(master, "accepted")
            self.assertEqual(self.lines("order")[-1], running)
            self.assertEqual(permit(), after, f"{names} while {running} ran: {self.lines('order')}")
            # From there on by the new list.
            self.assertEqual(permit(), names[(names.index(after) + 1) % len(names)], self.lines("order"))
        self.stop(master)

    def test_what_remains_of_a_success_cooldown_is_waited_for(self):
        config = self.write_config(self.one(seconds=0, cooldown="4s"))
        master = self.start(config)
        wait_for("cooling", lambda: (self.chain("a") or {}).get("state") == "cooling", 20)
        until = self.chain("a")["until"]
        self.hup(master, "accepted")
        wait_for("replaced", lambda: self.chain("a")["generation"] == self.generation() and
                 self.chain("a")["state"] == "cooling", 20)
        self.assertEqual(self.starts(), 1)
        self.assertLess(abs(parse(self.chain("a")["until"]) - parse(until)), 0.2)
        wait_for("the second run", lambda: self.starts() == 2, 15)
        self.stop(master)
        self.never_two()


def parse(text):
    import datetime
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Systemd(Upgrades):
    def test_ready_reloading_stopping_and_no_watchdog_unasked(self):
        server, path = self.listener()
        master = self.start(self.write_config(self.one()), env={**os.environ, "NOTIFY_SOCKET": path})
        heard = []
        wait_for("READY", lambda: any("READY=1" in m and f"MAINPID={master.pid}" in m
                                      for m in self.heard(server, heard)), 10)
        del heard[:]
        before = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
        self.hup(master, "accepted")
        wait_for("READY again", lambda: any("READY=1" in m for m in self.heard(server, heard)), 10)
        reloading = next(m for m in heard if "RELOADING=1" in m)
        stamp = int(next(line for line in reloading.splitlines() if line.startswith("MONOTONIC_USEC="))[15:])
        self.assertTrue(before <= stamp <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
        self.assertLess(heard.index(reloading), next(i for i, m in enumerate(heard) if m.startswith("READY=1")))
        # A refused one ends the reload, too.
        del heard[:]
        good = self.path("runner.ron").read_text()
        self.path("runner.ron").write_text("nonsense")
        self.hup(master, "refused")
        wait_for("READY after a refusal", lambda: any(m.startswith("READY=1") for m in self.heard(server, heard)), 10)
        self.path("runner.ron").write_text(good)
        self.goes_on()
        self.stop(master)
        self.heard(server, heard)
        self.assertIn("STOPPING=1", heard)
        self.assertFalse([m for m in heard if "WATCHDOG" in m])

    def test_a_watchdog_that_is_asked_for_is_fed_also_after_an_upgrade(self):
        server, path = self.listener()
        env = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        master = self.start(self.write_config(self.one()), env=env)
        for _ in range(2):
            heard = []
            wait_for("WATCHDOG", lambda: sum("WATCHDOG=1" in m for m in self.heard(server, heard)) >= 3, 10)
            self.hup(master, "accepted")
        self.stop(master)


class Terminal(Upgrades):
    def test_the_hup_of_a_vanished_terminal_stops_and_does_not_upgrade(self):
        config = self.write_config(self.one(seconds=1))
        leader, follower = pty.openpty()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            import fcntl, termios
            os.close(leader)
            fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(follower, fd)
            os.execv(harness.MASTER, [harness.MASTER, str(config)])
        os.close(follower)
        wait_for("it runs", self.starts, 20)
        os.close(leader)
        def ended():
            done, status = os.waitpid(pid, os.WNOHANG)
            return done and (os.waitstatus_to_exitcode(status), )
        self.assertEqual(wait_for("it ends", ended, 20), (0,))
        self.assertIn("the terminal is gone", self.log())
        self.assertTrue(self.ledger()[-1].startswith("end"), self.ledger())
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
