//! From late ranks to findings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Lateness, News};
use crate::{
    case::{Case, Draft, Slot},
    comm_slow,
    config::Config,
    desync,
    finding::{Finding, Kind},
    health,
    model::{Comm, Job, Process},
    names,
    nodes::Nodes,
    observation::{CommId, NodeName, ProcessId, Timestamp},
    pace, words,
};

/// How many times as late somebody else has to be to be the cause.
const BY_FAR: f64 = 1.3;
/// From which part of its lateness on a rank works longer than before by so much that no other pipeline can be the cause.
const BY_ITSELF: f64 = 0.8;
/// Ranks of one node that become late within this time have one cause.
const TOGETHER_US: u64 = 15_000_000;

/// How long a late rank is not accused because a link that may be the cause is under suspicion, at least, and in
/// iterations. So many times as long where the link is slow for certain: then it is known what is wrong, and only not yet with
/// which of the links around it.
const HOLD_US: u64 = 20_000_000;
const HOLD_ITERATIONS: u64 = 8;
const HOLD_FOR_SLOW: u64 = 3;

/// A rank that is late, perhaps because of a slow link.
#[derive(Debug)]
pub(crate) struct Held {
    comm: CommId,
    comm_rank: u32,
    lateness: Lateness,
    since: Timestamp,
}

/// Turns what was found in blocks into findings.
pub(crate) fn assess(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    for id in std::mem::take(&mut job.news) {
        let Some(comm) = job.comms.get_mut(&id) else { continue };
        let news = std::mem::take(&mut comm.slowness.news);
        for item in news {
            // While the job stands still or is being stopped, lateness is a symptom.
            let disturbed =
                job.stopping || job.cases.get(&Slot::Death).is_some() || job.cases.hangs().next().is_some();
            tell(job, id, item, None, disturbed, nodes, config, now, out);
        }
    }
}

/// Looks again at ranks that were not accused because a link was under suspicion.
pub(crate) fn reconsider(
    job: &mut Job,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    for held in std::mem::take(&mut job.held) {
        let Held { comm, comm_rank, lateness, since } = held;
        tell(job, comm, News::Late(comm_rank, lateness), Some(since), false, nodes, config, now, out);
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, which passes everything on")]
fn tell(
    job: &mut Job,
    id: CommId,
    news: News,
    since: Option<Timestamp>,
    disturbed: bool,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let Some(comm) = job.comms.get(&id) else { return };
    let hold_us = HOLD_US.max(job.iteration_us().saturating_mul(HOLD_ITERATIONS));
    let holds = |job: &Job, since: Timestamp, ranks: &[ProcessId]| {
        let times = if comm_slow::is_near_slow(job, ranks) { HOLD_FOR_SLOW } else { 1 };
        now.micros_since(since) < hold_us.saturating_mul(times)
    };
    let (slot, mut draft) = match news {
        News::Late(comm_rank, lateness) => {
            if made_late(job, comm, comm_rank, &lateness) {
                return;
            }
            let role = whole_role(job, comm, comm_rank);
            // Beside computation, whoever comes last has most time of its own, for whatever reason it does. And where others wait
            // for it in sends and receives, if they do, a slow transfer beside which it computed no longer hides that.
            let told_alone = lateness.by_itself && !lateness.is_elsewhere();
            let by_itself = told_alone && comm.slowness.is_awaited();
            let found_at = since.unwrap_or(now);
            let found = match &role {
                Some(role) => Some((Slot::Imbalance(id), heavy(job, comm, role, &lateness, found_at))),
                None => late(job, comm, comm_rank, &lateness, (found_at, now)),
            };
            let Some((slot, draft)) = found.filter(|_| !disturbed) else { return };
            let ranks = role.unwrap_or_else(|| draft.accused.clone());
            if comm_slow::explains(job, &ranks, &draft, now, out) {
                return;
            }
            let by_link = comm_slow::may_explain(job, &ranks, told_alone)
                || (lateness.is_elsewhere() && comm_slow::any_is_gross(job));
            let held = !by_itself && by_link;
            if held && since.is_none_or(|since| holds(job, since, &ranks)) {
                return job.held.push(Held { comm: id, comm_rank, lateness, since: since.unwrap_or(now) });
            }
            (slot, draft)
        }
        News::Recovered(comm_rank) => {
            let Some(process) = comm.members.get(&comm_rank).map(|member| member.process) else { return };
            job.held.retain(|held| (held.comm, held.comm_rank) != (id, comm_rank));
            job.cases.clear_where(now, out, |slot, case| {
                *slot == Slot::Imbalance(id) && is_about(case, BY_LATENESS)
            });
            return recovered(job, process, now, out);
        }
        News::Turns { loss, last, samples } if !disturbed && !comm_slow::explains_turns(job, id) => {
            (Slot::Imbalance(id), turns(job, comm, loss, &last, samples, now))
        }
        News::Disagree { first, length, sides } if !disturbed => {
            match desync::in_blocks(job, comm, first, length, &sides, now) {
                Some(draft) => (Slot::Desync(id), draft),
                None => return,
            }
        }
        News::Turns { .. } | News::Disagree { .. } => return,
        News::Even => {
            // The data is uneven as long as it is in any communicator.
            if !job.comms.values().any(|comm| comm.slowness.is_uneven()) {
                job.cases.clear_where(now, out, |_, case| is_about(case, BY_DATA));
            }
            return;
        }
    };
    let other = |(at, _): &(&Slot, &Case)| matches!(at, Slot::Imbalance(_)) && **at != slot;
    let known = job.cases.iter().find(other).map(|(at, _)| at.clone());
    if let (Slot::Imbalance(_), Some(known)) = (&slot, known) {
        // An unbalanced job is unbalanced once, in however many communicators it shows.
        let label = job.comms.get(&id).map_or_else(String::new, Comm::label);
        let symptom = format!("the same in {label}");
        return job.cases.explain(&known, symptom, out);
    }
    if matches!(slot, Slot::Slow(_))
        && let Some(old) = job.cases.clear(&Slot::Imbalance(id), now, out)
    {
        draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
    }
    if draft.kind == Kind::NonCommSlow {
        let node = draft.suspects.first().and_then(|suspect| suspect.node.as_ref());
        if let Some(class) = node.and_then(|node| nodes.nic_class(node)) {
            draft.evidence.insert("nic_class".into(), json!(class));
        }
        health::join(&mut draft, job, nodes, config, now);
    }
    if let Some(change) = job.pace.near(draft.since) {
        draft.evidence.insert(pace::EVIDENCE.into(), pace::evidence(change));
    }
    let (name, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(slot, draft, &name, incarnation, now, out);
}

fn late(
    job: &Job,
    comm: &Comm,
    comm_rank: u32,
    lateness: &Lateness,
    (found_at, now): (Timestamp, Timestamp),
) -> Option<(Slot, Draft)> {
    let process = comm.members.get(&comm_rank)?.process;
    let since = found_at.before(lateness.elapsed_ns / 1_000);
    // Ranks of one node that become late together are one finding.
    let node = job.process(process).map(|p| &p.info.node);
    let companion = job.cases.iter().find(|(slot, case)| {
        matches!(slot, Slot::Slow(_))
            && now.micros_since(case.finding.since) < now.micros_since(since).saturating_add(TOGETHER_US)
            && case.accused.iter().any(|other| job.process(*other).map(|p| &p.info.node) == node)
    });
    let (slot, mut accused) = match companion {
        Some((slot, case)) => (slot.clone(), case.accused.clone()),
        None => (Slot::Slow(process), Vec::new()),
    };
    if !accused.contains(&process) {
        accused.push(process);
    }
    let excess = (lateness.fraction / lateness.threshold).max(1.0);
    // Without kernel events the start is the host's, and a host that enqueues late need not be a GPU that is late.
    let kernel_events = job.process(process).is_some_and(|p| p.kernel_events);
    let confidence = (0.6 + 0.1 * (excess - 1.0)).min(if kernel_events { 0.9 } else { 0.5 });
    let ms = |ns: u64| (ns as f64 / 1e4).round() / 100.0;
    let percent = |x: f64| (x * 1_000.0).round() / 10.0;
    let (comes, works, them) =
        if accused.len() == 1 { ("comes", "works", "it") } else { ("come", "work", "them") };
    // Where others wait for it elsewhere, in sends and receives, it is not late to collectives.
    let late = if lateness.is_elsewhere() {
        format!("{works} longer than before, by")
    } else {
        format!("{comes} late to collectives by")
    };
    let often = match lateness.share {
        // Less often is, rounded, one of two or more.
        share if share > 0.66 => "an iteration".to_owned(),
        share => format!("in about one of {:.0} iterations", 1.0 / share.max(1e-3)),
    };
    let others = match comm.members.len().saturating_sub(accused.len()) {
        1 => "the other rank waits".to_owned(),
        others => format!("the other {others} ranks wait"),
    };
    let summary = format!(
        "{} {late} {} {often} ({:.0} % of it) since {} UTC; {others} for {them}",
        names::list(job, &accused),
        words::duration(lateness.per_iteration_ns / 1_000),
        lateness.fraction * 100.0,
        words::clock(since),
    );
    let evidence = [
        ("communicator", json!(comm.label())),
        ("lateness_ms_per_iteration", json!(ms(lateness.per_iteration_ns))),
        ("lateness_percent", json!(percent(lateness.fraction))),
        ("samples", json!(lateness.samples)),
        ("late_share_percent", json!(percent(lateness.share))),
        ("iterations", json!(lateness.iterations.round())),
        ("peers_median_wait_ms_per_iteration", json!(ms(lateness.peers_wait_ns))),
        ("own_wait_ms_per_iteration", json!(ms(lateness.own_wait_ns))),
        ("threshold_percent", json!(percent(lateness.threshold))),
        ("noise_percent", json!(percent(lateness.noise))),
        ("kernel_events", json!(kernel_events)),
    ];
    let draft = Draft {
        kind: Kind::NonCommSlow,
        suspects: accused.iter().map(|process| names::suspect(job, *process, confidence)).collect(),
        accused,
        confidence,
        since,
        summary,
        evidence: evidence
            .into_iter()
            .chain(lateness.is_step.then_some(("later_than_before", json!(true))))
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        explains: Vec::new(),
        refuted_by: "the rank has more work than its peers by design, or other ranks come late as often",
        place: Some((comm.id, 0)),
    };
    Some((slot, draft))
}

/// Whether somebody else in the job is later, in a communicator beside which ranks compute: there it cannot be seen whether
/// a rank was made late by others. That one will be found. Where the same place is late in a communicator of the same kind,
/// both are parts of one pipeline, and it comes from where a rank works longer than before by more, or, if that is not known, is
/// later; anybody else has to by far.
fn made_late(job: &Job, comm: &Comm, comm_rank: u32, lateness: &Lateness) -> bool {
    // Bubbles and computation ahead may leave more lateness elsewhere than where it comes from: but there the time is spent.
    let is_more = |late: f64, rise: Option<f64>, times: f64| match rise.zip(lateness.own_rise) {
        Some((known, own)) => known > own * times,
        None => late > lateness.fraction * times,
    };
    let process = comm.members.get(&comm_rank).and_then(|member| job.process(member.process));
    let later = |other: &Comm| {
        let slowness = &other.slowness;
        // Its own place there, too, or else it would be silent in each of two because of the other.
        let own_place = process.and_then(|process| process.memberships.get(&other.id)).copied();
        let is_alike = other.kind == comm.kind && own_place != Some(comm_rank);
        let repeated = slowness.repeated(comm_rank).unwrap_or(0.0);
        let same_place = is_alike && is_more(repeated, slowness.own_rise(comm_rank), 1.0);
        // Other places there are other pipelines.
        let apart = is_alike && lateness.own_rise.is_some_and(|own| own >= lateness.fraction * BY_ITSELF);
        let anybody =
            || slowness.worst_but(own_place).is_some_and(|(late, rise)| is_more(late, rise, BY_FAR));
        same_place || (!apart && anybody())
    };
    let mut others = job.comms.values().filter(|other| other.judged && other.id != comm.id);
    !comm.slowness.is_awaited() && others.any(later)
}

/// What an imbalance was recognised by, under "imbalance" and "recognised_by".
const BY_DATA: (&str, &str) = ("imbalance", "data");
const BY_LATENESS: (&str, &str) = ("recognised_by", "lateness");

fn is_about(case: &Case, (key, value): (&str, &str)) -> bool {
    case.finding.evidence.get(key).is_some_and(|known| known == value)
}

/// Communicators of one kind in which the same place comes late, and ranks of which each meets others of them elsewhere: then
/// what is late is a role, not a rank. The groups that the first and the last stage of a pipeline share are like that.
/// Ranks of one node are not (that node is slow), nor are those of one pipeline (one of them makes all others late).
fn whole_role(job: &Job, comm: &Comm, comm_rank: u32) -> Option<Vec<ProcessId>> {
    let alike = |other: &Comm| (&other.name, other.size) == (&comm.name, comm.size);
    let siblings = job.comms.values().filter(|other| other.id != comm.id && other.judged && alike(other));
    let (mut number, mut late) = (0, BTreeSet::from([comm.members.get(&comm_rank)?.process]));
    for sibling in siblings {
        number += 1;
        if sibling.slowness.leans_late(comm_rank) {
            late.extend(sibling.members.get(&comm_rank).map(|member| member.process));
        }
    }
    if number < 2 || (late.len() - 1) * 10 < number * 6 {
        return None;
    }
    let processes = || late.iter().filter_map(|id| Some((*id, job.process(*id)?)));
    let meets = |id: ProcessId, process: &Process| {
        let elsewhere = process.memberships.keys().filter_map(|comm| job.comms.get(comm));
        elsewhere.filter(|other| other.judged && !alike(other)).any(|other| {
            other.members.values().any(|member| member.process != id && late.contains(&member.process))
        })
    };
    let nodes: BTreeSet<&NodeName> = processes().map(|(_, process)| &process.info.node).collect();
    let is_role = nodes.len() > 1 && processes().all(|(id, process)| meets(id, process));
    is_role.then(|| late.iter().copied().collect())
}

fn heavy(job: &Job, comm: &Comm, role: &[ProcessId], lateness: &Lateness, now: Timestamp) -> Draft {
    let confidence = 0.5;
    let score = confidence / role.len() as f64;
    let ranks = role.iter().filter_map(|id| job.process(*id)?.info.rank);
    Draft {
        kind: Kind::WorkloadImbalance,
        suspects: role.iter().take(16).map(|id| names::suspect(job, *id, score)).collect(),
        accused: Vec::new(),
        confidence,
        since: now.before(lateness.elapsed_ns / 1_000),
        summary: format!(
            "ranks {} come late to collectives alike, each in its own communicator like {}, by {:.0} % of an iteration: they have more work than the others; no single rank is at fault",
            words::ranks(ranks),
            comm.label(),
            lateness.fraction * 100.0,
        ),
        evidence: [
            ("communicator", json!(comm.label())),
            ("imbalance", json!("stage")),
            ("recognised_by", json!("lateness")),
            ("lateness_percent", json!((lateness.fraction * 1_000.0).round() / 10.0)),
            ("ranks", json!(role.len())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect(),
        explains: Vec::new(),
        refuted_by: "only some of these ranks come late, or those of one node more than the others",
        place: Some((comm.id, 0)),
    }
}

/// A finding about several ranks is over when none of them is late any more.
fn recovered(job: &mut Job, process: ProcessId, now: Timestamp, out: &mut Vec<Finding>) {
    let late = |accused: &ProcessId| {
        job.process(*accused).is_some_and(|p| {
            p.alive()
                && p.memberships
                    .iter()
                    .any(|(id, rank)| job.comms.get(id).is_some_and(|comm| comm.slowness.is_late(*rank)))
        })
    };
    let slots: Vec<Slot> = job
        .cases
        .iter()
        .filter(|(slot, case)| {
            matches!(slot, Slot::Slow(_)) && case.accused.contains(&process) && !case.accused.iter().any(late)
        })
        .map(|(slot, _)| slot.clone())
        .collect();
    for slot in slots {
        job.cases.clear(&slot, now, out);
    }
}

fn turns(
    job: &Job,
    comm: &Comm,
    loss: f64,
    last: &BTreeMap<u32, usize>,
    samples: usize,
    now: Timestamp,
) -> Draft {
    let mut ranked: Vec<(u32, usize)> = last.iter().map(|(rank, n)| (*rank, *n)).collect();
    ranked.sort_by_key(|(rank, n)| (std::cmp::Reverse(*n), *rank));
    let suspects = ranked
        .iter()
        .take(8)
        .filter_map(|(rank, n)| {
            let process = comm.members.get(rank)?.process;
            Some(names::suspect(job, process, *n as f64 / samples as f64))
        })
        .collect();
    let elapsed_us = comm.rhythm.iteration_us().unwrap_or(0).saturating_mul(samples as u64);
    Draft {
        kind: Kind::WorkloadImbalance,
        suspects,
        accused: Vec::new(),
        confidence: 0.6,
        since: now.before(elapsed_us),
        summary: format!(
            "the work of {} is uneven: {:.0} % of the time is lost to ranks that come late in turns ({} of {} were last at some time); no single rank is at fault",
            comm.label(),
            loss * 100.0,
            last.len(),
            comm.members.len(),
        ),
        evidence: [
            ("communicator", json!(comm.label())),
            ("imbalance", json!("data")),
            ("loss_percent", json!((loss * 1_000.0).round() / 10.0)),
            ("samples", json!(samples)),
            ("ranks_that_were_last", json!(last.len())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect(),
        explains: Vec::new(),
        refuted_by: "one rank comes late far more often than the others",
        place: Some((comm.id, 0)),
    }
}
