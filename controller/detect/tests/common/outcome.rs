//! Feeds observations to a detector and keeps what comes out.

use std::collections::BTreeMap;

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
    observation::{Observation, Timestamp},
};

use super::{EPOCH_US, Fault, Shape, Sim};

/// What came out of a run.
pub struct Outcome {
    /// Every finding that was opened, as first told.
    pub opened: Vec<Finding>,
    /// Every finding in its last form.
    pub last: BTreeMap<String, Finding>,
    pub detector: Detector,
}

impl Outcome {
    /// Findings that matter, in the order in which they were opened.
    pub fn kinds(&self) -> Vec<Kind> {
        self.opened.iter().map(|finding| finding.kind).collect()
    }

    pub fn describe(&self) -> String {
        let lines: Vec<String> = self
            .opened
            .iter()
            .map(|f| {
                let at = (f.detected.0 - EPOCH_US) as f64 * 1e-6;
                format!("{at:.2} s {} {:.2} {}", f.kind.name(), f.confidence, f.summary)
            })
            .collect();
        lines.join("\n")
    }

    /// Seconds from `at_us` after the start to the first finding.
    pub fn delay(&self, at_us: u64) -> f64 {
        self.opened
            .first()
            .map_or(f64::INFINITY, |f| (f.detected.0 as f64 - (EPOCH_US + at_us) as f64) * 1e-6)
    }

    pub fn first_rank(&self) -> Option<u32> {
        self.opened.first().and_then(|finding| finding.suspects.first()).and_then(|suspect| suspect.rank)
    }
}

/// Feeds observations to a detector.
pub fn feed(detector: Detector, observations: Vec<(Timestamp, Observation)>) -> Outcome {
    let mut outcome = Outcome { opened: Vec::new(), last: BTreeMap::new(), detector };
    for (now, observation) in observations {
        for finding in outcome.detector.observe(observation, now) {
            if outcome.last.insert(finding.id.0.clone(), finding.clone()).is_none() {
                outcome.opened.push(finding);
            }
        }
    }
    outcome
}

/// What every finding is, whatever was told.
pub fn assert_sound(finding: &Finding, now: Timestamp) {
    assert!((0.0..=1.0).contains(&finding.confidence), "{finding:?}");
    assert!(finding.since <= finding.detected && finding.detected <= now, "{finding:?}");
    assert!(!finding.summary.is_empty() && finding.explains.len() <= 32, "{finding:?}");
    assert!(finding.suspects.windows(2).all(|pair| pair[0].score >= pair[1].score), "{finding:?}");
    assert!(finding.suspects.iter().all(|s| (0.0..=1.0).contains(&s.score)), "{finding:?}");
}

/// Simulates and detects.
pub fn run(seed: u64, shape: Shape, faults: Vec<Fault>, duration_us: u64) -> Outcome {
    let mut sim = Sim::new(seed, shape, faults);
    feed(Detector::new(Config::default()), sim.observations(duration_us))
}
