//! Actions, their states, and the orders in which they are carried out.

use c4_detect::{
    finding::FindingId,
    observation::{JobId, Timestamp},
};
use serde::{Deserialize, Serialize};

/// Names an action for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(pub String);

/// Where an action is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Decided, nothing done yet.
    Planned,
    /// The job's process groups are being stopped.
    Stopping,
    /// They are being started again.
    Starting,
    /// The job runs again.
    Done,
    /// It was given up.
    Failed {
        /// Why.
        why: String,
    },
}

impl State {
    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, State::Done | State::Failed { .. })
    }

    /// The name used in every interface.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Stopping => "stopping",
            State::Starting => "starting",
            State::Done => "done",
            State::Failed { .. } => "failed",
        }
    }
}

/// The restart of a job: every process group is stopped, then started as the next incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its name.
    pub id: ActionId,
    /// The job.
    pub job: JobId,
    /// The finding that asked for it.
    pub finding: FindingId,
    /// That finding in words.
    pub because: String,
    /// The incarnation that is stopped; the next one is started.
    pub incarnation: u32,
    /// When it was decided.
    pub planned: Timestamp,
    /// Where it is.
    pub state: State,
    /// Which attempt at the present step this is, from 1.
    pub attempt: u32,
}

/// A step that an actuator carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Stop every process group of the incarnation.
    Stop,
    /// Start every process group as the next incarnation.
    Start,
}

/// What an actuator is to do. The same order may be given again: carrying it out twice must be harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Identifies this attempt at this step for ever; commands to agents carry it.
    pub id: String,
    /// The action it belongs to.
    pub action: ActionId,
    /// Which step.
    pub step: Step,
    /// Which attempt at it.
    pub attempt: u32,
    /// The job.
    pub job: JobId,
    /// The incarnation that is stopped.
    pub incarnation: u32,
    /// Time between SIGTERM and SIGKILL.
    pub grace_us: u64,
    /// The machine gives the attempt up after this time.
    pub timeout_us: u64,
}
