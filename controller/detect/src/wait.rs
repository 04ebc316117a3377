//! The wait-for walk: from a communicator in which ranks wait, to whoever nobody else is holding up.
//!
//! Each communicator's evidence names the members that hold the others up. Where such a member itself waits in
//! another communicator, the cause is there: a late tensor-parallel rank makes the data-parallel group look hung. The
//! walk follows that, one communicator at a time, until it finds one whose holders wait nowhere, or one that all its
//! members have entered. If it comes back to where it has been, the program waits for itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::Config,
    model::Job,
    nodes::Nodes,
    observation::{CommId, ProcessId, Timestamp},
    stall::{Stall, Why, examine},
};

/// How long a send or receive has to be open to count as a wait.
const PENDING_US: u64 = 500_000;

/// Where the walk ends.
#[derive(Debug)]
pub(crate) enum Root {
    /// This communicator's holders wait for nobody, or all its members are in the operation.
    Comm(CommId),
    /// These communicators wait for each other.
    Cycle(Vec<CommId>),
}

/// Every communicator in which ranks wait, as far as it bears on those that are suspicious.
pub(crate) fn stalls(job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) -> BTreeMap<CommId, Stall> {
    let mut found = BTreeMap::new();
    let mut looked_at = BTreeSet::new();
    let mut left: Vec<CommId> = job.suspicious.iter().copied().collect();
    while let Some(id) = left.pop() {
        if !looked_at.insert(id) {
            continue;
        }
        let Some(comm) = job.comms.get(&id) else { continue };
        // A wait that follows from another is younger than it, so half the threshold is enough here. Whether the
        // stall as a whole has lasted long enough is decided at the root.
        let least_us = comm.rhythm.hang_us(config).min(config.stopped_floor_ms.saturating_mul(1_000)) / 2;
        if let Some(stall) = examine(job, comm, nodes, config, now, least_us) {
            for holder in &stall.holders {
                if let Some(process) = job.process(holder.process) {
                    left.extend(process.memberships.keys());
                }
            }
            found.insert(id, stall);
        }
    }
    found
}

/// Follows the holders of the stall that has lasted longest.
pub(crate) fn root(stalls: &BTreeMap<CommId, Stall>) -> Option<Root> {
    let (mut at, _) = stalls.iter().max_by_key(|(id, stall)| (stall.longest_us, std::cmp::Reverse(**id)))?;
    let mut path: Vec<CommId> = Vec::new();
    loop {
        if let Some(begin) = path.iter().position(|id| id == at) {
            return Some(Root::Cycle(path[begin..].to_vec()));
        }
        path.push(*at);
        let stall = stalls.get(at)?;
        match held_up_in(stall, stalls) {
            None => return Some(Root::Comm(*at)),
            Some(next) => at = next,
        }
    }
}

/// Of the ranks that hold others up, over all communicators, those that wait for nobody themselves: neither in a
/// collective nor for what another rank sends. A send is followed only where nothing else explains why a rank does not get on,
/// since the rank may well compute beside it. With them, the stall that they hold up longest.
pub(crate) fn culprits(job: &Job, stalls: &BTreeMap<CommId, Stall>) -> Option<(CommId, BTreeSet<ProcessId>)> {
    let first: BTreeSet<ProcessId> =
        stalls.values().flat_map(|s| s.holders.iter().map(|h| h.process)).collect();
    if !first.iter().any(|process| peers(job, *process, false).next().is_some()) {
        return None;
    }
    let ends = ends(job, stalls, first);
    let mut culprits = BTreeSet::new();
    for end in &ends {
        let behind: BTreeSet<ProcessId> = peers(job, *end, true).collect();
        let further = self::ends(job, stalls, behind);
        let elsewhere: Vec<ProcessId> = further.into_iter().filter(|other| other != end).collect();
        if elsewhere.is_empty() {
            culprits.insert(*end);
        } else {
            culprits.extend(elsewhere);
        }
    }
    let held = |stall: &&Stall| stall.holders.iter().any(|holder| culprits.contains(&holder.process));
    let stall =
        stalls.values().filter(held).max_by_key(|stall| (stall.longest_us, std::cmp::Reverse(stall.comm)))?;
    Some((stall.comm, culprits))
}

/// Follows everybody whom these wait for, to those that wait for nobody.
fn ends(job: &Job, stalls: &BTreeMap<CommId, Stall>, from: BTreeSet<ProcessId>) -> BTreeSet<ProcessId> {
    let mut seen = from.clone();
    let mut left: Vec<ProcessId> = from.into_iter().collect();
    let mut ends = BTreeSet::new();
    while let Some(process) = left.pop() {
        let decided = stalls
            .values()
            .flat_map(|stall| &stall.holders)
            .any(|holder| holder.process == process && matches!(holder.why, Why::Ended | Why::Stopped));
        let mut next: Vec<ProcessId> = peers(job, process, false).collect();
        for stall in stalls.values().filter(|stall| stall.is_waiting(process)) {
            next.extend(stall.holders.iter().map(|holder| holder.process));
        }
        if next.is_empty() || decided {
            ends.insert(process);
            continue;
        }
        left.extend(next.into_iter().filter(|other| seen.insert(*other)));
    }
    ends
}

/// The processes that this one has waited for, for long, in receives or in sends.
fn peers(job: &Job, process: ProcessId, sends: bool) -> impl Iterator<Item = ProcessId> {
    let memberships = job.process(process).into_iter().flat_map(|process| &process.memberships);
    memberships.flat_map(move |(id, comm_rank)| {
        let comm = job.comms.get(id);
        let member = comm.and_then(|comm| comm.members.get(comm_rank));
        let pending = member.into_iter().flat_map(|member| &member.pending_peers);
        pending
            .filter(move |pending| {
                pending.started && pending.is_send == sends && pending.age_us >= PENDING_US
            })
            .filter_map(move |pending| Some(comm?.members.get(&pending.peer)?.process))
    })
}

/// The communicator in which all holders of this stall wait themselves (the longest wait, if there are several);
/// nothing if one of them waits nowhere.
fn held_up_in<'a>(stall: &Stall, stalls: &'a BTreeMap<CommId, Stall>) -> Option<&'a CommId> {
    let mut next: Option<(&CommId, u64)> = None;
    for holder in &stall.holders {
        if matches!(holder.why, Why::Ended | Why::Stopped) {
            return None;
        }
        let elsewhere = stalls
            .iter()
            .filter(|(id, other)| **id != stall.comm && other.is_waiting(holder.process))
            .max_by_key(|(id, other)| (other.longest_us, std::cmp::Reverse(**id)));
        let (id, other) = elsewhere?;
        if next.is_none_or(|(_, longest)| other.longest_us > longest) {
            next = Some((id, other.longest_us));
        }
    }
    next.map(|(id, _)| id)
}
