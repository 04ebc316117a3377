//! Slow links, NICs and switches. How much slower a link is says little: what counts is what the job loses, so the severity
//! is that of the iteration, and the link is made as slow as that takes.

use rand::RngExt as _;

use super::{
    cases::{Case, Class, Draft, Expected, SECOND_NS, Truth, kinds},
    shapes::Shape,
};
use crate::simulator::{
    engine::Engine,
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::Noise,
    telemetry::{Spec, links},
};

/// What is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One link between nodes.
    Link,
    /// A NIC, in both directions.
    Nic,
    /// A switch that connects some nodes with the others.
    Switch,
}

/// Parts and severities: how many times as long an iteration takes.
pub const NETWORK: [(Part, f64); 9] = [
    (Part::Link, 1.3),
    (Part::Link, 2.0),
    (Part::Link, 5.0),
    (Part::Nic, 1.3),
    (Part::Nic, 2.0),
    (Part::Nic, 5.0),
    (Part::Switch, 1.3),
    (Part::Switch, 2.0),
    (Part::Switch, 5.0),
];

/// Jobs larger than this take too long to find out how slow a link has to be.
const MOST_RANKS: u32 = 1_024;
/// The slowest link: what is slower is blocked.
const SLOWEST: f64 = 4_096.0;
/// Iterations to watch.
const ITERATIONS: u64 = 120;

/// A case with something slow in the network; `None` if a job of this shape has no such part, or would not suffer.
#[must_use]
pub fn network(shape: &Shape, (part, severity): (Part, f64), seed: u64) -> Option<Case> {
    let mut draft = Draft::new(shape, seed);
    let layout = draft.spec.layout;
    if layout.ranks() > MOST_RANKS || layout.nodes() < 2 {
        return None;
    }
    let start_ns = draft.onset_ns();
    let at = draft.rng.random_range(0..layout.ranks());
    let placed = match part {
        Part::Link => link(&layout, at)?,
        Part::Nic => nic(&layout, at)?,
        Part::Switch => switch(&layout, at)?,
    };
    let factor = factor(&draft.spec, &placed, severity)?;
    let kind = placed.kind(factor);
    draft.spec.faults.push(Fault { kind, rank: placed.rank, start_ns, end_ns: None });
    let Placed { ranks, nodes, .. } = placed;
    let truth = Truth { start_ns, end_ns: None, kinds: kinds(&kind), ranks, nodes, is_required: true };
    let name = match part {
        Part::Link => "slow link",
        Part::Nic => "slow nic",
        Part::Switch => "slow switch",
    };
    let watched_ns = (ITERATIONS as f64 * severity * draft.iteration_ns as f64) as u64;
    Some(Case {
        row: draft.row(Class::SlowNetwork, name, &format!("{severity} x")),
        spec: draft.spec,
        expected: Expected::Faults(vec![truth]),
        length_ns: start_ns + watched_ns.max(90 * SECOND_NS),
    })
}

/// Where something is slow, and who is rightly suspected of it.
struct Placed {
    rank: u32,
    fault: FaultKind,
    ranks: Vec<u32>,
    nodes: Vec<String>,
}

impl Placed {
    fn kind(&self, factor: f64) -> FaultKind {
        match self.fault {
            FaultKind::SlowLink { peer, .. } => FaultKind::SlowLink { peer, factor },
            FaultKind::SlowSwitch { ranks, .. } => FaultKind::SlowSwitch { ranks, factor },
            _ => FaultKind::SlowNic { factor },
        }
    }
}

/// The first link between nodes from a rank on, to its next in a ring or in its pipeline. Nothing tells its ends apart.
fn link(layout: &Layout, from: u32) -> Option<Placed> {
    let next = |rank: u32| {
        let ring = (!layout.within_node(Group::Data)).then(|| {
            let (index, place) = layout.membership(rank, Group::Data);
            layout.member(Group::Data, index, (place + 1) % layout.group_size(Group::Data))
        });
        let stage = (layout.pp > 1).then(|| layout.stage_neighbour(rank, true));
        let leaves = |peer: &u32| layout.node(*peer) != layout.node(rank);
        Some((rank, ring.filter(leaves).or(stage.filter(leaves))?))
    };
    let (rank, peer) = around(layout, from).find_map(next)?;
    let fault = FaultKind::SlowLink { peer, factor: 1.0 };
    Some(Placed { rank, fault, ranks: vec![rank, peer], nodes: Vec::new() })
}

/// The NIC of the first rank from one on that uses it. If it has one peer only, the peer's may as well be slow.
fn nic(layout: &Layout, from: u32) -> Option<Placed> {
    let (rank, peers) = around(layout, from)
        .map(|rank| (rank, links::partners(layout, rank)))
        .find(|(_, p)| !p.is_empty())?;
    let mut ranks = vec![rank];
    if let [only] = peers[..] {
        ranks.push(only);
    }
    Some(Placed { rank, fault: FaultKind::SlowNic { factor: 1.0 }, ranks, nodes: Vec::new() })
}

/// A switch with a quarter of the nodes below it.
fn switch(layout: &Layout, at: u32) -> Option<Placed> {
    let below = layout.nodes() / 4;
    let first = layout.node(at) / below.max(1) * below;
    if below == 0 || first + below > layout.nodes() {
        return None;
    }
    let (rank, count) = (first * layout.gpus_per_node, below * layout.gpus_per_node);
    Some(Placed {
        rank,
        fault: FaultKind::SlowSwitch { ranks: count, factor: 1.0 },
        ranks: (rank..rank + count).collect(),
        nodes: (first..first + below).map(|node| format!("node-{node}")).collect(),
    })
}

fn around(layout: &Layout, from: u32) -> impl Iterator<Item = u32> + use<> {
    let ranks = layout.ranks();
    (0..ranks).map(move |step| (from + step) % ranks)
}

/// How many times as slow the part has to be for iterations to take `severity` times as long; `None` if none is enough.
fn factor(spec: &Spec, placed: &Placed, severity: f64) -> Option<f64> {
    let usual_ns = iteration_ns(spec, None);
    let times = |factor: f64| {
        let fault = Fault { kind: placed.kind(factor), rank: placed.rank, start_ns: 0, end_ns: None };
        iteration_ns(spec, Some(fault)) / usual_ns
    };
    let (mut low, mut high) = (1.0_f64, 2.0);
    while times(high) < severity {
        (low, high) = (high, high * 2.0);
        if high > SLOWEST {
            return None;
        }
    }
    for _ in 0..6 {
        let middle = (low * high).sqrt();
        if times(middle) < severity { low = middle } else { high = middle }
    }
    Some(high)
}

/// How long an iteration takes, without noise.
fn iteration_ns(spec: &Spec, fault: Option<Fault>) -> f64 {
    let faults = fault.into_iter().collect();
    let workload = spec.workload.clone();
    let mut engine = Engine::new(spec.layout, &spec.model, workload, Noise::none(), faults, spec.seed);
    let ends: Vec<u64> = (0..3).map(|_| engine.step(&mut |_| {}).end_ns).collect();
    (ends[2] - ends[1]) as f64
}
