//! The job as a whole, as far as a single communicator has to know of it.
//!
//! Where a communicator holds others whole (all ranks of a job that also has tensor- and data-parallel groups), its
//! members differ by what they do: stages of a pipeline have different work. Ranks are compared in the innermost
//! communicators only, whose members divide the same work among themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Comm, Process},
    observation::{CommId, ProcessId, Timestamp},
    slow::Counts,
};

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) at: Timestamp,
    /// Somebody has joined a communicator since.
    pub(crate) changed: bool,
    /// Communicators whose rhythm was known.
    pub(crate) known: usize,
    /// The longest pattern of any communicator, 0 while none is known.
    pub(crate) iteration_us: u64,
    /// When it was first looked at.
    pub(crate) began: Option<Timestamp>,
    /// Whether the job is past its first iterations.
    pub(crate) settled: bool,
    pub(crate) total: Counts,
}

impl Survey {
    /// Counts of all communicators but one, which had this part in them.
    pub(crate) fn elsewhere(&self, own: &Counts) -> Counts {
        let mut counts = self.total;
        for (total, own) in counts.iter_mut().zip(own) {
            *total = ((total.0 - own.0).max(0.0), (total.1 - own.1).max(0.0));
        }
        counts
    }
}

pub(crate) fn add(total: &mut Counts, more: &Counts) {
    for (total, more) in total.iter_mut().zip(more) {
        *total = (total.0 + more.0, total.1 + more.1);
    }
}

/// Communicators that hold all members of a smaller one, in which something goes on, and others beside.
pub(crate) fn outer(
    comms: &BTreeMap<CommId, Comm>,
    processes: &BTreeMap<ProcessId, Process>,
) -> BTreeSet<CommId> {
    let mut outer = BTreeSet::new();
    for inner in comms.values().filter(|comm| comm.rhythm.known() && comm.size > 1 && comm.members.len() > 1)
    {
        let mut members = inner.members.values().filter_map(|member| processes.get(&member.process));
        let Some(first) = members.next() else { continue };
        let larger =
            |id: &&CommId| !outer.contains(*id) && comms.get(id).is_some_and(|comm| comm.size > inner.size);
        let mut around: Vec<CommId> = first.memberships.keys().filter(larger).copied().collect();
        for process in members {
            around.retain(|id| process.memberships.contains_key(id));
        }
        outer.extend(around);
    }
    outer
}
