//! The values that say who a chain is and what the kernel grants it: accounts, priorities, limits.

use std::collections::BTreeMap;

use super::fields::Section;
use super::model::{GroupSpec, IoNice, Rlimit, Scheduler, UserSpec};
use super::problem::{closest, quoted};
use super::reader::{Reader, Said};
use super::scalars::is_variable;
use super::tree::{Body, Kind, Node};
use super::units;

impl Reader<'_> {
    /// A user: a name in quotes, a number, or `Current`.
    pub(crate) fn user(&mut self, name: &str, node: &Node) -> Option<UserSpec> {
        match &node.kind {
            Kind::Named { name: Some(word), body: Body::Unit } if word == "Current" => {
                Some(UserSpec::Current)
            }
            Kind::Named { name: Some(word), body: Body::Unit } => {
                let near = closest(word, ["Current"]);
                let help = match near {
                    Some(_) => "did you mean `Current`?".to_owned(),
                    None => format!("a user's name stands in quotes: \"{word}\""),
                };
                self.error(&node.span, format!("`{name}` has no {}", quoted(word)), Some(help));
                None
            }
            Kind::Int(id) => self.id(name, node, *id).map(UserSpec::Id),
            Kind::Text(text) if text == "Current" => {
                let help = "without quotes: Current".to_owned();
                self.wrong(name, node, "a user", Some(help));
                None
            }
            Kind::Text(text) => self.account_name(name, node, text).map(UserSpec::Name),
            _ => {
                let help = "write \"bet_prod\", 1000, or Current".to_owned();
                self.wrong(name, node, "a user", Some(help));
                None
            }
        }
    }

    /// A group: a name in quotes or a number.
    pub(crate) fn group(&mut self, name: &str, node: &Node) -> Option<GroupSpec> {
        match &node.kind {
            Kind::Int(id) => self.id(name, node, *id).map(GroupSpec::Id),
            Kind::Text(text) => self.account_name(name, node, text).map(GroupSpec::Name),
            Kind::Named { name: Some(word), body: Body::Unit } => {
                let help = format!("a group's name stands in quotes: \"{word}\"");
                self.wrong(name, node, "a group", Some(help));
                None
            }
            _ => {
                self.wrong(name, node, "a group", Some("write \"adm\" or 4".to_owned()));
                None
            }
        }
    }

    /// An id; the largest means "none" to setuid(2) and is refused.
    fn id(&mut self, name: &str, node: &Node, id: i128) -> Option<u32> {
        match u32::try_from(id) {
            Ok(id) if id < u32::MAX => Some(id),
            _ => {
                let most = u32::MAX - 1;
                self.error(&node.span, format!("`{name}` takes an id from 0 to {most}"), None);
                None
            }
        }
    }

    fn account_name(&mut self, name: &str, node: &Node, text: &str) -> Option<String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let help = format!("an id stands without quotes: {text}");
            self.error(&node.span, format!("`{name}`: a name is not a number"), Some(help));
            return None;
        }
        let fine = !text.is_empty()
            && text.len() <= 256
            && !text.starts_with('-')
            && !text.chars().any(|c| c.is_whitespace() || c.is_control() || ":,/".contains(c));
        if !fine {
            let help = match text.split_once(':') {
                Some((user, group)) if !user.is_empty() && !group.is_empty() => {
                    Some(format!("{name}: {user:?}, group: {group:?}"))
                }
                _ => None,
            };
            let message = match text.is_empty() {
                true => format!("`{name}` is empty"),
                false => format!("`{name}`: {} is no account's name", quoted(text)),
            };
            self.error(&node.span, message, help);
            return None;
        }
        if is_variable(text) {
            self.warn(&node.span, "no variables are put in here", "write the name itself");
        }
        Some(text.to_owned())
    }

    pub(crate) fn ionice(&mut self, name: &str, node: &Node) -> Option<IoNice> {
        let (word, body) = self.word(name, node, &["Realtime", "BestEffort", "Idle"])?;
        if word == "Idle" {
            return self.no_body(word, node, body).then_some(IoNice::Idle);
        }
        let level = self.one_value(word, node, body, "4")?;
        let level = u8::try_from(self.number(word, level, 0, 7)?).ok()?;
        Some(if word == "Realtime" { IoNice::Realtime(level) } else { IoNice::BestEffort(level) })
    }

    pub(crate) fn scheduler(&mut self, name: &str, node: &Node) -> Option<Scheduler> {
        let (word, body) = self.word(name, node, &["Other", "Batch", "Idle", "Fifo", "Rr"])?;
        let plain = match word {
            "Other" => Scheduler::Other,
            "Batch" => Scheduler::Batch,
            "Idle" => Scheduler::Idle,
            _ => {
                let priority = self.one_value(word, node, body, "10")?;
                let priority = u8::try_from(self.number(word, priority, 1, 99)?).ok()?;
                return Some(match word {
                    "Fifo" => Scheduler::Fifo(priority),
                    _ => Scheduler::Rr(priority),
                });
            }
        };
        self.no_body(word, node, body).then_some(plain)
    }

    pub(crate) fn cpus(&mut self, name: &str, node: &Node) -> Option<Vec<u32>> {
        let cpus = self.list(name, node, |reader, name, node| {
            reader.number(name, node, 0, 1023).and_then(|n| u32::try_from(n).ok())
        })?;
        self.not_empty(name, node, cpus)
    }

    pub(crate) fn rlimits(&mut self, name: &str, node: &Node) -> Option<BTreeMap<String, Rlimit>> {
        let mut limits = BTreeMap::new();
        for (key, value) in self.map_entries(name, node, "{ \"NOFILE\": 1024 }")? {
            match units::rlimit_name(&key.1) {
                Ok(known) => {
                    if let Some(limit) = self.rlimit(known, value)
                        && limits.insert(known.to_owned(), limit).is_some()
                    {
                        self.error(&key.0.span, format!("the limit {known} is said twice"), None);
                    }
                }
                Err(near) => {
                    let help =
                        near.unwrap_or_else(|| format!("one of: {}", units::RLIMITS.join(", ")));
                    let message = format!("there is no limit {}", quoted(&key.1));
                    self.error(&key.0.span, message, Some(help));
                }
            }
        }
        Some(limits)
    }

    fn rlimit(&mut self, name: &str, node: &Node) -> Option<Rlimit> {
        let Kind::Named { name: None, .. } = node.kind else {
            let both = self.limit_value(name, node)?;
            return Some(Rlimit { soft: both, hard: both });
        };
        let fields = self.fields(name, node, Section::Rlimit)?;
        let soft = self.said(&fields, "soft", Reader::limit_value);
        let hard = self.said(&fields, "hard", Reader::limit_value);
        let value = |said: Option<Said<Option<u64>>>| said.map(|said| said.value.flatten());
        let (soft, hard) = match (value(soft), value(hard)) {
            (Some(soft), Some(hard)) => (soft, hard),
            (Some(both), None) | (None, Some(both)) => (both, both),
            (None, None) => return None,
        };
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            self.error(&node.span, format!("{name}: the soft limit is above the hard one"), None);
            return None;
        }
        Some(Rlimit { soft, hard })
    }

    /// A number, a size, or `Unlimited` (also "infinity", as systemd.exec(5) has it).
    fn limit_value(&mut self, name: &str, node: &Node) -> Option<Option<u64>> {
        match &node.kind {
            Kind::Named { name: Some(_), .. } => {
                self.lone_word(name, node, &["Unlimited"]).map(|_| None)
            }
            Kind::Text(text) if matches!(text.as_str(), "infinity" | "unlimited") => Some(None),
            Kind::Int(_) | Kind::Text(_) => self.size(name, node).map(Some),
            _ => {
                self.wrong(name, node, "a number, a size or `Unlimited`", None);
                None
            }
        }
    }

    /// "022" or 0o022; 22 as a bare number is decimal and surely a slip.
    pub(crate) fn umask(&mut self, name: &str, node: &Node) -> Option<u32> {
        let help = || Some("write \"022\" or 0o022".to_owned());
        let value = match &node.kind {
            Kind::Text(text) => {
                u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok()
            }
            Kind::Int(value) => u32::try_from(*value).ok(),
            _ => {
                self.wrong(name, node, "an octal number", help());
                return None;
            }
        };
        let bare = matches!(node.kind, Kind::Int(_)) && node.span.len() <= 3 && value != Some(0);
        match value {
            Some(value) if value <= 0o777 && !bare => {
                if value & 0o700 != 0 {
                    self.warn(
                        &node.span,
                        "this umask takes the user's own rights away",
                        "as in \"022\"",
                    );
                }
                Some(value)
            }
            _ => {
                self.error(
                    &node.span,
                    format!("`{name}` takes an octal number up to 0777"),
                    help(),
                );
                None
            }
        }
    }

    pub(crate) fn signal(&mut self, name: &str, node: &Node) -> Option<i32> {
        let number = match &node.kind {
            Kind::Int(_) => i32::try_from(self.number(name, node, 1, 64)?).ok()?,
            Kind::Named { name: Some(word), body: Body::Unit } => {
                let help = format!("in quotes: \"{word}\"");
                self.wrong(name, node, "a signal's name", Some(help));
                return None;
            }
            _ => {
                let text = self.text(name, node)?;
                match units::signal(&text) {
                    Ok(number) => number,
                    Err(near) => {
                        let help =
                            near.or(Some("a name such as \"SIGINT\", or a number".to_owned()));
                        let message =
                            format!("there is no signal {} to end a run with", quoted(&text));
                        self.error(&node.span, message, help);
                        return None;
                    }
                }
            }
        };
        if matches!(number, 17..=23) {
            let message = format!("signal {number} does not end a program");
            self.error(&node.span, message, Some("as in \"SIGTERM\"".to_owned()));
            return None;
        }
        Some(number)
    }
}
