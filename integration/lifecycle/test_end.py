"""Ends: nothing is left, soon, whatever is going on; a second signal hurries; what lies in the spool is
the next master's; the service manager hears that it takes time. Bound: 3 minutes.
"""

import email
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import unittest
import uuid

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "mail")]
from lib import harness
from lib.harness import alive, children_of, marked, wait_for
from sink import SILENT, Sink
from test_upgrade import Upgrades as Base

SEED = int(os.environ.get("RUNNER_SEED", "1"))


class Ends(Base):
    def deaf(self, name="a", kill_timeout="1s"):
        """A chain whose task answers no TERM."""
        return (f'(name: "{name}", user: Current, cwd: "/", kill_timeout: "{kill_timeout}", drain_timeout: "2s",'
                f' tasks: [(name: "{name}t", sh: "trap : TERM INT; echo start $$ >> {self.dir}/ledger.{name};'
                ' while :; do sleep 0.1 || :; done")]),')

    def failing(self, name="f"):
        return (f'(name: "{name}", user: Current, cwd: "/", tasks: [(name: "{name}t",'
                f' sh: "echo start >> {self.dir}/ledger.{name}; exit 1", fail_cooldown: "1h")]),')

    def by_smtp(self, sink):
        return (f'mail: (from: "runner@example.org", to: ["admin@example.org"], user: Current,'
                f' transport: Smtp(host: "127.0.0.1", port: {sink.port}, security: None), spool: "{self.dir}/spool"),')

    def ends(self, master, *signals, within):
        """Sends these; returns when nothing is left, which takes at most so many seconds."""
        begun = time.monotonic()
        for number in signals:
            master.send_signal(number)
            time.sleep(0.3)
        self.assertEqual(master.wait(60), 0)
        wait_for(f"nothing is left but {[(p, cmdline(p)) for p in marked(self.dir)]}",
                 lambda: not marked(self.dir) and not children_of(master.pid), 0.5)
        self.assertLess(time.monotonic() - begun, within)

    def mails(self, sink):
        return [email.message_from_bytes(text)["Message-ID"] for _, _, text in sink.messages]


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Mail(Ends):
    def waits(self, master, sink, connections=0):
        """A mailer of the master's sits before a server that says nothing."""
        wait_for("the mail is in the spool, and on its way",
                 lambda: sink.connections > connections and (self.status() or {"master": {"mail_waiting": 0}})["master"]["mail_waiting"] >= 1, 30)
        return [pid for pid in children_of(master.pid) if cmdline(pid).startswith("runner: mailer")]

    def test_a_delivery_that_hangs_outlives_no_stop_and_the_mail_goes_out_at_the_next_start(self):
        sink = Sink()
        self.addCleanup(sink.down)
        sink.modes = {"DATA.": SILENT}
        config = self.write_config(self.failing(), extra=self.by_smtp(sink))
        for signals, within in (((signal.SIGTERM,), 12), ((signal.SIGQUIT,), 12),
                                ((signal.SIGTERM, signal.SIGTERM, signal.SIGTERM), 5)):
            connections = sink.connections
            master = self.start(config)
            mailers = self.waits(master, sink, connections)
            self.assertTrue(mailers)
            self.ends(master, *signals, within=within)
            self.assertFalse([pid for pid in mailers if alive(pid)])
            self.assertRegex(self.log(), "mails? waits? for delivery by the next start")
        # Three generations, three first failures of one outage: all of them are still to come.
        sink.modes = {}
        master = self.start(config)
        wait_for("nothing waits", lambda: len(set(self.mails(sink))) >= 3 and
                 self.status()["master"]["mail_waiting"] == 0, 60)
        self.assertEqual(self.stop(master), 0)

    def test_the_spool_outlives_a_reboot_without_its_run_root(self):
        sink = Sink()
        self.addCleanup(sink.down)
        sink.modes = {"banner": SILENT}
        config = self.write_config(self.failing(), extra=self.by_smtp(sink))
        master = self.start(config)
        self.waits(master, sink)
        # The power goes, and with it whatever lies in /run.
        os.kill(master.pid, signal.SIGSTOP)
        everybody = [master.pid]
        for pid in everybody:
            everybody += children_of(pid)
        for pid in reversed(everybody):
            os.kill(pid, signal.SIGKILL)
        master.wait()
        wait_for("nothing is left", lambda: not marked(self.dir), 20)
        shutil.rmtree(self.path("run"))
        sink.modes = {}
        boot = self.path("boot")
        boot.write_text(f"{uuid.uuid4()}\n")
        (self.path("run") / "lock").mkdir(parents=True, mode=0o755)
        (self.path("run") / "lock").chmod(0o700)
        # An old pid file, whose number somebody else has by now.
        bystander = subprocess.Popen(["sleep", "600"])
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.kill)
        for name in ("master.pid", "f.pid"):
            (self.path("run") / name).write_text(f"{bystander.pid}\n")
        config.write_text(config.read_text().replace("exit 1", "exit 0"))
        master = self.start(config, prefix=["unshare", "-m", "sh", "-c",
                            f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"', "sh"])
        wait_for("the mail of before arrives", lambda: self.mails(sink), 60)
        wait_for("nothing waits", lambda: self.status()["master"]["mail_waiting"] == 0, 30)
        self.assertEqual(self.stop(master), 0)
        self.assertIsNone(bystander.poll())
        self.assertEqual(len(self.mails(sink)), len(set(self.mails(sink))))

    def test_a_stop_at_any_moment_of_a_mail(self):
        """Nothing is left, and each failure is told: at once, from the spool, or as a failure that goes on."""
        moments = random.Random(SEED)
        sink = Sink()
        self.addCleanup(sink.down)
        config = self.write_config(self.failing(), extra=self.by_smtp(sink))
        for _ in range(40 if harness.FULL else 8):
            have = self.starts("f")
            master = self.start(config)
            wait_for("it fails", lambda: self.starts("f") > have, 20)
            time.sleep(moments.uniform(0, 0.15))
            self.ends(master, moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)), within=12)
        count = self.starts("f")
        self.path("runner.ron").write_text(config.read_text().replace("exit 1", "exit 0"))
        master = self.start(config)
        wait_for("nothing waits", lambda: self.status()["master"]["mail_waiting"] == 0, 30)
        self.assertEqual(self.stop(master), 0)
        # A run that a stop interrupted failed not; each of the others is a generation's first.
        told = {email.message_from_bytes(text)["Message-ID"] for _, _, text in sink.messages
                if b"First exception caught" in text}
        interrupted = self.log().count("interrupted")
        self.assertGreaterEqual(len(told), count - interrupted)
        self.assertGreater(len(told), 0)


class Signals(Ends):
    def test_each_first_and_second_signal(self):
        """TERM and INT end runs; QUIT lets them end. A second TERM or INT kills, a QUIT goes back on nothing."""
        term, int_, quit_ = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
        for signals, at_least, within in (
                ((term, term), 0, 5), ((int_, int_), 0, 5), ((term, int_), 0, 5), ((int_, term), 0, 5),
                ((quit_, quit_), 2 + 2, 12), ((quit_, term), 2, 9), ((quit_, term, term), 0, 5),
                ((term, quit_), 2, 9)):
            config = self.write_config(self.deaf(kill_timeout="2s"))
            self.path("ledger.a").write_text("")
            master = self.start(config)
            wait_for("it runs", self.starts, 20)
            begun = time.monotonic()
            self.ends(master, *signals, within=within)
            took = time.monotonic() - begun
            self.assertGreaterEqual(took, at_least, f"{signals} took {took} s")

    def test_a_hup_after_quit_and_a_quit_after_hup(self):
        for first, second in ((signal.SIGQUIT, signal.SIGHUP), (signal.SIGHUP, signal.SIGQUIT),
                              (signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP)):
            config = self.write_config(self.one(seconds=0.5))
            master = self.start(config)
            self.goes_on()
            self.ends(master, first, second, within=15)
        self.never_two()


class Service(Ends):
    def test_a_long_end_feeds_the_watchdog_and_asks_for_time(self):
        server, path = self.listener()
        sink = Sink()
        self.addCleanup(sink.down)
        sink.modes = {"banner": SILENT}
        env = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        master = self.start(self.write_config(self.deaf(kill_timeout="4s") + self.failing(), extra=self.by_smtp(sink)),
                            env=env)
        wait_for("a delivery hangs", lambda: sink.connections, 30)
        master.terminate()
        heard, last, gap = [], time.monotonic(), 0
        while master.poll() is None:
            new = self.heard(server, [])
            if any("WATCHDOG=1" in text for text in new):
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
            heard += new
        gap = max(gap, time.monotonic() - last)
        self.assertEqual(master.returncode, 0)
        self.assertIn("STOPPING=1", heard)
        self.assertTrue([text for text in heard if text.startswith("EXTEND_TIMEOUT_USEC=")], heard)
        self.assertGreater(sum("WATCHDOG=1" in text for text in heard), 12)
        self.assertLess(gap, 1.0, "the service manager would have killed it")
        wait_for("nothing is left", lambda: not marked(self.dir), 10)

    def test_a_start_that_waits_for_its_predecessor_asks_for_time(self):
        config = self.write_config(self.deaf(kill_timeout="1s"))
        first = self.start(config)
        wait_for("it runs", self.starts, 20)
        server, path = self.listener()
        second = self.start(config, env={**os.environ, "NOTIFY_SOCKET": path})
        heard = self.heard(server, [])
        self.assertEqual(first.wait(20), 0)
        extend = next(i for i, text in enumerate(heard) if text.startswith("EXTEND_TIMEOUT_USEC="))
        self.assertLess(extend, next(i for i, text in enumerate(heard) if "READY=1" in text))
        self.assertEqual(self.stop(second), 0)


class ReadOnly(Ends):
    def test_a_run_root_that_cannot_be_written_refuses_a_start_and_an_upgrade(self):
        run = self.path("run")
        config = self.write_config(self.one())
        master = self.start(config)
        self.goes_on()
        # What the master has open stays writable: a mount over it shows the same folder read-only.
        subprocess.run(["mount", "--bind", run, run], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", run], capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", run], check=True)
        self.assertIn(str(run), self.hup(master, "refused", "it cannot be written"))
        self.goes_on()
        self.assertEqual(self.stop(master), 0)
        refused = self.start(config, ready=False)
        self.assertEqual(refused.wait(20), 78, self.stderr()[-300:])
        self.assertIn(f"cannot use run_root {run}: it cannot be written (Read-only file system)", self.stderr())
        subprocess.run(["umount", run], check=True)
        master = self.start(config)
        self.goes_on()
        self.assertEqual(self.stop(master), 0)
        self.never_two()


del Base

if __name__ == "__main__":
    unittest.main()
