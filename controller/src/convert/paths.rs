//! What agents say about traffic and paths, and the orders that go back.

use std::net::IpAddr;

use c4_detect::observation::{CommId, ProcessId};
use c4_proto::v1;
use c4_traffic::{learned::Trace, losses, orders::Order, topology::Gbps};

use super::{
    Invalid,
    limits::{self, at_most, between},
    process,
};

/// What a process has sent to a peer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTraffic {
    /// The process.
    pub process: ProcessId,
    /// The communicator.
    pub comm: CommId,
    /// The peer's rank in it.
    pub peer: u32,
    /// Channels in use, at least 1.
    pub channels: u32,
    /// Network operations that ended.
    pub operations: u64,
    /// Bytes of the network steps that were sampled.
    pub bytes: u64,
    /// How long ago the iteration began that the process was in when this was told.
    pub turn_us: Option<u64>,
}

/// A path that probes took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPath {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// Who answered on the way up, above the first leaf.
    pub hops: Vec<IpAddr>,
    /// Source ports that take it.
    pub ports: u32,
}

/// What is known of the paths of a node's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Of the orders that are followed.
    pub revision: u64,
    /// Of the network, as the orders count.
    pub epoch: u64,
    /// Nothing more is being learned.
    pub settled: bool,
    /// Addresses that connections are ordered to.
    pub destinations: u32,
    /// Planned paths without a port, each listening port by itself.
    pub missing: u32,
    /// How often a port took another path than before.
    pub changes: u32,
    /// Source ports tried since then.
    pub ports: u32,
    /// Probes sent.
    pub probes: u32,
    /// Ports given up because nobody answered.
    pub silent: u32,
    /// Ports given up for silence, for doubt, or because they could not be used.
    pub given_up: u32,
    /// The longest that learning about one destination took.
    pub learning_us: u64,
    /// Paths that probes took.
    pub seen: Vec<SeenPath>,
}

/// A path that agents send trains of probes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredPath {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// Who answered on the way up, above the first leaf.
    pub hops: Vec<IpAddr>,
    /// Trains of which nothing was lost.
    pub good: u64,
    /// Of which some was lost between others that met no queue.
    pub bad: u64,
    /// That met a long queue.
    pub busy: u64,
    /// By how much it takes longer than the fastest path to the same address.
    pub behind_us: Option<u64>,
}

/// What connections have carried over a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedPath {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// Who answered on the way up, above the first leaf.
    pub hops: Vec<IpAddr>,
    /// Bytes so far.
    pub bytes: u64,
}

/// How paths fared that a node measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathTrains {
    /// Of the network, as the orders count.
    pub epoch: u64,
    /// The paths of which there is something new.
    pub paths: Vec<MeasuredPath>,
    /// What connections have carried, by path.
    pub carried: Vec<CarriedPath>,
}

/// What a node has found out about where it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explored {
    /// What was to be explored; 0 if nothing was yet.
    pub round: u64,
    /// Whether that is done.
    pub done: bool,
    /// Its ports: NIC, address, and rate where it is known.
    pub ports: Vec<(String, IpAddr, Option<Gbps>)>,
    /// Paths that probes took, from the first leaf to the last.
    pub traces: Vec<Trace>,
}

/// A NIC that a process may use, where its NCCL was told which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnNic {
    /// The RDMA device, or the interface.
    pub name: String,
    /// An address of it, where it has one.
    pub address: Option<IpAddr>,
}

pub(super) fn own_nics(nics: Vec<v1::NicPort>) -> Result<Vec<OwnNic>, Invalid> {
    at_most("process_started.nics", nics.len() as u64, limits::NIC_PORTS)?;
    let nic = |nic: v1::NicPort| {
        let own = (!nic.address.is_empty()).then_some(nic.address);
        let own = own.map(|own| address("process_started.nics.address", &own)).transpose()?;
        Ok(OwnNic { name: limits::name("process_started.nics.nic", nic.nic)?, address: own })
    };
    nics.into_iter().map(nic).collect()
}

/// Where a path begins and ends, and who answers on it.
fn path(
    field: &str,
    from: &str,
    to: &str,
    hops: &[String],
) -> Result<(IpAddr, IpAddr, Vec<IpAddr>), Invalid> {
    let at = format!("{field}.hops");
    between(&at, hops.len() as u64, 1, limits::HOPS)?;
    let hops = hops.iter().map(|hop| address(&at, hop)).collect::<Result<_, _>>()?;
    Ok((address(&format!("{field}.from"), from)?, address(&format!("{field}.to"), to)?, hops))
}

pub(super) fn explored(message: v1::PathsExplored) -> Result<Explored, Invalid> {
    at_most("paths_explored.ports", message.ports.len() as u64, limits::NIC_PORTS)?;
    at_most("paths_explored.traces", message.traces.len() as u64, limits::SEEN_PATHS)?;
    let port = |port: v1::NicPort| {
        let own = address("paths_explored.ports.address", &port.address)?;
        let nic = limits::name("paths_explored.ports.nic", port.nic)?;
        let rate = Gbps::new(port.gbps);
        if rate.is_none() && port.gbps != 0.0 {
            let what = format!("{} is no rate in Gbit/s, and not 0", port.gbps);
            return Err(Invalid::new("paths_explored.ports.gbps", what));
        }
        Ok((nic, own, rate))
    };
    let trace = |seen: v1::SeenPath| {
        let (from, to, hops) = path("paths_explored.traces", &seen.from, &seen.to, &seen.hops)?;
        Ok(Trace { from, to, hops, ports: seen.ports })
    };
    Ok(Explored {
        round: message.round,
        done: message.done,
        ports: message.ports.into_iter().map(port).collect::<Result<_, _>>()?,
        traces: message.traces.into_iter().map(trace).collect::<Result<_, _>>()?,
    })
}

/// What a node is to explore, as its agent is told.
#[must_use]
pub fn explore(round: u64, ends: &[(IpAddr, IpAddr)]) -> v1::ExplorePaths {
    let ends = ends.iter().map(|(from, to)| v1::PathEnds { from: from.to_string(), to: to.to_string() });
    v1::ExplorePaths { round, ends: ends.collect() }
}

pub(super) fn traffic(message: v1::Traffic) -> Result<Vec<PeerTraffic>, Invalid> {
    at_most("traffic.peers", message.peers.len() as u64, limits::PEERS)?;
    let peer = |peer: v1::PeerTraffic| {
        at_most("traffic.peers.peer", peer.peer.into(), limits::RANKS - 1)?;
        between("traffic.peers.channels", peer.channels.into(), 1, limits::CHANNELS)?;
        Ok(PeerTraffic {
            process: process("traffic.peers.process", peer.process)?,
            comm: CommId(peer.comm),
            peer: peer.peer,
            channels: peer.channels,
            operations: at_most("traffic.peers.operations", peer.operations, limits::COUNT)?,
            bytes: at_most("traffic.peers.bytes", peer.bytes, limits::BYTES)?,
            turn_us: peer
                .turn_us
                .map(|us| at_most("traffic.peers.turn_us", us, limits::AGE_US))
                .transpose()?,
        })
    };
    message.peers.into_iter().map(peer).collect()
}

pub(super) fn report(report: v1::PathReport) -> Result<PathReport, Invalid> {
    at_most("path_report.seen", report.seen.len() as u64, limits::SEEN_PATHS)?;
    let seen = |seen: v1::SeenPath| {
        let (from, to, hops) = path("path_report.seen", &seen.from, &seen.to, &seen.hops)?;
        Ok(SeenPath { from, to, hops, ports: seen.ports })
    };
    let given_up = [report.silent, report.unsteady, report.busy, report.lost];
    Ok(PathReport {
        revision: report.revision,
        epoch: report.epoch,
        settled: report.settled,
        destinations: report.destinations,
        missing: report.missing,
        changes: report.changes,
        ports: report.ports,
        probes: report.probes,
        silent: report.silent,
        given_up: given_up.into_iter().fold(0, u32::saturating_add),
        learning_us: at_most("path_report.learning_us", report.learning_us, limits::AGE_US)?,
        seen: report.seen.into_iter().map(seen).collect::<Result<_, _>>()?,
    })
}

pub(super) fn trains(trains: v1::PathTrains) -> Result<PathTrains, Invalid> {
    at_most("path_trains.paths", trains.paths.len() as u64, limits::SEEN_PATHS)?;
    let measured = |way: v1::MeasuredPath| {
        let (from, to, hops) = path("path_trains.paths", &way.from, &way.to, &way.hops)?;
        at_most("path_trains.paths.unknown", way.unknown, limits::COUNT)?;
        Ok(MeasuredPath {
            from,
            to,
            hops,
            good: at_most("path_trains.paths.good", way.good, limits::COUNT)?,
            bad: at_most("path_trains.paths.bad", way.bad, limits::COUNT)?,
            busy: at_most("path_trains.paths.busy", way.busy, limits::COUNT)?,
            behind_us: way
                .behind_us
                .map(|us| at_most("path_trains.paths.behind_us", us, limits::AGE_US))
                .transpose()?,
        })
    };
    at_most("path_trains.carried", trains.carried.len() as u64, limits::SEEN_PATHS)?;
    let carried = |way: v1::CarriedPath| {
        let (from, to, hops) = path("path_trains.carried", &way.from, &way.to, &way.hops)?;
        let bytes = at_most("path_trains.carried.bytes", way.bytes, limits::BYTES)?;
        Ok(CarriedPath { from, to, hops, bytes })
    };
    let paths = trains.paths.into_iter().map(measured).collect::<Result<_, _>>()?;
    let carried = trains.carried.into_iter().map(carried).collect::<Result<_, _>>()?;
    Ok(PathTrains { epoch: trains.epoch, paths, carried })
}

fn address(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(field, format!("{text:?} is not an address")))
}

/// Orders for a node, as its agent is sent them.
#[must_use]
pub fn orders(revision: u64, epoch: u64, orders: &[Order]) -> v1::PathOrders {
    let hop =
        |switch: &Vec<IpAddr>| v1::PathHop { addresses: switch.iter().map(IpAddr::to_string).collect() };
    let order = |order: &Order| v1::PathOrder {
        from: order.from.to_string(),
        to: order.to.to_string(),
        routes: order
            .routes
            .iter()
            .map(|route| v1::PathRoute {
                units: route.units,
                via: route.via.iter().map(hop).collect(),
                bond: route.bond.into(),
            })
            .collect(),
    };
    let orders = orders.iter().map(order).collect();
    v1::PathOrders { revision, epoch, orders, trusted_after: losses::trusted_after() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_and_reports_are_checked() {
        let peer = v1::PeerTraffic {
            process: 7,
            comm: 3,
            peer: 2,
            channels: 2,
            operations: 9,
            bytes: 10,
            turn_us: Some(3),
        };
        assert_eq!(traffic(v1::Traffic { peers: vec![peer] }).map(|peers| peers.len()), Ok(1));
        let spoil: [fn(&mut v1::PeerTraffic); 5] = [
            |peer| peer.process = 0,
            |peer| peer.channels = 0,
            |peer| peer.peer = u32::MAX,
            |peer| peer.bytes = u64::MAX,
            |peer| peer.turn_us = Some(u64::MAX),
        ];
        for spoil in spoil {
            let mut peer = peer;
            spoil(&mut peer);
            assert!(traffic(v1::Traffic { peers: vec![peer] }).is_err(), "{peer:?}");
        }
        let seen = |hop: &str| v1::SeenPath {
            from: "10.0.0.1".into(),
            to: "10.0.1.1".into(),
            hops: vec![hop.into()],
            ports: 3,
        };
        let told =
            |hop| report(v1::PathReport { silent: 1, busy: 2, seen: vec![seen(hop)], ..Default::default() });
        assert_eq!(told("172.16.0.1").map(|report| report.given_up), Ok(3));
        let path = |hop: &str, bad| v1::MeasuredPath {
            from: "10.0.0.1".into(),
            to: "10.0.1.1".into(),
            hops: vec![hop.into()],
            good: 7,
            bad,
            ..Default::default()
        };
        let measured = |path| trains(v1::PathTrains { epoch: 3, paths: vec![path], carried: vec![] });
        assert_eq!(measured(path("fd00::1", 2)).map(|trains| trains.paths[0].bad), Ok(2));
        assert!(measured(path("", 2)).is_err() && measured(path("fd00::1", u64::MAX)).is_err());
        assert_eq!(told("spine1").map_err(|invalid| invalid.field), Err("path_report.seen.hops".into()));
    }

    #[test]
    fn what_was_explored_is_checked() {
        let good = v1::PathsExplored {
            round: 3,
            done: true,
            ports: vec![v1::NicPort { nic: "n0".into(), address: "10.0.0.1".into(), gbps: 0.0 }],
            traces: vec![v1::SeenPath {
                from: "10.0.0.1".into(),
                to: "10.0.1.1".into(),
                hops: ["10.0.0.254", "172.16.0.1", "172.16.1.1"].map(String::from).into(),
                ports: 9,
            }],
        };
        let taken = explored(good.clone()).expect("sound");
        assert_eq!((taken.round, taken.ports[0].2, taken.traces[0].hops.len()), (3, None, 3));
        type Spoil = (&'static str, fn(&mut v1::PathsExplored));
        let spoil: [Spoil; 6] = [
            ("paths_explored.ports.address", |message| message.ports[0].address = "n0".into()),
            ("paths_explored.ports.nic", |message| message.ports[0].nic.clear()),
            ("paths_explored.ports.gbps", |message| message.ports[0].gbps = f64::NAN),
            ("paths_explored.ports", |message| {
                message.ports = vec![message.ports[0].clone(); limits::NIC_PORTS as usize + 1];
            }),
            ("paths_explored.traces.hops", |message| message.traces[0].hops.clear()),
            ("paths_explored.traces.from", |message| message.traces[0].from = "h0".into()),
        ];
        for (field, spoil) in spoil {
            let mut message = good.clone();
            spoil(&mut message);
            assert_eq!(explored(message).map_err(|invalid| invalid.field), Err(field.to_owned()));
        }
    }
}
