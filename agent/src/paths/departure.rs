//! When probes left this host, as its kernel tells.
//!
//! A host that sends as fast as it can always has packets waiting before its NIC, and a probe waits behind them for
//! milliseconds, while the network's own queues are empty. That is not the network's doing, so the kernel is asked for the
//! moment at which it hands a probe to the NIC (`SO_TIMESTAMPING`, no privilege needed). It tells by a copy of the packet
//! in the socket's error queue, before any answer to that probe can come.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    libc::{sock_extended_err, sockaddr_in6, timespec},
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt,
    },
};

use super::echo::{SIZE, Sent};

/// Of a link, IP and UDP; the longest that there are.
const HEADERS: usize = 192;

/// A probe that has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The probe's number.
    pub sequence: u64,
    /// When, by the host's clock.
    pub at_ns: i64,
}

/// Has the kernel tell of what leaves by this socket.
///
/// # Errors
/// When it cannot.
pub fn watch(socket: &UdpSocket) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    Ok(setsockopt(socket, sockopt::Timestamping, &flags)?)
}

/// What has left by this socket since the last time, of probes of this session.
pub fn departed(socket: &UdpSocket, session: u64) -> impl Iterator<Item = Departed> {
    std::iter::from_fn(move || read(socket)).flatten().filter_map(move |(sent, at_ns)| {
        (sent.session == session).then_some(Departed { sequence: sent.sequence, at_ns })
    })
}

/// A message of the error queue, if there is one; and of which probe it tells, if it does.
fn read(socket: &UdpSocket) -> Option<Option<(Sent, i64)>> {
    let mut bytes = [0; HEADERS + SIZE];
    let mut buffer = [IoSliceMut::new(&mut bytes)];
    let mut control = cmsg_space!([timespec; 3], sock_extended_err, sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let came = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer, Some(&mut control), flags).ok()?;
    let mut at_ns = None;
    for message in came.cmsgs().ok().into_iter().flatten() {
        if let ControlMessageOwned::ScmTimestampsns(times) = message {
            at_ns = Some(times.system.tv_sec() * 1_000_000_000 + times.system.tv_nsec());
        }
    }
    let length = came.bytes;
    let sent = length.checked_sub(SIZE).and_then(|start| Sent::decode(&bytes[start..length]));
    Some(sent.zip(at_ns))
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn the_kernel_tells_when_a_probe_has_left() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.connect(receiver.local_addr().expect("bound")).expect("connected");
        watch(&socket).expect("every kernel since 2.6.30 can");
        assert_eq!(departed(&socket, 7).count(), 0);
        for (session, sequence) in [(7, 0), (8, 1), (7, 2)] {
            socket.send(&Sent { session, sequence, sent_ns: 5 }.encode()).expect("sent");
        }
        socket.send(b"no probe").expect("sent");
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(departed(&socket, 7));
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(told.iter().map(|one| one.sequence).collect::<Vec<_>>(), [0, 2]);
        assert!(0 < told[0].at_ns && told[0].at_ns <= told[1].at_ns, "{told:?}");
    }
}
