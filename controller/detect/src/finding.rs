//! What the detector says: findings, in the form that every interface of C4 shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::observation::{JobId, NodeName, Timestamp};

/// Kinds of findings. The names are an interface that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process ended while its peers still needed it.
    ProcessDeath,
    /// Some ranks never entered the operation that others wait in.
    NonCommHang,
    /// All ranks entered, none finishes.
    CommHang,
    /// Ranks disagree on what the operation is.
    Desync,
    /// A rank arrives late, again and again.
    NonCommSlow,
    /// A connection, sender or receiver is slow.
    CommSlow,
    /// Hardware or host reports trouble.
    Health,
    /// The model or its data is unbalanced; no hardware fault.
    WorkloadImbalance,
    /// A network path loses or delays packets.
    PathFault,
}

impl Kind {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::ProcessDeath => "process_death",
            Kind::NonCommHang => "non_comm_hang",
            Kind::CommHang => "comm_hang",
            Kind::Desync => "desync",
            Kind::NonCommSlow => "non_comm_slow",
            Kind::CommSlow => "comm_slow",
            Kind::Health => "health",
            Kind::WorkloadImbalance => "workload_imbalance",
            Kind::PathFault => "path_fault",
        }
    }
}

/// Names one finding for as long as anybody speaks of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FindingId(pub String);

/// A directed link between two nodes or ranks, in words such as "rank 3" or "leaf2".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Where data comes from.
    pub src: String,
    /// Where it goes to.
    pub dst: String,
}

/// Who or what is suspected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// Global rank.
    pub rank: Option<u32>,
    /// Node.
    pub node: Option<NodeName>,
    /// GPU index on the node.
    pub gpu: Option<u32>,
    /// NIC on the node.
    pub nic: Option<String>,
    /// Link.
    pub link: Option<Link>,
    /// From 0 to 1; suspects are listed with the highest first.
    pub score: f64,
}

/// One diagnosis. The same finding is returned again, whole, whenever it changes; `cleared` ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub id: FindingId,
    /// The job it concerns.
    pub job: JobId,
    /// The job's incarnation it concerns.
    pub incarnation: u32,
    /// What kind of fault.
    pub kind: Kind,
    /// Ranked suspects.
    pub suspects: Vec<Suspect>,
    /// From 0 to 1.
    pub confidence: f64,
    /// When the fault began, as well as can be told.
    pub since: Timestamp,
    /// When the detector first said so.
    pub detected: Timestamp,
    /// When its cause was gone.
    pub cleared: Option<Timestamp>,
    /// One sentence for the person on call.
    pub summary: String,
    /// The numbers the finding rests on.
    pub evidence: BTreeMap<String, Value>,
    /// Symptoms elsewhere that this explains.
    pub explains: Vec<String>,
    /// What would show the finding wrong.
    pub refuted_by: String,
}

/// The key of the evidence that says how sure it is that the job suffers, whoever is to blame.
pub const CERTAINTY: &str = "certainty";

impl Finding {
    /// How sure it is that the job suffers, from 0 to 1. `confidence` is about who is to blame; that nobody gets on may
    /// be certain where it cannot be told why.
    #[must_use]
    pub fn certainty(&self) -> f64 {
        certainty(self.confidence, &self.evidence)
    }
}

/// See [`Finding::certainty`].
pub(crate) fn certainty(confidence: f64, evidence: &BTreeMap<String, Value>) -> f64 {
    evidence.get(CERTAINTY).and_then(Value::as_f64).map_or(confidence, |told| told.max(confidence))
}

/// What can be said of a job as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Verdict {
    /// Too little was seen to know what is normal.
    Learning,
    /// Nothing is wrong.
    Healthy,
    /// At least one finding is open.
    Faulty,
    /// Evidence is missing, so neither health nor fault can be claimed.
    Unknown {
        /// What is missing, in words.
        missing: Vec<String>,
    },
    /// The job has ended.
    Ended,
}
