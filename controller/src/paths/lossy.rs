//! Links that lose packets, as agents measure: from what they tell of paths to findings, and to what plans avoid.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{JobId, NodeName, Timestamp},
};
use c4_traffic::{
    Topology,
    losses::{Accused, Losses, Part, Trains, Verdict, crossed},
    sightings::{Locator, Pair},
};
use serde_json::json;

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
    open: Vec<(Vec<Part>, Finding)>,
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

    /// The network has changed.
    pub fn forget(&mut self) {
        self.losses.forget();
    }

    /// Whether it is time to judge.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.micros_since(self.judged) >= JUDGE_US
    }

    /// Takes back what is told: it is of a topology that is no more.
    pub fn end(&mut self, now: Timestamp) -> Vec<Finding> {
        let open = std::mem::take(&mut self.open).into_iter();
        open.map(|(_, finding)| Finding { cleared: Some(now), ..finding }).collect()
    }

    /// Judges what was told. Returns findings that were opened or cleared. Who is `doubtful` is not accused.
    pub fn judge(
        &mut self,
        topology: &Topology,
        now: Timestamp,
        doubtful: impl Fn(&Part) -> bool,
    ) -> Vec<Finding> {
        self.judged = now;
        let verdicts = self.losses.judge(now.0, doubtful);
        verdicts.into_iter().filter_map(|verdict| self.tell(topology, verdict, now)).collect()
    }

    fn tell(&mut self, topology: &Topology, verdict: Verdict, now: Timestamp) -> Option<Finding> {
        match verdict {
            Verdict::Loses(accused) => {
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
        let parts = self.open.iter().flat_map(|(parts, _)| parts);
        parts.filter_map(pair)
    }

    /// Trains that were judged since the controller started.
    #[must_use]
    pub fn totals(&self) -> Trains {
        self.totals
    }

    /// What of the trains of the last minutes crossed each link, in each direction.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<Part, Trains> {
        self.losses.shown()
    }
}

/// What is new of a path. Counts that went back began anew.
fn since(before: Option<&Trains>, path: &MeasuredPath) -> Trains {
    let before = before.filter(|before| before.good <= path.good && before.bad <= path.bad);
    let before = before.copied().unwrap_or_default();
    Trains { good: path.good - before.good, bad: path.bad - before.bad }
}

/// The link that a part is a direction of; none where it is no link between switches, or not known which.
pub(super) fn pair(part: &Part) -> Option<Pair> {
    match part {
        Part::Hop(a, b) => Some(((*a).min(*b), (*a).max(*b))),
        Part::Out(..) | Part::Into(..) | Part::Below(..) => None,
    }
}

/// The ends of a part, in words.
pub(super) fn ends(topology: &Topology, part: Part) -> Link {
    let switch = |id| topology.switch(id).name.clone();
    let port = |nic, port: u32| {
        let at = topology.nic(nic);
        let leaf = at.ports.get(port as usize).map(|port| switch(port.switch)).unwrap_or_default();
        (format!("{}/{}", topology.host_name(at.host), at.name), leaf)
    };
    let (src, dst) = match part {
        Part::Hop(a, b) | Part::Below(a, b) => (switch(a), switch(b)),
        Part::Out(nic, index) => port(nic, index),
        Part::Into(nic, index) => {
            let (host, leaf) = port(nic, index);
            (leaf, host)
        }
    };
    Link { src, dst }
}

fn finding(topology: &Topology, accused: &Accused, now: Timestamp) -> Finding {
    let links: Vec<Link> = accused.parts.iter().map(|part| ends(topology, *part)).collect();
    let named: Vec<String> = links.iter().map(|link| format!("{} → {}", link.src, link.dst)).collect();
    let between = accused.parts.iter().any(|part| matches!(part, Part::Hop(..)));
    let (trains, others) = (accused.trains, accused.others);
    let (lost, beside) = (trains.packets_lost() * 100.0, others.packets_lost() * 100.0);
    let who = match named.as_slice() {
        [one] => format!("the link {one} loses"),
        several => format!("one of the links {} (nothing tells them apart) loses", several.join(", ")),
    };
    let then = if between { "; paths avoid it" } else { "; no other path leads there" };
    let summary = format!(
        "{who} {lost:.1} % of what crosses it: {} of {} trains of probes, over {} paths, against {beside:.2} % beside it{then}",
        trains.bad,
        trains.count(),
        accused.paths
    );
    let score = 1.0 / links.len() as f64;
    let suspect = |link: Link| Suspect { link: Some(link), score, ..Suspect::default() };
    let name = links.first().map(|link| format!("{}-{}", link.src, link.dst)).unwrap_or_default();
    Finding {
        id: FindingId(format!("loss-{}-{}", name.replace('/', "-"), now.0 / 1_000_000)),
        job: JobId(String::new()),
        incarnation: 0,
        kind: Kind::PathFault,
        suspects: links.into_iter().map(suspect).collect(),
        confidence: if named.len() == 1 { 0.95 } else { 0.8 },
        since: now,
        detected: now,
        cleared: None,
        summary,
        evidence: BTreeMap::from([
            ("loss_percent".to_owned(), json!((lost * 100.0).round() / 100.0)),
            ("trains".to_owned(), json!(trains.count())),
            ("trains_with_loss".to_owned(), json!(trains.bad)),
            ("paths".to_owned(), json!(accused.paths)),
            ("loss_percent_elsewhere".to_owned(), json!((beside * 100.0).round() / 100.0)),
        ]),
        explains: Vec::new(),
        refuted_by: "trains of probes over it that lose nothing, for a while".to_owned(),
    }
}
