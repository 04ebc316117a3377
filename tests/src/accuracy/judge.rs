//! Runs one case through the detector and judges what it says.

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
};

use super::cases::Case;
use crate::simulator::telemetry::{EPOCH_US, Telemetry};

/// How a case went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Something was said after the fault began.
    pub found: bool,
    /// Its kind was right.
    pub right_kind: bool,
    /// Its first suspect was right.
    pub right_suspect: bool,
    /// Simulated seconds from the fault to the first finding.
    pub seconds: Option<f64>,
    /// Accusations in a sound job, or before the fault: a workload imbalance accuses nobody.
    pub false_alarms: Vec<String>,
    /// Findings opened after the first one in a faulty job: symptoms that were not recognised as such.
    pub further: usize,
}

/// Runs a case.
#[must_use]
pub fn judge(case: &Case) -> Outcome {
    let mut detector = Detector::new(Config::default());
    let mut opened: Vec<Finding> = Vec::new();
    Telemetry::new(case.spec.clone()).run(case.length_ns, |now, observation| {
        for finding in detector.observe(observation, now) {
            if finding.cleared.is_none() && !opened.iter().any(|known| known.id == finding.id) {
                opened.push(finding);
            }
        }
    });
    let accuses = |finding: &&Finding| finding.kind != Kind::WorkloadImbalance;
    let Some(truth) = &case.truth else {
        let false_alarms = opened.iter().filter(accuses).map(|finding| finding.summary.clone()).collect();
        return Outcome { false_alarms, ..Outcome::default() };
    };
    let fault_us = EPOCH_US + truth.start_ns / 1000;
    let (before, after): (Vec<_>, Vec<_>) =
        opened.into_iter().partition(|finding| finding.detected.0 < fault_us);
    let false_alarms = before.iter().filter(accuses).map(|finding| finding.summary.clone()).collect();
    let Some(first) = after.first() else { return Outcome { false_alarms, ..Outcome::default() } };
    let suspect = first.suspects.first().and_then(|suspect| suspect.rank);
    Outcome {
        found: true,
        right_kind: truth.kinds.contains(&first.kind),
        right_suspect: suspect.is_some_and(|rank| truth.ranks.contains(&rank)),
        seconds: Some((first.detected.0 - fault_us) as f64 / 1e6),
        false_alarms,
        further: after.len() - 1,
    }
}
