"""What `runnerctl import` prints is put through the real `runner-master --check`: nothing is wrong
with it but what this machine lacks; and where nothing lacks, it runs as it stands."""

import os
import pwd
import re
import subprocess
import unittest

from lib import harness
from lib.harness import wait_for
import room
from room import Operator, setUpModule, tearDownModule  # noqa: F401

# Faults of the surroundings (runner.ron(5)): of the machine, not of the file.
LACKS = re.compile(
    r'there is no (user|group) "'
    r"|as \S+: cannot (enter|run|read|write|make) .*: (it does not exist|permission denied|it is a folder"
    r"|it is not executable|not a folder|it is not in \S+)"
    r'|`log\.user`: there is no user "runner-log"')

SCRIPT = r"""#!/bin/bash
set -e
username=bet_prod
domain="bet.example.org"
ROOT=/srv/$domain
LOG=${ROOT}/log
PY="$ROOT/env/bin/python -u"
export DJANGO_SETTINGS_MODULE=bet.settings
cat > /dev/null <<EOF
su nobody -c "never & disown"
EOF
for q in gsm_sync update_index; do
    su $username -c "source $ROOT/env/bin/activate && nice -n 5 $PY $ROOT/main/manage.py run_functions tasks.$q &>> $LOG/$q.log & disown"
done
start() {
    su - $1 -c "cd $ROOT/main && $PY manage.py '$2' \"with space\" >> $LOG/$2.log 2>&1 &"
}
start bet_prod send_mail
su - bet_prod -c 'cd ~/main; while :; do ./manage.py "it'"'"'s" --x="a \"b\""; sleep 30; done' &>> $LOG/loop.log & disown
su $username -c "source $ROOT/env/bin/activate && \
    nice -n 15 $ROOT/main/manage.py run_functions \
        tasks.send_mail \
        tasks.retry_deferred \
    &>> $LOG/runner_debug_0 & disown"
sudo -u www-data -H -- setsid nohup /usr/bin/php /srv/shop/artisan queue:work --sleep=3 > /dev/null 2>&1 &
runuser -l shop -c '/opt/x --date=$(date +%F) --home=$HOME' &
nohup /usr/local/bin/poller -c /etc/poller.conf </dev/null >/dev/null 2>&1 &
(cd /srv/app && exec ./run.sh >> run.log 2>> err.log) &
{ cd /srv/b; ./b "tab	and \\ backslash"; } &
if [ -f /etc/foo ]; then /usr/bin/foo & fi
case $1 in start) /usr/bin/bar -x & ;; esac
sudo -E -u deploy env A=1 B="two words" /opt/go run 'a"b' "c'd" $'e\nf' &
/opt/pipeline | tee -a /var/log/x.log &
VAR=1 /opt/withvar "ünï" >> /tmp/a\ b.log 2>&1 &
"""

SUPERVISORD = r"""[supervisord]
logfile=/var/log/s.log
[program:web]
command=%(ENV_HOME)s/bin/gunicorn -b 0.0.0.0:80%(process_num)02d app:app
process_name=%(program_name)s_%(process_num)02d
numprocs=3
directory=/srv/%(program_name)s
user=www-data
environment=A="x,y",B='q"r',C=%(host_node_name)s,D="50%%"
stdout_logfile=/var/log/web.log
stderr_logfile=/var/log/web.err
stopsignal=QUIT
stopwaitsecs=30
exitcodes=0
umask=027
[program:bash]
command=bash -c "while true; do echo hi | cat; sleep 5; done"
stdout_logfile=AUTO
[program:quoted]
command = /opt/q "a b" 'c d' e\ f  ; comment
autostart=false
[program:web]
command=/opt/second-of-the-name
[program:odd name;x]
command=/opt/m
  --one
  --two
umask=9
user=1000
[program:cat]
command=/bin/cat
stdout_logfile=/dev/stdout
"""

CRONTAB = r"""SHELL=/bin/bash
MAILTO="ops@example.org"
FOO = "bar baz"
*/5 * * * * cd /srv/app && ./sync.sh "a b" > /dev/null 2>&1
@reboot sleep 30 && /opt/boot.sh
@daily /opt/daily %stdin line%second
	15 2 * * *	/opt/tabbed $(date +\%Y\%m\%d) `hostname`
* * * * * flock -n /tmp/l /opt/flocked >>/var/log/f.log 2>&1
*/10 * * jan-mar mon,fri FOO=1 /opt/names 'it''s'
"""

SYSTEM = r"""PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin
17 *	* * *	root    cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )
@reboot www-data /opt/a
*/1 * * * * shop . /srv/env.sh; /opt/dot
"""


@unittest.skipIf(os.geteuid() != 0, "needs root")
class Import(Operator):
    def made(self, text, *options):
        done = subprocess.run([harness.CTL, "import", "-", *options], input=text, capture_output=True, text=True)
        self.went(done, 0)
        path = self.path("imported.ron")
        path.write_text(done.stdout)
        path.chmod(0o644)
        return path

    def check(self, path):
        return subprocess.run([harness.MASTER, "--check", path], capture_output=True, text=True, timeout=60)

    def passes_apart_from_the_machine(self, text, *options):
        path = self.made(text, *options)
        done = self.check(path)
        self.assertIn(done.returncode, (0, 78), done.stderr)
        told = re.findall(r"^error: (.*)$", done.stdout + done.stderr, re.M)
        self.assertEqual([line for line in told if not LACKS.match(line)], [], path.read_text() + done.stderr)
        if done.returncode:
            self.assertTrue(told, done.stderr)
        return path.read_text()

    def test_a_start_script(self):
        made = self.passes_apart_from_the_machine(SCRIPT)
        for part in ('call: "tasks.send_mail"', 'user: "www-data"', "it's", 'run: ["./b", "tab\\tand \\\\ backslash"]'):
            self.assertIn(part, made)
        self.assertNotIn("never", made.split("\n(\n")[1])

    def test_the_same_with_the_line_ends_of_another_system(self):
        plain, crlf = (self.passes_apart_from_the_machine(text) for text in (SCRIPT, SCRIPT.replace("\n", "\r\n")))
        self.assertEqual(plain, crlf)

    def test_a_supervisord_conf_of_many_programs(self):
        made = self.passes_apart_from_the_machine(SUPERVISORD)
        for name in ("web_0", "web_1", "web_2", "web", "bash", "quoted", "cat"):
            self.assertIn(f'name: "{name}"', made)

    def test_crontabs(self):
        made = self.passes_apart_from_the_machine(CRONTAB)
        self.assertIn('sh: "/opt/tabbed $(date +%Y%m%d) `hostname`"', made)
        made = self.passes_apart_from_the_machine(SYSTEM)
        self.assertEqual(made.count('user: "root"'), 2)

    def test_where_nothing_lacks_it_is_accepted_and_does_what_the_script_did(self):
        folder = self.path("srv")
        folder.mkdir()
        owner = pwd.getpwnam(room.OWNER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        script = self.path("job.sh")
        script.write_text('#!/bin/sh\nprintf "%s|" "$@" "$(id -un)" "$(nice)" "$PWD" "$MODE"; echo; echo oops >&2\n')
        script.chmod(0o755)
        path = self.made(
            f"user={room.OWNER}\nbase={folder}\n"
            f"su $user -c \"cd $base && export MODE='quite quiet' && nice -n 7 {script} 'a b' \\$HOME 'it'\\''s' "
            "&>> $base/job.log & disown\"\n")
        text = path.read_text()
        # The places of the machine, and none of the accounts of its own that a system's start has.
        path.write_text(text.replace("(\n", f'(\n    run_root: "{self.dir}/run", state_root: "{self.dir}/state",'
                                            f' log: (user: Current, to: File("{self.dir}/log")),\n', 1))
        self.went(self.check(path), 0)
        self.start(path)
        wait_for("it has run", lambda: self.lines("srv/job.log"))
        wait_for("both streams stand there", lambda: "oops" in self.lines("srv/job.log"))
        self.assertEqual(self.lines("srv/job.log")[0].split("|"),
                         ["a b", "$HOME", "it's", room.OWNER, "7", str(folder), "quite quiet", ""], text)
