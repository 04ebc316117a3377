//! Whole roles that have more to do than others: a pipeline stage with too many layers, say. That is a matter of the model,
//! not a fault, and accuses nobody.
//!
//! The stages of a pipeline take the same time for an iteration, since each waits for the others; they differ in how
//! much of it they work and how much they wait. So the share of its time that a role spends outside of all communication
//! is compared with that of the other roles.
//!
//! One case looks just the same: all of a stage's hardware is slow, and does nothing else (one hot node, or one switch).
//! Nobody outside has the same work to compare with, but the past has: a model is heavy from its first iteration
//! on, hardware becomes slow at some moment. Which of both it was is part of the evidence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    case::{Draft, Slot},
    change::ChangePoint,
    finding::{Finding, Kind},
    model::{Comms, Job},
    names,
    observation::{CommId, NodeName, Timestamp},
    roles::Role,
    words::{self, rfc3339},
};

/// Time between two looks.
const LOOK_US: u64 = 5_000_000;
/// Looks that have to agree.
const LOOKS: u32 = 3;
/// How much longer a role must work than the others, as a ratio and as a share of the time.
const HEAVY: (f64, f64) = (1.2, 0.08);
/// Below this part of the limits it no longer is heavy.
const EVEN: f64 = 0.5;
/// Iterations by which the usual share of work is behind.
const LAG_ITERATIONS: u64 = 24;
/// Suspects named at most.
const NAMED: usize = 16;

/// A role that works longer than the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heaviest {
    /// Its place in what was compared.
    pub role: usize,
    /// Share of its time that it works.
    pub works: f64,
    /// The same of the others: their median.
    pub others: f64,
}

/// The role that works so much longer than the others that it holds them up, given the share of its time that each works.
#[must_use]
pub fn heaviest(works: &[f64]) -> Option<Heaviest> {
    beyond(works, 1.0)
}

fn beyond(works: &[f64], part: f64) -> Option<Heaviest> {
    let mut order: Vec<usize> = (0..works.len()).collect();
    order.sort_by(|a, b| works[*b].total_cmp(&works[*a]));
    let (role, rest) = order.split_first()?;
    let others = works[*rest.get(rest.len() / 2)?];
    let works = works[*role];
    let heavy = works >= others * (1.0 + (HEAVY.0 - 1.0) * part) && works - others >= HEAVY.1 * part;
    heavy.then_some(Heaviest { role: *role, works, others })
}

impl Heaviest {
    /// How much more work it has, as a share of that of the others.
    #[must_use]
    pub fn excess(&self) -> f64 {
        if self.others > 0.0 { self.works / self.others - 1.0 } else { f64::INFINITY }
    }

    /// The sentence about it; `name` says which role it is, `ranks` which ranks are in it.
    #[must_use]
    pub fn sentence(&self, name: &str, ranks: &str) -> String {
        format!(
            "{name} (ranks {ranks}) has {:.0} % more work than the other stages, which wait for it; no single rank is at fault",
            self.excess() * 100.0,
        )
    }

    /// The numbers behind it.
    #[must_use]
    pub fn evidence(&self, name: &str) -> BTreeMap<String, serde_json::Value> {
        let percent = |share: f64| json!((share * 1_000.0).round() / 10.0);
        [
            ("imbalance", json!("stage")),
            ("role", json!(name)),
            ("works_percent", percent(self.works)),
            ("other_stages_work_percent", percent(self.others)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
    }
}

/// The roles of a job, and whether one of them is heavy.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    pub(crate) roles: Vec<Role>,
    looked: Timestamp,
    /// When they were last seen to be even.
    even_at: Option<Timestamp>,
    /// The role that looks heavy, and for how many looks it has.
    heavy: Option<(Heaviest, u32)>,
    even_looks: u32,
    /// The communicator under which it was reported.
    told: Option<CommId>,
}

impl Stages {
    /// Takes over what the roles are.
    pub(crate) fn set(&mut self, roles: Vec<Role>) {
        if roles != self.roles {
            (self.heavy, self.even_at, self.even_looks, self.roles) = (None, None, 0, roles);
        }
    }

    /// Looks at how much each role works.
    fn look(&mut self, comms: &Comms, now: Timestamp) {
        let Some(works) = works(&self.roles, comms) else { return };
        let of = |which: usize| works.iter().map(|work| work[which]).collect::<Vec<f64>>();
        let (beside_sends, silent) = (of(0), of(1));
        let role = |heavy: Option<Heaviest>| heavy.map(|heavy| heavy.role);
        // A rank may wait in a send or compute beside it, and nobody can see which: both ways of counting must agree.
        match heaviest(&beside_sends).filter(|heavy| role(heaviest(&silent)) == Some(heavy.role)) {
            Some(heavy) => {
                let before = self.heavy.filter(|(before, _)| before.role == heavy.role);
                self.heavy = Some((heavy, before.map_or(0, |(_, looks)| looks) + 1));
                self.even_looks = 0;
            }
            None if beyond(&beside_sends, EVEN).is_none() || beyond(&silent, EVEN).is_none() => {
                self.even_looks += 1;
                if self.even_looks >= LOOKS {
                    (self.heavy, self.even_at) = (None, Some(now));
                }
            }
            None => {}
        }
    }
}

/// A role, and the share of its time that ranks of one of its communicators work, beside sends and without them.
type Work = (usize, [f64; 2]);

/// Shares of the time that each role works, beside sends and without them: all of them, or nothing.
fn works(roles: &[Role], comms: &Comms) -> Option<Vec<[f64; 2]>> {
    if roles.len() < 2 {
        return None;
    }
    // Alike is compared with alike: groups of one name and size, of which each role has some.
    let mut kinds: BTreeMap<(&str, u32), Vec<Work>> = BTreeMap::new();
    for (number, role) in roles.iter().enumerate() {
        for comm in role.comms.iter().filter_map(|id| comms.get(id)) {
            // Time beside communication cannot be told from time in it.
            if !comm.slowness.is_awaited() {
                return None;
            }
            let work = comm.slowness.work();
            kinds.entry((&comm.name, comm.size)).or_default().extend(work.map(|work| (number, work)));
        }
    }
    let all =
        |works: &&Vec<Work>| works.iter().map(|(role, _)| role).collect::<BTreeSet<_>>().len() == roles.len();
    let kind = kinds.values().filter(all).max_by_key(|works| works.len())?;
    let median = |number: usize, which: usize| {
        let mut of: Vec<f64> =
            kind.iter().filter(|(role, _)| *role == number).map(|(_, work)| work[which]).collect();
        of.sort_by(f64::total_cmp);
        // Of two, the one that works less: a slow rank does not make its role heavy.
        of.get(of.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    };
    Some((0..roles.len()).map(|number| [median(number, 0), median(number, 1)]).collect())
}

/// Reports a role that is heavy, and takes it back when it no longer is.
pub(crate) fn assess(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    if now.micros_since(job.stages.looked) < LOOK_US || job.stages.roles.len() < 2 || !job.settled() {
        return;
    }
    let disturbed =
        job.stopping || job.cases.get(&Slot::Death).is_some() || job.cases.get(&Slot::Hang).is_some();
    job.stages.looked = now;
    if disturbed {
        return;
    }
    job.stages.look(&job.comms, now);
    match job.stages.heavy {
        Some((heavy, looks)) if looks >= LOOKS => {
            let Some(draft) = draft(job, heavy, now) else { return };
            let Some(comm) = job.stages.roles.get(heavy.role).and_then(|role| role.comms.first().copied())
            else {
                return;
            };
            if job.stages.told.is_some_and(|told| told != comm) {
                clear(job, now, out);
            }
            let other = |slot: &Slot| matches!(slot, Slot::Imbalance(other) if *other != comm);
            if job.cases.iter().any(|(slot, _)| other(slot)) {
                return;
            }
            job.stages.told = Some(comm);
            let (name, incarnation) = (job.id.clone(), job.incarnation);
            job.cases.tell(Slot::Imbalance(comm), draft, &name, incarnation, now, out);
        }
        None => clear(job, now, out),
        Some(_) => {}
    }
}

fn clear(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    if let Some(comm) = job.stages.told.take() {
        job.cases.clear(&Slot::Imbalance(comm), now, out);
    }
}

fn draft(job: &Job, heavy: Heaviest, now: Timestamp) -> Option<Draft> {
    let stages = &job.stages;
    let role = stages.roles.get(heavy.role)?;
    let ranks = role.processes.iter().filter_map(|id| job.process(*id)?.info.rank);
    let name = format!("stage {} of {}", heavy.role + 1, stages.roles.len());
    let mut evidence = heavy.evidence(&name);
    let own_nodes = own_nodes(job, heavy.role);
    // Since when: the change of the iteration time that came with it says it best.
    let changed = stages.even_at.map(|even| {
        // What is usual follows late.
        let lag_us = |change: &ChangePoint| 2 * LOOK_US + change.after_us.saturating_mul(LAG_ITERATIONS);
        let with_it = job.pace.history().filter(|change| change.at.after(lag_us(change)) >= even);
        with_it.last().map_or(even, |change| change.at)
    });
    // Many nodes do not become slow at once and by as much.
    let one_node = own_nodes.as_ref().is_some_and(|nodes| nodes.len() == 1);
    let (confidence, refuted_by) = match (changed, one_node) {
        (None, false) => (0.7, "only some ranks of the stage work longer than their peers"),
        (None, true) => (
            0.5,
            "the stage was as fast as the others before, on other nodes: then its nodes are slow, not its work heavy",
        ),
        (Some(_), true) => (
            0.4,
            "the stage stays heavy on other nodes; it became so at one moment, as hardware does and a model does not",
        ),
        (Some(_), false) => (0.5, "the work of the stage has not changed at that moment"),
    };
    evidence.insert("since_start".into(), json!(changed.is_none()));
    if let Some(at) = changed {
        evidence.insert("changed_at".into(), json!(rfc3339(at)));
    }
    if let Some(nodes) = own_nodes {
        let names: Vec<&str> = nodes.iter().take(NAMED).map(|node| node.0.as_str()).collect();
        evidence.insert("nodes_of_this_stage_only".into(), json!(names));
    }
    let score = confidence / role.processes.len().max(1) as f64;
    Some(Draft {
        kind: Kind::WorkloadImbalance,
        suspects: role.processes.iter().take(NAMED).map(|id| names::suspect(job, *id, score)).collect(),
        accused: Vec::new(),
        confidence,
        since: changed.or(job.began()).unwrap_or(now),
        summary: heavy.sentence(&name, &words::ranks(ranks)),
        evidence,
        explains: Vec::new(),
        refuted_by,
        place: role.comms.first().map(|comm| (*comm, 0)),
    })
}

/// The nodes of a role, if no other role runs on them: then its hardware cannot be told from its work.
fn own_nodes(job: &Job, role: usize) -> Option<BTreeSet<&NodeName>> {
    let nodes = |role: &Role| -> BTreeSet<&NodeName> {
        role.processes.iter().filter_map(|id| job.process(*id)).map(|process| &process.info.node).collect()
    };
    let own = nodes(job.stages.roles.get(role)?);
    let others = job.stages.roles.iter().enumerate().filter(|(other, _)| *other != role);
    let shared = others.flat_map(|(_, role)| nodes(role)).any(|node| own.contains(node));
    (!shared).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_heavy_by_ratio_and_by_share() {
        assert_eq!(heaviest(&[0.4, 0.6, 0.4, 0.41]).map(|heavy| heavy.role), Some(1));
        assert_eq!(heaviest(&[0.4, 0.6]).map(|heavy| heavy.role), Some(1));
        assert_eq!(heaviest(&[0.80, 0.90, 0.80]), None, "a little");
        assert_eq!(heaviest(&[0.02, 0.05, 0.02]), None, "much more of nothing");
        assert_eq!(heaviest(&[0.7]), None);
        assert_eq!(heaviest(&[]), None);
        assert!(heaviest(&[0.5, 0.0, 0.0]).is_some_and(|heavy| heavy.excess().is_infinite()));
    }
}
