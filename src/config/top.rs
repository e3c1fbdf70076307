//! What the main file says beside its chains: folders, mail, log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::load::Defaults;
use super::model::{Chain, Log, Mail, UserSpec};
use super::positions::Positions;
use super::problem::{Problem, Problems, quoted};
use super::reader::{Fields, Reader};
use super::sections;
use super::tree::{Kind, Node};

/// What the main file says beside its chains.
pub(super) struct Top {
    pub(super) run_root: PathBuf,
    pub(super) state_root: PathBuf,
    pub(super) mail: Option<Mail>,
    pub(super) log: Log,
}

pub(super) fn top(
    reader: &mut Reader<'_>,
    node: &Node,
    fields: &Fields<'_>,
    who: &Defaults,
    positions: &mut Positions,
) -> Top {
    let mut root = |field: &str, default: &Option<PathBuf>, variable: &str| {
        if let Some(entry) = fields.get(field) {
            positions.top.insert(field.to_owned(), reader.place(&entry.value.span));
        }
        let said = reader.take(fields, field, Reader::path);
        let faulty =
            said.is_none() && fields.get(field).is_some_and(|entry| entry.value.kind != Kind::None);
        match said.or_else(|| default.clone()) {
            Some(path) => {
                if let Some(entry) = fields.get(field).filter(|_| path == Path::new("/")) {
                    let help =
                        format!("a folder of the runner's own, as in {field}: \"/srv/runner\"");
                    reader.error(&entry.value.span, format!("`{field}` cannot be `/`"), Some(help));
                }
                path
            }
            None => {
                if !faulty {
                    let message = format!("there is no `{field}`, and ${variable} is not set");
                    let help = format!("{field}: \"…\" (a folder of your own), or set {variable}");
                    reader.error(&(node.span.start..node.span.start + 1), message, Some(help));
                }
                PathBuf::new()
            }
        }
    };
    let run_root = root("run_root", &who.run_root, "XDG_RUNTIME_DIR");
    let state_root = root("state_root", &who.state_root, "HOME");
    for field in ["mail", "log"] {
        if let Some(entry) = fields.get(field) {
            positions.top.insert(field.to_owned(), reader.place(&entry.name_span));
        }
    }
    let mail = fields
        .get("mail")
        .filter(|entry| entry.value.kind != Kind::None)
        .and_then(|entry| sections::mail(reader, &entry.value, &state_root, who, positions));
    let log = fields.get("log").filter(|entry| entry.value.kind != Kind::None);
    let log = sections::log(reader, log.map(|entry| &entry.value), who, positions);
    Top { run_root, state_root, mail, log }
}

/// As root, the mailer's and the logger's accounts belong to nobody else.
pub(super) fn private_accounts(
    who: &Defaults,
    mail: Option<&Mail>,
    log: &Log,
    chains: &[Chain],
    positions: &Positions,
    problems: &mut Problems,
) {
    if !who.as_root {
        return;
    }
    let chains: BTreeMap<&UserSpec, &str> =
        chains.iter().rev().map(|chain| (&chain.user, chain.name.as_str())).collect();
    let mut faults = Vec::new();
    let mail_user = mail.map(|mail| &mail.user);
    let users = [("mail.user", mail_user), ("log.user", Some(&log.user))];
    for (field, user) in users {
        let Some(user) = user.filter(|user| **user != UserSpec::Current) else { continue };
        if let Some(chain) = chains.get(user) {
            let message = format!(
                "`{field}` is also the user of the chain {}: it could reach what it shall not",
                quoted(chain)
            );
            faults.push((field, message));
        }
    }
    if let Some(user) = mail_user
        && *user != UserSpec::Current
        && *user == log.user
    {
        faults.push(("log.user", "`log.user` and `mail.user` are the same account".to_owned()));
    }
    for (field, message) in faults {
        let place = positions.top(field);
        let (file, span) = place.map_or((0, 0..1), |place| (place.file, place.span.clone()));
        let problem = Problem::error(file, span, message)
            .help("leave it out for an account of its own, or name one that nothing else uses");
        problems.push(problem);
    }
}
