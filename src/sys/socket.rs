//! Packet pairs between our own processes: SOCK_SEQPACKET keeps messages whole where a pipe tears
//! writes above 4,096 bytes, and MSG_DONTWAIT asks for each call what O_NONBLOCK asks for the open
//! file description, which the other end could clear.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};

use super::poll::is_hung_up;

/// What a receive gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of this many bytes lies at the start of the buffer; one that was longer than the
    /// buffer is cut and counts as `Oversized`.
    Packet(usize),
    /// A packet was larger than the buffer and is lost.
    Oversized,
    /// Nothing now.
    Empty,
    /// The other end is closed and everything was read.
    Closed,
}

/// A connected pair, both ends close-on-exec.
///
/// # Errors
/// When no descriptors are left (EMFILE, ENFILE).
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet without waiting. `Ok(false)`: no room now.
///
/// # Errors
/// When the other end is gone (EPIPE, ECONNRESET) or the packet is too large (EMSGSIZE).
pub fn send_packet(socket: impl AsFd, packet: &[u8]) -> io::Result<bool> {
    send_with(socket, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// Sends one packet and waits for room.
///
/// # Errors
/// As [`send_packet`].
pub fn send_packet_waiting(socket: impl AsFd, packet: &[u8]) -> io::Result<()> {
    while !send_with(&socket, packet, SendFlags::NOSIGNAL)? {}
    Ok(())
}

fn send_with(socket: impl AsFd, packet: &[u8], flags: SendFlags) -> io::Result<bool> {
    loop {
        match send(&socket, packet, flags) {
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(false),
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Receives one packet without waiting. recv(2) tells an empty packet and a closed end alike; here
/// only an end that is closed is: whoever shares a lane could otherwise close it for everybody.
///
/// # Errors
/// When the socket is broken.
pub fn receive_packet(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, RecvFlags::DONTWAIT)
}

/// Receives one packet and waits for it.
///
/// # Errors
/// When the socket is broken.
pub fn receive_packet_waiting(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, RecvFlags::empty())
}

fn receive_with(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Received> {
    loop {
        match recv(&socket, &mut *buffer, flags | RecvFlags::TRUNC) {
            Ok((_, 0)) if !is_hung_up(socket.as_fd()) => return Ok(Received::Packet(0)),
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Ok((_, length)) if length > buffer.len() => return Ok(Received::Oversized),
            Ok((_, length)) => return Ok(Received::Packet(length)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Empty),
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Lets the kernel say with each packet that arrives at `socket` which process sent it
/// (SO_PASSCRED, unix(7)). What was sent before this call says nothing.
///
/// # Errors
/// When it is no Unix socket.
pub fn ask_senders(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_passcred(socket, true)?)
}

/// [`receive_packet`] from a socket that [`ask_senders`] was called for: with the packet comes its
/// sender's process id as the kernel knows it; `None` where it does not say, as for a sender in
/// another pid namespace. Descriptors that a sender encloses are closed unseen.
///
/// # Errors
/// When the socket is broken.
pub fn receive_packet_from(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(Received, Option<i32>)> {
    // Room for the credentials, which come first, and for nothing else.
    let mut space = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
    let fd = socket.as_fd().as_raw_fd();
    loop {
        let mut parts = [IoSliceMut::new(&mut *buffer)];
        match recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT) {
            Ok(got) => {
                let what = match got.bytes {
                    0 => Received::Closed,
                    _ if got.flags.contains(MsgFlags::MSG_TRUNC) => Received::Oversized,
                    length => Received::Packet(length),
                };
                let sender = got.cmsgs().ok().into_iter().flatten().find_map(|said| match said {
                    ControlMessageOwned::ScmCredentials(who) => Some(who.pid()),
                    _ => None,
                });
                return Ok((what, sender.filter(|pid| *pid > 0)));
            }
            Err(nix::Error::ECONNRESET) => return Ok((Received::Closed, None)),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return Ok((Received::Empty, None)),
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Sends a descriptor (SCM_RIGHTS, unix(7)): the receiver has the same open file, and need not open
/// what may hang.
///
/// # Errors
/// When the other end is gone, or no room is left.
pub fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"0")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the descriptor that was sent by [`send_descriptor`], without waiting; `None`: none was.
///
/// # Errors
/// When the socket is broken or no descriptors are left.
pub fn receive_descriptor(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut byte = [0];
    match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
        Ok(_) => {}
        Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
        Err(cause) => return Err(cause.into()),
    }
    Ok(control.drain().find_map(|said| match said {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Asks for `bytes` of room for packets sent into `socket` (SO_SNDBUFFORCE, else SO_SNDBUF,
/// socket(7)). It stays as it is where the kernel refuses.
pub fn make_room(socket: impl AsFd, bytes: usize) {
    if sockopt::set_socket_send_buffer_size_force(&socket, bytes).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, bytes);
    }
}

/// Tells the other end that nothing more comes (shutdown(2)); receiving goes on.
pub fn close_sending(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_arrives_as_the_same_open_file_and_none_where_none_was_sent() {
        use std::io::{Read, Seek, Write};
        let (here, there) = packet_pair().unwrap();
        assert!(receive_descriptor(&here).unwrap().is_none());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"same").unwrap();
        send_descriptor(&there, &file).unwrap();
        file.rewind().unwrap();
        drop(there);
        let mut text = String::new();
        let mut got = std::fs::File::from(receive_descriptor(&here).unwrap().unwrap());
        got.read_to_string(&mut text).unwrap();
        assert_eq!(text, "same");
        assert!(receive_descriptor(&here).unwrap().is_none());
    }

    #[test]
    fn an_empty_packet_is_no_end() {
        let (here, there) = packet_pair().unwrap();
        assert!(send_packet(&there, b"").unwrap() && send_packet(&there, b"more").unwrap());
        let mut buffer = [0; 8];
        let mut receive = || receive_packet(&here, &mut buffer).unwrap();
        assert_eq!(receive(), Received::Packet(0));
        assert_eq!(receive(), Received::Packet(4));
        assert_eq!(receive(), Received::Empty);
        assert!(send_packet(&there, b"last").unwrap());
        close_sending(&there);
        assert_eq!(receive(), Received::Packet(4));
        assert_eq!(receive(), Received::Closed);
        drop(there);
        assert_eq!(receive(), Received::Closed);
    }
}
