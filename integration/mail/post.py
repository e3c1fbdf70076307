"""A master that mails, beside a server that misbehaves on demand; how fast a chain runs meanwhile, how
fast the master answers, and whether everything that was decided has arrived."""

import email
import email.policy
import json
import os
import socket
import statistics
import sys
import time

from lib.harness import Case, add_user, children_of, remove_user, status_field, wait_for

ACCOUNT = "runner-it-mail"

# Fails for ever, and is told of each second: mail that never ends.
TROUBLE = """(name: "trouble", user: Current, tasks: [(
    name: "job", sh: "echo cannot reach the database >&2; exit 1",
    fail_cooldown: "250ms", non_recoverable_downtime: "1s")]),"""
# As fast as it can.
PACE = """(name: "pace", user: Current, output: Discard, tasks: [(
    name: "noop", run: ["/bin/true"], success_cooldown: "0s")]),"""

# The least pace of a chain beside its own with a healthy server, as it is or as a ratio to what
# spawning /bin/true took at that time, since machines are shared: a chain that waited for a mail
# would do none at all. The printed figure is the better of both.
LEAST = 0.25
# Seconds: the slowest answer of the control socket, the longest time without a run of the chain.
SLOWEST, LONGEST = 2.0, 2.0


def parse(message):
    """A message as a reader sees it."""
    return email.message_from_bytes(message, policy=email.policy.default)


def identity(message):
    return str(parse(message)["Message-ID"])


class Window:
    """What was seen of a chain and of the master for a while."""

    def __init__(self, rate, spawn, answer, stall):
        self.rate, self.answer, self.stall = rate, answer, stall
        # Runs in the time that spawning one program here took.
        self.pace = rate * spawn


def spawned():
    """How long it takes just now to spawn a program and to wait for it, in seconds."""
    began = time.monotonic()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return time.monotonic() - began


class MailCase(Case):
    @classmethod
    def setUpClass(cls):
        cls.account = add_user(ACCOUNT)
        cls.rows = []

    @classmethod
    def tearDownClass(cls):
        remove_user(ACCOUNT)
        if cls.rows:
            print(f"\n{'pace during':44} {'of healthy':>10} {'runs/s':>7} {'answer':>7} {'stall':>7}  mails",
                  file=sys.stderr)
            for row in cls.rows:
                print(row, file=sys.stderr)

    def tearDown(self):
        # Whatever a test was about: nobody may have died or stumbled beside it.
        log = self.log()
        for word in ("panicked", "CRIT"):
            self.assertNotIn(word, log)

    def mail_section(self, transport, to=("ops@example.org",), spool=None, limit="mails: 10000, per: \"1h\"",
                     prefix=""):
        names = ", ".join(f'"{name}"' for name in to)
        return (
            f'mail: (from: "critical@example.org", to: [{names}], user: "{self.account.pw_name}",'
            f' transport: {transport}, spool: "{spool or self.path("spool")}",'
            f' limit: ({limit}), subject_prefix: "{prefix}"),'
        )

    def smtp(self, port, security="None", user=None, ca=None, host="127.0.0.1"):
        more = ""
        if user:
            path = self.path("password")
            path.write_text("correct horse battery\n")
            path.chmod(0o600)
            more += f', username: "{user}", password_file: "{path}"'
        if ca:
            more += f', ca_file: "{ca}"'
        return f'Smtp(host: "{host}", port: {port}, security: {security}{more})'

    # What the master says, without the cost of starting runnerctl.

    def ask(self, verb, **arguments):
        request = json.dumps({"verb": verb, **arguments}).encode() + b"\n"
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(self.path("run/control.sock")))
            control.sendall(request)
            answer = control.makefile("rb").readline()
        return json.loads(answer)

    def master_status(self):
        return self.status_now()["master"]

    def status_now(self):
        answer = self.ask("status")
        return answer.get("status", answer)

    def runs_of(self, name):
        for chain in self.status_now()["chains"]:
            if chain["name"] == name:
                task = chain["tasks"][0]
                return task["ok"] + task["failed"]
        raise AssertionError(f"no chain {name}")

    def window(self, seconds):
        """The pace of the chain `pace` for a while."""
        begin = now = grown = time.monotonic()
        first = last = self.runs_of("pace")
        answer = stall = 0.0
        spawns = []
        while now < begin + seconds:
            asked = time.monotonic()
            runs = self.runs_of("pace")
            now = time.monotonic()
            answer = max(answer, now - asked)
            if runs > last:
                stall, last, grown = max(stall, now - grown), runs, now
            spawns.append(spawned())
            time.sleep(0.01)
        stall = max(stall, now - grown)
        return Window((last - first) / (now - begin), statistics.mean(spawns), answer, stall)

    def judge(self, name, healthy, faulty, note=""):
        """Holds a window to the healthy ones and keeps the figures."""
        ratio = max(faulty.pace / statistics.mean(window.pace for window in healthy),
                    faulty.rate / statistics.mean(window.rate for window in healthy))
        self.rows.append(
            f"{name:44} {ratio:10.2f} {faulty.rate:7.0f} {faulty.answer * 1000:5.0f}ms"
            f" {faulty.stall * 1000:5.0f}ms  {note}")
        self.assertGreater(ratio, LEAST, f"{name}: the chain was delayed ({self.rows[-1]})")
        self.assertLess(faulty.stall, LONGEST, f"{name}: the chain stood still")
        self.assertLess(faulty.answer, SLOWEST, f"{name}: the master was delayed")

    # What was decided and what has come.

    def decided(self):
        rows = self.ctl("notices", "--json", check=True).stdout.splitlines()
        return [json.loads(row) for row in rows]

    def nothing_waits(self):
        status = self.master_status()
        return status["mail_waiting"] == 0 and status["mail_error"] is None

    def settle(self, sink, recipients=1, dead=0, limit=60):
        """No more failures; everything goes out; each notice has come to each recipient under an
        identity of its own. Returns the number of copies beyond the first."""
        self.ctl("stop", "trouble", "--wait", check=True)
        self.ctl("mail", "flush", check=True)
        wait_for(f"all mail is gone: {self.master_status()}", self.nothing_waits, limit)
        expected = len(self.decided()) * recipients - dead
        copies = [(tuple(to), identity(text)) for _, to, text in sink.messages]
        self.assertEqual(len(set(copies)), expected, "notices decided and mails that came")
        return len(copies) - len(set(copies))

    def mailers(self, master):
        """The mailers of a master and their deliveries: what of it runs as the mail account."""
        found = []
        for pid in children_of(master.pid):
            for one in [pid, *children_of(pid)]:
                try:
                    if status_field(one, "Uid")[0] == str(self.account.pw_uid):
                        found.append(one)
                except (OSError, TypeError):
                    pass  # It has ended.
        return found
