//! The values that only one or two fields take: accounts, limits, outputs and the like.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::Section;
use super::model::{GroupSpec, IoNice, Output, Rlimit, Rotate, Scheduler, UserSpec, WorkerProgram};
use super::problem::{Problem, closest, quoted};
use super::reader::{Reader, Said, is_variable};
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
            self.error(
                &node.span,
                format!("`{name}`: {} is no account's name", quoted(text)),
                None,
            );
            return None;
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

    pub(crate) fn exit_codes(&mut self, name: &str, node: &Node) -> Option<Vec<u8>> {
        if let Kind::Int(code) = node.kind {
            self.wrong(name, node, "a list `[…]`", Some(format!("as a list: [{code}]")));
            return None;
        }
        let codes = self.list(name, node, |reader, name, node| {
            reader.number(name, node, 0, 255).and_then(|n| u8::try_from(n).ok())
        })?;
        self.not_empty(name, node, codes)
    }

    pub(crate) fn addresses(&mut self, name: &str, node: &Node) -> Option<Vec<String>> {
        let to = self.list(name, node, Reader::address)?;
        self.not_empty(name, node, to)
    }

    /// A mail address (RFC 5321), without a display name.
    pub(crate) fn address(&mut self, name: &str, node: &Node) -> Option<String> {
        let text = self.text(name, node)?;
        let inner = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        if let Some((inner, _)) = inner {
            let help = Some(format!("only the address: \"{inner}\""));
            self.error(&node.span, format!("`{name}` takes an address without a name"), help);
            return None;
        }
        match text.parse::<lettre::Address>() {
            Ok(_) if !text.chars().any(char::is_control) => Some(text),
            Ok(_) => {
                self.error(&node.span, "a mail address has no control characters", None);
                None
            }
            Err(error) => {
                let message = format!("{} is no mail address: {error}", quoted(&text));
                self.error(&node.span, message, Some("as in \"ops@example.org\"".to_owned()));
                None
            }
        }
    }

    fn not_empty<T>(&mut self, name: &str, node: &Node, list: Vec<T>) -> Option<Vec<T>> {
        if matches!(&node.kind, Kind::List(nodes) if nodes.is_empty()) {
            self.error(&node.span, format!("`{name}` cannot be an empty list"), None);
            return None;
        }
        Some(list)
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

    /// A folder of PATH.
    pub(crate) fn folder(&mut self, name: &str, node: &Node) -> Option<PathBuf> {
        let path = self.path(name, node)?;
        if path.to_str().is_some_and(|text| text.contains(':')) {
            self.error(
                &node.span,
                "a folder of PATH cannot hold `:`",
                Some("one folder each".to_owned()),
            );
            return None;
        }
        Some(path)
    }

    /// Variables; `None` as a value takes a variable of an outer layer away.
    pub(crate) fn env(
        &mut self,
        name: &str,
        node: &Node,
    ) -> Option<BTreeMap<String, Said<String>>> {
        let mut variables: BTreeMap<String, Said<String>> = BTreeMap::new();
        for ((key_node, key), value) in self.map_entries(name, node, "{ \"NAME\": \"value\" }")? {
            let place = self.place(&key_node.span);
            if key.is_empty() || key.contains(['=', '\0']) {
                let message = format!("{} is no name of a variable", quoted(&key));
                self.error(&key_node.span, message, None);
                continue;
            }
            if let Some(first) = variables.get(&key) {
                let problem = Problem::error(
                    self.file,
                    key_node.span.clone(),
                    format!("the variable {} is said twice", quoted(&key)),
                )
                .label("said again here")
                .also(first.place.clone(), "first said here");
                self.problems.push(problem);
                continue;
            }
            let text = match value.kind {
                Kind::None => None,
                _ => {
                    let Some(text) = self.text(&key, value) else { continue };
                    if is_variable(&text) {
                        self.warn(
                            &value.span,
                            "no variables are put in here",
                            "write the whole value",
                        );
                    }
                    Some(text)
                }
            };
            variables.insert(key, Said { value: text, place });
        }
        Some(variables)
    }

    /// The entries of a `{ … }` whose keys are texts.
    #[allow(clippy::type_complexity)]
    fn map_entries<'n>(
        &mut self,
        name: &str,
        node: &'n Node,
        example: &str,
    ) -> Option<Vec<((&'n Node, String), &'n Node)>> {
        let help = || Some(format!("write {name}: {example}"));
        let entries = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Named { body: Body::Tuple(values), .. } if values.is_empty() => {
                return Some(vec![]);
            }
            _ => {
                self.wrong(name, node, "a map `{…}`", help());
                return None;
            }
        };
        let mut read = Vec::new();
        for (key, value) in entries {
            if let Some(text) = self.text("a key", key) {
                read.push(((key, text), value));
            }
        }
        Some(read)
    }

    pub(crate) fn output(&mut self, name: &str, node: &Node) -> Option<Output> {
        let (word, body) = self.word(name, node, &["Main", "Lines", "Raw", "Discard"])?;
        match word {
            "Lines" | "Raw" => {
                let file = self.one_value(word, node, body, "\"/path/to/file\"")?;
                let file = self.path(word, file)?;
                Some(if word == "Raw" { Output::Raw(file) } else { Output::Lines(file) })
            }
            _ => {
                let plain = if word == "Main" { Output::Main } else { Output::Discard };
                self.no_body(word, node, body).then_some(plain)
            }
        }
    }

    pub(crate) fn rotate(&mut self, name: &str, node: &Node) -> Option<Rotate> {
        const SMALLEST: u64 = 4 << 10;
        let fields = self.fields(name, node, Section::Rotate)?;
        let mut rotate = Rotate::default();
        if let Some(said) = self.said(&fields, "max_size", Reader::size) {
            if said.value.is_some_and(|size| size < SMALLEST) {
                self.error(&said.place.span, "`max_size` is at least 4KiB", None);
            }
            rotate.max_size = said.value;
        }
        let keep =
            self.take(&fields, "keep", |reader, name, node| reader.number(name, node, 1, 1000));
        rotate.keep = keep.and_then(|n| u32::try_from(n).ok()).unwrap_or(rotate.keep);
        if let Some(said) = self.said(&fields, "max_age", Reader::duration) {
            if said.value.is_some_and(|age| age < Duration::from_secs(60)) {
                self.error(&said.place.span, "`max_age` is at least \"1m\"", None);
            }
            rotate.max_age = said.value;
        }
        rotate.compress = self.take(&fields, "compress", Reader::bool).unwrap_or(rotate.compress);
        Some(rotate)
    }

    pub(crate) fn worker(&mut self, name: &str, node: &Node) -> Option<WorkerProgram> {
        let (word, body) = self.word(name, node, &["Python", "Command"])?;
        if word == "Python" {
            let program = self.one_value(word, node, body, "\"/usr/bin/python3\"")?;
            return self.path(word, program).map(WorkerProgram::Python);
        }
        let argv = self.one_value(word, node, body, "[\"program\", \"argument\"]")?;
        self.argv(word, argv).map(WorkerProgram::Command)
    }

    /// A program and its arguments.
    pub(crate) fn argv(&mut self, name: &str, node: &Node) -> Option<Vec<String>> {
        if let Kind::Text(text) = &node.kind {
            let words: Vec<String> =
                text.split_whitespace().map(|word| format!("{word:?}")).collect();
            let help = format!("as a list: [{}]; or, for a shell's line, sh: …", words.join(", "));
            self.wrong(name, node, "a list `[…]`", Some(help));
            return None;
        }
        let argv = self.list(name, node, |reader, name, node| {
            let text = reader.text(name, node)?;
            if is_variable(&text)
                || matches!(text.as_str(), "|" | "||" | "&&" | ";" | ">" | ">>" | "&")
            {
                let message = format!("{} is passed as it is: there is no shell", quoted(&text));
                reader.warn(&node.span, message, "for a shell's line use sh: \"…\"");
            }
            Some(text)
        })?;
        if let Kind::List(nodes) = &node.kind {
            match nodes.first() {
                None => {
                    self.error(&node.span, format!("`{name}` names no program"), None);
                    return None;
                }
                Some(program) if matches!(&program.kind, Kind::Text(text) if text.trim().is_empty()) =>
                {
                    self.error(&program.span, format!("`{name}` names no program"), None);
                    return None;
                }
                Some(_) if argv.len() < nodes.len() => return None,
                Some(_) => {}
            }
        }
        Some(argv)
    }
}
