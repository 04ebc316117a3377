//! One communicator of one process: its completed collectives are put in order and aggregated, its oldest open one is
//! watched.
//!
//! A look at a recorder returns operations in any order and may return one twice; the aggregator wants each once and in
//! sequence. A completed operation waits here until everything before it is complete or is known to be lost.

use std::collections::BTreeMap;

use c4_detect::{
    aggregate::{Aggregator, CompletedOperation, Coverage, Detail},
    observation::{Before, CommId, CommWindow, Edge, InFlight, OperationSignature, PendingPeer, StepState},
};
use c4_recorder::snapshot::{self, Communicator, Connection, Operation, OperationKind};

use super::{
    collectives::Collectives,
    links::Links,
    peers::{PeerSums, Peers},
};

/// Completed operations held back for an older open one. Beyond it the older one is given up: NCCL runs the collectives
/// of a communicator in order, so this many mean that its end was missed.
const MAX_HELD: usize = 1024;

/// Connections reported in one window, those longest in their state first: an all-to-all has thousands.
const MAX_EDGES: usize = 256;

/// How long a send or receive has to be open to be told of, or an operation whose end cannot be seen to be the last.
const PENDING_US: u64 = 500_000;

/// Operations over which "usual" is remembered, twice.
const EPOCH: u32 = 256;

/// The longest operation among the last 256 to 512.
#[derive(Debug, Default)]
struct Longest {
    previous_ns: u64,
    current_ns: u64,
    count: u32,
}

impl Longest {
    fn push(&mut self, duration_ns: u64) {
        self.current_ns = self.current_ns.max(duration_ns);
        self.count += 1;
        if self.count == EPOCH {
            *self = Longest { previous_ns: self.current_ns, current_ns: 0, count: 0 };
        }
    }

    fn get(&self) -> u64 {
        self.previous_ns.max(self.current_ns)
    }
}

/// When an operation is older than it should be.
#[derive(Clone, Copy, Debug)]
pub struct Overdue {
    /// Never before this age.
    pub floor_ns: u64,
    /// Else at this multiple of the longest recent operation.
    pub factor: u64,
}

/// One communicator, as tracked between looks.
#[derive(Debug, Default)]
pub(super) struct CommTrack {
    /// As last read.
    pub last: Communicator,
    next_sequence: u64,
    held: BTreeMap<u64, CompletedOperation>,
    aggregator: Aggregator,
    longest: Longest,
    last_done_ns: Option<u64>,
    oldest: Option<Operation>,
    /// When the last operation was enqueued, where it is one whose end is not to be seen.
    left_out_ns: Option<u64>,
    edges: Vec<Edge>,
    links: Links,
    peers: Peers,
    pending: Vec<Operation>,
    urgent_for: Option<u64>,
    reported: Option<(u64, u64, u64)>,
}

impl CommTrack {
    /// Of a process of a job of so many ranks, where that is known.
    pub(super) fn in_job_of(ranks: Option<u32>) -> Self {
        let links = Links::with(Detail::in_job_of(ranks));
        Self { aggregator: Aggregator::in_job_of(ranks), links, ..Self::default() }
    }

    /// Takes in one look. Times are the host's monotonic clock in ns.
    pub(super) fn update(
        &mut self,
        comm: &Communicator,
        operations: &[&Operation],
        connections: &[&Connection],
        coverage: &Coverage,
        collectives: &mut Collectives,
        now_ns: u64,
    ) {
        self.last = comm.clone();
        // An operation whose end cannot be seen would be open for ever: that is no evidence of anything.
        let visible = operations.iter().filter(|op| op.completed_ns.is_none() && op.observable);
        let open = visible.min_by_key(|op| op.sequence);
        self.oldest = open.map(|op| (*op).clone());
        let last = operations.iter().filter(|op| op.completed_ns.is_none()).max_by_key(|op| op.sequence);
        let last = last.filter(|op| op.left_out && op.sequence.saturating_add(1) == comm.enqueued);
        self.left_out_ns = last.map(|op| op.enqueued_ns);
        for op in operations {
            if let Some(end_ns) = op.completed_ns
                && !op.left_out
                && op.sequence >= self.next_sequence
                && !self.held.contains_key(&op.sequence)
            {
                self.longest.push(end_ns.saturating_sub(op.enqueued_ns));
                let done = completed(op, end_ns);
                let duration_ns = end_ns.saturating_sub(done.start_ns);
                collectives.add(&op.function, op.bytes, comm.size, duration_ns);
                self.held.insert(op.sequence, done);
            }
        }
        let first_open = self.oldest.as_ref().map(|op| op.sequence);
        while let Some(entry) = self.held.first_entry() {
            let sequence = *entry.key();
            let blocked = first_open.is_some_and(|open| open < sequence);
            if blocked && self.held.len() <= MAX_HELD {
                break;
            }
            if let Some((_, op)) = self.held.pop_first() {
                self.last_done_ns = self.last_done_ns.max(Some(op.end_ns));
                self.next_sequence = sequence.saturating_add(1);
                self.aggregator.push_within(&op, coverage);
            }
        }
        self.links.update(connections);
        self.peers.update(connections);
        let mut stuck: Vec<_> =
            connections.iter().filter(|connection| connection.state != snapshot::StepState::Idle).collect();
        stuck.sort_by_key(|connection| connection.state_since_ns);
        self.edges = stuck.into_iter().take(MAX_EDGES).map(|connection| edge(connection, now_ns)).collect();
    }

    /// Whom it sends to, if that is to be told now.
    pub(super) fn peers(&mut self, now_ns: u64) -> Vec<(u32, PeerSums)> {
        self.peers.take(now_ns)
    }

    /// How long ago the iteration began that it is in, in microseconds, if iterations are recognised.
    pub(super) fn turn_us(&self, now_ns: u64) -> Option<u64> {
        self.aggregator.turned_ns().map(|began_ns| now_ns.saturating_sub(began_ns) / 1_000)
    }

    /// Takes in the sends and receives that were seen: of those that are open, the oldest for each peer and direction.
    pub(super) fn update_pending(&mut self, operations: &[&Operation]) {
        let mut oldest: BTreeMap<(u32, bool), &Operation> = BTreeMap::new();
        for op in operations.iter().filter(|op| op.completed_ns.is_none() && op.observable) {
            let kept = oldest.entry((op.root_or_peer, op.kind == OperationKind::Send)).or_insert(op);
            if op.sequence < kept.sequence {
                *kept = op;
            }
        }
        self.pending = oldest.into_values().take(MAX_EDGES).cloned().collect();
    }

    fn age_ns(&self, now_ns: u64) -> Option<u64> {
        self.oldest.as_ref().map(|op| now_ns.saturating_sub(op.enqueued_ns))
    }

    /// Whether the oldest open operation is older than has been usual.
    #[must_use]
    pub(super) fn is_overdue(&self, rule: Overdue, now_ns: u64) -> bool {
        let limit = rule.floor_ns.max(self.longest.get().saturating_mul(rule.factor));
        self.age_ns(now_ns).is_some_and(|age| age > limit)
    }

    /// True once for each operation that becomes overdue.
    pub(super) fn becomes_urgent(&mut self, rule: Overdue, now_ns: u64) -> bool {
        if !self.is_overdue(rule, now_ns) {
            return false;
        }
        let sequence = self.oldest.as_ref().map(|op| op.sequence);
        let news = self.urgent_for != sequence;
        self.urgent_for = sequence;
        news
    }

    /// Closes a window. `None` when there is nothing to say: the communicator is finalised and nothing is new, or
    /// nothing can be seen of it.
    pub(super) fn close(&mut self, rule: Overdue, now_ns: u64) -> Option<CommWindow> {
        let (blocks, iterations) = self.aggregator.take();
        let links = self.links.take();
        // Where ends cannot be seen there is nothing true to say: no window is "unknown", which it is.
        if !self.last.observable {
            return None;
        }
        // Counters and operations are read one after the other while the process runs: force the order they must have.
        let seen = self.next_sequence.max(self.oldest.as_ref().map_or(0, |op| op.sequence.saturating_add(1)));
        let completed = self.last.completed;
        let started = self.last.started.max(completed);
        let enqueued = self.last.enqueued.max(started).max(seen);
        let positions = (enqueued, started, completed);
        if self.last.finalized
            && blocks.is_empty()
            && iterations.is_empty()
            && self.reported == Some(positions)
        {
            return None;
        }
        self.reported = Some(positions);
        let overdue = self.is_overdue(rule, now_ns);
        let in_flight = self.oldest.as_ref().map(|op| {
            let before = overdue.then(|| self.aggregator.before(op.sequence)).flatten();
            in_flight(op, before, now_ns)
        });
        let idle_us = match (&in_flight, self.last_done_ns) {
            (None, Some(done_ns)) => now_ns.saturating_sub(done_ns) / 1000,
            _ => 0,
        };
        let left_out_us = self.left_out_ns.map_or(0, |ns| now_ns.saturating_sub(ns) / 1000);
        let pending_peers =
            self.pending.iter().map(|op| pending_peer(op, now_ns)).filter(|p| p.age_us >= PENDING_US);
        Some(CommWindow {
            pending_peers: pending_peers.collect(),
            links,
            comm: CommId(self.last.id),
            enqueued,
            started,
            completed,
            unseen_us: if in_flight.is_none() && left_out_us >= PENDING_US { left_out_us } else { 0 },
            in_flight,
            idle_us,
            blocks,
            edges: if overdue { self.edges.clone() } else { Vec::new() },
            iterations,
        })
    }
}

fn signature(op: &Operation) -> OperationSignature {
    OperationSignature {
        function: op.function.as_str().into(),
        count: op.count,
        datatype: op.datatype.as_str().into(),
        root: op.root_or_peer,
    }
}

fn completed(op: &Operation, end_ns: u64) -> CompletedOperation {
    CompletedOperation {
        sequence: op.sequence,
        signature: signature(op),
        start_ns: op.started_ns.unwrap_or(op.enqueued_ns).min(end_ns),
        end_ns,
        bytes: op.bytes,
    }
}

fn in_flight(op: &Operation, before: Option<Before>, now_ns: u64) -> InFlight {
    InFlight {
        sequence: op.sequence,
        signature: signature(op),
        started: op.started_ns.is_some(),
        age_us: now_ns.saturating_sub(op.enqueued_ns) / 1000,
        started_age_us: op.started_ns.map_or(0, |start| now_ns.saturating_sub(start) / 1000),
        before: before.map(Box::new),
    }
}

fn pending_peer(op: &Operation, now_ns: u64) -> PendingPeer {
    PendingPeer {
        peer: op.root_or_peer,
        is_send: op.kind == OperationKind::Send,
        started: op.started_ns.is_some(),
        age_us: now_ns.saturating_sub(op.started_ns.unwrap_or(op.enqueued_ns)) / 1000,
        position: op.sequence,
    }
}

fn edge(connection: &Connection, now_ns: u64) -> Edge {
    Edge {
        peer: connection.peer,
        channel: connection.channel,
        is_send: connection.is_send,
        state: match connection.state {
            snapshot::StepState::Idle => StepState::Idle,
            snapshot::StepState::SendGpuWait => StepState::SendGpuWait,
            snapshot::StepState::SendPeerWait => StepState::SendPeerWait,
            snapshot::StepState::SendWait => StepState::SendWait,
            snapshot::StepState::RecvWait => StepState::RecvWait,
            snapshot::StepState::RecvFlushWait => StepState::RecvFlushWait,
            snapshot::StepState::RecvGpuWait => StepState::RecvGpuWait,
        },
        state_age_us: match connection.state_since_ns {
            0 => 0,
            since => now_ns.saturating_sub(since) / 1000,
        },
        steps_done: connection.steps_done,
        bytes: connection.bytes,
    }
}
