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
    observation::{CommId, Timestamp},
    stall::{Stall, Why, examine},
};

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
