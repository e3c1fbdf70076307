use super::*;
use crate::config::{Defaults, parse};

/// Imports, and holds what comes out to the configuration's own rules.
fn imported(path: &str, text: &str) -> String {
    let ron = import(Path::new(path), text, None).unwrap();
    let loaded = parse(Path::new("/etc/runner/runner.ron"), &ron, &Defaults::of_root());
    let told: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
    assert!(loaded.checked.is_some(), "{told:?}\n{ron}");
    ron
}

#[test]
fn a_start_script() {
    let script = r#"#!/bin/bash
username=bet_prod
domain=bet.example.org
source ../local

start_runner() {
    echo "Starting run_functions tasks.gsm_sync_live"
    su $username -c "source /srv/$domain/env/bin/activate && \
        nice -n 5 /srv/$domain/main/manage.py run_functions \
            tasks.gsm_sync_live \
    &>> /dev/null & disown"
    su $username -c "source /srv/$domain/env/bin/activate && \
        nice -n 15 /srv/$domain/main/manage.py run_functions \
            tasks.send_mail \
            tasks.retry_deferred \
    &>> /srv/$domain/log/runner_debug_0 & disown"
}
start_runner
"#;
    insta::assert_snapshot!(imported("start.sh", script));
}

#[test]
fn other_ways_to_start_something() {
    let script = r#"
export LANG=C
su - shop -c 'cd /srv/shop; export A="b c"; while true; do ./sync --all; sleep 60; done' >> /var/log/sync.log 2>&1 &
sudo -u www-data nohup ionice -c3 timeout 1h /usr/local/bin/index $UNKNOWN > /tmp/out 2>/tmp/err &
nice ./poll.py | logger -t poll &
su shop -c "/opt/a.sh && /opt/b.sh"
rm -f /tmp/lock
"#;
    insta::assert_snapshot!(imported("start.sh", script));
}

#[test]
fn a_supervisord_conf() {
    let file = r#"
[supervisord]
logfile=/var/log/supervisor.log

[program:celery]
command=/srv/shop/env/bin/celery -A shop worker --loglevel="INFO" ; a comment
directory=/srv/shop
user=shop
numprocs=2
environment=DJANGO_SETTINGS_MODULE="shop.settings",LANG=C
stdout_logfile=/var/log/%(program_name)s.log
redirect_stderr=true
stopsignal=INT
stopwaitsecs=600
exitcodes=0,2

[program:once]
command=/bin/true
autorestart=false

[group:all]
programs=celery,once
"#;
    insta::assert_snapshot!(imported("/etc/supervisord.conf", file));
}

#[test]
fn crontabs() {
    let table = r#"
# a comment
MAILTO=ops@example.org
PATH=/usr/bin:/bin
*/15 * * * * shop cd /srv/shop && ./manage.py send_mail >> log/mail.log 2>&1
0 3 * * 1-5 postgres pg_dump shop | gzip > /backup/$(date +\%F).gz
@reboot root /usr/local/sbin/prepare
"#;
    insta::assert_snapshot!(imported("/etc/cron.d/shop", table));
    insta::assert_snapshot!(imported("crontab", "17 * * * * /usr/bin/pull --quiet\n"));
}

/// Files as they are met, in tests/data/import.
#[test]
fn files_as_they_are_met() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import");
    for (name, path) in [
        ("ways.sh", "ways.sh"),
        ("programs.conf", "/etc/supervisord.conf"),
        ("crontab", "crontab"),
        ("etc-crontab", "crontab.txt"),
    ] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        insta::assert_snapshot!(name.replace('.', "_"), imported(path, &text));
    }
}

#[test]
fn what_starts_nothing_is_said() {
    assert!(import(Path::new("x"), "echo hello\n", None).is_err());
    assert!(import(Path::new("x"), "", None).is_err());
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(
        text in "((su|sudo -u|nice|a=b|cd|source|\\[program:x\\]|command=|\\* \\*) ?|[a$'\"&|;<>\\\\\n-])*",
    ) {
        for kind in [Kind::Shell, Kind::Supervisord, Kind::Crontab] {
            let _ = import(Path::new("x"), &text, Some(kind));
        }
    }
}

#[test]
fn what_a_configuration_would_refuse_becomes_a_comment() {
    let file = "[program:web]\ncommand=/usr/bin/web\nuser=1000\numask=rwx\nstopsignal=NONSENSE\n\
                environment=A=\"1\",A=\"2\",B C=\"3\"\n[program:db]\ncommand=/usr/bin/db\nuser=a/b\n";
    let made = import(Path::new("x.conf"), file, None).unwrap();
    for kept in ["user: 1000,", "env: { \"A\": \"2\", \"B C\": \"3\" },", "user: \"nobody\","] {
        assert!(made.contains(kept), "{kept} in {made}");
    }
    for told in [
        "// Left out: umask: \"rwx\" (",
        "// Left out: stop_signal: \"SIGNONSENSE\" (",
        "`a/b` is no account's name.",
    ] {
        assert!(made.contains(told), "{told} in {made}");
    }
}

#[test]
fn a_working_folder_stays_inside_its_quotes() {
    let file = "[program:web]\ncommand=/usr/bin/web\ndirectory=/srv/a\"b\nstdout_logfile=out.log\n";
    let made = import(Path::new("x.conf"), file, None).unwrap();
    assert!(made.contains(r#"output: Raw("/srv/a\"b/out.log"),"#), "{made}");
}

#[test]
fn a_group_in_braces_keeps_its_folder_to_itself() {
    let script = "{ cd /srv/b; ./b; } >> /var/log/b.log 2>&1 &\n/opt/c &\n";
    let made = imported("start.sh", script);
    assert_eq!(made.matches("cwd: ").count(), 1, "{made}");
    for part in ["run: [\"./b\"]", "output: Raw(\"/var/log/b.log\")", "run: [\"/opt/c\"]"] {
        assert!(made.contains(part), "{part} in {made}");
    }
    assert!(!made.contains("Not taken over"), "{made}");
}

#[test]
fn lines_that_end_with_cr_lf_are_lines() {
    let script = "\u{feff}su shop -c \"nice -n 3 /opt/b.sh \\\r\n  --x &\"\r\n";
    let made = imported("start.sh", script);
    assert!(made.contains(r#"run: ["/opt/b.sh", "--x"]"#), "{made}");
    let made = imported("x.conf", "[program:a]\r\ncommand=/opt/a\r\nuser=shop\r\n");
    assert!(made.contains(r#"user: "shop""#) && made.contains(r#"run: ["/opt/a"]"#), "{made}");
    let made = imported("crontab", "*/5 * * * * /opt/a\r\n");
    assert!(made.contains(r#"run: ["/opt/a"]"#), "{made}");
}

#[test]
fn runuser_names_its_user_as_su_does() {
    for line in [
        "runuser -l shop -c '/opt/x --a' &",
        "runuser shop -c '/opt/x --a' &",
        "runuser -u shop -- /opt/x --a &",
        "runuser -u shop /opt/x --a &",
    ] {
        let made = imported("start.sh", line);
        assert!(made.contains(r#"user: "shop""#), "{line}: {made}");
        assert!(made.contains(r#"run: ["/opt/x", "--a"]"#), "{line}: {made}");
    }
}

#[test]
fn periods_are_written_in_units_that_mean_what_they_say() {
    for (schedule, period) in [
        ("1-59/2 * * * *", "2m"),
        ("0 0 * jan *", "365d"),
        ("@monthly", "30d"),
        ("@weekly", "7d"),
        ("0 3 * * *", "1d"),
        ("0 */6 * * *", "6h"),
    ] {
        let made = imported("crontab", &format!("{schedule} /opt/x\n"));
        assert!(made.contains(&format!("success_cooldown: \"{period}\"")), "{schedule}: {made}");
    }
}

#[test]
fn a_variable_that_names_itself_is_followed_a_few_times() {
    let text = imported("start.sh", "x='su a -c \"$x\"'\nsu root -c \"$x\" &\n");
    assert!(text.contains("So many shells within each other are not looked into."), "{text}");
    let wide = format!("x='{}'\nsu root -c \"$x\" &\n", "su a -c \"$x\"; ".repeat(50));
    imported("start.sh", &wide);
}

#[test]
fn a_condition_is_told_and_its_end_is_no_command() {
    let script = "if [ -f /etc/x ]; then su bob -c '/bin/work' & fi\n\
                  if test -d /y; then\n  /bin/one\nfi &\necho starting &\n";
    let ron = imported("start.sh", script);
    for line in ["//     if [ -f /etc/x ]\n", "//     if test -d /y\n", "//     /bin/one\n"] {
        assert!(ron.contains(line), "{ron}");
    }
    assert!(ron.contains("[\"/bin/work\"]") && !ron.contains("\"fi\""), "{ron}");
    let echo = ron.find("said again and again: leave it out?").unwrap();
    assert!(echo < ron.find("\"starting\"").unwrap(), "{ron}");
}
