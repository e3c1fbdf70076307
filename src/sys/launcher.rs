//! What a process gets from whoever started it without anybody naming it, and what would reach a
//! task through fork, a change of user and exec: capabilities beyond those of the user
//! (capabilities(7)), root's session keyring (session-keyring(7)), an address space without
//! randomisation (personality(2)).

use std::io;

use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    clear_ambient_capability_set, set_capabilities, set_capabilities_secure_bits,
};

/// The flags of personality(2) that exec of a setuid program clears: ADDR_NO_RANDOMIZE,
/// READ_IMPLIES_EXEC, ADDR_COMPAT_LAYOUT and MMAP_PAGE_ZERO.
const UNSAFE_PERSONALITY: libc::c_ulong = 0x0004_0000 | 0x0040_0000 | 0x0020_0000 | 0x0010_0000;

/// personality(2): only tell.
const TELL: libc::c_ulong = 0xffff_ffff;

/// keyctl(2): KEYCTL_JOIN_SESSION_KEYRING.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// As root, before the user changes: securebits that would keep capabilities over the change,
/// inheritable and ambient ones, and root's keys.
///
/// # Errors
/// "cannot VERB OBJECT: CAUSE".
pub(super) fn forget_privileges() -> Result<(), String> {
    let cannot = |what: &str, cause: &dyn std::fmt::Display| format!("cannot {what}: {cause}");
    let bits = capabilities_secure_bits().map_err(|e| cannot("read securebits", &e))?;
    if !bits.is_empty() {
        // Fails for locked ones; whether that keeps capabilities is looked at after the change.
        let _ = set_capabilities_secure_bits(CapabilitiesSecureBits::empty());
    }
    // Unknown to kernels before 4.3, which have no such set.
    let _ = clear_ambient_capability_set();
    let sets = capabilities(None).map_err(|e| cannot("read capabilities", &e))?;
    if !sets.inheritable.is_empty() {
        let none = CapabilitySets { inheritable: CapabilitySet::empty(), ..sets };
        set_capabilities(None, none).map_err(|e| cannot("clear inheritable capabilities", &e))?;
    }
    match join_new_session_keyring() {
        // No keyrings here, or forbidden for us and for everything below us (seccomp(2)).
        Err(cause)
            if cause.kind() == io::ErrorKind::PermissionDenied
                || matches!(cause.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) =>
        {
            Ok(())
        }
        Err(cause) => Err(cannot("leave root's session keyring", &cause)),
        Ok(()) => Ok(()),
    }
}

/// After the change of user: the session keyring belongs to the user, if its quota of keys allows
/// that; if not, it is an empty one of root's.
pub(super) fn own_session_keyring() {
    let _ = join_new_session_keyring();
}

fn join_new_session_keyring() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; nothing else is read.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    if id < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the programs that this process executes an address space as the system lays it out.
pub(super) fn forget_personality() {
    // SAFETY: personality takes an integer and touches no memory.
    let now = unsafe { libc::personality(TELL) };
    let Ok(now) = libc::c_ulong::try_from(now) else { return };
    if now & UNSAFE_PERSONALITY != 0 {
        // SAFETY: as above.
        unsafe { libc::personality(now & !UNSAFE_PERSONALITY) };
    }
}
