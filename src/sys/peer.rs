//! Who is at the other end of a Unix socket, told by the kernel and not by the peer: SO_PEERCRED
//! and SO_PEERGROUPS of unix(7) and socket(7), taken when the peer called connect(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{getsockopt, sockopt};

/// The most supplementary groups that Linux gives a process (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// A process as the kernel saw it when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process id; 0 if it lives in a pid namespace that we do not see.
    pub pid: i32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
    /// Its supplementary groups; empty where the kernel cannot tell (before Linux 4.13).
    pub groups: Vec<u32>,
}

/// The peer of a connected stream.
///
/// # Errors
/// When the socket is not a connected Unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let known = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Peer { pid: known.pid(), uid: known.uid(), gid: known.gid(), groups: groups(&socket) })
}

fn groups(socket: impl AsFd) -> Vec<u32> {
    let mut room = 64_usize;
    loop {
        let mut found = vec![0_u32; room];
        let mut length = libc::socklen_t::try_from(room * size_of::<u32>()).unwrap_or(0);
        // SAFETY: `found` has room for `length` bytes and `length` is valid for writing; the
        // kernel writes at most that many bytes of gid_t, which is u32.
        let done = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                found.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<u32>();
        if done == 0 {
            found.truncate(count);
            return found;
        }
        let too_small = io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !too_small || count <= room || count > MAX_GROUPS {
            return Vec::new();
        }
        room = count;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_pair_is_ourselves() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = peer(&here).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        let mut mine: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut told = peer.groups;
        mine.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, mine);
    }
}
