//! Links that delay packets, as agents measure: from what they tell of paths to findings, and to what plans avoid.

use std::collections::BTreeMap;

use c4_detect::{finding::Finding, observation::Timestamp};
use c4_traffic::{
    Topology,
    delays::{Delays, Slow as Accused, Verdict},
    losses::{Part, crossed},
    sightings::{Locator, Pair},
};
use serde_json::json;

use super::accused::{self, Charge, Open};
use crate::convert::PathTrains;

/// See the module.
#[derive(Debug, Default)]
pub struct Slow {
    delays: Delays,
    open: Open,
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

    /// The network has changed.
    pub fn forget(&mut self) {
        self.delays.forget();
    }

    /// Takes back what is told: it is of a topology that is no more.
    pub fn end(&mut self, now: Timestamp) -> Vec<Finding> {
        self.open.end(now)
    }

    /// Judges what was told. Returns findings that were opened or cleared. Who is `excused` is not accused.
    pub fn judge(
        &mut self,
        topology: &Topology,
        now: Timestamp,
        excused: impl Fn(&Part) -> bool,
    ) -> Vec<Finding> {
        let verdicts = self.delays.judge(now.0, excused);
        verdicts.into_iter().filter_map(|verdict| self.tell(topology, verdict, now)).collect()
    }

    fn tell(&mut self, topology: &Topology, verdict: Verdict, now: Timestamp) -> Option<Finding> {
        match verdict {
            Verdict::Delays(accused) => {
                let finding = finding(topology, &accused, now);
                Some(self.open.tell(accused.parts, finding))
            }
            Verdict::Cleared(parts) => self.open.clear(&parts, now),
        }
    }

    /// Links that are to be avoided.
    pub fn avoided(&self) -> impl Iterator<Item = Pair> {
        self.open.links()
    }
}

fn finding(topology: &Topology, accused: &Accused, now: Timestamp) -> Finding {
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
    accused::finding(topology, &accused.parts, charge, now)
}
