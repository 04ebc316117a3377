//! How far an answer to a fault goes: the ladder, and what was blamed on whom before.
//!
//! A first fault is answered by a restart in place. Another one on the same node costs it the job, a third one its
//! place in the cluster, and then somebody is asked to repair it. Broken hardware that says so itself, and a node on
//! probation, begin on that rung. Programs' own faults, `desync` and `workload_imbalance`, never climb: no hardware
//! is to blame for them. A fault that follows a *job* from node to node is the job's own.

use std::collections::{BTreeSet, VecDeque};

use c4_detect::{
    finding::{Finding, FindingId, Kind},
    observation::{JobId, NodeName, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::action::Blamed;

/// Blames remembered.
const MAX_BLAMES: usize = 4096;

/// What is done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The job is restarted where it is.
    InPlace,
    /// The job is restarted without the node.
    Without,
    /// The node is also taken from all others, and its repair asked for.
    Isolate,
}

/// A finding that blamed a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// The finding.
    pub finding: FindingId,
    /// Its job.
    pub job: JobId,
    /// That job's incarnation.
    pub incarnation: u32,
    /// Its kind.
    pub kind: Kind,
    /// Whom it blames.
    pub blamed: Blamed,
    /// When it was first heard of.
    pub at: Timestamp,
}

impl Blame {
    pub(super) fn new(finding: &Finding, blamed: Blamed, at: Timestamp) -> Self {
        Self {
            finding: finding.id.clone(),
            job: finding.job.clone(),
            incarnation: finding.incarnation,
            kind: finding.kind,
            blamed,
            at,
        }
    }
}

/// Whom a finding blames, if it is about hardware, surer than `confidence`, and names a node.
#[must_use]
pub fn blamed(finding: &Finding, kinds: &[Kind], confidence: f64) -> Option<Blamed> {
    let programs_own = matches!(finding.kind, Kind::Desync | Kind::WorkloadImbalance);
    if programs_own
        || !kinds.contains(&finding.kind)
        || finding.confidence.is_nan()
        || finding.confidence < confidence
    {
        return None;
    }
    let suspect = finding.suspects.first()?;
    Some(Blamed { node: suspect.node.clone()?, rank: suspect.rank })
}

/// Whether the hardware itself has said that it is broken.
#[must_use]
pub fn hardware_says_so(finding: &Finding) -> bool {
    let of = |key: &str| finding.evidence.get("cause").and_then(|cause| cause.get(key)?.as_str());
    of("origin") == Some("hardware") && of("severity") == Some("fatal")
}

/// What was blamed on whom, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    blames: VecDeque<Blame>,
}

impl Ladder {
    /// What is known from before.
    #[must_use]
    pub fn new(mut blames: Vec<Blame>) -> Self {
        blames.sort_by_key(|blame| blame.at);
        Self { blames: blames.into() }
    }

    /// Takes a blame in. Returns whether it is new.
    pub fn note(&mut self, blame: &Blame) -> bool {
        let known = |other: &Blame| other.finding == blame.finding && other.blamed.node == blame.blamed.node;
        if self.blames.iter().any(known) {
            return false;
        }
        self.blames.push_back(blame.clone());
        true
    }

    /// Forgets what is older than the window. Returns what is forgotten.
    pub fn forget(&mut self, window_us: u64, now: Timestamp) -> Vec<Blame> {
        let mut forgotten = Vec::new();
        while let Some(first) = self.blames.front() {
            if self.blames.len() <= MAX_BLAMES && now.micros_since(first.at) <= window_us {
                break;
            }
            forgotten.extend(self.blames.pop_front());
        }
        forgotten
    }

    /// The rung for a finding: how often others, or other incarnations, have blamed the node before.
    #[must_use]
    pub fn rung(&self, finding: &Finding, node: &NodeName, on_probation: bool) -> Rung {
        if on_probation || hardware_says_so(finding) {
            return Rung::Isolate;
        }
        let this = (&finding.job, finding.incarnation);
        let before = self.blames.iter().filter(|blame| blame.blamed.node == *node);
        let incidents: BTreeSet<_> = before
            .map(|blame| (&blame.job, blame.incarnation))
            .filter(|incident| *incident != this)
            .collect();
        match incidents.len() {
            0 => Rung::InPlace,
            1 => Rung::Without,
            _ => Rung::Isolate,
        }
    }

    /// Whether the fault follows the job: the same kind on `limit` nodes, or on the same rank on two. If so, says it.
    #[must_use]
    pub fn follows_job(&self, finding: &Finding, limit: u32) -> Option<String> {
        let same = |blame: &&Blame| blame.job == finding.job && blame.kind == finding.kind;
        let nodes: BTreeSet<&str> =
            self.blames.iter().filter(same).map(|blame| blame.blamed.node.0.as_str()).collect();
        let rank = finding.suspects.first().and_then(|suspect| suspect.rank)?;
        let of_rank = |blame: &&Blame| blame.blamed.rank == Some(rank);
        let of_rank: BTreeSet<&str> = self
            .blames
            .iter()
            .filter(same)
            .filter(of_rank)
            .map(|blame| blame.blamed.node.0.as_str())
            .collect();
        let list = |nodes: &BTreeSet<&str>| nodes.iter().copied().collect::<Vec<_>>().join(", ");
        if of_rank.len() >= 2 {
            return Some(format!("rank {rank} had the same fault on {}", list(&of_rank)));
        }
        (nodes.len() >= limit as usize).then(|| format!("it had the same fault on {}", list(&nodes)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use c4_detect::finding::Suspect;

    use super::*;

    fn finding(job: &str, incarnation: u32, node: &str, rank: u32) -> Finding {
        let suspect = Suspect { rank: Some(rank), node: Some(NodeName(node.into())), ..Suspect::default() };
        Finding {
            id: FindingId(format!("{job}-{incarnation}-{node}-{rank}")),
            job: JobId(job.into()),
            incarnation,
            kind: Kind::ProcessDeath,
            suspects: vec![suspect],
            confidence: 0.95,
            since: Timestamp(0),
            detected: Timestamp(0),
            cleared: None,
            summary: String::new(),
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        }
    }

    fn note(ladder: &mut Ladder, finding: &Finding, at: u64) {
        let blamed = blamed(finding, &[Kind::ProcessDeath], 0.9).expect("blames");
        let blame = Blame::new(finding, blamed, Timestamp(at));
        assert!(ladder.note(&blame) && !ladder.note(&blame));
    }

    #[test]
    fn faults_on_one_node_climb_and_one_incident_counts_once() {
        let mut ladder = Ladder::default();
        let node = NodeName("n".into());
        for (incarnation, rung) in [(0, Rung::InPlace), (1, Rung::Without), (2, Rung::Isolate)] {
            let first = finding("a", incarnation, "n", 0);
            note(&mut ladder, &first, 1);
            note(&mut ladder, &finding("a", incarnation, "n", 1), 1);
            assert_eq!(ladder.rung(&first, &node, false), rung, "incarnation {incarnation}");
        }
        assert_eq!(ladder.rung(&finding("b", 0, "m", 0), &NodeName("m".into()), true), Rung::Isolate);
        assert_eq!(ladder.forget(10, Timestamp(12)).len(), 6);
        assert_eq!(ladder.rung(&finding("a", 9, "n", 0), &node, false), Rung::InPlace);
    }

    #[test]
    fn broken_hardware_is_isolated_at_once_and_a_broken_program_blames_no_node() {
        let mut broken = finding("a", 0, "n", 0);
        let cause = serde_json::json!({"origin": "hardware", "severity": "fatal", "code": "xid-79"});
        broken.evidence.insert("cause".into(), cause);
        assert_eq!(Ladder::default().rung(&broken, &NodeName("n".into()), false), Rung::Isolate);
        let desync = Finding { kind: Kind::Desync, ..finding("a", 0, "n", 0) };
        assert_eq!(blamed(&desync, &[Kind::Desync], 0.5), None);
        let unsure = Finding { confidence: f64::NAN, ..finding("a", 0, "n", 0) };
        assert_eq!(blamed(&unsure, &[Kind::ProcessDeath], 0.0), None);
    }

    #[test]
    fn a_fault_that_follows_the_job_is_its_own() {
        let mut ladder = Ladder::default();
        note(&mut ladder, &finding("a", 0, "n0", 3), 0);
        note(&mut ladder, &finding("a", 1, "n1", 5), 1);
        let third = finding("a", 2, "n2", 6);
        assert_eq!(ladder.follows_job(&third, 3), None);
        note(&mut ladder, &third, 2);
        assert!(ladder.follows_job(&third, 3).expect("follows").contains("n0, n1, n2"));
        // The same rank on the node that replaced the first.
        note(&mut ladder, &finding("b", 0, "n0", 7), 3);
        let again = finding("b", 1, "spare", 7);
        note(&mut ladder, &again, 4);
        assert!(ladder.follows_job(&again, 3).expect("follows").contains("rank 7"));
    }
}
