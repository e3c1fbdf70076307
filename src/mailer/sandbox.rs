//! The mailer talks to the network and parses what comes from there. Where the kernel can
//! (landlock(7)) it gives up, for itself and its children, every path but its own folders and what
//! the name service and TLS read, and every TCP port but the server's and that of DNS.
//!
//! With `Sendmail` this is left out: that program has its own files, and its set-group-id bit
//! would no longer work.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, path_beneath_rules,
};

use crate::config::model::{Mail, Transport};

/// What getaddrinfo(3) (with its modules, resolv.conf behind links, nscd), the certificate store
/// and this program read.
const READ: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/proc",
    "/dev",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/var/lib/ca-certificates",
];

/// The newest kind of landlock that is asked for; an older kernel gives what it has.
const NEWEST: ABI = ABI::V5;

/// Gives up what is not needed, as far as the kernel can.
pub(super) fn enter(mail: &Mail) {
    if !matches!(mail.transport, Transport::Sendmail(_)) {
        let _ = restrict(mail);
    }
}

fn restrict(mail: &Mail) -> Result<(), landlock::RulesetError> {
    let mut read: Vec<PathBuf> = READ.iter().map(PathBuf::from).collect();
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        read.extend(std::env::var_os(name).map(PathBuf::from));
    }
    let mut write: Vec<&Path> = vec![&mail.spool];
    let mut port = None;
    match &mail.transport {
        Transport::Smtp { port: number, ca_file, .. } => {
            read.extend(ca_file.clone());
            port = Some(*number);
        }
        Transport::Maildir(folder) => write.push(folder),
        Transport::Sendmail(_) => {}
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&read, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(&write, AccessFs::from_all(NEWEST)))?;
    if let Some(port) = port {
        for port in [port, 53] {
            rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
    }
    rules.restrict_self()?;
    Ok(())
}
