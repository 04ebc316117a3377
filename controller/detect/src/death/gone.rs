//! Ranks whose node went out of sight when their peers failed, and stayed so: its power, kernel or network is gone, and nobody will
//! tell how they ended. It is taken back if they are seen again.
//!
//! Peers fail when their connections time out, which takes milliseconds or minutes. So a node was there last either just before
//! they did, or else the job has stood still from then until they failed: they waited, somebody waited for ranks of that node,
//! and no collective in which these take part has ended since.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::silence::{is_given_up, is_out_of_sight};
use crate::{
    case::{Draft, Slot},
    config::Config,
    finding::{CERTAINTY, Finding, Kind, Suspect},
    health,
    model::{Fate, Job, Member, Process},
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
    let went = |one: &Process| {
        one.seen.is_some_and(|seen| seen <= end.at && end.at.micros_since(seen) <= TOGETHER_US)
    };
    let missed = if waits(job, victim) { missed(job, nodes, end.at) } else { BTreeSet::new() };
    let is_gone = |one: &Process| {
        one.alive() && is_out_of_sight(one, nodes) && (went(one) || missed.contains(&one.info.node))
    };
    let gone: Vec<ProcessId> =
        job.processes.iter().filter(|(_, one)| is_gone(one)).map(|(id, _)| *id).collect();
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

/// Nodes out of sight whose ranks were last seen before then, and for some of which the job has stood still since.
fn missed<'a>(job: &'a Job, nodes: &Nodes, before: Timestamp) -> BTreeSet<&'a NodeName> {
    let (mut missed, mut there) = (BTreeSet::new(), BTreeSet::new());
    for comm in job.comms.values() {
        let members =
            || comm.members.iter().filter_map(|(rank, one)| Some((rank, one, job.process(one.process)?)));
        let is_out = |process: &Process| process.alive() && is_out_of_sight(process, nodes);
        let in_sight =
            || members().filter(|(_, one, process)| !one.left && !is_out(process)).map(|(_, one, _)| one);
        let ended = in_sight().filter_map(ended_at).max();
        let waits = in_sight().filter(|one| is_in_collective(one)).filter_map(|one| one.at).max();
        let exchanges = |one: &'a Member| {
            one.pending_peers.iter().filter(|open| open.started).zip(std::iter::repeat(one.at))
        };
        let awaited: BTreeMap<u32, Option<Timestamp>> =
            in_sight().flat_map(exchanges).map(|(open, at)| (open.peer, at)).collect();
        for (rank, _, process) in members().filter(|(_, _, process)| is_out(process)) {
            let Some(seen) = process.seen.filter(|seen| *seen <= before) else { continue };
            if waits.max(awaited.get(&rank).copied().flatten()) > Some(seen) {
                missed.insert(&process.info.node);
            }
            if ended > Some(seen.after(TOGETHER_US)) {
                there.insert(&process.info.node);
            }
        }
    }
    missed.difference(&there).copied().collect()
}

/// Whether a process was last seen waiting for others.
fn waits(job: &Job, id: ProcessId) -> bool {
    let memberships = job.process(id).into_iter().flat_map(|process| process.memberships.iter());
    let mut members = memberships.filter_map(|(comm, rank)| job.comms.get(comm)?.members.get(rank));
    members.any(|member| is_in_collective(member) || member.pending_peers.iter().any(|open| open.started))
}

fn is_in_collective(member: &Member) -> bool {
    member.in_flight.as_ref().is_some_and(|op| op.started)
}

/// When the last collective of a member ended, at the latest.
fn ended_at(member: &Member) -> Option<Timestamp> {
    (member.completed > 0).then(|| member.completed_at())
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
