//! Actions, their states, and the orders in which they are carried out.

use std::{collections::BTreeSet, fmt};

use c4_detect::{
    finding::{Finding, FindingId, Kind},
    observation::{JobId, NodeName, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::placement::Place;

/// Names an action for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(pub String);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub enum Deed {
    /// Every process of a job is stopped, then started as the next incarnation.
    Restart {
        /// The job.
        job: JobId,
        /// The incarnation that is stopped; the next one is started.
        incarnation: u32,
        /// Nodes that the next incarnation does without.
        without: BTreeSet<NodeName>,
        /// Whether these nodes are also taken from everybody else.
        isolate: bool,
        /// Nodes whose agents supervised it when this was decided: after a start of the controller they come back one by one.
        ran_on: BTreeSet<NodeName>,
        /// Which node runs which ranks from then on; empty: as before.
        placement: Vec<Place>,
    },
    /// A node gets no new work.
    Isolate {
        /// The node.
        node: NodeName,
    },
    /// A node that was isolated gets work again.
    Release {
        /// The node.
        node: NodeName,
        /// Whether its checks have to pass first.
        check: bool,
    },
    /// Somebody is asked to repair a node.
    Ticket {
        /// The node.
        node: NodeName,
    },
}

impl Deed {
    /// What is done, one after the other.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        match self {
            Deed::Restart { isolate: true, .. } => vec![Step::Isolate, Step::Stop, Step::Start],
            Deed::Restart { .. } => vec![Step::Stop, Step::Start],
            Deed::Isolate { .. } => vec![Step::Isolate],
            Deed::Release { check: true, .. } => vec![Step::Check, Step::Release],
            Deed::Release { .. } => vec![Step::Release],
            Deed::Ticket { .. } => vec![Step::Ticket],
        }
    }

    /// The job, if one is restarted.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        if let Deed::Restart { job, .. } = self { Some(job) } else { None }
    }

    /// The nodes that are isolated, left out, released or repaired.
    #[must_use]
    pub fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Deed::Restart { without, .. } => without.iter().collect(),
            Deed::Isolate { node } | Deed::Release { node, .. } | Deed::Ticket { node } => vec![node],
        }
    }

    /// Whether a node is taken away from a job or from all.
    #[must_use]
    pub fn takes_nodes(&self) -> bool {
        matches!(self, Deed::Isolate { .. })
            || matches!(self, Deed::Restart { without, .. } if !without.is_empty())
    }

    /// The kind of deed, as interfaces name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Deed::Restart { .. } => "restart",
            Deed::Isolate { .. } => "isolate",
            Deed::Release { .. } => "release",
            Deed::Ticket { .. } => "ticket",
        }
    }
}

/// "restart job llm without n3", to follow a "would" or a "not".
impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Restart { job, without, isolate, .. } => {
                write!(f, "restart job {}", job.0)?;
                let nodes: Vec<&str> = without.iter().map(|node| node.0.as_str()).collect();
                match (nodes.is_empty(), isolate) {
                    (true, _) => Ok(()),
                    (false, false) => write!(f, " without {}", nodes.join(", ")),
                    (false, true) => write!(f, " without {}, which is isolated", nodes.join(", ")),
                }
            }
            Deed::Isolate { node } => write!(f, "isolate {}", node.0),
            Deed::Release { node, .. } => write!(f, "release {}", node.0),
            Deed::Ticket { node } => write!(f, "ask for the repair of {}", node.0),
        }
    }
}

/// Where an action is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It waits for an operator's yes.
    Proposed,
    /// Decided, nothing done yet.
    Planned,
    /// One of its steps is being carried out.
    Doing {
        /// Which.
        step: Step,
    },
    /// Everything was done.
    Done,
    /// It was given up.
    Failed {
        /// Why.
        why: String,
    },
    /// The reason for it was gone before anything was done.
    Withdrawn {
        /// What happened.
        why: String,
    },
    /// An operator said no.
    Rejected {
        /// Who.
        by: String,
    },
}

impl State {
    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, State::Proposed | State::Planned | State::Doing { .. })
    }

    /// Whether anything was ever done.
    #[must_use]
    pub fn began(&self) -> bool {
        matches!(self, State::Doing { .. } | State::Done | State::Failed { .. })
    }

    /// The name used in every interface.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            State::Proposed => "proposed",
            State::Planned => "planned",
            State::Doing { step } => step.doing(),
            State::Done => "done",
            State::Failed { .. } => "failed",
            State::Withdrawn { .. } => "withdrawn",
            State::Rejected { .. } => "rejected",
        }
    }

    /// More about it, for people; may be empty.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            State::Failed { why } | State::Withdrawn { why } => why,
            State::Rejected { by } => by,
            _ => "",
        }
    }
}

/// A step that an actuator carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Stop every process of the incarnation.
    Stop,
    /// Start the job as the next incarnation.
    Start,
    /// Keep new work away from the nodes.
    Isolate,
    /// Let the node's agent check it.
    Check,
    /// Give the node work again.
    Release,
    /// Ask for the node's repair.
    Ticket,
}

impl Step {
    /// Its name in orders.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Stop => "stop",
            Step::Start => "start",
            Step::Isolate => "isolate",
            Step::Check => "check",
            Step::Release => "release",
            Step::Ticket => "ticket",
        }
    }

    /// What an action is doing that is at this step.
    #[must_use]
    pub fn doing(self) -> &'static str {
        match self {
            Step::Stop => "stopping",
            Step::Start => "starting",
            Step::Isolate => "isolating",
            Step::Check => "checking",
            Step::Release => "releasing",
            Step::Ticket => "filing",
        }
    }
}

/// Whom a finding blames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blamed {
    /// The node.
    pub node: NodeName,
    /// The rank on it.
    pub rank: Option<u32>,
}

/// Something that is done, was done or might be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its name.
    pub id: ActionId,
    /// What.
    pub deed: Deed,
    /// The job whose finding asked for it.
    pub job: Option<JobId>,
    /// The finding that asked for it.
    pub finding: Option<FindingId>,
    /// What kind of finding.
    pub kind: Option<Kind>,
    /// Whom it blames, where it is sure enough.
    pub blamed: Option<Blamed>,
    /// The finding, or what the operator said, in words.
    pub because: String,
    /// The operator who asked for it or said yes; none if nobody had to.
    pub by: Option<String>,
    /// When it was decided.
    pub planned: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Where it is.
    pub state: State,
    /// Which attempt at the present step this is, from 1.
    pub attempt: u32,
}

impl Action {
    /// Whether it ends the processes of the incarnation that a finding is about, and has begun to.
    #[must_use]
    pub fn ends(&self, finding: &Finding) -> bool {
        let Deed::Restart { job, incarnation, .. } = &self.deed else { return false };
        self.state.began() && (job, *incarnation) == (&finding.job, finding.incarnation)
    }
}

/// What an actuator is to do. The same order may be given again: carrying it out twice must be harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Identifies this attempt at this step for ever; commands to agents carry it.
    pub id: String,
    /// The action it belongs to.
    pub action: Action,
    /// Which step.
    pub step: Step,
    /// Time between SIGTERM and SIGKILL.
    pub grace_us: u64,
    /// The machine gives the attempt up after this time.
    pub timeout_us: u64,
}

impl Order {
    /// The job that is stopped or started, its incarnation that is stopped, and where it runs from then on.
    #[must_use]
    pub fn restart(&self) -> Option<(&JobId, u32, &[Place])> {
        match &self.action.deed {
            Deed::Restart { job, incarnation, placement, .. } => Some((job, *incarnation, placement)),
            _ => None,
        }
    }
}
