//! What has to be done while the mailer still is root: the password, the spool folder, the Maildir.
//! Nothing here ends the mailer: a fault becomes the error of the deliveries, which is shown.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::config::model::Transport;
use crate::sys::account::Account;
use crate::sys::folder::{Folder, effective_uid, open_with_owner};

/// A longer first line is no password.
const PASSWORD: u64 = 4_096;

/// The SMTP password: the first line of its file, which others must not be able to read or change.
pub(super) fn read_secret(transport: &Transport) -> Result<Option<String>, String> {
    let Transport::Smtp { password_file: Some(path), .. } = transport else { return Ok(None) };
    let fail = |cause: &str| format!("cannot use password_file {}: {cause}", path.display());
    let (file, owner, mode) = open_with_owner(path).map_err(|cause| fail(&cause.to_string()))?;
    if owner != 0 && owner != effective_uid() {
        return Err(fail(&format!("user {owner} owns it and could change it")));
    }
    if mode & 0o027 != 0 {
        return Err(fail(&format!("others may read or change it (mode {mode:04o}): chmod 0600")));
    }
    let mut text = Vec::new();
    file.take(PASSWORD).read_to_end(&mut text).map_err(|cause| fail(&cause.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| fail("it is not UTF-8"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { Err(fail("its first line is empty")) } else { Ok(Some(line.to_owned())) }
}

/// Makes the spool folder where it is missing and checks that only the mail account can enter it.
pub(super) fn prepare_spool(path: &Path, account: Option<&Account>) -> Result<(), String> {
    let fail = |cause: &str| format!("cannot use the spool {}: {cause}", path.display());
    let made = make_folder(path).map_err(|cause| fail(&cause.to_string()))?;
    let folder = Folder::open(path).map_err(|cause| fail(&cause.to_string()))?;
    let (owner, mode) = folder.owner_and_mode().map_err(|cause| fail(&cause.to_string()))?;
    let (uid, gid, name) = match account {
        Some(account) => (account.uid, account.gid, account.name.clone()),
        None => (effective_uid(), 0, effective_uid().to_string()),
    };
    // Just made, or left so by a crash between the two steps.
    if owner == effective_uid() && owner != uid && (made || is_as_made(&folder)) {
        return folder.give_to(uid, gid).map_err(|cause| fail(&cause.to_string()));
    }
    let shown = path.display();
    if owner != uid {
        Err(fail(&format!(
            "it belongs to user {owner}: chown {name}: '{shown}' && chmod 0700 '{shown}'"
        )))
    } else if mode & 0o077 != 0 {
        Err(fail(&format!("others may enter it (mode {mode:04o}): chmod 0700 '{shown}'")))
    } else {
        Ok(())
    }
}

/// Makes a missing Maildir for the mail account. What exists stays as it is.
pub(super) fn prepare_maildir(transport: &Transport, account: Option<&Account>) {
    let Transport::Maildir(path) = transport else { return };
    if let (Ok(true), Some(account)) = (make_folder(path), account)
        && let Ok(folder) = Folder::open(path)
        && is_as_made(&folder)
    {
        // A failure shows at the first delivery.
        let _ = folder.give_to(account.uid, account.gid);
    }
}

/// An empty private folder of ours, and not what somebody put in its place.
fn is_as_made(folder: &Folder) -> bool {
    folder
        .owner_and_mode()
        .is_ok_and(|(owner, mode)| owner == effective_uid() && mode & 0o777 == 0o700)
        && folder.names(1).is_ok_and(|names| names.is_empty())
}

/// `Ok(true)`: it was missing and was made, with mode 0700.
fn make_folder(path: &Path) -> std::io::Result<bool> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(cause),
    }
}
