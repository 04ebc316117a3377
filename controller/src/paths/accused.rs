//! Links that measurements accuse: what is told of them until they are well again, in whatever they are at fault.

use std::{collections::BTreeMap, mem};

use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{JobId, Timestamp},
};
use c4_traffic::{
    Topology,
    losses::{Part, Verdict},
    sightings::Pair,
};
use serde_json::Value;

/// Measurements of one kind, which may accuse parts of paths.
pub(super) trait Evidence: Default {
    /// Who is accused, with what speaks against them.
    type Accused;

    /// The network has changed: what was measured says nothing any more.
    fn forget(&mut self);

    /// Judges what was measured. Who is `excused` is not accused.
    fn judge(&mut self, now: Timestamp, excused: impl Fn(&Part) -> bool) -> Vec<Verdict<Self::Accused>>;

    /// Of what whom.
    fn charge(accused: Self::Accused) -> (Vec<Part>, Charge);
}

/// Evidence, and findings that are open because of it.
#[derive(Debug, Default)]
pub(super) struct Court<E> {
    pub(super) evidence: E,
    /// By the parts that they accuse.
    open: Vec<(Vec<Part>, Finding)>,
}

impl<E: Evidence> Court<E> {
    /// Judges the evidence. Returns findings that were opened or cleared.
    pub(super) fn judge(
        &mut self,
        topology: &Topology,
        now: Timestamp,
        excused: impl Fn(&Part) -> bool,
    ) -> Vec<Finding> {
        let verdicts = self.evidence.judge(now, excused);
        verdicts.into_iter().filter_map(|verdict| self.tell(topology, verdict, now)).collect()
    }

    fn tell(&mut self, topology: &Topology, verdict: Verdict<E::Accused>, now: Timestamp) -> Option<Finding> {
        match verdict {
            Verdict::Guilty(accused) => {
                let (parts, charge) = E::charge(accused);
                let finding = finding(topology, &parts, charge, now);
                self.open.push((parts, finding.clone()));
                Some(finding)
            }
            Verdict::Cleared(parts) => {
                let at = self.open.iter().position(|(open, _)| *open == parts)?;
                Some(Finding { cleared: Some(now), ..self.open.remove(at).1 })
            }
        }
    }

    /// Takes back all that is told: it is of a topology that is no more.
    pub(super) fn end(&mut self, now: Timestamp) -> Vec<Finding> {
        let open = mem::take(&mut self.open).into_iter();
        open.map(|(_, finding)| Finding { cleared: Some(now), ..finding }).collect()
    }

    /// Links between switches that are accused: they are to be avoided.
    pub(super) fn avoided(&self) -> impl Iterator<Item = Pair> {
        self.open.iter().flat_map(|(parts, _)| parts).filter_map(pair)
    }
}

/// What parts of paths are accused of.
pub(super) struct Charge {
    /// The finding's name begins so.
    pub(super) name: &'static str,
    /// What they do, in a word: "loses".
    pub(super) does: &'static str,
    /// The sentence after that word.
    pub(super) what: String,
    /// How sure it is, where there is one part only.
    pub(super) confidence: f64,
    /// The numbers that it rests on.
    pub(super) evidence: BTreeMap<String, Value>,
    /// What would refute it.
    pub(super) refuted_by: &'static str,
}

/// The finding that accuses parts that nothing tells apart.
fn finding(topology: &Topology, parts: &[Part], charge: Charge, now: Timestamp) -> Finding {
    let links: Vec<Link> = parts.iter().map(|part| ends(topology, *part)).collect();
    let named: Vec<String> = links.iter().map(|link| format!("{} → {}", link.src, link.dst)).collect();
    let who = match named.as_slice() {
        [one] => format!("the link {one}"),
        several => format!("one of the links {} (nothing tells them apart)", several.join(", ")),
    };
    let score = 1.0 / links.len() as f64;
    let suspect = |link: Link| Suspect { link: Some(link), score, ..Suspect::default() };
    let name = links.first().map(|link| format!("{}-{}", link.src, link.dst)).unwrap_or_default();
    Finding {
        id: FindingId(format!("{}-{}-{}", charge.name, name.replace('/', "-"), now.0 / 1_000_000)),
        job: JobId(String::new()),
        incarnation: 0,
        kind: Kind::PathFault,
        suspects: links.into_iter().map(suspect).collect(),
        confidence: if named.len() == 1 { charge.confidence } else { 0.8 },
        since: now,
        detected: now,
        cleared: None,
        summary: format!("{who} {} {}", charge.does, charge.what),
        evidence: charge.evidence,
        explains: Vec::new(),
        refuted_by: charge.refuted_by.to_owned(),
    }
}

/// The link that a part is a direction of; none where it is no link between switches, or not known which.
fn pair(part: &Part) -> Option<Pair> {
    match part {
        Part::Hop(a, b) => Some(((*a).min(*b), (*a).max(*b))),
        Part::Out(..) | Part::Into(..) | Part::Below(..) => None,
    }
}

/// The ends of a part, in words.
fn ends(topology: &Topology, part: Part) -> Link {
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
