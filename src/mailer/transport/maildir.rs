//! Delivery into a Maildir (maildir(5)): written in `tmp`, brought to disk, renamed into `new`.

use std::io::Write;
use std::path::Path;

use super::{Outcome, local_lines};
use crate::mailer::message::Letter;
use crate::mailer::spool::hash;
use crate::sys::folder::Folder;

pub(super) fn deliver(path: &Path, stamp: &str, to: &str, letter: &Letter) -> Outcome {
    // A second try of the same mail gets the same name and replaces the first one.
    let name = format!("{:08x}.{stamp}", hash(to) >> 32);
    match put(path, &name, &local_lines(&letter.bytes)) {
        Ok(()) => Outcome::Sent { subject: letter.subject.clone() },
        Err(cause) => Outcome::ServerLater(format!("cannot write to {}: {cause}", path.display())),
    }
}

fn put(path: &Path, name: &str, message: &[u8]) -> std::io::Result<()> {
    let folder = Folder::open(path)?;
    let [tmp, new, _] = [folder.sub("tmp")?, folder.sub("new")?, folder.sub("cur")?];
    // What a crash left behind under this name.
    tmp.remove(name)?;
    let mut file = tmp.create_new(name)?;
    let written = file.write_all(message).and_then(|()| file.sync_all());
    if let Err(cause) = written.and_then(|()| tmp.rename(name, &new, name)) {
        let _ = tmp.remove(name);
        return Err(cause);
    }
    new.sync()
}
