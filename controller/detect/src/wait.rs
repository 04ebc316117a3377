//! The wait-for graph: from ranks that wait, to whoever nobody else is holding up.
//!
//! A rank waits for those that hold up the collective it is in, and for the peer of an open receive. Whoever is waited
//! for may itself wait elsewhere: a late tensor-parallel rank makes the data-parallel group look hung, and behind a
//! pipeline stage everybody hangs. So all waits of the job, over all communicators and pairs, are one graph, and what
//! counts are its ends: a rank that waits for nobody, a collective that all have entered, a transfer that both sides
//! are in, or something that cannot be seen. Ranks that wait for each other in a circle are an end too: the program
//! waits for itself.
//!
//! A send is the weakest of waits, since the rank may well compute beside it. It is followed, but a circle that only a
//! send closes is none: the rank that sends has another reason not to get on.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::{
    algo::kosaraju_scc,
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef,
};

use crate::{
    config::Config,
    model::{Comm, Job, Process},
    nodes::Nodes,
    observation::{CommId, ProcessId, ProcessState, Timestamp},
    stall::{Holder, OBSERVED, Stall, Why, examine},
};

/// How long a send or receive has to be open to count as a wait.
const PENDING_US: u64 = 500_000;
/// Findings of ranks that stand still by themselves; from more than that on it is one thing that holds all of them.
const MAX_APART: usize = 4;

/// A send or receive that is open for long.
#[derive(Clone, Debug)]
pub(crate) struct PeerWait {
    pub(crate) comm: CommId,
    pub(crate) waiter: ProcessId,
    /// The peer's rank in the communicator, and its process where that was seen.
    pub(crate) peer_rank: u32,
    pub(crate) peer: Option<ProcessId>,
    pub(crate) is_send: bool,
    pub(crate) wait_us: u64,
    pub(crate) since: Timestamp,
    /// Why nothing can be said of the peer, if so.
    pub(crate) unseen: Option<String>,
}

/// Who waits, and where.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    pub(crate) stalls: BTreeMap<CommId, Stall>,
    pub(crate) peers: Vec<PeerWait>,
    /// Communicators in which ranks wait for peers.
    pub(crate) between: BTreeSet<CommId>,
    /// How many members were looked at to find them.
    pub(crate) looks: usize,
}

/// An end of the graph.
#[derive(Debug)]
pub(crate) enum Root {
    /// These ranks wait for nobody. With the collective in which they are waited for longest, if there is one.
    Held { stall: Option<CommId>, holders: Vec<Holder> },
    /// All members are in this collective.
    Inside(CommId),
    /// Both sides are in this transfer.
    Transfer { comm: CommId, src: ProcessId, dst: ProcessId },
    /// Who holds this collective up, or sends there what others wait for, cannot be seen.
    Unseen(CommId),
    /// These ranks wait for each other, in these collectives.
    Circle { ranks: BTreeSet<ProcessId>, stalls: Vec<CommId> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Rank(ProcessId),
    Stall(CommId),
    Transfer(CommId, ProcessId, ProcessId),
    Unseen(CommId),
}

/// Every communicator in which ranks wait, as far as it bears on those that are suspicious.
pub(crate) fn find(job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) -> Waits {
    let mut waits = Waits::default();
    let mut looked_at = BTreeSet::new();
    let mut left: Vec<CommId> = job.suspicious.iter().copied().collect();
    while let Some(id) = left.pop() {
        if !looked_at.insert(id) {
            continue;
        }
        let Some(comm) = job.comms.get(&id) else { continue };
        waits.looks += comm.members.len();
        let mut held = BTreeSet::new();
        // A wait that follows from another is younger than it, so half the threshold is enough here. Whether the
        // stall as a whole has lasted long enough is decided at the root.
        let least_us = comm.rhythm.hang_us(config).min(config.stopped_floor_ms.saturating_mul(1_000)) / 2;
        if let Some(stall) = examine(job, comm, nodes, config, now, least_us) {
            held.extend(stall.holders.iter().map(|holder| holder.process));
            waits.stalls.insert(id, stall);
        }
        let peers = peer_waits(job, comm, nodes, config, now);
        held.extend(peers.iter().filter_map(|wait| wait.peer));
        if !peers.is_empty() {
            waits.between.insert(id);
        }
        waits.peers.extend(peers);
        left.extend(
            held.iter().filter_map(|id| job.process(*id)).flat_map(|p| p.memberships.keys().copied()),
        );
    }
    waits
}

/// The sends and receives that members of a communicator wait in.
fn peer_waits(job: &Job, comm: &Comm, nodes: &Nodes, config: &Config, now: Timestamp) -> Vec<PeerWait> {
    let mut waits = Vec::new();
    let stopped = |peer: u32| {
        let process = comm.members.get(&peer).and_then(|member| job.process(member.process));
        process.is_some_and(|process| process.alive() && process.state == ProcessState::Stopped)
    };
    for (comm_rank, member) in comm.members.iter() {
        if member.pending_peers.is_empty() || member.left {
            continue;
        }
        let able = |p: &&Process| p.alive() && p.state != ProcessState::Stopped;
        let seen = |p: &&Process| p.blind_because(nodes, config, now).is_none();
        if job.process(member.process).filter(able).filter(seen).is_none() {
            continue;
        }
        let at = member.at.unwrap_or_default();
        for pending in &member.pending_peers {
            // Of one that has not begun, the rank itself may be to blame, unless its peer is known not to come.
            let begun = pending.started || stopped(pending.peer);
            if !begun || pending.age_us < PENDING_US || pending.peer == comm_rank {
                continue;
            }
            let mut wait = PeerWait {
                comm: comm.id,
                waiter: member.process,
                peer_rank: pending.peer,
                peer: None,
                is_send: pending.is_send,
                wait_us: pending.age_us,
                since: at.before(pending.age_us),
                unseen: None,
            };
            match comm.members.get(&pending.peer) {
                None => wait.unseen = Some("it was never seen".to_owned()),
                Some(peer) => {
                    wait.peer = Some(peer.process);
                    let process = job.process(peer.process);
                    wait.unseen = process.and_then(|process| {
                        let blind = process.blind_because(nodes, config, now);
                        let observed_us = peer.at.unwrap_or_default().micros_since(wait.since);
                        let stale = process.alive() && (observed_us as f64) < wait.wait_us as f64 * OBSERVED;
                        blind.or_else(|| stale.then(|| "its last window is older than the wait".to_owned()))
                    });
                }
            }
            waits.push(wait);
        }
    }
    waits
}

impl Waits {
    /// Whether somebody waits in the communicator.
    pub(crate) fn concern(&self, comm: CommId) -> bool {
        self.stalls.contains_key(&comm) || self.between.contains(&comm)
    }

    /// The sends and receives that wait for a process.
    pub(crate) fn waiting_for(&self, process: ProcessId) -> impl Iterator<Item = &PeerWait> {
        self.peers.iter().filter(move |wait| wait.peer == Some(process))
    }

    /// The ends of the graph.
    pub(crate) fn roots(&self, job: &Job) -> Vec<Root> {
        let mut leaves: Vec<Vec<Node>> = Vec::new();
        let mut roots = Vec::new();
        let mut ranks = BTreeSet::new();
        let graph = self.graph();
        for part in ends(&graph) {
            if let [only] = part[..] {
                leaves.extend(graph.node_weight(only).map(|node| vec![*node]));
                continue;
            }
            // Without sends, the circle may be none.
            let part: BTreeSet<NodeIndex> = part.into_iter().collect();
            let inside = graph.filter_map(
                |index, node| part.contains(&index).then_some(*node),
                |_, is_sure| is_sure.then_some(true),
            );
            for rest in ends(&inside) {
                leaves.push(rest.iter().filter_map(|index| inside.node_weight(*index).copied()).collect());
            }
        }
        for leaf in leaves {
            match leaf[..] {
                [Node::Rank(process)] => {
                    ranks.insert(process);
                }
                [Node::Stall(id)] if self.stalls.get(&id).is_some_and(|s| s.unseen.is_empty()) => {
                    roots.push(Root::Inside(id));
                }
                [Node::Stall(id) | Node::Unseen(id)] => roots.push(Root::Unseen(id)),
                [Node::Transfer(comm, src, dst)] => roots.push(Root::Transfer { comm, src, dst }),
                _ => roots.push(circle_of(&leaf)),
            }
        }
        roots.extend(self.held(job, ranks));
        roots
    }

    /// Edges go from who waits to whom it waits for; their weight is whether it surely does.
    fn graph(&self) -> DiGraph<Node, bool> {
        let mut graph = DiGraph::new();
        let mut indices: BTreeMap<Node, NodeIndex> = BTreeMap::new();
        let mut edges: Vec<(Node, Node, bool)> = Vec::new();
        for (id, stall) in &self.stalls {
            let stalled = Node::Stall(*id);
            edges.extend(stall.waiting.iter().map(|process| (Node::Rank(*process), stalled, true)));
            edges.extend(stall.holders.iter().map(|holder| (stalled, Node::Rank(holder.process), true)));
        }
        let open: BTreeSet<(CommId, ProcessId, ProcessId, bool)> = self
            .peers
            .iter()
            .filter_map(|wait| Some((wait.comm, wait.waiter, wait.peer?, wait.is_send)))
            .collect();
        for wait in &self.peers {
            let from = Node::Rank(wait.waiter);
            let to = match wait.peer {
                Some(peer) if open.contains(&(wait.comm, peer, wait.waiter, !wait.is_send)) => {
                    let (src, dst) = if wait.is_send { (wait.waiter, peer) } else { (peer, wait.waiter) };
                    Node::Transfer(wait.comm, src, dst)
                }
                Some(peer) if wait.unseen.is_none() => Node::Rank(peer),
                _ => Node::Unseen(wait.comm),
            };
            edges.push((from, to, !wait.is_send));
        }
        for (from, to, is_sure) in edges {
            let mut index = |node: Node| *indices.entry(node).or_insert_with(|| graph.add_node(node));
            let (from, to) = (index(from), index(to));
            graph.add_edge(from, to, is_sure);
        }
        graph
    }

    /// Ranks that wait for nobody, together where they are so in the same collective or on the same node, and by
    /// whether they are known to have ended or to be stopped.
    fn held(&self, job: &Job, mut ranks: BTreeSet<ProcessId>) -> Vec<Root> {
        let mut groups: Vec<(Option<CommId>, Vec<Holder>)> = Vec::new();
        let mut stalls: Vec<&Stall> = self.stalls.values().collect();
        stalls.sort_by_key(|stall| (std::cmp::Reverse(stall.longest_us), stall.comm));
        for stall in stalls {
            let mut by_class: BTreeMap<Why, Vec<Holder>> = BTreeMap::new();
            for holder in stall.holders.iter().filter(|holder| ranks.remove(&holder.process)) {
                by_class.entry(holder.why.class()).or_default().push(*holder);
            }
            groups.extend(by_class.into_values().map(|holders| (Some(stall.comm), holders)));
        }
        // What is left is waited for in sends and receives only.
        for process in ranks {
            let why = match job.process(process) {
                Some(process) if !process.alive() => Why::Ended,
                Some(process) if process.state == ProcessState::Stopped => Why::Stopped,
                _ => Why::NotEntered,
            };
            groups.push((None, vec![Holder { process, why, behind: 1 }]));
        }
        let node = |holder: &Holder| job.process(holder.process).map(|p| &p.info.node);
        let mut merged: Vec<(Option<CommId>, Vec<Holder>)> = Vec::new();
        for (stall, holders) in groups {
            let class = holders[0].why.class();
            let alike = merged.iter_mut().filter(|(_, others)| others[0].why.class() == class);
            let mut alike: Vec<_> = alike.collect();
            let full = alike.len() >= MAX_APART;
            let near = alike.iter().position(|(_, others)| {
                others.iter().any(|other| holders.iter().any(|holder| node(holder) == node(other)))
            });
            match near.or(full.then_some(0)) {
                Some(index) => alike[index].1.extend(holders),
                None => merged.push((stall, holders)),
            }
        }
        merged.into_iter().map(|(stall, holders)| Root::Held { stall, holders }).collect()
    }
}

fn circle_of(nodes: &[Node]) -> Root {
    let (mut ranks, mut stalls) = (BTreeSet::new(), Vec::new());
    for node in nodes {
        match node {
            Node::Rank(process) => {
                ranks.insert(*process);
            }
            Node::Stall(comm) => stalls.push(*comm),
            Node::Transfer(..) | Node::Unseen(_) => {}
        }
    }
    Root::Circle { ranks, stalls }
}

/// Parts of the graph, each strongly connected, that no edge leaves.
fn ends(graph: &DiGraph<Node, bool>) -> Vec<Vec<NodeIndex>> {
    let parts = kosaraju_scc(graph);
    let mut part_of = vec![0; graph.node_count()];
    for (number, part) in parts.iter().enumerate() {
        for index in part {
            part_of[index.index()] = number;
        }
    }
    let mut left: BTreeSet<usize> = BTreeSet::new();
    for edge in graph.edge_references() {
        let (from, to) = (part_of[edge.source().index()], part_of[edge.target().index()]);
        if from != to {
            left.insert(from);
        }
    }
    let ends = parts.into_iter().enumerate().filter(|(number, _)| !left.contains(number));
    ends.map(|(_, part)| part).collect()
}
