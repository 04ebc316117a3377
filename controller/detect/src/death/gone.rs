//! Ranks whose node went out of sight when their peers failed, and stayed so: its power, kernel or network is gone, and nobody will
//! tell how they ended. It is taken back if they are seen again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::silence::{is_given_up, is_out_of_sight};
use crate::{
    case::{Draft, Slot},
    config::Config,
    finding::{CERTAINTY, Finding, Kind, Suspect},
    health,
    model::{Fate, Job, Process},
    names,
    nodes::Nodes,
    observation::{NodeName, ProcessId, Timestamp},
    words,
};

/// Windows come every second, and a node that loses its network may lose the one to its peers a moment before the one to the controller.
const TOGETHER_US: u64 = 2_500_000;
/// How sure it is that they were the first, and that the job has lost somebody.
const CONFIDENCE: f64 = 0.7;
const CERTAIN: f64 = 0.97;

/// Names the nodes whose ranks went out of sight just before a process failed. Returns whether there are any.
pub(super) fn accuse(
    job: &mut Job,
    victim: ProcessId,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) -> bool {
    let Some(end) = job.process(victim).and_then(|process| process.end.clone()) else { return false };
    if !is_given_up(&end, now) {
        return false;
    }
    let went = |process: &Process| {
        process.seen.is_some_and(|seen| seen <= end.at && end.at.micros_since(seen) <= TOGETHER_US)
    };
    let gone =
        job.processes.iter().filter(|(_, one)| one.alive() && is_out_of_sight(one, nodes) && went(one));
    let gone: Vec<ProcessId> = gone.map(|(id, _)| *id).collect();
    let last = gone.iter().filter_map(|id| job.process(*id)?.seen).max();
    let Some(last) = last else { return false };
    let lost: BTreeSet<&NodeName> = gone.iter().filter_map(|id| Some(&job.process(*id)?.info.node)).collect();
    let score = CONFIDENCE / lost.len() as f64;
    let suspect = |node: &&NodeName| Suspect { node: Some((*node).clone()), score, ..Suspect::default() };
    let mut evidence = BTreeMap::new();
    evidence.insert(CERTAINTY.into(), json!(CERTAIN));
    evidence.insert("seconds_out_of_sight".into(), json!(now.micros_since(last) as f64 * 1e-6));
    let mut draft = Draft {
        kind: Kind::ProcessDeath,
        suspects: lost.iter().map(suspect).collect(),
        confidence: CONFIDENCE,
        since: last,
        summary: format!(
            "{} went out of sight after {} UTC with {}, and peers failed then",
            words::list(&lost.iter().map(|node| node.0.clone()).collect::<Vec<_>>(), 6),
            words::clock(last),
            names::list(job, &gone)
        ),
        evidence,
        explains: Vec::new(),
        refuted_by: "the node is seen again, and its ranks live or ended later than their peers",
        accused: gone,
        place: None,
    };
    health::join(&mut draft, job, nodes, config, now);
    let (name, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(Slot::Death, draft, &name, incarnation, now, out);
    true
}

/// Takes it back if any of them is seen to live: their peers are judged again.
pub(crate) fn reconsider(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    let Some(case) = job.cases.get(&Slot::Death) else { return };
    // Later than this their peers had failed. What was kept meanwhile may show them before.
    let failed = case.finding.since.after(TOGETHER_US);
    let lives = |id: &ProcessId| {
        job.process(*id).is_some_and(|one| {
            one.alive() && one.zombie.is_none() && one.seen.is_some_and(|seen| seen > failed)
        })
    };
    if !case.accused.iter().any(lives) {
        return;
    }
    job.cases.clear(&Slot::Death, now, out);
    for process in job.processes.values_mut() {
        if let Some(end) = process.end.as_mut().filter(|end| end.fate == Fate::Death) {
            end.fate = Fate::Pending;
            job.pending_ends.insert(process.info.process);
        }
    }
}
