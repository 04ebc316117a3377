//! Links that delay packets, as agents measure: from what they tell of paths to findings, and to what plans avoid.

use std::collections::BTreeMap;

use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{JobId, Timestamp},
};
use c4_traffic::{
    Topology,
    delays::{Delays, Slow as Accused, Verdict},
    losses::{Part, crossed},
    sightings::{Locator, Pair},
};
use serde_json::json;

use super::lossy::{ends, pair};
use crate::convert::PathTrains;

/// See the module.
#[derive(Debug, Default)]
pub struct Slow {
    delays: Delays,
    open: Vec<(Vec<Part>, Finding)>,
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
        let open = std::mem::take(&mut self.open).into_iter();
        open.map(|(_, finding)| Finding { cleared: Some(now), ..finding }).collect()
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
                self.open.push((accused.parts, finding.clone()));
                Some(finding)
            }
            Verdict::Cleared(parts) => {
                let at = self.open.iter().position(|(open, _)| *open == parts)?;
                Some(Finding { cleared: Some(now), ..self.open.remove(at).1 })
            }
        }
    }

    /// Links that are to be avoided.
    pub fn avoided(&self) -> impl Iterator<Item = Pair> {
        self.open.iter().flat_map(|(parts, _)| parts).filter_map(pair)
    }
}

fn finding(topology: &Topology, accused: &Accused, now: Timestamp) -> Finding {
    let links: Vec<Link> = accused.parts.iter().map(|part| ends(topology, *part)).collect();
    let named: Vec<String> = links.iter().map(|link| format!("{} → {}", link.src, link.dst)).collect();
    let by = accused.behind_us as f64 / 1_000.0;
    let who = match named.as_slice() {
        [one] => format!("the link {one} delays"),
        several => format!("one of the links {} (nothing tells them apart) delays", several.join(", ")),
    };
    let summary = format!(
        "{who} what crosses it by {by:.1} ms even at its best, beside other paths between the same hosts ({} paths cross it, all of \
         them late); paths avoid it",
        accused.paths
    );
    let score = 1.0 / links.len() as f64;
    let suspect = |link: Link| Suspect { link: Some(link), score, ..Suspect::default() };
    let name = links.first().map(|link| format!("{}-{}", link.src, link.dst)).unwrap_or_default();
    Finding {
        id: FindingId(format!("delay-{}-{}", name.replace('/', "-"), now.0 / 1_000_000)),
        job: JobId(String::new()),
        incarnation: 0,
        kind: Kind::PathFault,
        suspects: links.into_iter().map(suspect).collect(),
        confidence: if named.len() == 1 { 0.9 } else { 0.8 },
        since: now,
        detected: now,
        cleared: None,
        summary,
        evidence: BTreeMap::from([
            ("delay_ms".to_owned(), json!(by)),
            ("paths".to_owned(), json!(accused.paths)),
        ]),
        explains: Vec::new(),
        refuted_by: "probes over it that take no longer than others, for half a minute".to_owned(),
    }
}
