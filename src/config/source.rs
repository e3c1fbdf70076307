//! A file's bytes → its text, and the mistakes that concern a file as a whole.

use std::path::PathBuf;

use super::problem::{Problem, Problems};

/// The largest file that is read, in bytes. Ten thousand chains need a few MiB; what is larger is
/// no configuration but a log or an image named by mistake.
pub const MAX_FILE: usize = 16 << 20;

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name for people: as it was asked for.
    pub name: PathBuf,
    /// Its canonical absolute path: relative paths in it start at its folder.
    pub path: PathBuf,
    /// What it holds; reading may stop one byte after [`MAX_FILE`].
    pub bytes: Vec<u8>,
}

/// A file's name and text, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name for people.
    pub name: PathBuf,
    /// Its canonical absolute path.
    pub path: PathBuf,
    /// Its text, without a byte order mark.
    pub text: String,
}

/// Makes text of a file's bytes. `false`: it is not worth reading further; why is told.
pub(crate) fn decode(file: File, index: usize, problems: &mut Problems) -> (Source, bool) {
    let File { name, path, bytes } = file;
    let refuse = |text: String, problem: Problem, problems: &mut Problems| {
        problems.push(problem);
        (Source { name: name.clone(), path: path.clone(), text }, false)
    };
    if bytes.len() > MAX_FILE {
        let problem = Problem::of_file(index, "the file is too large").help(format!(
            "a configuration has at most {} MiB; is this another file?",
            MAX_FILE >> 20
        ));
        return refuse(String::new(), problem, problems);
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let problem = Problem::of_file(index, "the file is UTF-16")
            .help("save it as UTF-8, or: iconv -f UTF-16 -t UTF-8");
        return refuse(String::new(), problem, problems);
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let start = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let byte = bytes.get(start).copied().unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let end = (start + '\u{fffd}'.len_utf8()).min(text.len());
            let problem = Problem::error(index, start..end, "the file is not UTF-8")
                .label(format!("byte 0x{byte:02x}"))
                .help("save it as UTF-8, or: iconv -f LATIN1 -t UTF-8");
            return refuse(text, problem, problems);
        }
    };
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    if let Some(at) = text.find('\0') {
        let problem = Problem::error(index, at..at + 1, "the file holds a NUL byte")
            .help("this is no text; is it another file, or was it cut by a crash?");
        return refuse(text, problem, problems);
    }
    if let Some(problem) = other_format(&text, index) {
        return refuse(text, problem, problems);
    }
    (Source { name, path, text }, true)
}

/// The files that are given by mistake: empty, JSON, YAML, TOML, XML, a script.
fn other_format(text: &str, index: usize) -> Option<Problem> {
    const OUTER: &str = "a configuration is one `( … )`, as in: ( chains: [ ( tasks: [ ( name: \"a\", run: [\"program\"] ) ] ) ] )";
    let mut start = 0;
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        start += rest.len() - trimmed.len();
        rest = trimmed;
        let skip = if rest.starts_with("//") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2)
        } else {
            break;
        };
        let Some(skip) = skip else {
            rest = "";
            break;
        };
        start += skip;
        rest = &rest[skip..];
    }
    let line = rest.lines().next().unwrap_or("").trim_end();
    let error =
        |message: &str| Some(Problem::error(index, start..start + line.len(), message).help(OUTER));
    let word = line.trim_start_matches(|c: char| c.is_alphanumeric() || "_-.".contains(c));
    let has_word = word.len() < line.len();
    if line.is_empty() {
        return error(if text.trim().is_empty() {
            "the file is empty"
        } else {
            "the file holds only comments"
        });
    }
    if line.starts_with('{') {
        return error("this looks like JSON, but a configuration is RON");
    }
    if line.starts_with("---") || line.starts_with("- ") {
        return error("this looks like YAML, but a configuration is RON");
    }
    if line.starts_with('<') {
        return error("this looks like XML, but a configuration is RON");
    }
    if line.starts_with("#!") && !line.starts_with("#![") {
        return error("this looks like a script, but a configuration is RON");
    }
    if line.starts_with('#') && !line.starts_with("#![") {
        return Some(
            Problem::error(index, start..start + 1, "a comment begins with `//`, not with `#`")
                .help(OUTER),
        );
    }
    if line.starts_with('[') || has_word && word.trim_start().starts_with('=') {
        return error("this looks like TOML or INI, but a configuration is RON");
    }
    if has_word && word.trim_start().starts_with(':') {
        return error("this looks like YAML, or the outer parentheses are missing");
    }
    None
}
