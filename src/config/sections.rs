//! The sections `mail` and `log`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fields::Section;
use super::load::Defaults;
use super::model::{
    Level, Limit, Log, LogFormat, LogTarget, Mail, Rotate, Security, Transport, UserSpec,
};
use super::positions::Positions;
use super::problem::Problem;
use super::reader::{Fields, Reader};
use super::tree::{Body, Kind, Node};

/// Reads `mail: (…)`.
pub(crate) fn mail(
    reader: &mut Reader<'_>,
    node: &Node,
    state_root: &Path,
    who: &Defaults,
    positions: &mut Positions,
) -> Option<Mail> {
    let fields = reader.fields("mail", node, Section::Mail)?;
    for (field, example) in [
        ("from", "\"runner@example.org\""),
        ("to", "[\"ops@example.org\"]"),
        ("transport", "Smtp(host: \"localhost\", port: 25, security: None)"),
    ] {
        required(reader, node, "mail", &fields, field, example);
    }
    let from = reader.take(&fields, "from", Reader::address);
    let to = reader.take(&fields, "to", Reader::addresses);
    let transport = reader.take(&fields, "transport", transport);
    let spool = reader.said(&fields, "spool", Reader::path);
    let user = private_user(reader, &fields, "mail", "runner-mail", who, positions);
    let subject_prefix = reader.take(&fields, "subject_prefix", |reader, name, node| {
        let text = reader.text(name, node)?;
        if text.chars().any(char::is_control) || text.chars().count() > 100 {
            let message = "`subject_prefix` takes one line of at most 100 characters";
            reader.error(&node.span, message, None);
            return None;
        }
        Some(text)
    });
    let limit = reader.take(&fields, "limit", limit);
    for field in ["from", "to", "transport", "spool"] {
        note(reader, &fields, "mail", field, positions);
    }
    Some(Mail {
        from: from?,
        to: to?,
        transport: transport?,
        spool: spool.and_then(|said| said.value).unwrap_or_else(|| state_root.join("spool")),
        user,
        subject_prefix: subject_prefix.unwrap_or_default(),
        limit: limit.unwrap_or(Limit { mails: 30, per: Duration::from_secs(3600) }),
    })
}

fn required(
    reader: &mut Reader<'_>,
    node: &Node,
    section: &str,
    fields: &Fields<'_>,
    field: &str,
    example: &str,
) {
    let none = fields.get(field).is_some_and(|entry| entry.value.kind == Kind::None);
    if none || fields.lacks(field) {
        let help = Some(format!("{field}: {example}"));
        let opening = node.span.start..node.span.start + 1;
        reader.error(&opening, format!("`{section}` has no `{field}`"), help);
    }
}

fn note(
    reader: &Reader<'_>,
    fields: &Fields<'_>,
    section: &str,
    field: &str,
    positions: &mut Positions,
) {
    if let Some(entry) = fields.get(field) {
        positions.top.insert(format!("{section}.{field}"), reader.place(&entry.value.span));
    }
}

/// The account of the mailer or the logger: one of its own as root.
fn private_user(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    section: &str,
    default: &str,
    who: &Defaults,
    positions: &mut Positions,
) -> UserSpec {
    note(reader, fields, section, "user", positions);
    let said = reader.said(fields, "user", Reader::user);
    let Some((user, place)) = said.and_then(|said| said.value.map(|user| (user, said.place)))
    else {
        return default_user(default, who);
    };
    let nobody = match &user {
        UserSpec::Name(name) => name == "nobody",
        UserSpec::Id(id) => *id == 65_534,
        UserSpec::Current => false,
    };
    if who.as_root && nobody {
        let message = format!("`{section}.user` cannot be nobody: others run as nobody too");
        let help = format!("leave it out for an account of its own, \"{default}\"");
        reader.error(&place.span, message, Some(help));
    } else if !who.may_be(&user) {
        let message = format!("only root can use another account for `{section}.user`");
        let help = "leave it out, write Current, or start the runner as root".to_owned();
        reader.error(&place.span, message, Some(help));
    }
    user
}

fn default_user(default: &str, who: &Defaults) -> UserSpec {
    if who.as_root { UserSpec::Name(default.to_owned()) } else { UserSpec::Current }
}

fn limit(reader: &mut Reader<'_>, name: &str, node: &Node) -> Option<Limit> {
    let fields = reader.fields(name, node, Section::Limit)?;
    let mails = reader.take(&fields, "mails", |reader, name, node| {
        reader.number(name, node, 1, 10_000).and_then(|n| u32::try_from(n).ok())
    });
    let per = reader.take(&fields, "per", Reader::some_time);
    Some(Limit { mails: mails.unwrap_or(30), per: per.unwrap_or(Duration::from_secs(3600)) })
}

fn transport(reader: &mut Reader<'_>, name: &str, node: &Node) -> Option<Transport> {
    let (word, body) = reader.word(name, node, &["Smtp", "Sendmail", "Maildir"])?;
    match word {
        "Smtp" => smtp(reader, node, body),
        "Sendmail" => {
            let program = reader.one_value(word, node, body, "\"/usr/sbin/sendmail\"")?;
            reader.path(word, program).map(Transport::Sendmail)
        }
        _ => {
            let folder = reader.one_value(word, node, body, "\"/var/mail/runner\"")?;
            reader.path(word, folder).map(Transport::Maildir)
        }
    }
}

fn smtp(reader: &mut Reader<'_>, node: &Node, body: &Body) -> Option<Transport> {
    if *body == Body::Unit {
        let help = Some("Smtp(host: \"smtp.example.org\")".to_owned());
        reader.error(&node.span, "`Smtp` has no `host`", help);
        return None;
    }
    let fields = reader.fields("Smtp", node, Section::Smtp)?;
    required(reader, node, "Smtp", &fields, "host", "\"smtp.example.org\"");
    let host = reader.take(&fields, "host", host);
    let security = reader.take_security(&fields);
    let port = reader.take(&fields, "port", |reader, name, node| {
        reader.number(name, node, 1, 65_535).and_then(|n| u16::try_from(n).ok())
    });
    let username = reader.said(&fields, "username", Reader::line);
    let password_file = reader.said(&fields, "password_file", Reader::path);
    let ca_file = reader.take(&fields, "ca_file", Reader::path);
    let name_place =
        username.as_ref().filter(|said| said.value.is_some()).map(|said| said.place.clone());
    let file_place =
        password_file.as_ref().filter(|said| said.value.is_some()).map(|said| said.place.clone());
    match (&name_place, &file_place) {
        (Some(place), None) => {
            let help = Some("password_file: \"/etc/runner/smtp-password\"".to_owned());
            reader.error(&place.span, "a `username` needs a `password_file`", help);
        }
        (None, Some(place)) => {
            let help = Some("username: \"…\"".to_owned());
            reader.error(&place.span, "a `password_file` needs a `username`", help);
        }
        (Some(place), Some(_)) if security == Security::None => {
            let help = "security: StartTls or security: Tls";
            let problem = Problem::error(
                reader.file,
                place.span.clone(),
                "with security: None the password would go over the net in the clear",
            );
            reader.problems.push(problem.help(help));
        }
        _ => {}
    }
    Some(Transport::Smtp {
        host: host?,
        port: port.unwrap_or(match security {
            Security::StartTls => 587,
            Security::Tls => 465,
            Security::None => 25,
        }),
        security,
        username: username.and_then(|said| said.value),
        password_file: password_file.and_then(|said| said.value),
        ca_file,
    })
}

fn host(reader: &mut Reader<'_>, name: &str, node: &Node) -> Option<String> {
    let host = reader.line(name, node)?;
    let help =
        if let Some((host, port)) = host.rsplit_once(':').filter(|(host, _)| !host.contains(':')) {
            Some(format!("host: \"{host}\", port: {port}"))
        } else {
            None
        };
    if help.is_some() || !host.chars().all(|c| c.is_alphanumeric() || "-._:[]%".contains(c)) {
        reader.error(&node.span, "`host` takes the name or the address of a server alone", help);
        return None;
    }
    Some(host)
}

impl Reader<'_> {
    /// `security`, where the word None is a value of its own and not "nothing said".
    fn take_security(&mut self, fields: &Fields<'_>) -> Security {
        let Some(entry) = fields.get("security") else { return Security::StartTls };
        match self.lone_word("security", &entry.value, &["StartTls", "Tls", "None"]) {
            Some("Tls") => Security::Tls,
            Some("None") => Security::None,
            _ => Security::StartTls,
        }
    }
}

/// Reads `log: (…)`, or gives its defaults.
pub(crate) fn log(
    reader: &mut Reader<'_>,
    node: Option<&Node>,
    who: &Defaults,
    positions: &mut Positions,
) -> Log {
    let mut log = Log {
        level: Level::Info,
        format: LogFormat::Text,
        to: LogTarget::Stderr,
        user: default_user("runner-log", who),
        rotate: Rotate::default(),
    };
    let Some(fields) = node.and_then(|node| reader.fields("log", node, Section::Log)) else {
        return log;
    };
    let level = reader.take(&fields, "level", |reader, name, node| {
        let words = ["Critical", "Error", "Warning", "Info", "Debug", "Trace"];
        Some(match reader.lone_word(name, node, &words)? {
            "Critical" => Level::Critical,
            "Error" => Level::Error,
            "Warning" => Level::Warning,
            "Debug" => Level::Debug,
            "Trace" => Level::Trace,
            _ => Level::Info,
        })
    });
    let format = reader.take(&fields, "format", |reader, name, node| {
        let word = reader.lone_word(name, node, &["Text", "Json"])?;
        Some(if word == "Json" { LogFormat::Json } else { LogFormat::Text })
    });
    let to = reader.take(&fields, "to", |reader, name, node| {
        let (word, body) = reader.word(name, node, &["Stderr", "File"])?;
        if word == "Stderr" {
            return reader.no_body(word, node, body).then_some(LogTarget::Stderr);
        }
        let file: &Node = reader.one_value(word, node, body, "\"/var/log/runner/master.log\"")?;
        let file: Option<PathBuf> = reader.path(word, file);
        file.map(LogTarget::File)
    });
    note(reader, &fields, "log", "to", positions);
    log.user = private_user(reader, &fields, "log", "runner-log", who, positions);
    log.level = level.unwrap_or(log.level);
    log.format = format.unwrap_or(log.format);
    log.to = to.unwrap_or(log.to);
    log.rotate = reader.take(&fields, "rotate", Reader::rotate).unwrap_or(log.rotate);
    log
}
