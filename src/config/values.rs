//! The values that only one or two fields take: addresses, variables, outputs, programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::Section;
use super::model::{Output, Rotate, WorkerProgram};
use super::problem::{Problem, quoted};
use super::reader::{Reader, Said, words};
use super::scalars::is_variable;
use super::tree::{Body, Kind, Node};

impl Reader<'_> {
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

    pub(super) fn not_empty<T>(&mut self, name: &str, node: &Node, list: Vec<T>) -> Option<Vec<T>> {
        if matches!(&node.kind, Kind::List(nodes) if nodes.is_empty()) {
            self.error(&node.span, format!("`{name}` cannot be an empty list"), None);
            return None;
        }
        Some(list)
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
                let message = match key.is_empty() {
                    true => "a variable needs a name".to_owned(),
                    false => format!("{} is no name of a variable", quoted(&key)),
                };
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
                        let help = match key.as_str() {
                            "PATH" => "folders ahead of PATH are said by path: [ \"/folder\" ]",
                            _ => "write the whole value",
                        };
                        self.warn(&value.span, "no variables are put in here", help);
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
    pub(super) fn map_entries<'n>(
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
        if let Kind::Text(file) = &node.kind
            && file.contains('/')
        {
            let help =
                format!("write Lines({file:?}), or Raw({file:?}) for the bytes as they come");
            self.wrong(name, node, "a word", Some(help));
            return None;
        }
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
            // A bare name is looked for in the chain's PATH.
            if let Kind::Text(text) = &program.kind
                && !text.trim().is_empty()
                && !text.contains(['/', '~', '$'])
            {
                return Some(WorkerProgram::Python(PathBuf::from(text)));
            }
            return self.path(word, program).map(WorkerProgram::Python);
        }
        let argv = self.one_value(word, node, body, "[\"program\", \"argument\"]")?;
        self.argv(word, argv).map(WorkerProgram::Command)
    }

    /// A program and its arguments.
    pub(crate) fn argv(&mut self, name: &str, node: &Node) -> Option<Vec<String>> {
        if let Kind::Text(text) = &node.kind {
            let help = format!("as a list: [{}]; or, for a shell's line, sh: …", words(text));
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
