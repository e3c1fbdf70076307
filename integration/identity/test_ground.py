"""The master's own ground: every file and folder that root takes in belongs to root alone, or is refused
with the command that mends it; what a chain needs is tried with the chain's rights, with positions."""

import os
import shutil
import signal
import stat
import subprocess
import unittest

from lib.harness import MASTER, Case, add_user, remove_user, wait_for

MALLORY, MAILER = "runner-idg-mallory", "runner-idg-mail"


class Ground(Case):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.mallory, cls.mailer = add_user(MALLORY), add_user(MAILER)

    @classmethod
    def tearDownClass(cls):
        remove_user(MALLORY)
        remove_user(MAILER)

    def setUp(self):
        super().setUp()
        self.theirs = self.path("theirs")
        self.theirs.mkdir()
        self.give(self.theirs)

    def give(self, path):
        os.chown(path, self.mallory.pw_uid, self.mallory.pw_gid, follow_symlinks=False)
        return path

    def chain(self, fields="", task='sh: "true"', name="one"):
        return f'(name: "{name}", user: "{MALLORY}", {fields} tasks: [(name: "t", {task})]),'

    def check(self, config, limit=20):
        return subprocess.run([MASTER, "--check", str(config)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=limit)

    def refused(self, config, *words, code=78):
        """Both --check and a start refuse, and say these words."""
        done = self.check(config)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        started = subprocess.run([MASTER, str(config)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        self.assertEqual(started.returncode, code, started.stderr)
        return done.stderr

    def test_a_configuration_that_others_can_change_is_not_read(self):
        config = self.write_config(self.chain())
        self.assertEqual(self.check(config).returncode, 0, self.check(config).stderr)
        for mode in (0o666, 0o664, 0o646):
            config.chmod(mode)
            self.refused(config, "others than root may write it", f"chmod go-w {config}")
        config.chmod(0o644)
        os.chown(config, self.mallory.pw_uid, -1)
        self.refused(config, f"belongs to {MALLORY}, not to root", f"chown root {config}")
        os.chown(config, 0, 0)
        # On the way to it.
        inner = self.theirs / "runner.ron"
        shutil.copy(config, inner)
        self.refused(inner, f"cannot trust {self.theirs}")
        link = self.path("link.ron")
        link.symlink_to(config)
        self.assertEqual(self.check(link).returncode, 0, "root's own link")
        self.give(link)
        self.refused(link, f"cannot trust {link}", "chown -h root")
        link.unlink()
        folder = self.path("open")
        folder.mkdir()
        folder.chmod(0o777)
        shutil.copy(config, folder / "runner.ron")
        self.refused(folder / "runner.ron", f"chmod go-w {folder}")
        for kind, make in (("fifo", os.mkfifo), ("folder", os.mkdir), ("socket", lambda p: os.mknod(p, stat.S_IFSOCK | 0o644))):
            odd = self.path(f"{kind}.ron")
            make(str(odd))
            self.refused(odd, "cannot read")
        self.refused("/dev/zero", "no regular file")

    def test_an_include_is_held_to_the_same(self):
        self.path("conf.d").mkdir()
        config = self.write_config(self.chain(), 'include: ["conf.d/*.ron"],')
        inner = self.path("conf.d/a.ron")
        inner.write_text(f"(chains: [{self.chain(name='two')}])")
        self.assertEqual(self.check(config).returncode, 0, self.check(config).stderr)
        inner.chmod(0o666)
        self.refused(config, "others than root may write it")
        inner.unlink()
        os.mkfifo(inner)
        self.refused(config, "no regular file")
        inner.unlink()
        inner.symlink_to("/dev/zero")
        self.refused(config, "no regular file")
        inner.unlink()
        inner.symlink_to(self.theirs / "x.ron")
        (self.theirs / "x.ron").write_text("(chains: [])")
        self.refused(config, f"cannot trust {self.theirs}")
        inner.unlink()
        inner.write_text("//" + "x" * (2 << 20))
        self.refused(config, "a.ron")
        inner.unlink()
        self.give(self.path("conf.d"))
        self.refused(config, f"cannot trust {self.path('conf.d')}")

    def test_folders_that_others_could_change_are_refused_with_the_remedy(self):
        for field, name in (("run_root", "run"), ("state_root", "state")):
            for what, spoil, words in (
                ("owner", lambda p: self.give(p), "not to root"),
                ("mode", lambda p: p.chmod(0o777), "others than root may write it"),
                ("parent", lambda p: (p.rmdir(), p.symlink_to(self.theirs / "run")), f"cannot trust {self.theirs}"),
                ("link", lambda p: (p.rmdir(), p.symlink_to(self.path("elsewhere")), self.give(p)), "chown -h root"),
            ):
                with self.subTest(field, what=what):
                    path = self.path(name)
                    path.mkdir()
                    self.path("elsewhere").mkdir(exist_ok=True)
                    spoil(path)
                    self.refused(self.write_config(self.chain()), f"`{field}`", words)
                    path.unlink() if path.is_symlink() else shutil.rmtree(path)
        self.path("run/lock").mkdir(parents=True)
        self.path("run/lock").chmod(0o755)
        done = subprocess.run([MASTER, str(self.write_config(self.chain()))], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 78)
        self.assertIn(f"chmod 700 {self.path('run/lock')}", done.stderr)

    def test_what_root_opens_itself_lies_where_only_root_can_change_the_way(self):
        log = f'(level: Debug, user: Current, to: File("{self.theirs}/log"))'
        self.refused(self.write_config(self.chain(), log=log), "`log.to` is opened as root", f"cannot trust {self.theirs}")
        (self.theirs / "env").write_text("LD_PRELOAD=/tmp/evil.so\n")
        for field in (f'output: Lines("{self.theirs}/log")', f'output: Raw("{self.theirs}/log")', f'env_file: "{self.theirs}/env"'):
            for user in ('"root"', "0", "Current"):
                chain = f'(name: "one", user: {user}, {field}, tasks: [(name: "t", sh: "true")]),'
                text = self.refused(self.write_config(chain), "is opened as root", f"cannot trust {self.theirs}", "runner.ron:5:")
                self.assertIn(f"`{field.split(':')[0]}`", text)
            # The same for the user whose folder it is: nothing to say.
            self.assertEqual(self.check(self.write_config(self.chain(field + ","))).returncode, 0)
        mail = (f'mail: (from: "r@example.org", to: ["a@example.org"], user: "{MAILER}", spool: "{self.dir}/spool",'
                f' transport: Maildir("{self.theirs}/box")),')
        self.refused(self.write_config(self.chain(), mail), "`mail.transport`", f"cannot trust {self.theirs}")
        mail = mail.replace(f"{self.theirs}/box", f"{self.dir}/box").replace(f"{self.dir}/spool", f"{self.theirs}/spool")
        self.refused(self.write_config(self.chain(), mail), "`mail.spool`", f"cannot trust {self.theirs}")
        password = self.theirs / "password"
        password.write_text("x\n")
        mail = (f'mail: (from: "r@example.org", to: ["a@example.org"], user: "{MAILER}", spool: "{self.dir}/spool",'
                f' transport: Smtp(host: "127.0.0.1", username: "r", password_file: "{password}")),')
        self.refused(self.write_config(self.chain(), mail), f"cannot trust {self.theirs}")

    def test_the_runners_own_accounts_are_of_no_other_use(self):
        mail = ('mail: (from: "r@example.org", to: ["a@example.org"], user: {}, spool: "%s/spool",'
                ' transport: Maildir("%s/mail")),' % (self.dir, self.dir))
        for user, words in (
            ('"nobody"', "others run as nobody too"), ("65534", "others run as nobody too"),
            (f'"{MALLORY}"', "is also the user of the chain"), (str(self.mallory.pw_uid), "it is also the user of the chain"),
            ('"runner-idg-none"', "useradd --system --no-create-home --shell /usr/sbin/nologin runner-idg-none"),
        ):
            with self.subTest(user):
                self.refused(self.write_config(self.chain(), mail.format(user)), words, "mail.user")
                log = f'(user: {user}, to: File("{self.dir}/log"))'
                self.refused(self.write_config(self.chain(), log=log), words, "log.user")
        log = f'(user: "{MAILER}", to: Stderr)'
        self.refused(self.write_config(self.chain(), mail.format(f'"{MAILER}"'), log=log), "the same account")

    def test_names_that_could_be_paths_options_or_lines_are_refused(self):
        for name in ("../x", "a/b", "-rf", "--help", ".", "..", "a b", "a\\nb", "x" * 300, "", "\\u{202e}", "*", "$(id)", "a;b", "~"):
            with self.subTest(name):
                self.refused(self.write_config(self.chain(name=name)), "the name of a chain", "runner.ron:5:")
                config = self.write_config(self.chain().replace('name: "t"', f'name: "{name}"'))
                self.refused(config, "the name of a task", "runner.ron:5:")
        for user in ("-root", "a:b", "../x", "a b", "0x0", "+0", "1000", ""):
            with self.subTest(user=user):
                done = self.check(self.write_config(self.chain().replace(f'"{MALLORY}"', f'"{user}"')))
                self.assertEqual(done.returncode, 78, done.stderr)

    def test_the_surroundings_are_tried_with_the_chains_rights_and_told_with_positions(self):
        home = self.theirs
        (home / "data").write_text("x")
        os.mkfifo(home / "fifo")
        (home / "link").symlink_to("/etc/passwd")
        secret = self.path("secret")
        secret.write_text("A=1\n")
        secret.chmod(0o600)
        (home / "bad.env").write_text("A=1\nB C=2\n")
        (home / "bom.env").write_bytes(b"\xef\xbb\xbfA=1\n")
        (home / "latin.env").write_bytes(b"A=\xe4\n")
        (home / "hidden.env").symlink_to(secret)
        cases = {
            'cwd: "/root",': "as {}: cannot enter /root: permission denied",
            'cwd: "/nowhere",': "cannot enter /nowhere: it does not exist",
            f'output: Lines("{home}/link"),': "it is a link",
            f'output: Lines("{secret}"),': f"cannot write {secret}: permission denied",
            'output: Raw("/nowhere/log"),': "cannot make a file in /nowhere",
            f'output: Raw("{home}"),': "it is a folder",
            f'env_file: "{secret}",': f"cannot read {secret}: permission denied",
            f'env_file: "{home}/hidden.env",': "permission denied",
            f'env_file: "{home}/fifo",': "it is no regular file",
            f'env_file: "{home}/bad.env",': 'line 2: "B C" is no name of a variable',
            f'env_file: "{home}/bom.env",': "byte order mark",
            f'env_file: "{home}/latin.env",': "it is not UTF-8",
        }
        chains = "\n".join(self.chain(field, name=f"c{n}") for n, field in enumerate(cases))
        programs = {
            "/nowhere/program": "cannot run /nowhere/program: it does not exist", "nowhere-at-all": "it is not in /usr/local/bin",
            str(home / "data"): "it is not executable (chmod +x)", "/tmp": "it is a folder", str(self.path("secret")): "not executable",
        }
        chains += "\n".join(self.chain("", f'run: ["{program}"]', f"p{n}") for n, program in enumerate(programs))
        chains += '\n(name: "gone", user: "runner-idg-gone", tasks: [(name: "t", sh: "true")]),'
        chains += f'\n(name: "group", user: "{MALLORY}", group: "runner-idg-gone", tasks: [(name: "t", sh: "true")]),'
        config = self.write_config(chains)
        done = self.check(config)
        self.assertEqual(done.returncode, 78)
        for words in [*cases.values(), *programs.values(), "there is no user", "useradd --create-home runner-idg-gone", "there is no group"]:
            self.assertIn(words.format(MALLORY), done.stderr)
        faults = done.stderr.split("\nerror: ")
        self.assertEqual(len(faults) - (0 if done.stderr.startswith("\n") else 0), len(cases) + len(programs) + 2, done.stderr)
        for fault in faults:
            self.assertRegex(fault, r"--> .*runner\.ron:\d+:\d+")
        self.assertFalse((home / "log").exists())
        # At a start only those chains fail, and root opened nothing for them.
        master = self.start(self.write_config(chains + self.chain(f'cwd: "{home}",', 'sh: "echo ran >> ledger", success_cooldown: "100ms"', "good")))
        wait_for("the good one", lambda: self.lines("theirs/ledger"))
        status = {chain["name"]: chain for chain in self.status()["chains"]}
        self.assertEqual(status["good"]["health"], "ok")
        wait_for("the others fail", lambda: all(
            chain["health"] == "failing" for chain in self.status()["chains"] if chain["name"] != "good"), 60)
        self.assertEqual(stat.S_IMODE(secret.stat().st_mode), 0o600)
        self.assertEqual(self.stop(master), 0)

    def test_one_dropped_child_for_each_account(self):
        chains = "".join(self.chain(f'cwd: "{self.theirs}",', name=f"c{n}") for n in range(6))
        chains += '(name: "number", user: 54322, cwd: "/tmp", tasks: [(name: "t", run: ["true"])]),'
        config = self.write_config(chains)
        trace = self.path("trace")
        subprocess.run(["strace", "-f", "-qq", "-e", "trace=setresuid", "-o", str(trace), MASTER, "--check", str(config)],
                       check=True, capture_output=True, timeout=60)
        drops = [line.split("setresuid(")[1].split(",")[0] for line in trace.read_text().splitlines()
                 if "setresuid(" in line and "setresuid(0" not in line]
        self.assertEqual(sorted(drops), sorted([str(self.mallory.pw_uid), "54322"]))

    def test_an_upgrade_takes_no_program_that_others_can_change(self):
        program = self.path("runner-master")
        shutil.copy(MASTER, program)
        program.chmod(0o755)
        import lib.harness as harness
        ours, harness.MASTER = harness.MASTER, str(program)
        try:
            master = self.start(self.write_config(self.chain()))
        finally:
            harness.MASTER = ours
        for n, (spoil, mend) in enumerate((
                (lambda: program.chmod(0o777), lambda: program.chmod(0o755)),
                (lambda: self.give(program), lambda: os.chown(program, 0, 0)))):
            spoil()
            master.send_signal(signal.SIGHUP)
            last = wait_for("a refusal", lambda: (s := self.status()) and s["master"]["last_upgrade"] and (
                s["master"]["last_upgrade"]["outcome"] == "refused" and s["master"]["last_upgrade"]))
            self.assertIn("others than root can change it", last["cause"])
            mend()
            program.chmod(0o755)
            self.ctl("reload", "--wait", check=True)
        self.assertEqual(self.stop(master), 0)

    def test_a_file_with_a_second_name_takes_no_output(self):
        log = self.theirs / "out.log"
        log.write_text("")
        self.give(log)
        os.link(log, self.theirs / "other")
        master = self.start(self.write_config(self.chain(f'output: Lines("{log}"),', 'sh: "echo x", fail_cooldown: "100ms"')))
        wait_for("the chain fails", lambda: self.status()["chains"][0]["health"] == "failing")
        self.assertIn("it has more than one name", self.log())
        self.assertEqual(log.read_text(), "")
        (self.theirs / "other").unlink()
        wait_for("it recovers", lambda: log.read_text(), 60)
        self.assertEqual(self.stop(master), 0)


if __name__ == "__main__":
    unittest.main()
