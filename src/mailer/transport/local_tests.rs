//! Delivery by a program and into a folder of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Outcome, Way, deliver};
use crate::config::model::{Limit, Mail, Transport, UserSpec};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

fn try_once(transport: Transport, body: &str) -> Outcome {
    let mail = Mail {
        from: "Runner <runner@example.org>".to_owned(),
        to: Vec::new(),
        transport,
        spool: Path::new("/nowhere").to_owned(),
        user: UserSpec::Current,
        subject_prefix: String::new(),
        limit: Limit { mails: 1, per: Duration::from_secs(1) },
    };
    let way = Way { mail: &mail, secret: Ok(None), host: "box.example.org" };
    let envelope = Envelope {
        id: "id".to_owned(),
        thread: None,
        kind: NoticeKind::First,
        to: Vec::new(),
        subject: "subject".to_owned(),
        body: body.to_owned(),
        chain: None,
        task: None,
        at: WallTime(1_700_000_000_000),
    };
    let mut outcomes = Vec::new();
    deliver(&way, &envelope, None, "ops@example.org", &mut |outcome| outcomes.push(outcome));
    assert_eq!(outcomes.len(), 1, "exactly one outcome");
    outcomes.remove(0)
}

fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("sendmail");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn sendmail_gets_its_arguments_and_the_message_with_the_lines_of_this_system() {
    let dir = tempfile::tempdir().unwrap();
    let [args, input] = ["args", "input"].map(|name| dir.path().join(name));
    let script = format!("echo \"$@\" > {}; cat > {}", args.display(), input.display());
    let outcome = try_once(Transport::Sendmail(program(dir.path(), &script)), ".\nbody\n");
    assert_eq!(outcome, Outcome::Sent { subject: "subject".to_owned() });
    let expected = "-i -f runner@example.org -- ops@example.org\n";
    assert_eq!(fs::read_to_string(args).unwrap(), expected);
    let message = fs::read_to_string(input).unwrap();
    assert!(message.contains("\nSubject: subject\n") && !message.contains('\r'), "{message}");
    assert!(message.ends_with("\n\n.\nbody\n"), "{message}");
}

#[test]
fn whatever_sendmail_answers_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let deliver = |script| try_once(Transport::Sendmail(program(dir.path(), script)), "body");
    let Outcome::ServerLater(error) = deliver("echo 'queue is full' >&2; exit 75") else {
        panic!("75 is about the way")
    };
    assert!(error.contains("exit status: 75") && error.contains("queue is full"), "{error}");
    assert!(matches!(deliver("exit 67"), Outcome::MailLater(_)));
    assert!(matches!(deliver("kill -9 $$"), Outcome::ServerLater(_)));
    // It need not read what it is given, and may say more than a pipe holds.
    assert!(matches!(deliver("head -c 300000 /dev/zero; exit 1"), Outcome::ServerLater(_)));
    let missing = try_once(Transport::Sendmail(dir.path().join("missing")), "body");
    assert!(matches!(missing, Outcome::ServerLater(_)), "{missing:?}");
}

#[test]
fn a_maildir_gets_one_whole_file_however_often_it_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let outcome = try_once(Transport::Maildir(dir.path().to_owned()), "body\n");
        assert_eq!(outcome, Outcome::Sent { subject: "subject".to_owned() });
    }
    let files = |name: &str| -> Vec<PathBuf> {
        fs::read_dir(dir.path().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!((files("new").len(), files("tmp").len(), files("cur").len()), (1, 0, 0));
    let name = files("new")[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(!name.starts_with('.') && !name.contains([':', '/']), "{name}");
    assert!(fs::read_to_string(&files("new")[0]).unwrap().ends_with("\n\nbody\n"));
}

#[test]
fn a_maildir_that_is_a_link_or_missing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    for path in [link, dir.path().join("missing")] {
        let outcome = try_once(Transport::Maildir(path), "body");
        assert!(matches!(outcome, Outcome::ServerLater(_)), "{outcome:?}");
    }
}
