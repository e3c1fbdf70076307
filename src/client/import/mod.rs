//! `runnerctl import`: what another program's file does, as a configuration of ours. Pure: text in,
//! text out; what it cannot know becomes a comment.

mod command;
mod crontab;
mod draft;
mod lex;
mod prefix;
mod redirect;
mod shell;
mod supervisord;

use std::path::Path;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A shell script that starts programs
    Shell,
    /// A supervisord.conf
    Supervisord,
    /// A crontab
    Crontab,
}

/// The configuration that replaces the file. `path` names it in the result and tells a system's
/// crontab, whose lines name users, from a user's; `kind`: `None` looks at the text.
///
/// # Errors
/// When nothing in it becomes a chain.
pub fn import(path: &Path, text: &str, kind: Option<Kind>) -> Result<String, String> {
    // An editor of another system ends lines with CR LF, and may begin with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let text = text.as_str();
    let kind = kind.unwrap_or_else(|| {
        if supervisord::is_one(text) {
            Kind::Supervisord
        } else if crontab::is_one(text) {
            Kind::Crontab
        } else {
            Kind::Shell
        }
    });
    let (mut drafts, other) = match kind {
        Kind::Shell => shell::import(text),
        Kind::Supervisord => supervisord::import(text),
        Kind::Crontab => crontab::import(text, path.starts_with("/etc")),
    };
    draft::settle(&mut drafts);
    if drafts.is_empty() {
        return Err(format!(
            "cannot import {}: it starts nothing that could become a chain",
            path.display()
        ));
    }
    let mut about = vec![format!("Made by runnerctl import from {}.", path.display())];
    about.push("Read every comment, then try it: runner-master --check FILE".to_owned());
    if !other.is_empty() {
        about.push("Not taken over:".to_owned());
        about.extend(other.iter().flat_map(|text| text.lines()).map(|line| format!("    {line}")));
    }
    Ok(draft::to_ron(&about, drafts))
}

#[cfg(test)]
mod tests;
