//! Probes as packets: a thread of its own, which owns the sockets and reads the clock.
//!
//! No privilege is needed. A TCP probe is a SYN with a small TTL from an ordinary socket: the switch's ICMP answer comes
//! to the socket's error queue (`IP_RECVERR`) and ends the attempt, nothing arrives at the destination, and the port
//! is free again. A UDP probe is one datagram. One probe is one socket, so answers cannot be mixed up.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, sock_extended_err, sockaddr_in, sockaddr_in6},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect,
        recvmsg, send, setsockopt, socket, sockopt,
    },
};

use tracing::warn;

use super::discovery::{Answer, Discovery, Probe, Settings, Step};

/// ICMP's "time exceeded".
const TIME_EXCEEDED: u8 = 11;
const TIME_EXCEEDED_V6: u8 = 3;

/// How a flow's packets look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Sockets.
    Tcp,
    /// RoCE: UDP to port 4791.
    Udp,
}

/// Where flows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Their protocol.
    pub protocol: Protocol,
    /// The address that they leave from, where that is not the kernel's choice.
    pub from: Option<IpAddr>,
    /// Their destination.
    pub to: SocketAddr,
}

/// Learns what there is to be learned about a destination, or as much as there was time for until it was told to stop.
pub fn ask(target: Target, settings: Settings, stop: &AtomicBool) -> Discovery {
    let mut discovery = Discovery::new(settings);
    if let Err(error) = learn(target, &mut discovery, stop) {
        warn!(to = %target.to, %error, "cannot probe");
    }
    discovery
}

/// Does the same for several, each in a thread of its own since probing is mostly waiting. What has panicked is left out.
pub(super) fn at_once<'t, T: Sync, R: Send>(of: &'t [T], one: impl Fn(&'t T) -> R + Sync) -> Vec<R> {
    let one = &one;
    thread::scope(|scope| {
        let threads: Vec<_> = of.iter().map(|of| scope.spawn(move || one(of))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// Runs a discovery to its end, or until it is told to stop.
///
/// # Errors
/// When sockets cannot be had at all.
pub fn learn(target: Target, discovery: &mut Discovery, stop: &AtomicBool) -> io::Result<()> {
    let clock = clock();
    let mut flying: Vec<(Probe, OwnedFd)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let until = match discovery.next(clock()) {
            Step::Done => break,
            Step::Send(probe) => {
                match launch(target, probe) {
                    Ok(socket) => flying.push((probe, socket)),
                    Err(Errno::EMFILE | Errno::ENFILE) => return Err(Errno::EMFILE.into()),
                    Err(_) => discovery.answer(probe, Answer::Busy),
                }
                continue;
            }
            Step::Wait(until) => until,
        };
        let wait = until.saturating_sub(clock()).div_ceil(1000);
        // A connection that is made or refused is writable; a UDP socket always is. Errors are always waited for.
        let events = if target.protocol == Protocol::Tcp { PollFlags::POLLOUT } else { PollFlags::empty() };
        harvest(&mut flying, events, wait, |probe, answer| discovery.answer(probe, answer))?;
        flying.retain(|(probe, _)| discovery.is_flying(*probe));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is the driver")]
fn clock() -> impl Fn() -> u64 {
    let start = Instant::now();
    move || start.elapsed().as_micros() as u64
}

/// Waits for answers and hands them on.
fn harvest(
    flying: &mut Vec<(Probe, OwnedFd)>,
    events: PollFlags,
    wait_ms: u64,
    mut answer: impl FnMut(Probe, Answer),
) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> =
        flying.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), events)).collect();
    let wait = PollTimeout::from(wait_ms.min(1000) as u16);
    match poll(&mut polled, wait) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<bool> =
        polled.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
    drop(polled);
    let mut ready = ready.into_iter();
    flying.retain(|(probe, socket)| {
        if !ready.next().unwrap_or(false) {
            return true;
        }
        match outcome(socket) {
            Some(outcome) => {
                answer(*probe, outcome);
                false
            }
            None => true,
        }
    });
    Ok(())
}

/// Sends a probe.
fn launch(target: Target, probe: Probe) -> nix::Result<OwnedFd> {
    let family = if target.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if target.protocol == Protocol::Tcp { SockType::Stream } else { SockType::Datagram };
    let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    let ttl = i32::from(probe.ttl);
    let own: IpAddr = match target.to {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Ttl, &ttl)?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6Ttl, &ttl)?;
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    let own = SocketAddr::new(target.from.unwrap_or(own), probe.port);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(own))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target.to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    if target.protocol == Protocol::Udp {
        send(socket.as_raw_fd(), &[0], MsgFlags::empty())?;
    }
    Ok(socket)
}

/// What became of a probe whose socket has something to say; none when it was something else.
fn outcome(socket: &OwnedFd) -> Option<Answer> {
    let mut byte = [0; 64];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let mut control = cmsg_space!(sock_extended_err, sockaddr_in, sockaddr_in6);
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut buffer,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    );
    if let Ok(message) = received {
        return message.cmsgs().ok()?.find_map(said);
    }
    // No ICMP: a TCP connection was made or refused; a UDP socket is merely writable.
    let error = nix::sys::socket::getsockopt(socket, sockopt::SocketError).ok()?;
    let is_tcp = nix::sys::socket::getsockopt(socket, sockopt::SockType) == Ok(SockType::Stream);
    match Errno::from_raw(error) {
        Errno::ECONNREFUSED => Some(Answer::Reached),
        Errno::UnknownErrno if is_tcp => Some(Answer::Reached),
        Errno::UnknownErrno => None,
        _ => Some(Answer::Unreachable),
    }
}

/// What an error queue's message says.
fn said(message: ControlMessageOwned) -> Option<Answer> {
    let (error, from): (sock_extended_err, IpAddr) = match message {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
            (error, Ipv4Addr::from_bits(u32::from_be(from.sin_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
            (error, Ipv6Addr::from(from.sin6_addr.s6_addr).into())
        }
        _ => return None,
    };
    Some(match (error.ee_origin, error.ee_type) {
        (SO_EE_ORIGIN_ICMP, TIME_EXCEEDED) | (SO_EE_ORIGIN_ICMP6, TIME_EXCEEDED_V6) => Answer::Hop(from),
        _ if error.ee_errno == Errno::ECONNREFUSED as u32 => Answer::Reached,
        _ => Answer::Unreachable,
    })
}
