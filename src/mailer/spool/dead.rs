//! `dead/`: mails that a server refused for ever.

use super::names::is_mail_name;
use super::{MOST_NAMES, Spool};
use crate::sys::folder::Folder;

/// Refused mails that are kept, the latest.
const MOST_DEAD: usize = 1_000;
impl Spool {
    /// Moves a mail that was refused for ever to `dead/`.
    pub(in crate::mailer) fn bury(
        &mut self,
        name: &str,
        size: u64,
        error: &str,
    ) -> Result<(), String> {
        let dead = self.dead()?;
        let mut stored = self.read(name)?;
        stored.refused = Some(error.to_owned());
        self.put(name, &stored)?;
        self.folder
            .rename(name, &dead, name)
            .and_then(|()| dead.sync())
            .and_then(|()| self.folder.sync())
            .map_err(|cause| format!("cannot move {name} to dead/: {cause}"))?;
        self.mails = self.mails.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        forget_oldest(&dead);
        Ok(())
    }

    fn dead(&self) -> Result<Folder, String> {
        self.folder.sub("dead").map_err(|cause| format!("cannot open dead/: {cause}"))
    }

    /// How many mails lie in `dead/`.
    pub(in crate::mailer) fn dead_count(&self) -> u64 {
        let names = self.folder.existing_sub("dead").and_then(|dead| dead.names(MOST_NAMES));
        names.map_or(0, |names| names.iter().filter(|name| is_mail_name(name)).count() as u64)
    }
}

fn forget_oldest(dead: &Folder) {
    let Ok(names) = dead.names(MOST_NAMES) else { return };
    if names.len() <= MOST_DEAD {
        return;
    }
    let age = |name: &String| dead.entry(name).map_or(0, |entry| entry.modified);
    let mut aged: Vec<(i64, &String)> = names.iter().map(|name| (age(name), name)).collect();
    aged.sort();
    for (_, name) in aged.iter().take(names.len() - MOST_DEAD) {
        let _ = dead.remove(name);
    }
}
