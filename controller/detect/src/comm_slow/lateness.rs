//! Slow links and late ranks: either may look like the other, and either may bring the other about. What is one is told as
//! one.

use std::collections::BTreeSet;

use super::{
    Key,
    cell::GROSS,
    loss::holds_up_all,
    matrix::{Pair, ends},
};
use crate::{
    case::{Draft, Slot},
    finding::Finding,
    model::{Comm, Job, Process},
    observation::{CommId, ProcessId, Timestamp},
};

/// A rank that was late this long before its links became slow makes them slow, and not the other way round.
const BEFORE_US: u64 = 10_000_000;
/// Where members of a communicator wait for times that differ by more than this part of what is lost, somebody is late.
const LATE: f64 = 0.3;
/// And where they differ by this share of the time, whatever is lost.
const CLEARLY_LATE: f64 = 0.08;
/// Members of a group that may be inside a node, at most.
const MATES: usize = 64;

/// Whether a rank of the communicators concerned is late, or some rank of the job seems to be: it waits for less time than
/// others do and spends more by itself, while a slow link makes all wait alike. A late rank must not be called a slow link, so nothing is said of links then.
pub(super) fn somebody_is_late(job: &Job, keys: &[Key], lost: f64) -> bool {
    if keys.iter().any(|key| holds_up_all(job, key)) {
        return false;
    }
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let members = |id: &CommId| job.comms.get(id).into_iter().flat_map(|comm| comm.members.values());
    let ranks: BTreeSet<ProcessId> = comms.iter().flat_map(members).map(|member| member.process).collect();
    let accused = |process: &ProcessId| ranks.contains(process);
    let told = job.cases.iter().any(|(slot, case)| match slot {
        Slot::Slow(_) => case.accused.iter().any(accused),
        Slot::Imbalance(_) => true,
        _ => false,
    });
    told || job
        .comms
        .values()
        .filter(|comm| comm.is_inner())
        .any(|comm| comm.lateness() > (lost * LATE).min(CLEARLY_LATE))
}

/// A rank that was late before may starve its own network: then that is told with its lateness.
pub(super) fn explained_by_late_rank(
    job: &mut Job,
    keys: &[Key],
    now: Timestamp,
    out: &mut Vec<Finding>,
) -> bool {
    let since = keys.iter().filter_map(|key| job.network.cells.get(key)).map(|cell| cell.numbers.since).min();
    let since = since.unwrap_or(now).after(BEFORE_US);
    let pairs: Vec<Pair> = keys.iter().filter_map(|key| ends(job, key)).collect();
    let slot = job.cases.iter().find_map(|(slot, case)| {
        let touches = |(src, dst): &Pair| case.accused.contains(src) || case.accused.contains(dst);
        let fits = matches!(slot, Slot::Slow(_)) && case.finding.since <= since && pairs.iter().all(touches);
        fits.then(|| slot.clone())
    });
    let Some(slot) = slot else { return false };
    job.cases.explain(&slot, "its network connections are slower than those of its peers".to_owned(), out);
    true
}

/// Whether these ranks are late because of a slow link of which a finding tells: then it is told there.
pub(crate) fn explains(
    job: &mut Job,
    ranks: &[ProcessId],
    late: &Draft,
    now: Timestamp,
    out: &mut Vec<Finding>,
) -> bool {
    if !is_near_slow(job, ranks) {
        return false;
    }
    let began = late.since.after(BEFORE_US).min(now);
    let slot = job.cases.iter().find_map(|(slot, case)| {
        let fits = matches!(slot, Slot::Network(_)) && case.finding.since <= began;
        fits.then(|| slot.clone())
    });
    let Some(slot) = slot else { return false };
    job.cases.explain(&slot, format!("{}: {}", late.kind.name(), late.summary), out);
    true
}

/// Whether one of these ranks is at an end of a slow link, or works closely together with one who is.
pub(crate) fn is_near_slow(job: &Job, ranks: &[ProcessId]) -> bool {
    ranks.iter().any(|process| is_near(job, *process, job.network.slow.iter()))
}

/// Whether ranks of a communicator take turns in coming late because of a slow link in it, of which a finding tells.
pub(crate) fn explains_turns(job: &Job, comm: CommId) -> bool {
    let told = job.cases.iter().any(|(slot, _)| matches!(slot, Slot::Network(_)));
    told && job.network.slow.iter().any(|key| key.comm == comm)
}

/// Whether one of these ranks may be late because of a link that is under suspicion; of one that seems to be so by itself, because of
/// one that is many times as slow: a busy GPU makes its links somewhat slower, too.
pub(crate) fn may_explain(job: &Job, ranks: &[ProcessId], by_itself: bool) -> bool {
    let least = if by_itself { GROSS } else { 0.0 };
    ranks.iter().any(|process| is_near(job, *process, suspicious(job, least)))
}

/// Whether any link of the job is under suspicion of being many times as slow: where ranks wait for each other in sends and receives,
/// what it holds up may come to light far from it.
pub(crate) fn any_is_gross(job: &Job) -> bool {
    suspicious(job, GROSS).next().is_some()
}

/// Whether a link between two of these ranks is under suspicion: then they may only seem to wait for each other, while data is under way.
pub(crate) fn any_between(job: &Job, ranks: &BTreeSet<ProcessId>) -> bool {
    let mut pairs = suspicious(job, 0.0).filter_map(|key| ends(job, key));
    pairs.any(|(src, dst)| ranks.contains(&src) && ranks.contains(&dst))
}

fn suspicious(job: &Job, least: f64) -> impl Iterator<Item = &Key> {
    let excess = |key: &Key| job.network.cells.get(key).map_or(0.0, |cell| cell.numbers.excess);
    job.network.suspicious.iter().filter(move |key| excess(key) >= least)
}

/// Whether a rank is at an end of one of the links, or works closely together with one who is.
fn is_near<'a>(job: &Job, process: ProcessId, links: impl Iterator<Item = &'a Key>) -> bool {
    let Some(process) = job.process(process) else { return false };
    let near = |end: ProcessId| {
        job.process(end).is_some_and(|end| share(job, process, end) || share_a_mate(job, process, end))
    };
    links.take(64).filter_map(|key| ends(job, key)).any(|(src, dst)| near(src) || near(dst))
}

/// Whether they divide work between them.
fn share(job: &Job, one: &Process, other: &Process) -> bool {
    let both = one.memberships.keys().filter(|id| other.memberships.contains_key(id));
    both.filter_map(|id| job.comms.get(id)).any(Comm::is_inner)
}

/// Whether a third one of their node divides work with both: groups of tensor and context parallelism, say, cross each other in a node,
/// and who waits in one comes late to the other.
fn share_a_mate(job: &Job, one: &Process, other: &Process) -> bool {
    let node = &one.info.node;
    if *node != other.info.node {
        return false;
    }
    let comms = one.memberships.keys().filter_map(|id| job.comms.get(id));
    let small = comms.filter(|comm| comm.is_inner() && comm.members.len() <= MATES);
    small.flat_map(|comm| comm.members.values()).any(|member| {
        job.process(member.process).is_some_and(|mate| mate.info.node == *node && share(job, mate, other))
    })
}

/// Ranks at the ends of slow links that came late because of them, and unevenness in those communicators.
pub(super) fn absorb(job: &mut Job, keys: &[Key], draft: &mut Draft, now: Timestamp, out: &mut Vec<Finding>) {
    let at_ends: BTreeSet<ProcessId> =
        keys.iter().filter_map(|key| ends(job, key)).flat_map(|(src, dst)| [src, dst]).collect();
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let symptoms: Vec<Slot> = job
        .cases
        .iter()
        .filter(|(slot, case)| match slot {
            Slot::Slow(_) => case.accused.iter().all(|process| at_ends.contains(process)),
            Slot::Hang | Slot::Beside(_) => true,
            Slot::Imbalance(comm) => comms.contains(comm),
            _ => false,
        })
        .map(|(slot, _)| slot.clone())
        .collect();
    for slot in symptoms {
        if let Some(old) = job.cases.clear(&slot, now, out) {
            draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
        }
    }
}
