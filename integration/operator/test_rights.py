"""Who may ask for what: every verb tried as root, as a member of control_group, as the user of a chain,
as the user of another one, and as a stranger; the socket's mode and group; a master of a normal user.
"""

import grp
import json
import os
import pwd
import socket
import subprocess

import room
from lib.harness import wait_for
from room import GROUP, MEMBER, OTHER, OWNER, STRANGER, Operator, setUpModule, sudo, tearDownModule  # noqa: F401

# Every verb that asks the master, for the chain {}; the second: whether the chain's own user may.
VERBS = [
    (["status", "{}"], True),
    (["status", "{}", "--json"], True),
    (["explain", "{}"], True),
    (["history", "{}"], True),
    (["history", "{}", "--jsonl"], True),
    (["pause", "{}"], True),
    (["pause", "{}", "--for", "1h", "--reason", "why"], True),
    (["resume", "{}"], True),
    (["restart", "{}", "--wait"], True),
    (["restart", "{}", "--now", "--wait"], True),
    (["run", "{}"], True),
    (["run", "{}", "{}t"], True),
    (["stop", "{}"], False),
    (["stop", "{}", "--now"], False),
    (["start", "{}"], False),
    (["silence", "{}", "--for", "1h"], False),
    (["reload", "{}"], False),
    (["reload"], False),
    (["reload", "--dry-run"], False),
    (["reload", "--force", "--wait"], False),
    (["stop", "--all"], False),
    (["start", "--all"], False),
    (["notices"], False),
    (["mail", "list"], False),
    (["mail", "flush"], False),
    (["mail", "test"], False),
    (["log-level", "trace"], False),
    (["shutdown"], False),
    (["shutdown", "--now"], False),
]


class Rights(Operator):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(
            self.chain("own", user=OWNER) + self.chain("own2", user=OWNER) + self.chain("other", user=OTHER)
            + self.chain("roots"),
            extra=f'control_group: "{GROUP}",')
        self.master = self.start(self.config)
        for name in ("own", "own2", "other", "roots"):
            wait_for(f"{name} has run", lambda: self.runs(name))

    def pids(self):
        return {chain["name"]: chain["pid"] for chain in self.status()["chains"]}

    def picture(self):
        """Everything that a verb could change."""
        status = self.status()
        for chain in status["chains"]:
            chain.pop("since"), chain.pop("until")
        return status["master"]["generation"], status["chains"]

    def test_a_chains_user_has_its_own_chains_and_nothing_else(self):
        before = self.pids()
        seen = self.ctl_as(OWNER, "status", "--json")
        self.assertEqual([chain["name"] for chain in json.loads(seen.stdout)["chains"]], ["own", "own2"])
        for words, may in VERBS:
            if may:
                self.went(self.ctl_as(OWNER, *[word.format("own") for word in words]), 0)
                # A pause is over before a run is asked for.
                if words[0] in ("resume", "restart"):
                    self.wait_state("own", "cooling", "running")
        self.went(self.ctl_as(OWNER, "restart", "--all", "--wait"), 0)
        self.went(self.ctl_as(OWNER, "restart", "o*", "--wait"), 0, out="(2 of 2)")
        after = self.pids()
        self.assertNotEqual((after["own"], after["own2"]), (before["own"], before["own2"]))
        self.assertEqual((after["other"], after["roots"]), (before["other"], before["roots"]))

        for name in ("own", "own2"):
            self.wait_state(name, "cooling")
        picture = self.picture()
        for words, may in VERBS:
            named = any("{}" in word for word in words)
            for chain in ("own", "other", "roots", "nothing") if named else ("",):
                if may and chain == "own":
                    continue
                # What is not its own looks as if it did not exist.
                code = 4 if may else 77
                done = self.ctl_as(OWNER, *[word.format(chain) for word in words])
                self.went(done, code, err="not yours" if may else "not allowed")
                self.assertNotIn("rit-", done.stdout)
        self.assertEqual(self.picture(), picture, "a refused verb changed something")
        self.assertEqual(self.status()["master"]["pid"], self.master.pid)

    def test_a_stranger_learns_nothing(self):
        picture = self.picture()
        for words, _ in VERBS:
            for chain in ("own", "*"):
                done = self.went(self.ctl_as(STRANGER, *[word.format(chain) for word in words]), 77)
                self.assertEqual(done.stdout, "")
                self.assertNotIn("other", done.stderr)
        self.went(self.ctl_as(STRANGER, "check"), 3, out="RUNNER UNKNOWN")
        self.went(self.ctl_as(STRANGER, "metrics"), 77)
        self.assertEqual(self.picture(), picture)

    def test_a_member_of_the_control_group_may_everything(self):
        for words, _ in VERBS:
            if words[0] in ("shutdown", "stop", "run", "history", "mail"):
                continue
            self.went(self.ctl_as(MEMBER, *[word.format("other") for word in words]), 0)
            if words[0] in ("resume", "restart"):
                self.wait_state("other", "cooling", "running")
        self.assertEqual(len(json.loads(self.ctl_as(MEMBER, "status", "--json").stdout)["chains"]), 4)
        self.went(self.ctl_as(MEMBER, "stop", "other", "--wait"), 0)
        self.went(self.ctl_as(MEMBER, "start", "other", "--wait"), 0)
        self.went(self.ctl_as(MEMBER, "mail", "flush"), 0)
        self.went(self.ctl_as(MEMBER, "shutdown", "--wait"), 0)
        self.assertEqual(self.master.wait(30), 0)

    def test_files_are_read_with_the_callers_own_rights(self):
        """runnerctl is no way around file permissions: what it reads, it reads as the caller."""
        out = self.path("own.log")
        out.write_text("2026-01-02T12:00:00.000Z own ownt 1 out: secret\n")
        out.chmod(0o600)
        config = self.write_config(self.chain("own", user=OWNER, more=f'output: Lines("{out}"),'), name="logs.ron")
        done = sudo(OWNER, room.programs / "runnerctl", "-c", config, "logs", "own")
        self.went(done, 1, err="Permission denied")
        os.chown(out, pwd.getpwnam(OWNER).pw_uid, -1)
        self.went(sudo(OWNER, room.programs / "runnerctl", "-c", config, "logs", "own"), 0, out="secret")
        self.went(sudo(OTHER, room.programs / "runnerctl", "-c", config, "logs", "own"), 1, err="Permission denied")
        config.chmod(0o600)
        done = sudo(OWNER, room.programs / "runnerctl", "-c", config, "show-env", "own")
        self.went(done, 78, err="permission denied")


class Doors(Operator):
    def mode(self):
        found = self.path("run/control.sock").stat()
        return found.st_mode & 0o777, found.st_gid

    def test_the_sockets_mode_and_group_follow_the_configuration(self):
        config = self.write_config(self.chain("a"))
        self.start(config)
        self.assertEqual(self.mode(), (0o600, 0))
        self.went(self.ctl_as(MEMBER, "status"), 77, err="control_group")
        gid = grp.getgrnam(GROUP).gr_gid
        config.write_text(config.read_text().replace("(run_root", f'(control_group: "{GROUP}", run_root', 1))
        self.ctl("reload", "--wait", check=True)
        self.assertEqual(self.mode(), (0o660, gid))
        self.went(self.ctl_as(MEMBER, "status"), 0)
        self.went(self.ctl_as(STRANGER, "status"), 77)
        # A chain of somebody else: its user must reach the master.
        config.write_text(config.read_text().replace("user: Current, cwd", f'user: "{OWNER}", cwd', 1))
        self.ctl("reload", "--wait", check=True)
        self.assertEqual(self.mode(), (0o666, gid))
        self.went(self.ctl_as(OWNER, "status"), 0, out="a ")

    def test_the_socket_is_no_lock_and_no_proof(self):
        """A dead master's socket, a file, somebody else's listener: none keeps a master from its place."""
        config = self.write_config(self.chain("a"))
        master = self.start(config)
        master.kill()
        master.wait(10)
        self.assertTrue(self.path("run/control.sock").exists())
        self.went(self.ctl("status"), 3)
        master = self.start(config)
        # One that is removed is made anew.
        self.path("run/control.sock").unlink()
        wait_for("the socket", lambda: self.ctl("status").returncode == 0)
        # A second start finds the first by its lock, not by the socket.
        second = self.start(config)
        self.assertEqual(master.wait(30), 0)
        self.assertEqual(self.stop(second), 0)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path("run/control.sock")))
            listener.listen()
            self.start(config)
            self.went(self.ctl("status"), 0)


class NormalUser(Operator):
    """A master that is not root's: everything but other users."""

    def test_a_normal_user_runs_steers_and_ends_its_own(self):
        home = self.path("home")
        home.mkdir()
        account = pwd.getpwnam(OWNER)
        os.chown(home, account.pw_uid, account.pw_gid)
        config = home / "runner.ron"
        config.write_text(f'''(mail: (from: "a@example.org", to: ["b@example.org"], transport: Maildir("{home}/mail")),
            chains: [(name: "mine", cwd: "/", tasks: [
                (name: "tick", sh: "id -un >>{home}/who; sleep 1", success_cooldown: "1h")])])''')
        env = {"XDG_RUNTIME_DIR": str(home / "rt"), "XDG_STATE_HOME": str(home / "st"), "PATH": os.environ["PATH"]}
        (home / "rt").mkdir(mode=0o700)
        for path in (config, home / "rt"):
            os.chown(path, account.pw_uid, account.pw_gid)

        def ctl(*words, user=OWNER):
            return sudo(user, room.programs / "runnerctl", "-c", config, *words, env=env)

        # Another user is a fault of the file, and without XDG_RUNTIME_DIR the remedy is told.
        other = home / "other.ron"
        other.write_text(f'(chains: [(name: "x", user: "{OTHER}", cwd: "/", tasks: [(run: ["true"])])])')
        self.went(sudo(OWNER, room.programs / "runner-master", "--check", other, env=env), 78, err=OTHER)
        bare = sudo(OWNER, room.programs / "runner-master", config, env={"PATH": env["PATH"]})
        self.went(bare, 78, err="run_root")

        self.went(ctl("status"), 3)
        with open(self.path("stderr"), "wb") as err:
            master = subprocess.Popen(
                ["setpriv", "--reuid", OWNER, "--regid", OWNER, "--init-groups",
                 room.programs / "runner-master", config],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=env)
        self.masters.append(master)
        wait_for(f"it answers: {self.stderr()}", lambda: ctl("status").returncode == 0)
        wait_for("it runs", lambda: (home / "who").exists() and (home / "who").read_text() == f"{OWNER}\n")
        self.assertEqual((home / "rt/runner/control.sock").stat().st_mode & 0o777, 0o600)
        self.went(ctl("reload", "--wait=drained"), 0, out="upgrade accepted")
        self.went(ctl("pause", "mine"), 0)
        self.went(ctl("resume", "mine"), 0)
        self.went(ctl("mail", "test"), 0)
        wait_for("the mail", lambda: list((home / "mail/new").glob("*")))
        self.went(ctl("status", user=OTHER), 77)
        self.went(ctl("show-env", "mine"), 0, out=f"USER={OWNER}")
        self.went(ctl("shutdown", "--wait"), 0)
        self.assertEqual(master.wait(30), 0)
