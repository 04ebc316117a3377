//! What schedulers tell of what they own, whichever they are.

use std::collections::BTreeMap;

use c4_detect::observation::{JobId, NodeName};

/// A node as its scheduler has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerNode {
    /// Its name.
    pub name: NodeName,
    /// It gets no new work.
    pub drained: bool,
    /// The scheduler does not reach it, or somebody says so.
    pub down: bool,
    /// Why; may be empty.
    pub reason: String,
    /// Why it is to be left alone, if somebody wants that.
    pub opted_out: Option<String>,
}

/// What a scheduler says of all that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its name, as in [`super::rails::Means::Scheduler`].
    pub scheduler: &'static str,
    /// Its nodes.
    pub nodes: Vec<SchedulerNode>,
    /// Jobs that it can stop and start, and why those are to be left alone that are. None where names alone tell whose a
    /// job is.
    pub jobs: Option<BTreeMap<JobId, Option<String>>>,
}
