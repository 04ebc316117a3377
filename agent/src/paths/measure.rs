//! Measures paths for loss: the driver around [`trains`](super::trains) and [`echo`](super::echo).
//!
//! Two threads. One answers the probes of other agents, with the kernel's own time of their arrival, so that a busy host
//! is no slow network. The other sends trains on the paths that it was given, one socket for each, and reports every two
//! seconds how they fared. What it is given replaces what it had; nothing is queued. A report for which there is no room
//! is left out: the next one says all that it would have said.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{in_addr, in_pktinfo, in6_pktinfo, timespec},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
        bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    departure::{departed, watch},
    echo::{Receiver, SIZE, Sent, decode},
    mailbox::{Mailbox, Reader},
    trains::{Step, Tally, Trains, Way},
};
use crate::{
    metrics::Metrics,
    report::{Captured, MeasuredWay, Report, WaysReport},
};

/// How paths are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasureSettings {
    /// The UDP port on which agents answer probes; the same on all hosts.
    pub port: u16,
    /// Probes that this host sends within a second.
    pub per_second: u32,
}

/// Time between two reports.
const REPORT_US: u64 = 2_000_000;
/// Time between two looks at what there is to do.
const LOOK: Duration = Duration::from_millis(250);
/// Paths in one report: the others' turn comes with the next.
const MOST_REPORTED: usize = 1_024;
/// What the kernel keeps of probes that were not read yet.
const RECEIVE_BUFFER: usize = 1 << 20;

/// See the module; dropped, it ends.
#[derive(Debug)]
pub struct Measurer {
    prober: Reader<Measured>,
    answerer: Option<JoinHandle<()>>,
}

/// What is to be measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The state of the network in which these paths were learned.
    pub epoch: u64,
    /// The paths.
    pub ways: Vec<Way>,
    /// How many trains have to come through a path that has lost something until it is suspected no more.
    pub trusted_after: u32,
}

impl Measurer {
    /// Starts it. What it finds goes to `reports`.
    ///
    /// # Errors
    /// When the port cannot be had, or there can be no more threads.
    pub fn start(
        settings: MeasureSettings,
        metrics: Metrics,
        reports: mpsc::Sender<Captured>,
    ) -> io::Result<Self> {
        let mut sockets = vec![answering(Ipv4Addr::UNSPECIFIED.into(), settings.port)?];
        // Not every host has IPv6.
        sockets.extend(answering(Ipv6Addr::UNSPECIFIED.into(), settings.port));
        let prober = Prober::new(settings, metrics, reports);
        let prober = Reader::start("c4-measure", move |mailbox| prober.run(&mailbox))?;
        let ends = prober.mailbox().clone();
        let answer = move || answer(&sockets, &ends);
        let answerer = Some(thread::Builder::new().name("c4-echo".to_owned()).spawn(answer)?);
        Ok(Self { prober, answerer })
    }

    /// These paths, and no others, are to be measured from now on.
    pub fn measure(&self, measured: Measured) {
        self.prober.mailbox().put(measured);
    }
}

impl Drop for Measurer {
    fn drop(&mut self) {
        self.prober.mailbox().stop();
        if let Some(thread) = self.answerer.take() {
            // A panic in it was reported by the thread.
            let _ = thread.join();
        }
    }
}

/// A socket that tells when a packet came, where to, and how many found no room.
fn answering(at: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = UdpSocket::from(socket(family, SockType::Datagram, flags, None)?);
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(at, port)))?;
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    match at {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(socket)
}

fn answer(sockets: &[UdpSocket], ends: &Mailbox<Measured>) {
    let mut receiver = Receiver::default();
    while !ends.is_stopped() {
        let mut polled: Vec<PollFd<'_>> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // Interrupted or not, what is there is read.
        let _ = poll(&mut polled, PollTimeout::from(LOOK.as_millis() as u16));
        for socket in sockets {
            while answer_one(socket, &mut receiver).is_some() {}
        }
    }
}

/// Where a packet came to, so that the answer comes from there.
#[derive(Clone, Copy)]
enum Local {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// Answers a probe; none when there is nothing to read.
fn answer_one(socket: &UdpSocket, receiver: &mut Receiver) -> Option<()> {
    let mut bytes = [0; SIZE + 1];
    let mut buffer = [IoSliceMut::new(&mut bytes)];
    let mut control = cmsg_space!(timespec, u32, in6_pktinfo);
    let came = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut buffer,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    );
    let came = match came {
        Ok(came) => came,
        Err(Errno::EAGAIN) => return None,
        // What went wrong with an earlier answer; whoever waits for it sends again.
        Err(_) => return Some(()),
    };
    let (mut received_ns, mut overflow, mut local) = (now_ns(), 0, None);
    for message in came.cmsgs().ok().into_iter().flatten() {
        match message {
            ControlMessageOwned::ScmTimestampns(time) => {
                received_ns = time.tv_sec() * 1_000_000_000 + time.tv_nsec();
            }
            ControlMessageOwned::RxqOvfl(dropped) => overflow = dropped,
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let own = in_addr { s_addr: info.ipi_addr.s_addr };
                local = Some(Local::V4(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: own }));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => local = Some(Local::V6(info)),
            _ => {}
        }
    }
    let (length, from) = (came.bytes, came.address);
    let sender = from.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from(*from));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::from(*from)))
    });
    let (Some(from), Some(sender), Some(sent)) = (from, sender, Sent::decode(&bytes[..length])) else {
        return Some(());
    };
    let Some(answer) = receiver.came(sender, &sent, received_ns, overflow, now_us()) else { return Some(()) };
    let own = local.as_ref().map(|local| match local {
        Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let own: Vec<ControlMessage<'_>> = own.into_iter().collect();
    // An answer that cannot be sent is one that is lost.
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&answer)], &own, MsgFlags::MSG_DONTWAIT, Some(&from));
    Some(())
}

/// Sends trains and hears what became of them.
struct Prober {
    settings: MeasureSettings,
    metrics: Metrics,
    reports: mpsc::Sender<Captured>,
    session: u64,
    /// What is to be measured, and of it what can be.
    measured: Measured,
    paths: Vec<(Way, UdpSocket)>,
    trains: Trains,
    told: Vec<Tally>,
    told_us: u64,
}

impl Prober {
    fn new(settings: MeasureSettings, metrics: Metrics, reports: mpsc::Sender<Captured>) -> Self {
        let (measured, paths, told) = (Measured::default(), Vec::new(), Vec::new());
        let trains = Trains::new(0, 1);
        Self { settings, metrics, reports, session: 0, measured, paths, trains, told, told_us: 0 }
    }

    fn run(mut self, mailbox: &Mailbox<Measured>) {
        while !mailbox.is_stopped() {
            if let Some(measured) = mailbox.take() {
                self.take(measured);
            }
            let now = now_us();
            match self.trains.next(now) {
                Step::Send(path, sequence) => self.send(path, sequence),
                Step::Wait(until) => {
                    thread::park_timeout(LOOK.min(Duration::from_micros(until.saturating_sub(now))));
                }
            }
            if now.saturating_sub(self.told_us) >= REPORT_US {
                self.told_us = now;
                self.report();
            }
        }
    }

    fn take(&mut self, measured: Measured) {
        // What is known of paths would be lost.
        if measured == self.measured {
            return;
        }
        // The sockets of before have the ports of those to come.
        self.paths.clear();
        self.session = now_ns().cast_unsigned();
        let mut busy = 0;
        for way in &measured.ways {
            match connected(way, self.settings.port) {
                Ok(socket) => self.paths.push((way.clone(), socket)),
                Err(_) => busy += 1,
            }
        }
        if busy > 0 {
            warn!(paths = busy, "cannot measure some paths: their ports are in use, or addresses are gone");
        }
        let pace_us = 1_000_000 / u64::from(self.settings.per_second.max(1));
        self.trains = Trains::new(self.paths.len(), pace_us).trusting_after(measured.trusted_after);
        self.measured = measured;
        self.told = vec![Tally::default(); self.paths.len()];
    }

    fn send(&mut self, path: usize, sequence: u64) {
        let Some((_, socket)) = self.paths.get(path) else { return };
        let mut bytes = [0; SIZE + 1];
        // Errors are what ICMP said of earlier probes: there may be nobody there. It is tried again.
        for _ in 0..64 {
            match socket.recv(&mut bytes) {
                Ok(length) => {
                    // The kernel has told by now when that probe left, and those before it.
                    for left in departed(socket, self.session) {
                        self.trains.left(path, left.sequence, left.at_ns);
                    }
                    if let Some(heard) = decode(&bytes[..length], self.session) {
                        self.trains.heard(path, &heard, now_us());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        let probe = Sent { session: self.session, sequence, sent_ns: now_ns() };
        if socket.send(&probe.encode()).is_err() {
            let _ = socket.send(&probe.encode());
        }
    }

    /// Tells what has changed since the last time.
    fn report(&mut self) {
        let least: Vec<Option<i64>> = self.trains.least_ns().collect();
        let mut fastest: BTreeMap<(IpAddr, IpAddr), i64> = BTreeMap::new();
        for ((way, _), least) in self.paths.iter().zip(&least) {
            if let Some(least) = least {
                let known = fastest.entry((way.from, way.to)).or_insert(*least);
                *known = (*known).min(*least);
            }
        }
        let tallies: Vec<Tally> = self.trains.tallies().collect();
        let changed = (0..self.paths.len()).filter(|path| tallies[*path] != self.told[*path]);
        let changed: Vec<usize> = changed.take(MOST_REPORTED).collect();
        if changed.is_empty() {
            return;
        }
        let measured = |path: &usize| {
            let way = &self.paths[*path].0;
            let behind = least[*path]
                .zip(fastest.get(&(way.from, way.to)))
                .map(|(own, least)| own.saturating_sub(*least));
            MeasuredWay {
                from: way.from,
                to: way.to,
                hops: way.hops.clone(),
                tally: tallies[*path],
                behind_us: behind.map(|ns| ns.max(0).cast_unsigned() / 1_000),
            }
        };
        let ways = changed.iter().map(measured).collect();
        let report =
            Report::Ways(Box::new(WaysReport { epoch: self.measured.epoch, ways, ..WaysReport::default() }));
        if self.reports.try_send(Captured::now(report)).is_ok() {
            for path in changed {
                self.metrics.trains(&tallies[path].since(&self.told[path]));
                self.told[path] = tallies[path];
            }
        }
    }
}

fn connected(way: &Way, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(way.from, way.port))?;
    socket.connect(way.target(port))?;
    socket.set_nonblocking(true)?;
    // Where the kernel does not tell, a probe is on its way from when it is sent.
    let _ = watch(&socket);
    Ok(socket)
}

/// Wall-clock time: clocks of hosts are kept together, those since boot are not.
fn now_ns() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}
