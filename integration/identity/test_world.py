"""A task's whole world against a table: at the first start, after an upgrade, after a takeover and
after a replacement, from launchers that leave everything behind that a launcher can."""

import os
import pathlib
import platform
import pty
import resource
import shutil
import signal
import subprocess
import sys
import unittest

from lib.harness import MASTER, Case, add_user, remove_user, wait_for

HERE = pathlib.Path(__file__).resolve().parent
ALICE, BOB, CLUB = "runner-idw-alice", "runner-idw-bob", "runner-idw-club"
NUMBER = 54321
ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS_PATH = "/usr/local/bin:/usr/bin:/bin"

# The limits by setrlimit(2)'s numbers on x86-64 and arm64; -1 is infinity.
CPU, FSIZE, DATA, STACK, CORE, RSS, NPROC, NOFILE, MEMLOCK, AS, LOCKS, SIGPENDING, MSGQUEUE, NICE, RTPRIO, RTTIME = range(16)


def every_cpu():
    """All that cpuset(7) allows, whatever this process was restricted to."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(1024))
    try:
        return sorted(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, before)


FIRST, LAST = every_cpu()[0], every_cpu()[-1]


def standard_limits():
    """What runner.ron(5) promises; a hard limit of this machine may be lower and not raisable."""
    threads = int(pathlib.Path("/proc/sys/kernel/threads-max").read_text()) // 2
    limits = {number: (-1, -1) for number in range(16)}
    limits.update({
        STACK: (8 << 20, -1), CORE: (0, -1), NPROC: (threads, threads), NOFILE: (1024, 524288),
        MEMLOCK: (8 << 20, 8 << 20), SIGPENDING: (threads, threads), MSGQUEUE: (819200, 819200),
        NICE: (0, 0), RTPRIO: (0, 0),
    })
    may_raise = int(pathlib.Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 24 & 1
    if not may_raise:
        for number, (soft, hard) in limits.items():
            ours = resource.getrlimit(number)[1]
            lower = lambda value: value if ours == -1 else ours if value == -1 else min(value, ours)
            limits[number] = (lower(soft), lower(hard))
    return limits


@unittest.skipUnless(platform.machine() == "x86_64", "dirty.py has the system call numbers of x86-64")
class World(Case):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.alice, cls.bob = add_user(ALICE), add_user(BOB)
        subprocess.run(["groupdel", CLUB], capture_output=True)
        subprocess.run(["groupadd", "--system", CLUB], check=True, capture_output=True)
        subprocess.run(["usermod", "-aG", f"{CLUB},adm", ALICE], check=True, capture_output=True)
        cls.club = int(subprocess.run(["getent", "group", CLUB], capture_output=True, text=True).stdout.split(":")[2])

    @classmethod
    def tearDownClass(cls):
        for user in (ALICE, BOB):
            remove_user(user)
        subprocess.run(["groupdel", CLUB], capture_output=True)

    def setUp(self):
        super().setUp()
        self.probe = str(self.path("probe"))
        subprocess.run(["cc", "-O1", "-Wall", "-o", self.probe, str(HERE / "probe.c")], check=True)
        out = self.path("out")
        out.mkdir()
        out.chmod(0o1777)
        shutil.copy(HERE / "dirty.py", self.path("dirty.py"))
        self.terminals = []
        self.addCleanup(lambda: [os.close(fd) for fd in self.terminals])

    def start_dirty(self, number, config, *arguments):
        """A master from a dirty launcher, on a terminal of its own."""
        controller, terminal = pty.openpty()
        self.terminals.append(controller)
        name = os.ttyname(terminal)
        with open(self.path("stderr"), "ab") as err:
            master = subprocess.Popen(
                [sys.executable, str(self.path("dirty.py")), name, str(number), MASTER, *arguments, str(config)],
                stdout=err, stderr=err, start_new_session=True)
        os.close(terminal)
        self.masters.append(master)
        wait_for("the master answers", lambda: self.alive_or_fail(master) and (
            (s := self.status()) and s["master"]["pid"] == master.pid), 60)
        self.assertEqual(os.getpgid(master.pid), master.pid)
        self.assertNotEqual(pathlib.Path(f"/proc/{master.pid}/stat").read_text().rpartition(")")[2].split()[4], "0",
                            "this master was to have a terminal")
        return master

    def alive_or_fail(self, master):
        if master.poll() is not None:
            raise AssertionError(f"the master ended with {master.returncode}: {self.stderr()}\n{self.log()}")
        return True

    def config(self, generation):
        env_file = self.path("list.env")
        env_file.write_text(f'FROM_FILE="of generation {generation}"\nBOTH=file\nPATH=/from/file\n')
        probe = self.probe

        def tasks(name):
            return f'tasks: [(name: "probe", run: ["{probe}", "{self.dir}/out/{name}"], success_cooldown: "200ms", fail_cooldown: "200ms")]'

        # A worker for each run, so that each run tells a world.
        def worker(name):
            return (f'worker: Command(["{probe}", "{self.dir}/out/{name}", "worker"]), max_runs: 1,'
                    f' tasks: [(call: "probe", success_cooldown: "200ms", fail_cooldown: "200ms")]')

        full = f"""user: "{BOB}", group: "{CLUB}", groups: ["adm", {NUMBER}], nice: 7,
             ionice: BestEffort(6), scheduler: Batch, cpu_affinity: [{LAST}], oom_score_adj: 300,
             rlimits: {{ "NOFILE": (soft: 100, hard: 200), "CORE": 4096, "CPU": 60 }}, umask: "027",
             no_new_privs: true, cwd: "{self.dir}/out", path: ["/opt/one", "/opt/two"], stop_signal: "SIGINT",
             env: {{ "BOTH": "env", "HOME": "/elsewhere" }}, env_file: "{env_file}", output: Discard,"""
        return self.write_config(f"""
            (name: "plain", user: "{ALICE}", {tasks("plain")}),
            (name: "full", {full} {tasks("full")}),
            (name: "plain.worker", user: "{ALICE}", {worker("plain.worker")}),
            (name: "full.worker", {full} {worker("full.worker")}),
            (name: "number", user: {NUMBER}, nice: -5, ionice: Idle, scheduler: Idle, {tasks("number")}),
            (name: "alone", user: "{ALICE}", groups: [], ionice: Realtime(3), scheduler: Fifo(7), {tasks("alone")}),
            (name: "roots", user: "root", {tasks("roots")}),
        """)

    def worlds(self, name):
        """Every complete record of a chain's probe, oldest first."""
        path = self.path(f"out/{name}")
        text = path.read_text() if path.exists() else ""
        records = []
        for record in text.split("end: 1\n")[:-1]:
            world = {}
            for line in record.splitlines():
                key, _, value = line.partition(": ")
                if key == "session keyring":
                    # Without its permissions, which differ between kernels.
                    value = ";".join(value.split(";")[:3] + value.split(";")[4:])
                world.setdefault(key, []).append(value)
            records.append(world)
        return records

    def fresh_worlds(self):
        names = ("plain", "full", "number", "alone", "roots", "plain.worker", "full.worker")
        for name in names:
            self.path(f"out/{name}").unlink(missing_ok=True)
        wait_for("every chain has told its world", lambda: all(len(self.worlds(n)) > 1 for n in names), 60)
        return {name: self.worlds(name)[-1] for name in names}

    def expected(self, name, world):
        """The table."""
        whose, is_worker = name.removesuffix(".worker"), name.endswith(".worker")
        run_number = next((v for v in world["env"] if v.startswith("RUNNER_RUN=")), "RUNNER_RUN=none")
        instance = next((v for v in world["env"] if v.startswith("RUNNER_INSTANCE=")), "")
        if not is_worker:
            self.assertRegex(run_number, "^RUNNER_RUN=[1-9][0-9]*$")
        self.assertRegex(instance, "^RUNNER_INSTANCE=[0-9a-f]{16}$")
        marks = [f"RUNNER_CHAIN={name}", instance]
        # A worker belongs to no run; its tasks stand in its environment.
        marks += ["RUNNER_CALLS=probe", "RUNNER_ISOLATION=warm"] if is_worker else ["RUNNER_TASK=probe", run_number]

        def login(user, uid, home, shell, path=USERS_PATH):
            return [f"PATH={path}", f"HOME={home}", f"USER={user}", f"LOGNAME={user}", f"SHELL={shell}", "LANG=C.UTF-8"]

        same = {
            "nice": "0", "ioprio class": "0", "scheduler": "0 0", "cpus": " ".join(map(str, every_cpu())),
            "/proc/self/oom_score_adj": "0", "securebits": "0", "keepcaps": "0", "dumpable": "1",
            "death signal": "15", "subreaper": "0", "personality": "0", "session": "own", "group": "own",
            "terminal": "none", "root's key": "none", "fd 0": "/dev/null rw", "fd 1": "pipe w", "fd 2": "pipe w",
            "status Umask": "0022", "status NoNewPrivs": "0", "status TracerPid": "0",
            **{f"status {mask}": "0" * 16 for mask in
               ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapAmb")},
        }
        limits = standard_limits()
        who = {
            "plain": (self.alice.pw_uid, self.alice.pw_gid, [self.alice.pw_gid, self.club, 4]),
            "full": (self.bob.pw_uid, self.club, [4, NUMBER]),
            "number": (NUMBER, NUMBER, [NUMBER]),
            "alone": (self.alice.pw_uid, self.alice.pw_gid, []),
            "roots": (0, 0, os.getgrouplist("root", 0)),
        }[whose]
        uid, gid, groups = who
        same["uids"] = " ".join([str(uid)] * 3)
        same["gids"] = " ".join([str(gid)] * 3)
        same["status Uid"] = "\t".join([str(uid)] * 4)
        same["status Gid"] = "\t".join([str(gid)] * 4)
        same["status Groups"] = " ".join(str(group) for group in sorted(groups))
        same["session keyring"] = f"keyring;{uid};{gid};_ses"
        home = f"/home/{ALICE}"
        env, cwd = login(ALICE, uid, home, "/bin/sh"), "/"
        if is_worker:
            same.update({"fd 3": "pipe r", "fd 4": "pipe w"})
        if whose == "full":
            env = [v for v in login(BOB, uid, "/elsewhere", "/bin/sh", "/opt/one:/opt/two:/from/file")]
            env += [f"FROM_FILE=of generation {self.generation}", "BOTH=env"]
            cwd = str(self.path("out"))
            limits.update({NOFILE: (100, 200), CORE: (4096, 4096), CPU: (60, 60)})
            same.update({
                "nice": "7", "ioprio class": "2", "ioprio level": "6", "scheduler": "3 0", "cpus": str(LAST),
                "/proc/self/oom_score_adj": "300", "death signal": "2", "status Umask": "0027", "status NoNewPrivs": "1",
            })
        if name == "number":
            env = login(str(NUMBER), uid, "/", "/bin/sh")
            same.update({"nice": "-5", "ioprio class": "3", "scheduler": "5 0"})
        if name == "alone":
            same.update({"ioprio class": "1", "ioprio level": "3", "scheduler": "1 7"})
        if name == "roots":
            env, cwd = login("root", 0, "/root", "/bin/bash", ROOTS_PATH), "/root"
            capabilities = pathlib.Path("/proc/self/status").read_text()
            for field in ("CapPrm", "CapEff"):
                same[f"status {field}"] = capabilities.split(f"{field}:")[1].split()[0]
        same["cwd"] = cwd
        return same, sorted(env + marks), limits

    def check_all(self, when):
        for name, world in self.fresh_worlds().items():
            same, env, limits = self.expected(name, world)
            with self.subTest(when=when, chain=name):
                self.assertEqual({key: world.get(key, ["nothing"])[0].strip() for key in same}, same)
                self.assertEqual({key for key in world if key.startswith("fd ")},
                                 {key for key in same if key.startswith("fd ")})
                self.assertNotIn("disposition", world)
                self.assertEqual(sorted(world["env"]), env)
                told = {number: tuple(map(int, world[f"rlimit {number}"][0].split())) for number in range(16)}
                self.assertEqual(told, limits)
                group = [line for line in world["/proc/self/cgroup"] if line.startswith("0::")]
                if pathlib.Path("/sys/fs/cgroup/unified").is_dir():
                    self.assertTrue(group[0].endswith(f"/chain-{name}"), group)

    def test_whatever_the_launcher_left_a_task_finds_the_world_of_the_table(self):
        """At the first start, after HUP, after a replacement, after a takeover."""
        self.generation = 1
        first = self.start_dirty(1, self.config(1))
        self.check_all("first start")

        self.generation = 2
        self.config(2)
        first.send_signal(signal.SIGHUP)
        wait_for("the new generation", lambda: (s := self.status()) and all(
            chain["generation"] == 2 and chain["state"] in ("running", "cooling") for chain in s["chains"]), 60)
        self.check_all("after HUP")

        old = {chain["name"]: chain["pid"] for chain in self.status()["chains"]}
        for pid in old.values():
            os.kill(pid, signal.SIGKILL)
        wait_for("replacements", lambda: all(
            chain["pid"] not in (None, old[chain["name"]]) for chain in self.status()["chains"]), 60)
        self.check_all("after a replacement")

        second = self.start_dirty(2, self.config(2))
        self.assertEqual(first.wait(30), 0)
        self.check_all("after a takeover")
        self.assertEqual(self.stop(second), 0)

    def test_a_normal_users_master_keeps_what_it_may_not_improve_and_no_more(self):
        """Nice, scheduler and hard limits; what the file asks for is given or fails the chain."""
        home = self.path("own")
        home.mkdir()
        os.chown(home, self.alice.pw_uid, -1)
        config = home / "runner.ron"
        config.write_text(f"""(run_root: "{home}/run", state_root: "{home}/state", log: (to: File("{home}/log")), chains: [
            (name: "plain", tasks: [(name: "t", run: ["{self.probe}", "{self.dir}/out/plain"], success_cooldown: "200ms")]),
            (name: "asks", nice: -5, tasks: [(name: "t", sh: "true")]),
            (name: "modest", nice: 15, scheduler: Idle, ionice: Idle, cpu_affinity: [{FIRST}], oom_score_adj: 500, tasks: [
                (name: "t", run: ["{self.probe}", "{self.dir}/out/modest"], success_cooldown: "200ms")]),
        ])""")

        def dirty():
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 64))
            os.sched_setaffinity(0, {LAST})
            os.setpriority(os.PRIO_PROCESS, 0, 5)
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.setgroups([self.club])
            os.setresgid(*[self.alice.pw_gid] * 3)
            os.setresuid(*[self.alice.pw_uid] * 3)
        with open(self.path("stderr"), "ab") as err:
            master = subprocess.Popen([MASTER, str(config)], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                      start_new_session=True, preexec_fn=dirty, cwd="/", env={"PATH": USERS_PATH})
        self.masters.append(master)
        wait_for("worlds", lambda: self.alive_or_fail(master) and self.worlds("plain") and self.worlds("modest"), 60)
        plain, modest = self.worlds("plain")[0], self.worlds("modest")[0]
        cpus = " ".join(map(str, every_cpu()))
        told = {key: (plain[key][0], modest[key][0]) for key in ("nice", "scheduler", "cpus", "ioprio class", "rlimit 7", "dumpable")}
        self.assertEqual(told, {
            "nice": ("5", "15"), "scheduler": ("5 0", "5 0"), "cpus": (cpus, str(FIRST)), "ioprio class": ("0", "3"),
            "rlimit 7": ("64 64", "64 64"), "dumpable": ("1", "1")})
        self.assertEqual(plain["status Groups"][0].split(), [str(self.club)])
        self.assertEqual(modest["/proc/self/oom_score_adj"], ["500"])
        wait_for("the chain that asks for more says so", lambda: "cannot set nice to -5" in (home / "log").read_text())
        master.send_signal(signal.SIGTERM)
        self.assertEqual(master.wait(30), 0)


if __name__ == "__main__":
    unittest.main()
