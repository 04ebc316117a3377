//! Other evidence beside a recording: Flight Recorder dumps beside C4's recorders or a trace, NCCL's RAS beside any of them.
//! It is never needed. Where it accuses the same rank, the finding is surer; where it accuses another, that is shown and nothing
//! else changes, since it may be of another moment.

use std::collections::BTreeMap;

use c4_detect::finding::{Finding, Kind};
use serde_json::{Value, json};

/// How much of what is missing to certainty a witness adds.
const SURER: f64 = 0.3;
/// Suspects within this much of the first are accused as well.
const CLOSE: f64 = 0.05;

/// Somebody else who saw the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Who: "flight-recorder" or "ras".
    pub by: &'static str,
    /// What it says of ranks it accuses.
    pub against: BTreeMap<u32, String>,
}

impl Witness {
    /// What the dumps' own diagnosis accuses.
    #[must_use]
    pub fn flight_recorder(findings: &[Finding]) -> Self {
        let mut against = BTreeMap::new();
        for finding in findings.iter().filter(|finding| is_stuck(finding.kind)) {
            let top = finding.suspects.first().map_or(0.0, |suspect| suspect.score);
            let accused = finding.suspects.iter().filter(|suspect| suspect.score >= top - CLOSE);
            for rank in accused.filter_map(|suspect| suspect.rank) {
                against.entry(rank).or_insert_with(|| finding.summary.clone());
            }
        }
        Self { by: "flight-recorder", against }
    }
}

/// Whether a finding is about a job that does not go on: of slowness neither dumps nor RAS can tell.
fn is_stuck(kind: Kind) -> bool {
    matches!(kind, Kind::ProcessDeath | Kind::NonCommHang | Kind::CommHang | Kind::Desync)
}

/// Adds what a witness says to the findings it has something to say about.
pub fn corroborate(findings: &mut [Finding], witness: &Witness) {
    for finding in findings.iter_mut().filter(|finding| is_stuck(finding.kind)) {
        let suspect = finding.suspects.first().and_then(|suspect| suspect.rank);
        let same = suspect.and_then(|rank| witness.against.get(&rank));
        let Some(says) = same.or_else(|| witness.against.values().next()) else { continue };
        let agrees = same.is_some();
        if agrees {
            finding.confidence += SURER * (1.0 - finding.confidence);
        }
        let statement = json!({ "by": witness.by, "agrees": agrees, "says": says });
        match finding.evidence.entry("corroboration".to_owned()).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(all) => all.push(statement),
            other => *other = Value::Array(vec![statement]),
        }
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::{
        finding::{FindingId, Suspect},
        observation::{JobId, Timestamp},
    };

    use super::*;

    fn finding(kind: Kind, ranks: &[(u32, f64)]) -> Finding {
        let suspect =
            |(rank, score): &(u32, f64)| Suspect { rank: Some(*rank), score: *score, ..Suspect::default() };
        Finding {
            id: FindingId("c4-1".into()),
            job: JobId("llm".into()),
            incarnation: 0,
            kind,
            suspects: ranks.iter().map(suspect).collect(),
            confidence: 0.7,
            since: Timestamp(1),
            detected: Timestamp(2),
            cleared: None,
            summary: "a sentence".into(),
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        }
    }

    #[test]
    fn who_accuses_the_same_makes_surer_who_accuses_another_is_shown() {
        let dumps = [
            finding(Kind::NonCommHang, &[(2, 0.9), (3, 0.5)]),
            finding(Kind::WorkloadImbalance, &[(7, 0.9)]),
        ];
        let witness = Witness::flight_recorder(&dumps);
        assert_eq!(witness.against.keys().collect::<Vec<_>>(), [&2]);
        let mut findings = [
            finding(Kind::CommHang, &[(2, 0.8)]),
            finding(Kind::CommHang, &[(5, 0.8)]),
            finding(Kind::NonCommSlow, &[(2, 0.8)]),
        ];
        corroborate(&mut findings, &witness);
        let told =
            |finding: &Finding| finding.evidence.get("corroboration").map(|all| all[0]["agrees"].clone());
        assert_eq!(told(&findings[0]), Some(json!(true)));
        assert!((findings[0].confidence - 0.79).abs() < 1e-9, "{}", findings[0].confidence);
        assert_eq!((told(&findings[1]), findings[1].confidence), (Some(json!(false)), 0.7));
        assert_eq!(told(&findings[2]), None, "of slowness it says nothing");
    }

    #[test]
    fn who_says_nothing_changes_nothing() {
        let mut findings = [finding(Kind::CommHang, &[(2, 0.8)])];
        corroborate(&mut findings, &Witness { by: "ras", against: BTreeMap::new() });
        assert_eq!(findings, [finding(Kind::CommHang, &[(2, 0.8)])]);
    }
}
