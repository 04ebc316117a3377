//! Links that delay packets, as agents measure: what they tell of paths, and what it comes to.

use std::collections::BTreeMap;

use c4_detect::observation::Timestamp;
use c4_traffic::{
    Topology,
    delays::{Delays, Slow as Accused},
    losses::{Part, Verdict, crossed},
    sightings::Locator,
};
use serde_json::json;

use super::accused::{Charge, Evidence};
use crate::convert::PathTrains;

/// See the module.
#[derive(Debug, Default)]
pub struct Slow {
    delays: Delays,
}

impl Slow {
    /// Takes in what a node tells of the network as it is now.
    pub fn measured(&mut self, topology: &Topology, locator: &Locator, told: &PathTrains, now: Timestamp) {
        for path in &told.paths {
            // What the topology does not know is told by those who look at probes.
            let parts = crossed(topology, locator, path.from, path.to, &path.hops);
            if let (Some(behind_us), Ok(parts)) = (path.behind_us, parts) {
                self.delays.observe(&parts, behind_us, now.0);
            }
        }
    }
}

impl Evidence for Slow {
    type Accused = Accused;

    fn forget(&mut self) {
        self.delays.forget();
    }

    fn judge(&mut self, now: Timestamp, excused: impl Fn(&Part) -> bool) -> Vec<Verdict<Accused>> {
        self.delays.judge(now.0, excused)
    }

    fn charge(accused: Accused) -> (Vec<Part>, Charge) {
        let by = accused.behind_us as f64 / 1_000.0;
        let what = format!(
            "what crosses it by {by:.1} ms even at its best, beside other paths between the same hosts ({} paths cross it, all of \
         them late); paths avoid it",
            accused.paths
        );
        let charge = Charge {
            name: "delay",
            does: "delays",
            what,
            confidence: 0.9,
            evidence: BTreeMap::from([
                ("delay_ms".to_owned(), json!(by)),
                ("paths".to_owned(), json!(accused.paths)),
            ]),
            refuted_by: "probes over it that take no longer than others, for half a minute",
        };
        (accused.parts, charge)
    }
}
