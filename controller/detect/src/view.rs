//! What the detector knows of jobs and ranks, for interfaces that show it.

use serde::{Deserialize, Serialize};

use crate::{
    finding::Verdict,
    observation::{JobId, NodeName, ProcessId},
};

/// One job, in its newest incarnation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Its newest incarnation.
    pub incarnation: u32,
    /// Number of ranks, where known.
    pub world_size: Option<u32>,
    /// What can be said of it.
    pub verdict: Verdict,
    /// Learned duration of an iteration.
    pub iteration_ns: Option<u64>,
    /// Iterations seen to end since this incarnation began (the least over its ranks).
    pub iterations: u64,
    /// Its ranks, by rank.
    pub ranks: Vec<RankView>,
}

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// Making progress, or between collectives.
    Running,
    /// In a collective for longer than usual.
    Waiting,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Ended while needed.
    Dead,
    /// Ended properly.
    Ended,
    /// Its agent is out of sight, or it cannot be observed.
    Unknown,
}

impl RankState {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RankState::Running => "running",
            RankState::Waiting => "waiting",
            RankState::Stopped => "stopped",
            RankState::Dead => "dead",
            RankState::Ended => "ended",
            RankState::Unknown => "unknown",
        }
    }
}

/// One rank of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankView {
    /// Global rank, where known.
    pub rank: Option<u32>,
    /// Its process.
    pub process: ProcessId,
    /// Its node.
    pub node: NodeName,
    /// Its GPU.
    pub gpu: Option<u32>,
    /// Its process id, for people.
    pub pid: u32,
    /// What it is doing.
    pub state: RankState,
    /// Positions on its largest communicator.
    pub enqueued: u64,
    /// See `enqueued`.
    pub started: u64,
    /// See `enqueued`.
    pub completed: u64,
    /// What its NCCL does not show.
    pub blind_spots: Vec<String>,
}
