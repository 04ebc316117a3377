//! Where the time of a rank's network steps goes, as its recorder shows it.
//!
//! Only links between nodes have steps. In a ring, that is the one to the next member if that is on another node, and, since each
//! GPU has a NIC of its own and NCCL uses them all, the one to the member in the same place on the group's next node.
//! Receivers post buffers ahead, so they wait for longer than the network takes, and for whoever is late; with sockets, what is
//! sent to a late rank lies with the network until it takes it, too. Both must not be held against a link.

use std::collections::BTreeMap;

use c4_detect::{aggregate::Detail, observation::LinkTime};

use super::{FaultKind, Layout, Spec};
use crate::simulator::{
    engine::{CollectiveRecord, TransferRecord},
    layout::Group,
    noise::{mix, unit},
};

/// One operation in so many has its steps timed.
const SAMPLING: u64 = 16;
const STEP_BYTES: u64 = 512 << 10;
/// Steps of fewer bytes are not told of.
const MIN_STEP_BYTES: u64 = 4_096;
/// Network time of a step: latency, and time per byte while others are ahead of it.
const LATENCY_NS: f64 = 15_000.0;
const NS_PER_BYTE: f64 = 0.075;
/// Buffers that a receiver has posted.
const BUFFERS: u64 = 8;

/// A link of a rank: the other end, by rank in the job and in the communicator.
#[derive(Clone, Copy, Debug)]
struct Peer {
    rank: u32,
    place: u32,
    is_send: bool,
}

/// The links of a rank in one communicator.
#[derive(Debug)]
pub(super) struct Links {
    rank: u32,
    peers: Vec<Peer>,
    told: BTreeMap<(u32, bool, u32), LinkTime>,
    windows: u64,
    detail: Detail,
}

/// An operation whose steps are timed.
struct Timed {
    bytes: u64,
    start_ns: u64,
    end_ns: u64,
}

impl Links {
    pub(super) fn new(layout: &Layout, group: Group, rank: u32) -> Self {
        let detail = Detail::in_job_of(Some(layout.ranks()));
        Self { rank, peers: peers(layout, group, rank), told: BTreeMap::new(), windows: 0, detail }
    }

    /// It is told that the job has so many ranks.
    pub(super) fn set_job_ranks(&mut self, ranks: u32) {
        self.detail = Detail::in_job_of(Some(ranks));
    }

    /// A collective ended.
    pub(super) fn collective(
        &mut self,
        spec: &Spec,
        number: u64,
        all_steps: bool,
        record: &CollectiveRecord,
    ) {
        let (Some(start_ns), Some(end_ns)) = (record.start_ns, record.end_ns) else { return };
        if self.peers.is_empty() || !(all_steps || is_timed(number)) {
            return;
        }
        let size = u64::from(spec.layout.group_size(record.group)).max(1);
        let bytes = 2 * record.bytes * (size - 1) / size;
        for peer in self.peers.clone() {
            self.time(spec, peer, &Timed { bytes, start_ns, end_ns });
        }
    }

    /// A send or receive ended.
    pub(super) fn transfer(&mut self, spec: &Spec, number: u64, all_steps: bool, record: &TransferRecord) {
        let layout = &spec.layout;
        let (Some(start_ns), Some(end_ns)) = (record.start_ns, record.end_ns) else { return };
        if layout.node(record.rank) == layout.node(record.peer) || !(all_steps || is_timed(number)) {
            return;
        }
        let place = layout.membership(record.peer, Group::Pipeline).1;
        let peer = Peer { rank: record.peer, place, is_send: record.is_send };
        self.time(spec, peer, &Timed { bytes: spec.model.activation_bytes, start_ns, end_ns });
    }

    fn time(&mut self, spec: &Spec, peer: Peer, op: &Timed) {
        let steps = op.bytes.div_ceil(STEP_BYTES).max(1);
        if op.bytes < steps * MIN_STEP_BYTES {
            return;
        }
        let (src, dst) = if peer.is_send { (self.rank, peer.rank) } else { (peer.rank, self.rank) };
        let step_bytes = (op.bytes / steps) as f64;
        let network_ns = steps as f64
            * (LATENCY_NS + NS_PER_BYTE * step_bytes)
            * unevenness(spec.seed, src, dst)
            * disturbance(spec.seed ^ mix(op.end_ns), src, dst)
            * factor(spec, src, dst, op.end_ns);
        // What it waited for others in the operation, on all the buffers that it had posted.
        let waited_ns = ((op.end_ns - op.start_ns) as f64 - network_ns / BUFFERS as f64).max(0.0);
        let waited_ns = waited_ns * steps.min(BUFFERS) as f64;
        let sockets = spec.seed.is_multiple_of(2);
        let lies_there = sockets && is_late(spec, peer.rank, op.end_ns);
        let (network_ns, gpu_ns, peer_ns) = match (peer.is_send, is_late(spec, self.rank, op.end_ns)) {
            (true, _) if lies_there => (network_ns + waited_ns, network_ns, 0.0),
            (true, _) => (network_ns, network_ns, waited_ns * 0.1),
            // A late rank finds its data there.
            (false, true) => (network_ns * 0.1, waited_ns, 0.0),
            (false, false) => (network_ns * 1.5 + waited_ns, network_ns * 0.1, 0.0),
        };
        let new = LinkTime {
            peer: peer.place,
            is_send: peer.is_send,
            channels: 4,
            steps,
            bytes: op.bytes,
            network_ns: network_ns as u64,
            gpu_ns: gpu_ns as u64,
            peer_ns: peer_ns as u64,
            flush_ns: if peer.is_send { 0 } else { steps * 500 },
        };
        let link = self.told.entry((new.peer, new.is_send, new.size_class())).or_default();
        (link.peer, link.is_send, link.channels) = (new.peer, new.is_send, new.channels);
        link.steps += new.steps;
        link.bytes += new.bytes;
        link.network_ns += new.network_ns;
        link.gpu_ns += new.gpu_ns;
        link.peer_ns += new.peer_ns;
        link.flush_ns += new.flush_ns;
    }

    /// What is told in a window.
    pub(super) fn take(&mut self) -> Vec<LinkTime> {
        self.windows += 1;
        if !self.detail.tells_of_links(self.windows) {
            return Vec::new();
        }
        std::mem::take(&mut self.told).into_values().collect()
    }
}

/// Whether the steps of the operation with this number are timed: the same ones on all ranks.
fn is_timed(number: u64) -> bool {
    mix(number / SAMPLING) % SAMPLING == number % SAMPLING
}

/// Those that a rank sends to and receives from in a collective, over the network.
fn peers(layout: &Layout, group: Group, rank: u32) -> Vec<Peer> {
    let size = layout.group_size(group);
    if size < 2 || group == Group::Pipeline || layout.within_node(group) {
        return Vec::new();
    }
    let (index, own) = layout.membership(rank, group);
    // A group is laid out alike on all its nodes: so many of its members are on each.
    let here = |place: &u32| layout.node(layout.member(group, index, *place)) == layout.node(rank);
    let on_node = (own..size).take_while(here).count() + (0..own).rev().take_while(here).count();
    let mut peers = Vec::new();
    for distance in [1, on_node as u32] {
        for (place, is_send) in [((own + distance) % size, true), ((own + size - distance) % size, false)] {
            let other = layout.member(group, index, place);
            let known = peers.iter().any(|peer: &Peer| (peer.rank, peer.is_send) == (other, is_send));
            if layout.node(other) != layout.node(rank) && !known {
                peers.push(Peer { rank: other, place, is_send });
            }
        }
    }
    peers
}

/// The ranks with which a rank exchanges data over the network.
#[must_use]
pub fn partners(layout: &Layout, rank: u32) -> Vec<u32> {
    let groups = [Group::Context, Group::Data, Group::Expert];
    let mut partners: Vec<u32> =
        groups.into_iter().flat_map(|group| peers(layout, group, rank)).map(|peer| peer.rank).collect();
    if layout.pp > 1 {
        let neighbours = [true, false].map(|next| layout.stage_neighbour(rank, next));
        partners.extend(neighbours.iter().filter(|peer| layout.node(**peer) != layout.node(rank)));
    }
    partners.sort_unstable();
    partners.dedup();
    partners
}

/// Links differ by a few per cent, always alike.
fn unevenness(seed: u64, src: u32, dst: u32) -> f64 {
    1.0 + 0.08 * unit(mix(seed ^ mix(u64::from(src) << 32 | u64::from(dst))))
}

/// Other traffic: a tenth more or less, and now and then several times as long. Both ends see the same.
fn disturbance(seed: u64, src: u32, dst: u32) -> f64 {
    let chance = mix(seed ^ mix(u64::from(dst) << 32 | u64::from(src)));
    let usual = 0.9 + 0.2 * unit(chance);
    let tail = unit(mix(chance));
    if tail < 0.01 { usual * (0.01 / tail.max(1e-6)).powf(0.5).min(10.0) } else { usual }
}

/// How many times as long a link takes for what is broken.
fn factor(spec: &Spec, src: u32, dst: u32, now_ns: u64) -> f64 {
    let faults = spec.faults.iter().filter(|fault| fault.acts(now_ns));
    let slows = faults.map(|fault| match fault.kind {
        FaultKind::SlowLink { peer, factor } if (src, dst) == (fault.rank, peer) => factor,
        FaultKind::SlowNic { factor } if src == fault.rank || dst == fault.rank => factor,
        FaultKind::SlowSwitch { ranks, factor } => {
            let inside = |rank: u32| (fault.rank..fault.rank + ranks).contains(&rank);
            if inside(src) != inside(dst) { factor } else { 1.0 }
        }
        _ => 1.0,
    });
    slows.product()
}

/// Whether a rank is late because something is wrong with it.
fn is_late(spec: &Spec, rank: u32, now_ns: u64) -> bool {
    spec.faults.iter().any(|fault| {
        fault.rank == rank
            && fault.acts(now_ns)
            && matches!(
                fault.kind,
                FaultKind::SlowCompute { .. } | FaultKind::LateHost { .. } | FaultKind::Throttle { .. }
            )
    })
}
