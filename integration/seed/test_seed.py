"""The example that the runner's ancestor documented, in real time against a real SMTP server: a task
that fails at once, a second of cooldown, three seconds of non_recoverable_downtime."""

import email
import email.policy
import time
import unittest

from aiosmtpd.controller import Controller
from lib.harness import Case, free_port, wait_for

TASK = """(
    user: Current,
    tasks: [(
        name: "divide_by_zero",
        run: ["/usr/bin/python3", "-c", "raise ZeroDivisionError('integer division or modulo by zero')"],
        fail_cooldown: "1s", non_recoverable_downtime: "3s",
    )],
)"""


class Sink:
    """Keeps what arrives, with the time."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((time.monotonic(), envelope, message))
        return "250 OK"


class SeedExample(Case):
    def test_mails_at_failures_1_4_7_and_10_and_never_between(self):
        sink = Sink()
        port = free_port()
        server = Controller(sink, hostname="127.0.0.1", port=port)
        server.start()
        self.addCleanup(server.stop)
        mail = (
            'mail: (from: "critical@example.org", to: ["ops@example.org"], user: Current,'
            f' transport: Smtp(host: "127.0.0.1", port: {port}, security: None),'
            f' spool: "{self.dir}/spool"),'
        )
        master = self.start(self.write_config(TASK, mail))

        def failures():
            chain = self.chain("divide_by_zero")
            return chain["tasks"][0]["failed"] if chain else 0

        wait_for("eleven failures", lambda: failures() >= 11, 30)
        wait_for("four mails", lambda: len(sink.mails) >= 4, 10)
        self.assertEqual(self.stop(master), 0)

        self.assertEqual(
            [str(mail["Subject"]) for _, _, mail in sink.mails],
            [
                "[divide_by_zero] First exception caught: integer division or modulo by zero",
                "[divide_by_zero] Non recoverable downtime reached",
                "[divide_by_zero] Non recoverable downtime reached again",
                "[divide_by_zero] Non recoverable downtime reached again",
            ],
        )
        for _, envelope, mail in sink.mails:
            self.assertEqual(envelope.mail_from, "critical@example.org")
            self.assertEqual(envelope.rcpt_tos, ["ops@example.org"])
            self.assertEqual(mail["Auto-Submitted"], "auto-generated")
            self.assertEqual(mail["X-Runner-Task"], "divide_by_zero")
        # One thread: the first mail begins it, the others answer to it.
        first, *others = [mail for _, _, mail in sink.mails]
        self.assertIsNone(first["References"])
        self.assertEqual({str(mail["References"]) for mail in others}, {str(first["Message-ID"])})

        # What was mailed at which failure, by the log.
        failure, told = 0, []
        words = []
        for line in self.log().splitlines():
            if "[divide_by_zero] " not in line:
                continue
            text = line.split("[divide_by_zero] ", 1)[1]
            if text == "Execution failed":
                failure += 1
            if text.startswith("Sent email to admins: "):
                told.append((failure, text.removeprefix("Sent email to admins: ")))
            words.append(text)
        self.assertEqual(
            told,
            [
                (1, "First exception caught: integer division or modulo by zero"),
                (4, "Non recoverable downtime reached"),
                (7, "Non recoverable downtime reached again"),
                (10, "Non recoverable downtime reached again"),
            ],
        )
        self.assertIn("Sleeping 1 seconds", words)
        self.assertIn("Wrote pidfile divide_by_zero", self.log())


if __name__ == "__main__":
    unittest.main()
