//! Names of spool files.

/// Whether a name can be that of a mail.
pub fn is_mail_name(name: &str) -> bool {
    name.ends_with(".mail")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && !name.starts_with('.')
}

/// An id as a file name and in a header: what does not keep to the alphabet is replaced by a hash.
pub fn safe_id(id: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let good = id.bytes().all(fits) && (1..=100).contains(&id.len());
    if good && !id.starts_with('.') && !id.ends_with('.') && !id.contains("..") {
        id.to_owned()
    } else {
        format!("x{:016x}", hash(id))
    }
}

/// FNV-1a, 64 bits: stable over versions and machines.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
