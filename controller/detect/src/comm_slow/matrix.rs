//! The delay matrix at the moment a link is slow.
//!
//! A slow link makes others look slow: who waits for it sends in bursts and with idle threads, and everybody waits. All
//! links of a communicator pass its operations on at the pace of the slowest, so what one of them takes longer counts only
//! where it comes near to what the slowest takes longer: in time, since a link eighteen times as slow beside one six hundred times as
//! slow takes nothing of the job. Another communicator's operations come before or after, where lesser delays add to greater ones.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Key, Network,
    cell::Numbers,
    locate::{self, Found},
};
use crate::{
    model::Job,
    observation::{CommId, NodeName, ProcessId},
};

/// A link that takes longer than usual by less than this part of what the slowest of its communicator does suffers from
/// that one, and tells nothing of the cause.
const SIDE_EFFECT: f64 = 0.2;
/// So does, wherever it is, one that is less slow than this part of the slowest of the job (as logarithms).
const ELSEWHERE: f64 = 0.35;

/// Slow links by their ends' processes.
pub(super) type Pair = (ProcessId, ProcessId);

/// Processes and nodes by number.
pub(super) struct Matrix {
    pub(super) processes: Vec<ProcessId>,
    pub(super) nodes: Vec<NodeName>,
    pub(super) slow: BTreeMap<locate::Link, Vec<Key>>,
    pub(super) fine: Vec<locate::Link>,
    /// Links that may be slow for the same cause, as far as is known.
    pub(super) unknown: Vec<locate::Link>,
}

/// One end of a link.
pub(super) type End<'a> = (ProcessId, &'a NodeName);

impl Matrix {
    pub(super) fn of(job: &Job) -> Self {
        let end = |id: ProcessId| Some((id, &job.process(id)?.info.node));
        Self::of_network(&job.network, |key| {
            let (src, dst) = ends(job, key)?;
            Some((end(src)?, end(dst)?))
        })
    }

    pub(super) fn of_network<'a>(
        network: &Network,
        ends: impl Fn(&Key) -> Option<(End<'a>, End<'a>)>,
    ) -> Self {
        let mut numbering = Numbering::default();
        let mut link = |key: &Key| ends(key).map(|(src, dst)| numbering.link(src, dst));
        let side_effects = side_effects(network);
        let (mut slow, mut beside) = (BTreeMap::<locate::Link, Vec<Key>>::new(), BTreeSet::new());
        for key in network.suspicious.union(&network.slow) {
            let Some(link) = link(key) else { continue };
            if side_effects.contains(key) {
                beside.insert(link);
            } else {
                slow.entry(link).or_default().push(*key);
            }
        }
        // Small steps hide what large ones show, and what was seen before the first link was slow says nothing of now.
        let numbers = || network.slow.iter().filter_map(|key| Some(&network.cells.get(key)?.numbers));
        let since = numbers().map(|numbers| numbers.since).min().unwrap_or_default();
        let surely = |numbers: &Numbers| numbers.surely_since.max(numbers.since);
        let surely_since = numbers().map(surely).min().unwrap_or_default();
        let least = network.slow.iter().map(|key| key.class).min().unwrap_or(0);
        let (mut fine, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for (key, cell) in network.cells.iter().filter(|(key, _)| key.class >= least) {
            let Some(link) = link(key) else { continue };
            if slow.contains_key(&link) || beside.contains(&link) {
                continue;
            }
            let tells = cell.tells_of(since);
            if cell.known_since(surely_since) && (tells || cell.is_as_fast_as_its_kind()) {
                fine.insert(link);
            } else if cell.is_used_since(since) && slow.keys().any(|slow| slow.may_share_cause(&link)) {
                unknown.insert(link);
            }
        }
        Self {
            unknown: unknown.difference(&fine).copied().collect(),
            fine: fine.into_iter().collect(),
            slow,
            processes: numbering.processes,
            nodes: numbering.nodes,
        }
    }

    pub(super) fn pairs(&self, found: &Found) -> BTreeSet<Pair> {
        found.slow.iter().map(|link| (self.processes[link.src], self.processes[link.dst])).collect()
    }

    pub(super) fn keys(&self, found: &Found) -> Vec<Key> {
        found.slow.iter().filter_map(|link| self.slow.get(link)).flatten().copied().collect()
    }
}

pub(super) fn ends(job: &Job, key: &Key) -> Option<Pair> {
    let members = &job.comms.get(&key.comm)?.members;
    Some((members.get(&key.src)?.process, members.get(&key.dst)?.process))
}

/// Links that are slow or on their way there only because another is slow.
fn side_effects(network: &Network) -> BTreeSet<Key> {
    let excess = |key: &Key| network.cells.get(key).map_or(0.0, |cell| cell.numbers.excess);
    let mut most = 0.0_f64;
    let mut most_added: BTreeMap<CommId, f64> = BTreeMap::new();
    for key in &network.slow {
        let excess = excess(key);
        let added = most_added.entry(key.comm).or_default();
        (most, *added) = (most.max(excess), added.max(excess.exp_m1()));
    }
    let is_one = |key: &&Key| {
        let excess = excess(key);
        let added = most_added.get(&key.comm).copied().unwrap_or(0.0);
        excess < most * ELSEWHERE || excess.exp_m1() < added * SIDE_EFFECT
    };
    network.suspicious.union(&network.slow).filter(is_one).copied().collect()
}

/// Numbers given to processes and nodes.
#[derive(Default)]
struct Numbering {
    processes: Vec<ProcessId>,
    nodes: Vec<NodeName>,
    by_process: BTreeMap<ProcessId, usize>,
    by_node: BTreeMap<NodeName, usize>,
}

impl Numbering {
    fn link(&mut self, src: End<'_>, dst: End<'_>) -> locate::Link {
        let ((src, src_node), (dst, dst_node)) = (self.end(src), self.end(dst));
        locate::Link { src, dst, src_node, dst_node }
    }

    fn end(&mut self, (id, node): End<'_>) -> (usize, usize) {
        let process = *self.by_process.entry(id).or_insert_with(|| {
            self.processes.push(id);
            self.processes.len() - 1
        });
        let node = match self.by_node.get(node) {
            Some(known) => *known,
            None => {
                self.nodes.push(node.clone());
                self.by_node.insert(node.clone(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        (process, node)
    }
}
