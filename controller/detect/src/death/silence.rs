//! Of whom nothing is heard: what killed a process may be there.
//!
//! Agents tell in order, so what is missing is known: a node whose agent is not connected, or tells of the past still, may
//! have anything in store; one that is heard at once has told of what happened before its last window. A detector that has only
//! just begun may not even know who else there is. Whoever failed of a peer's death is not to be named meanwhile, not for
//! a moment: somebody may act on it. But agents that are away come back within a time, or not at all.

use std::collections::BTreeSet;

use crate::{
    model::{End, Job, Process},
    nodes::Nodes,
    observation::{Hearing, NodeName, ProcessId, Timestamp},
};

use super::{evidence::killed, first::TOGETHER_US};

/// Windows come every second: a process of which none came for this long may have gone together with its agent.
const OVERDUE_US: u64 = 1_100_000;

/// How long a rank that was never heard of may still be on its way. After so long, nothing is expected of a process either that
/// was announced and of which no window ever came.
const COMING_US: u64 = 10_000_000;
/// Agents are back after this time, if they can be, and have found a controller that has only just begun: they call again after five seconds
/// at most, and each call is given up after five.
const BACK_US: u64 = 20_000_000;

/// Earlier than anything.
const NEVER: Timestamp = Timestamp(0);

/// When those processes that live and were not heard of for longest were last seen: of all, and of those on nodes whose
/// agents are out of sight.
pub(super) struct Silence {
    any: Option<Timestamp>,
    lost: Option<Timestamp>,
    /// Whether ranks that were never heard of may still come.
    coming: bool,
    /// Whether an agent is telling of what it had kept.
    catching_up: bool,
    /// Whether it is not known yet what happened before this detector began, or while an agent was away.
    unsettled: bool,
    /// Ranks of which nothing is heard.
    pub(super) unseen: usize,
}

impl Silence {
    pub(super) fn of(job: &Job, nodes: &Nodes, now: Timestamp) -> Self {
        let hearing = |process: &Process| nodes.hearing(&process.info.node);
        // An agent that told of an end a moment ago is there; one that told of it late, or has only found it, has not told all
        // that it knows.
        let told = |end: &End| {
            let late = end.found || end.told > end.at.after(OVERDUE_US);
            !late && now.micros_since(end.told) <= OVERDUE_US
        };
        let ended = job
            .processes
            .values()
            .filter(|process| process.end.as_ref().is_some_and(told) && hearing(process) == Hearing::AtOnce);
        let there: BTreeSet<&NodeName> = ended.map(|process| &process.info.node).collect();
        // Its end is about to be told: agents wait a look for the exit status.
        let dying =
            |process: &Process| process.zombie.is_some_and(|since| now.micros_since(since) <= TOGETHER_US);
        let doubtful =
            |process: &&Process| process.alive() && (dying(process) || !there.contains(&process.info.node));
        let is_new = |process: &Process| now.micros_since(process.first_seen) <= COMING_US;
        let heard = |process: &Process| match process.seen {
            _ if dying(process) || hearing(process) == Hearing::CatchingUp => Some(NEVER),
            None if is_new(process) => Some(NEVER),
            seen => seen,
        };
        let alive = || job.processes.values().filter(doubtful);
        let first = job.processes.values().map(|process| process.first_seen).min();
        let job_is_new = first.is_some_and(|first| now.micros_since(first) <= COMING_US);
        let begins = now.micros_since(nodes.began()) <= BACK_US;
        let unheard = |process: &Process| begins && process.seen.is_none();
        let catching_up = alive().any(|process| hearing(process) == Hearing::CatchingUp);
        Self {
            any: alive().filter_map(heard).min(),
            lost: alive().filter(|process| is_out_of_sight(process, nodes)).filter_map(heard).min(),
            coming: (job_is_new || begins) && job.lacks_ranks(),
            catching_up,
            unsettled: (begins && job.lacks_ranks()) || catching_up || alive().any(unheard),
            unseen: job.lacking_ranks() + alive().filter(|process| is_out_of_sight(process, nodes)).count(),
        }
    }

    /// Whether what killed a process may be out of sight: of some other process nothing was heard any more, not even that
    /// it lives. Peers of one that dies together with its agent fail like this. Who was killed did not fail of a peer's
    /// death; but whether it was the first is not known before what was kept is told.
    pub(super) fn may_hide_cause(&self, end: &End, now: Timestamp) -> bool {
        if killed(end) {
            return self.unsettled;
        }
        let overdue = self.any.filter(|seen| now.micros_since(*seen) > OVERDUE_US);
        let silent = self.lost.into_iter().chain(overdue).any(|seen| seen <= end.at);
        self.coming || self.catching_up || (silent && !is_given_up(end, now))
    }

    /// Whether every process that lives was heard of since.
    pub(super) fn is_over(&self, end: &End) -> bool {
        self.any.is_none_or(|seen| seen > end.at)
    }
}

/// Whether what happens on the node of a process is not told at once: its agent is lost, not connected, or tells of the past still.
pub(super) fn is_out_of_sight(process: &Process, nodes: &Nodes) -> bool {
    let node = &process.info.node;
    nodes.is_lost(node) || nodes.hearing(node) != Hearing::AtOnce
}

/// Whether nothing more is expected of those that were silent when this end was told.
pub(super) fn is_given_up(end: &End, now: Timestamp) -> bool {
    now.micros_since(end.told) > BACK_US
}

/// Whether the process may have ended because of another that cannot be seen.
pub(crate) fn cause_may_be_unseen(job: &Job, id: ProcessId, nodes: &Nodes, now: Timestamp) -> bool {
    let end = job.process(id).and_then(|process| process.end.as_ref());
    end.is_some_and(|end| Silence::of(job, nodes, now).may_hide_cause(end, now))
}
