//! When receives have ended at the earliest: not before their senders have begun.
//!
//! Inside a node, NCCL (2.28) tells of a send and a receive in one group that both have ended once the send has. Whoever waits for
//! its peer in such a receive would seem to work. But there the sender is on this node, too, and its own recorder tells when it
//! began. Which send belongs to which receive follows from how many both sides have counted.

use std::collections::{BTreeMap, BTreeSet};

use c4_detect::aggregate::Coverage;
use c4_recorder::snapshot::{Communicator, Operation, OperationKind};

/// Starts of sends that are remembered, of each sender to each receiver.
const KEPT: usize = 1024;
/// Receives of a process whose senders have not begun: far more than there are in a group.
const MAX_OPEN: usize = 4096;
/// Pairs of ranks of which sends are remembered: far more than the processes of a node send to.
const MAX_WAYS: usize = 65_536;

/// From whom to whom, on which communicator. Of the same user: nobody testifies about others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    uid: Option<u32>,
    comm: u64,
    from: u32,
    to: u32,
}

/// When a sender began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    At(u64),
    NotYet,
    /// It is not on this node, or it was long ago.
    Unknown,
}

/// What the processes of this node send.
#[derive(Debug, Default)]
pub(super) struct Transfers(BTreeMap<Way, BTreeMap<u32, u64>>);

impl Transfers {
    /// Takes in what a process sends.
    pub(super) fn take(&mut self, uid: Option<u32>, comms: &[Communicator], operations: &[Operation]) {
        for op in operations.iter().filter(|op| op.kind == OperationKind::Send) {
            let Some((comm, number)) = comm_of(comms, op).zip(op.peer_number) else { continue };
            let way = Way { uid, comm: comm.id, from: comm.rank, to: op.root_or_peer };
            if self.0.len() >= MAX_WAYS && !self.0.contains_key(&way) {
                continue;
            }
            let starts = self.0.entry(way).or_default();
            if let Some(started_ns) = op.started_ns {
                starts.insert(number, started_ns);
                while starts.len() > KEPT {
                    starts.pop_first();
                }
            }
        }
    }

    /// Forgets who is not there any more; those who are, as user, communicator and rank in it.
    pub(super) fn retain(&mut self, present: &BTreeSet<(Option<u32>, u64, u32)>) {
        self.0.retain(|way, _| present.contains(&(way.uid, way.comm, way.from)));
    }

    fn start(&self, way: Way, number: u32) -> Start {
        let Some(starts) = self.0.get(&way) else { return Start::Unknown };
        match (starts.get(&number), starts.last_key_value()) {
            (Some(started_ns), _) => Start::At(*started_ns),
            (None, Some((latest, _))) if *latest > number => Start::Unknown,
            _ => Start::NotYet,
        }
    }
}

fn comm_of<'a>(comms: &'a [Communicator], op: &Operation) -> Option<&'a Communicator> {
    let same = |comm: &&Communicator| (comm.slot, comm.generation) == (op.comm_slot, op.comm_generation);
    comms.iter().find(same).filter(|comm| comm.is_known())
}

/// A receive that has ended, if what is told of it is true.
#[derive(Debug)]
struct Receive {
    way: Way,
    number: u32,
    started_ns: u64,
    ended_ns: u64,
    overtaken: bool,
}

/// What one process receives.
#[derive(Debug, Default)]
pub(super) struct Receives {
    open: Vec<Receive>,
    /// Of these, the two sides count differently.
    distrusted: BTreeSet<Way>,
}

impl Receives {
    /// Takes in what the process did on all communicators, and adds to when it was in communication what its receives lasted
    /// longer than is told.
    pub(super) fn cover(
        &mut self,
        uid: Option<u32>,
        comms: &[Communicator],
        operations: &[Operation],
        transfers: &Transfers,
        coverage: &mut Coverage,
        now_ns: u64,
    ) {
        let mut latest_ns: BTreeMap<u64, u64> = BTreeMap::new();
        for op in operations {
            let Some((comm, started_ns)) = comm_of(comms, op).zip(op.started_ns) else { continue };
            let latest = latest_ns.entry(comm.id).or_default();
            *latest = started_ns.max(*latest);
            let receives = op.kind == OperationKind::Receive && self.open.len() < MAX_OPEN;
            if let Some((number, ended_ns)) = op.peer_number.zip(op.completed_ns).filter(|_| receives) {
                let way = Way { uid, comm: comm.id, from: op.root_or_peer, to: comm.rank };
                self.open.push(Receive { way, number, started_ns, ended_ns, overtaken: false });
            }
        }
        let distrusted = &mut self.distrusted;
        distrusted.retain(|way| comms.iter().any(|comm| comm.id == way.comm));
        self.open.retain_mut(|receive| {
            if distrusted.contains(&receive.way) {
                return false;
            }
            match transfers.start(receive.way, receive.number) {
                Start::Unknown => return false,
                Start::At(began_ns) => {
                    coverage.add(receive.started_ns, began_ns.min(now_ns), false);
                    return false;
                }
                Start::NotYet => {}
            }
            // The kernels of a communicator run one after the other: with a later one, it has ended, and its sender has begun. That
            // was read just before then; or the two do not count alike.
            if receive.overtaken {
                distrusted.insert(receive.way);
                return false;
            }
            receive.overtaken = latest_ns.get(&receive.way.comm).is_some_and(|ns| *ns > receive.ended_ns);
            if !receive.overtaken {
                coverage.add(receive.started_ns, now_ns, false);
            }
            true
        });
    }
}
