//! The evidence of one communicator: who waits in which collective, and who holds them up.
//!
//! Positions are compared, never times of different machines: a member that has enqueued no more than `operation`
//! collectives has not entered the one the others wait in. Whether that means anything depends on whether the member
//! can be seen; what cannot be seen is listed, not accused.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::Config,
    model::{Comm, Job, Member},
    nodes::Nodes,
    observation::{CommId, OperationSignature, ProcessId, ProcessState, Timestamp},
};

/// Of the time that others have waited, how much a member must have been observed to hold them up. Windows of
/// different ranks are taken at different times.
pub(crate) const OBSERVED: f64 = 0.6;

/// Why a member holds others up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// It has ended.
    Ended,
    /// It is stopped by a signal or a debugger.
    Stopped,
    /// It has not enqueued the operation.
    NotEntered,
    /// It has enqueued it, but its GPU has not begun: the stream is busy with something else.
    Queued,
    /// The same, but it has enqueued it only after others had waited for most of their time: its host was late.
    Arriving,
    /// It has finalised or aborted the communicator.
    Left,
}

impl Why {
    /// What is known for sure: that it has ended, that it is stopped, or only that it does not come.
    pub(crate) fn class(self) -> Why {
        match self {
            Why::NotEntered | Why::Queued | Why::Arriving | Why::Left => Why::NotEntered,
            sure => sure,
        }
    }
}

/// A member that holds others up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) process: ProcessId,
    pub(crate) why: Why,
    /// Operations it is behind, at least 1 unless it is stopped or queued.
    pub(crate) behind: u64,
}

/// A communicator in which members wait for long.
#[derive(Debug)]
pub(crate) struct Stall {
    pub(crate) comm: CommId,
    /// Position of the operation they wait in.
    pub(crate) operation: u64,
    /// "AllReduce".
    pub(crate) function: String,
    /// Who waits in it.
    pub(crate) waiting: Vec<ProcessId>,
    /// The longest wait.
    pub(crate) longest_us: u64,
    /// The shortest wait of a member that is in the operation: how long all have been in it, once all are. Where a member is out
    /// of it, or data still moves, how long those who wait have been seen in it since.
    pub(crate) shortest_us: u64,
    /// Whether anybody is known to have begun the operation. Without kernel events and network operations, one that
    /// is enqueued may as well be waiting for the rank's own computation.
    pub(crate) begun: bool,
    /// When the longest wait began.
    pub(crate) since: Timestamp,
    /// Who holds them up.
    pub(crate) holders: Vec<Holder>,
    /// What they say that the operation is who are in it, or have got out of it into the next.
    pub(crate) entered: BTreeMap<ProcessId, OperationSignature>,
    /// The hash of what their iterations have at this place, where all who know say the same.
    pub(crate) usual: Option<u64>,
    /// Members of which nothing can be said, and why: rank in the communicator, reason.
    pub(crate) unseen: Vec<(u32, String)>,
}

/// Looks at a communicator; nothing if nobody has waited for `least_us`.
pub(crate) fn examine(
    job: &Job,
    comm: &Comm,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    least_us: u64,
) -> Option<Stall> {
    let mut blind = BTreeMap::new();
    for (comm_rank, member) in comm.members.iter() {
        let Some(process) = job.process(member.process) else { continue };
        if let Some(why) = process.blind_because(nodes, config, now) {
            blind.insert(comm_rank, why);
        }
    }
    let mut stall = find_waiting(job, comm, &blind, least_us)?;
    let waited: BTreeSet<ProcessId> = stall.waiting.iter().copied().collect();
    for (comm_rank, member) in comm.members.iter() {
        if waited.contains(&member.process) {
            continue;
        }
        if let Some(why) = blind.get(&comm_rank) {
            if member.completed <= stall.operation {
                stall.unseen.push((comm_rank, why.clone()));
            }
        } else {
            classify(job, member, comm_rank, &mut stall);
        }
    }
    // A liar's `size` must not make us loop: no more than a handful of unknown ranks is listed.
    let known = comm.members.len() as u32;
    for comm_rank in (0..comm.size).filter(|rank| !comm.members.contains_key(rank)).take(8) {
        stall.unseen.push((comm_rank, format!("only {known} of {} ranks were ever seen", comm.size)));
    }
    if !comm.tells_size && !all_members_seen(job, comm) {
        let why = "this version of NCCL does not tell how many ranks a communicator has, and not all ranks of the job were seen";
        stall.unseen.push((comm.size, why.to_owned()));
    }
    Some(stall)
}

/// Whether those who are known are all members of a communicator that does not tell its size: every rank of the job
/// is in sight, and something was completed, in which all members took part.
fn all_members_seen(job: &Job, comm: &Comm) -> bool {
    comm.completed_max > 0 && job.world_size.is_some_and(|size| job.by_rank.len() as u64 >= u64::from(size))
}

/// The operation that members wait in, and who they are.
fn find_waiting(job: &Job, comm: &Comm, blind: &BTreeMap<u32, String>, least_us: u64) -> Option<Stall> {
    let seen =
        || comm.members.iter().filter(|(rank, member)| member.at.is_some() && !blind.contains_key(rank));
    // Nobody gets past the operation that a member has not entered, whether its end can be seen or not.
    let reached = seen().map(|(_, member)| member.enqueued).min().unwrap_or(0);
    let waits = |(comm_rank, member): &(u32, &Member)| -> Option<(u64, u64)> {
        if member.left || blind.contains_key(comm_rank) {
            return None;
        }
        let process = job.process(member.process)?;
        if !process.alive() || process.state == ProcessState::Stopped {
            return None;
        }
        let (operation, wait_us) = match &member.in_flight {
            Some(op) => (op.sequence, member.wait_us(process.kernel_events)),
            None if member.enqueued > reached && member.unseen_us > 0 => (reached, member.unseen_us),
            None => return None,
        };
        (wait_us >= least_us).then_some((operation, wait_us))
    };
    let operation = comm.members.iter().filter_map(|m| waits(&m).map(|w| w.0)).min()?;
    let mut stall = Stall {
        comm: comm.id,
        operation,
        function: String::new(),
        waiting: Vec::new(),
        longest_us: 0,
        shortest_us: u64::MAX,
        begun: false,
        since: Timestamp(u64::MAX),
        holders: Vec::new(),
        entered: BTreeMap::new(),
        usual: None,
        unseen: Vec::new(),
    };
    for entry in comm.members.iter() {
        let Some((sequence, wait_us)) = waits(&entry) else { continue };
        let (_, member) = entry;
        if sequence == operation {
            stall.waiting.push(member.process);
            stall.longest_us = stall.longest_us.max(wait_us);
            let began = member.at.unwrap_or_default().before(wait_us);
            stall.since = stall.since.min(began);
        }
    }
    let mut usual = BTreeSet::new();
    for (comm_rank, member) in comm.members.iter() {
        let Some(op) = member.in_flight.as_ref().filter(|_| !member.left && !blind.contains_key(&comm_rank))
        else {
            continue;
        };
        if let Some(before) = op.before.as_ref().filter(|_| op.sequence.checked_sub(1) == Some(operation)) {
            stall.entered.insert(member.process, before.signature.clone());
            usual.extend(before.usual_before);
        }
        if op.sequence == operation {
            usual.extend(op.before.as_ref().and_then(|before| before.usual));
            let kernel_events = job.process(member.process).is_some_and(|process| process.kernel_events);
            stall.shortest_us = stall.shortest_us.min(member.wait_us(kernel_events));
            stall.begun |= op.started;
            stall.entered.insert(member.process, op.signature.clone());
        }
    }
    stall.usual = usual.first().copied().filter(|_| usual.len() == 1);
    // Windows are taken one after the other: of an operation that ends, some members still seem to be in it.
    let seen = || seen().map(|(_, member)| member);
    let in_it = |member: &&Member| {
        member.in_flight.as_ref().is_some_and(|op| op.sequence == operation) && !member.left
    };
    let out = seen().filter(|member| member.completed > operation).map(Member::completed_at).max();
    let moved = seen().filter(in_it).filter_map(|member| member.moved).max();
    if let Some(last) = out.max(moved) {
        let seen = seen().filter(in_it).filter_map(|member| member.at).min().unwrap_or_default();
        stall.shortest_us = stall.shortest_us.min(seen.micros_since(last));
    }
    let first = stall.waiting.first()?;
    stall.function = stall.entered.get(first).map_or("operation", |s| &s.function).to_owned();
    Some(stall)
}

/// Whether a member that can be seen and does not wait holds the others up.
fn classify(job: &Job, member: &Member, comm_rank: u32, stall: &mut Stall) {
    let Some(process) = job.process(member.process) else { return };
    let mut hold = |why: Why| {
        stall.holders.push(Holder {
            process: member.process,
            why,
            behind: stall.operation.saturating_add(1).saturating_sub(member.enqueued),
        });
    };
    if !process.alive() {
        if member.completed <= stall.operation {
            hold(Why::Ended);
        }
        return;
    }
    if process.state == ProcessState::Stopped {
        hold(Why::Stopped);
        return;
    }
    if member.left {
        if !member.is_past(stall.operation) {
            hold(Why::Left);
        }
        return;
    }
    let observed_us = member.at.unwrap_or_default().micros_since(stall.since);
    let long_enough = observed_us as f64 >= stall.longest_us as f64 * OBSERVED;
    let why = if member.enqueued <= stall.operation {
        Why::NotEntered
    } else if let Some(op) = &member.in_flight
        && process.kernel_events
        && member.started <= stall.operation
    {
        if op.age_us.saturating_mul(2) < stall.longest_us { Why::Arriving } else { Why::Queued }
    } else {
        return;
    };
    if long_enough {
        hold(why);
    } else {
        stall.unseen.push((comm_rank, "its last window is older than the wait".to_owned()));
    }
}
