//! A picture of everything the controller knows, for those who only read.

use std::{collections::BTreeMap, sync::Arc};

use c4_detect::{
    finding::FindingId,
    observation::{JobId, NodeName, Timestamp},
    scene::Scene,
    view::JobView,
};

use crate::{
    brain::Evidence,
    config::Mode,
    findings::Record,
    ledger::{Account, Outage, Parts, Summary},
    nodes::Node,
    paths::view::PathsView,
    steer::machine::SteerView,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was made.
    pub taken: Timestamp,
    /// When the controller started.
    pub started: Timestamp,
    /// Who decides about actions.
    pub mode: Mode,
    /// Nodes, by name.
    pub nodes: Arc<Vec<NodeState>>,
    /// Jobs.
    pub jobs: Arc<BTreeMap<JobId, JobState>>,
    /// What other jobs have lost, which are not in sight any more or not yet again.
    pub accounts: Arc<BTreeMap<JobId, Arc<Account>>>,
    /// Findings, open and cleared.
    pub findings: BTreeMap<FindingId, Record>,
    /// Pictures of jobs that somebody looks at.
    pub live: Arc<BTreeMap<JobId, Arc<Scene>>>,
    /// Pictures that findings rest on.
    pub kept: BTreeMap<FindingId, Arc<Scene>>,
    /// Planned paths, where they are planned.
    pub paths: Option<Arc<PathsView>>,
    /// What is done about them.
    pub steer: Arc<SteerView>,
    /// What was saved of processes before they were ended, oldest first.
    pub evidence: Arc<Vec<Evidence>>,
}

impl Snapshot {
    /// The picture before anything was heard of.
    #[must_use]
    pub fn empty(mode: Mode, started: Timestamp) -> Self {
        Self {
            taken: started,
            started,
            mode,
            nodes: Arc::default(),
            jobs: Arc::default(),
            accounts: Arc::default(),
            findings: BTreeMap::new(),
            live: Arc::default(),
            kept: BTreeMap::new(),
            paths: None,
            steer: Arc::default(),
            evidence: Arc::default(),
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its name.
    pub name: NodeName,
    /// What is known of its agents.
    pub node: Node,
    /// Ranks on it that are alive.
    pub ranks: u32,
}

/// A job.
#[derive(Clone, Debug)]
pub struct JobState {
    /// What the detector knows of it.
    pub view: JobView,
    /// One of [`c4_detect::view::JOB_STATES`].
    pub state: &'static str,
    /// When unknown: what is missing.
    pub missing: Vec<String>,
    /// Findings that are open.
    pub open_findings: u32,
    /// Restarts begun.
    pub restarts: u32,
    /// Its outages.
    pub outages: Vec<Outage>,
    /// The sum of their parts.
    pub downtime: Parts,
    /// What else it has to account for.
    pub account: Summary,
}
