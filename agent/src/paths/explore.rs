//! Finds out all paths to some hosts, switch by switch, so that a controller can learn the topology: a thread of its own, which takes
//! wishes from a mailbox of one place and reports what it found.
//!
//! Ordinary probing ([`super::service`]) asks for spines only, of a topology that is known. Here nothing is known, not even how far the
//! destination is: first the TTL is found at which a probe comes through, then every switch before that is asked for each
//! source port. Probes are the same, as slow and as careful. A new wish ends the one before.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::Path,
    sync::atomic::AtomicBool,
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    discovery::{Hops, Settings},
    mailbox::{Mailbox, Reader},
    nics::{NicPort, ports},
    probe::{Protocol, Target, ask, at_once},
};
use crate::{
    interfaces::addresses,
    report::{Captured, ExploredPath, ExploredReport, Report},
};

/// Switches on a path, at most: from leaf over spine and core to leaf there are five.
const MOST_HOPS: u8 = 8;
/// Source ports that are tried for each destination: enough for a dozen paths.
const PORTS: u16 = 96;
/// Destinations that are explored at the same time.
const TOGETHER: usize = 8;
/// Time between two looks at the wish, and between two reports where nothing is new.
const LOOK: Duration = Duration::from_secs(1);
const REPORT: Duration = Duration::from_secs(30);

/// How to explore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExploreSettings {
    /// The ports of NICs that take part, by the names of their interfaces; those that end in `*` stand for all that begin so.
    pub interfaces: Vec<String>,
    /// Source ports.
    pub ports: Range<u16>,
    /// Where probes go; nothing has to listen there.
    pub to: u16,
}

/// What is to be explored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Told back in the report.
    pub round: u64,
    /// From which own addresses to which others.
    pub ends: Vec<(IpAddr, IpAddr)>,
}

/// A running explorer; dropped, it ends.
#[derive(Debug)]
pub struct Explorer(Reader<Wish>);

impl Explorer {
    /// Starts it. What it finds goes to `reports`.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(settings: ExploreSettings, reports: mpsc::Sender<Captured>) -> io::Result<Self> {
        let read = move |wishes| explore(&settings, &reports, &wishes);
        Reader::start("c4-explore", read).map(Self)
    }

    /// Where wishes go.
    #[must_use]
    pub fn wishes(&self) -> Mailbox<Wish> {
        self.0.mailbox().clone()
    }
}

fn explore(settings: &ExploreSettings, reports: &mpsc::Sender<Captured>, wishes: &Mailbox<Wish>) {
    let mut told = ExploredReport::default();
    let mut since = REPORT;
    while !wishes.is_stopped() {
        let mut now = ExploredReport { ports: own_ports(settings), ..told.clone() };
        let mut is_new = now != told;
        if let Some(wish) = wishes.take() {
            let own: Vec<IpAddr> = now.ports.iter().map(|port| port.address).collect();
            let ends: Vec<_> = wish.ends.into_iter().filter(|(from, _)| own.contains(from)).collect();
            if let Some(traces) = find(settings, &ends, wishes) {
                info!(round = wish.round, destinations = ends.len(), paths = traces.len(), "explored paths");
                (now.round, now.done, now.traces, is_new) = (wish.round, true, traces, true);
            }
        }
        if is_new || since >= REPORT {
            since = Duration::ZERO;
            told = now.clone();
            // Nobody takes reports any more when the agent ends.
            let _ = reports.blocking_send(Captured::now(Report::Explored(Box::new(now))));
        }
        thread::park_timeout(LOOK);
        since += LOOK;
    }
}

/// The ports of this host that take part.
fn own_ports(settings: &ExploreSettings) -> Vec<NicPort> {
    let addresses = match addresses() {
        Ok(addresses) => addresses,
        Err(error) => {
            warn!(%error, "cannot list addresses: the ports of NICs are not told");
            return Vec::new();
        }
    };
    let sysfs = Path::new("/sys/class/net");
    let speed = |name: &str| fs::read_to_string(sysfs.join(name).join("speed")).ok();
    let device = |name: &str| fs::canonicalize(sysfs.join(name).join("device")).ok();
    ports(addresses, &settings.interfaces, speed, device)
}

/// All paths between these ends; none when there is a newer wish.
fn find(
    settings: &ExploreSettings,
    ends: &[(IpAddr, IpAddr)],
    wishes: &Mailbox<Wish>,
) -> Option<Vec<ExploredPath>> {
    let mut traces = Vec::new();
    for some in ends.chunks(TOGETHER) {
        let found = at_once(some, |(from, to)| trace(settings, *from, *to, wishes.interruption()));
        if wishes.is_interrupted() {
            return None;
        }
        traces.extend(found.into_iter().flatten());
    }
    Some(traces)
}

/// All paths from one address of this host to another host, switch by switch. Blocks until they are known, or until it is interrupted.
#[must_use]
pub fn trace(
    settings: &ExploreSettings,
    from: IpAddr,
    to: IpAddr,
    interrupted: &AtomicBool,
) -> Vec<ExploredPath> {
    let target = Target { protocol: Protocol::Tcp, from: Some(from), to: SocketAddr::new(to, settings.to) };
    let probe = |ports: Range<u16>, ttls: Vec<u8>, paths, depth| {
        ask(target, Settings { ports, ttls, paths, depth, ..Settings::default() }, interrupted)
    };
    // How far it is. A source port that is in use says nothing: a few are tried.
    let first = settings.ports.start;
    let is_there = |ttl: u8| probe(first..first.saturating_add(4), vec![ttl], Some(1), 1);
    let Some(distance) = (1..=MOST_HOPS + 1).find(|ttl| {
        let asked = is_there(*ttl);
        asked.paths().is_empty() && asked.report().lost > 0
    }) else {
        return Vec::new();
    };
    if distance < 2 {
        return Vec::new();
    }
    let end = first.saturating_add(PORTS).min(settings.ports.end);
    let discovery = probe(first..end, (1..distance).collect(), None, 1);
    let trace = |(hops, ports): (&Hops, &Vec<u16>)| ExploredPath {
        from,
        to,
        hops: hops.clone(),
        ports: u32::try_from(ports.len()).unwrap_or(u32::MAX),
    };
    discovery.paths().iter().map(trace).collect()
}
