//! Links that lose packets, as agents measure: what they tell of paths, and what it comes to.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use c4_detect::observation::{NodeName, Timestamp};
use c4_traffic::{
    Topology,
    losses::{Accused, Losses, Part, Trains, Verdict, crossed},
    sightings::Locator,
};
use serde_json::json;

use super::accused::{Charge, Evidence};
use crate::convert::{MeasuredPath, PathTrains};

/// Time between two judgements, as the test expects.
const JUDGE_US: u64 = 1_000_000;
/// Paths that one node is believed to measure.
const MOST_PATHS: usize = 16_384;

/// A measured path.
type Key = (IpAddr, IpAddr, Vec<IpAddr>);

/// See the module.
#[derive(Debug, Default)]
pub struct Lossy {
    losses: Losses,
    /// What was told of each path before, by node.
    told: HashMap<NodeName, HashMap<Key, Trains>>,
    judged: Timestamp,
    totals: Trains,
}

impl Lossy {
    /// Takes in what a node tells. What it measured before the network changed last is told by `current`, and only
    /// remembered.
    pub fn measured(
        &mut self,
        topology: &Topology,
        locator: &Locator,
        node: &NodeName,
        told: &PathTrains,
        current: bool,
    ) {
        let before = self.told.entry(node.clone()).or_default();
        for path in &told.paths {
            let key = (path.from, path.to, path.hops.clone());
            let new = since(before.get(&key), path);
            if before.len() < MOST_PATHS || before.contains_key(&key) {
                before.insert(key, Trains { good: path.good, bad: path.bad });
            }
            if !current || new.count() == 0 {
                continue;
            }
            // What the topology does not know is told by those who look at probes.
            if let Ok(parts) = crossed(topology, locator, path.from, path.to, &path.hops) {
                self.totals.good += new.good;
                self.totals.bad += new.bad;
                self.losses.observe(&parts, new);
            }
        }
    }

    /// Whether it is time to judge.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.micros_since(self.judged) >= JUDGE_US
    }

    /// Trains that were judged since the controller started.
    #[must_use]
    pub fn totals(&self) -> Trains {
        self.totals
    }
}

/// What is new of a path. Counts that went back began anew.
fn since(before: Option<&Trains>, path: &MeasuredPath) -> Trains {
    let before = before.filter(|before| before.good <= path.good && before.bad <= path.bad);
    let before = before.copied().unwrap_or_default();
    Trains { good: path.good - before.good, bad: path.bad - before.bad }
}

impl Evidence for Lossy {
    type Accused = Accused;

    fn forget(&mut self) {
        self.losses.forget();
    }

    fn judge(&mut self, now: Timestamp, excused: impl Fn(&Part) -> bool) -> Vec<Verdict<Accused>> {
        self.judged = now;
        self.losses.judge(now.0, excused)
    }

    fn charge(accused: Accused) -> (Vec<Part>, Charge) {
        let between = accused.parts.iter().any(|part| matches!(part, Part::Hop(..)));
        let (trains, others) = (accused.trains, accused.others);
        let (lost, beside) = (trains.packets_lost() * 100.0, others.packets_lost() * 100.0);
        let then = if between { "; paths avoid it" } else { "; no other path leads there" };
        let what = format!(
            "{lost:.1} % of what crosses it: {} of {} trains of probes, over {} paths, against {beside:.2} % beside it{then}",
            trains.bad,
            trains.count(),
            accused.paths
        );
        let charge = Charge {
            name: "loss",
            does: "loses",
            what,
            confidence: 0.95,
            evidence: BTreeMap::from([
                ("loss_percent".to_owned(), json!((lost * 100.0).round() / 100.0)),
                ("trains".to_owned(), json!(trains.count())),
                ("trains_with_loss".to_owned(), json!(trains.bad)),
                ("paths".to_owned(), json!(accused.paths)),
                ("loss_percent_elsewhere".to_owned(), json!((beside * 100.0).round() / 100.0)),
            ]),
            refuted_by: "trains of probes over it that lose nothing, for a while",
        };
        (accused.parts, charge)
    }
}
