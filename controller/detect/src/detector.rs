//! The detector.

use serde::{Deserialize, Serialize};

use crate::{
    finding::Finding,
    observation::{Observation, Timestamp},
    view::JobView,
};

/// Thresholds. Each has a default that needs no tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

/// The state machine.
#[derive(Debug)]
pub struct Detector {}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(_config: Config) -> Self {
        Self {}
    }

    /// Takes in one observation made at `now`, which never decreases, and returns the findings that it opened,
    /// changed or cleared, each whole.
    pub fn observe(&mut self, _observation: Observation, _now: Timestamp) -> Vec<Finding> {
        Vec::new()
    }

    /// Every job the detector remembers.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobView> {
        Vec::new()
    }
}
