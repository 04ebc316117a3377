//! What breaks a rule of the registry, in words.

use thiserror::Error;

use super::{MAX_PLACES, MAX_PROCESSES};

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error("process {process:x} was never announced by node {node}")]
    NotAnnounced { process: u64, node: String },
    #[error("process {process:x} belongs to node {owner}, not to node {node}")]
    Foreign { process: u64, owner: String, node: String },
    #[error("process {process:x} was announced as {before}, now as {now}")]
    Changed { process: u64, before: String, now: String },
    #[error("process {process:x} has ended")]
    Ended { process: u64 },
    #[error("process {process:x} never joined communicator {comm:x}")]
    NotJoined { process: u64, comm: u64 },
    #[error("communicator {comm:x} has {before} ranks according to others, {now} according to this message")]
    SizeChanged { comm: u64, before: u32, now: u32 },
    #[error("process {process:x} joined communicator {comm:x} as rank {before}, now as rank {now}")]
    RankChanged { process: u64, comm: u64, before: u32, now: u32 },
    #[error("process {process:x} went back on communicator {comm:x}: {what} was {before}, now {now}")]
    WentBack { process: u64, comm: u64, what: &'static str, before: u64, now: u64 },
    #[error("process {process:x} names peer {peer} on communicator {comm:x}, which has {size} ranks")]
    NoSuchPeer { process: u64, comm: u64, peer: u32, size: u32 },
    #[error("process {process:x} is in {MAX_PLACES} communicators already")]
    TooManyCommunicators { process: u64 },
    #[error("no room for another process: {MAX_PROCESSES} are known")]
    Full,
}

impl Refusal {
    /// A word for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Refusal::NotAnnounced { .. } => "not_announced",
            Refusal::Foreign { .. } => "foreign_process",
            Refusal::Changed { .. } => "identity_changed",
            Refusal::Ended { .. } => "process_ended",
            Refusal::NotJoined { .. } => "not_joined",
            Refusal::SizeChanged { .. } => "size_changed",
            Refusal::RankChanged { .. } => "rank_changed",
            Refusal::WentBack { .. } => "went_back",
            Refusal::NoSuchPeer { .. } => "no_such_peer",
            Refusal::TooManyCommunicators { .. } => "too_many_communicators",
            Refusal::Full => "full",
        }
    }
}
