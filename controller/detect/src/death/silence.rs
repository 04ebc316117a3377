//! Of whom nothing is heard: what killed a process may be there.

use std::collections::BTreeSet;

use crate::{
    model::{End, Job, Process},
    nodes::Nodes,
    observation::{NodeName, ProcessId, Timestamp},
};

use super::evidence::killed;

/// Windows come every second: a process of which none came for this long may have gone together with its agent.
const OVERDUE_US: u64 = 1_100_000;

/// How long a rank that was never heard of may still be on its way: its agent may have to find this controller first.
const COMING_US: u64 = 10_000_000;

/// When those processes that live and were not heard of for longest were last seen: of all, and of those on nodes whose
/// agents are out of sight.
pub(super) struct Silence {
    any: Option<Timestamp>,
    lost: Option<Timestamp>,
    /// Whether ranks that were never heard of may still come.
    coming: bool,
}

impl Silence {
    pub(super) fn of(job: &Job, nodes: &Nodes, now: Timestamp) -> Self {
        // An agent that told of an end a moment ago is there; one that told of it late has not told all that it has kept.
        let told =
            |end: &End| now.micros_since(end.told) <= OVERDUE_US && end.told <= end.at.after(OVERDUE_US);
        let ended = job.processes.values().filter(|process| process.end.as_ref().is_some_and(told));
        let there: BTreeSet<&NodeName> = ended.map(|process| &process.info.node).collect();
        let doubtful = |process: &&Process| process.alive() && !there.contains(&process.info.node);
        let alive = || job.processes.values().filter(doubtful);
        let lost = alive().filter(|process| nodes.is_lost(&process.info.node));
        let first = job.processes.values().map(|process| process.first_seen).min();
        let is_new = first.is_some_and(|first| now.micros_since(first) <= COMING_US);
        Self {
            any: alive().filter_map(|p| p.seen).min(),
            lost: lost.filter_map(|p| p.seen).min(),
            coming: is_new && job.lacks_ranks(),
        }
    }

    /// Whether what killed a process may be out of sight: it was not killed, and of some other process nothing
    /// was heard any more, not even that it lives. Peers of one that dies together with its agent fail like this.
    pub(super) fn may_hide_cause(&self, end: &End, now: Timestamp) -> bool {
        let overdue = self.any.filter(|seen| now.micros_since(*seen) > OVERDUE_US);
        !killed(end) && (self.coming || self.lost.into_iter().chain(overdue).any(|seen| seen <= end.at))
    }

    /// Whether every process that lives was heard of since.
    pub(super) fn is_over(&self, end: &End) -> bool {
        self.any.is_none_or(|seen| seen > end.at)
    }
}

/// Whether the process may have ended because of another that cannot be seen.
pub(crate) fn cause_may_be_unseen(job: &Job, id: ProcessId, nodes: &Nodes, now: Timestamp) -> bool {
    let end = job.process(id).and_then(|process| process.end.as_ref());
    end.is_some_and(|end| Silence::of(job, nodes, now).may_hide_cause(end, now))
}
