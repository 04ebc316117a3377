//! From the evidence of all communicators to one finding: who holds the job up.
//!
//! The order in which explanations are tried is the order of how certain they are: a process that ended, a process
//! that is stopped, ranks that disagree on the operation, a rank that never came, and only then the network. If the
//! one thing that would decide cannot be seen, nobody is accused; what is missing is said instead.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    case::{Draft, Slot},
    comm_hang,
    config::Config,
    death, desync,
    finding::{Finding, Kind},
    health,
    model::{Comm, Job},
    names,
    nodes::Nodes,
    observation::{CommId, ProcessId, ProcessState, Timestamp},
    stall::{Holder, Stall, Why},
    wait::{self, Root},
    words,
};

/// Symptoms listed for one stall.
const MAX_SYMPTOMS: usize = 8;

/// Examines a job in which somebody has waited for long, and opens, amends or clears its hang.
pub(crate) fn assess(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    job.examined = now;
    let mut stalls = wait::stalls(job, nodes, config, now);
    job.suspicious.retain(|id| stalls.contains_key(id));
    job.undecided.clear();
    clear_if_resolved(job, &stalls, now, out);
    if job.stopping {
        return;
    }
    // Ranks that disagree on the operation explain everything else, wherever that shows.
    let disagree = stalls.values().find(|stall| {
        let decided = stall.holders.iter().any(|h| matches!(h.why, Why::Ended | Why::Stopped));
        !decided && job.comms.get(&stall.comm).is_some_and(|c| desync::in_stall(job, c, stall).is_some())
    });
    let disagree = disagree.map(|stall| stall.comm);
    let culprits = wait::culprits(job, &stalls);
    let root = match culprits {
        _ if disagree.is_some() => disagree.map(Root::Comm),
        Some((id, culprits)) => {
            if let Some(stall) = stalls.get_mut(&id) {
                stall.holders.retain(|holder| culprits.contains(&holder.process));
            }
            Some(Root::Comm(id))
        }
        None => wait::root(&stalls),
    };
    let Some(root) = root else { return };
    let id = match &root {
        Root::Comm(id) => *id,
        Root::Cycle(ids) => match ids.first() {
            Some(id) => *id,
            None => return,
        },
    };
    let (Some(stall), Some(comm)) = (stalls.get(&id), job.comms.get(&id)) else { return };
    if job.cases.get(&Slot::Death).is_some() {
        let symptom = symptom(comm, stall);
        job.cases.explain(&Slot::Death, symptom, out);
        return;
    }
    let longest_us = stalls.values().map(|stall| stall.longest_us).max().unwrap_or(0);
    let threshold_us = comm.rhythm.hang_us(config);
    let long = longest_us >= threshold_us;
    if let Some(ended) = stall.holders.iter().find(|holder| holder.why == Why::Ended).map(|h| h.process) {
        // Positions of a dead process are final, so a second of waiting is proof enough.
        if longest_us >= config.stopped_floor_ms.saturating_mul(1_000) {
            death::blame(job, ended, nodes, config, now, out);
        }
        return;
    }
    let draft = match &root {
        Root::Cycle(ids) if long => Some(cycle(job, ids, &stalls)),
        Root::Cycle(_) => None,
        Root::Comm(_) => diagnose(job, comm, stall, config, longest_us, threshold_us),
    };
    match draft {
        Some(mut draft) => {
            draft.explains.extend(symptoms(job, &stalls, id));
            health::join(&mut draft, job, nodes, config, now);
            accuse(job, draft, now, out);
        }
        None if long && !stall.unseen.is_empty() => job.undecided = missing(job, comm, stall),
        None if !stall.begun && stall.shortest_us >= config.learning_hang_ms.saturating_mul(1_000) => {
            let blind = "without kernel events, waiting cannot be told from computing";
            job.undecided = vec![format!("{}; {blind}", symptom(comm, stall))];
        }
        None => {}
    }
}

fn accuse(job: &mut Job, draft: Draft, now: Timestamp, out: &mut Vec<Finding>) {
    // A rank that came late by itself teaches how long pauses last; one that was stopped or a broken link does not.
    let teaches = draft.kind == Kind::NonCommHang && !draft.evidence.contains_key("stopped");
    if !teaches
        && let Some((comm, operation)) = draft.place
        && let Some(comm) = job.comms.get_mut(&comm)
    {
        comm.rhythm.disturbed_at(operation);
    }
    let (id, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(Slot::Hang, draft, &id, incarnation, now, out);
}

/// One communicator's evidence, from the most certain explanation to the least.
fn diagnose(
    job: &Job,
    comm: &Comm,
    stall: &Stall,
    config: &Config,
    longest_us: u64,
    threshold_us: u64,
) -> Option<Draft> {
    let stopped: Vec<Holder> = stall.holders.iter().filter(|h| h.why == Why::Stopped).copied().collect();
    if !stopped.is_empty() {
        let enough = longest_us >= config.stopped_floor_ms.saturating_mul(1_000);
        return enough.then(|| held_up(job, comm, stall, &stopped, threshold_us));
    }
    if let Some(draft) = desync::in_stall(job, comm, stall)
        && longest_us >= config.stopped_floor_ms.saturating_mul(1_000)
    {
        return Some(draft);
    }
    if longest_us < threshold_us {
        return None;
    }
    if stall.holders.is_empty() {
        // One that came last, and long after the others, has only just come. And what nobody has begun may be waiting
        // for a computation.
        if !stall.unseen.is_empty() || stall.shortest_us < threshold_us || !stall.begun {
            return None;
        }
        return Some(comm_hang::nobody_finishes(job, comm, stall, threshold_us));
    }
    let busy = stall.holders.iter().any(|holder| {
        holder.why == Why::NotEntered
            && job
                .process(holder.process)
                .is_some_and(|p| matches!(p.state, ProcessState::Running | ProcessState::DiskWait))
    });
    let allowed_us =
        if busy { threshold_us.max(config.busy_pause_ms.saturating_mul(1_000)) } else { threshold_us };
    (longest_us >= allowed_us).then(|| held_up(job, comm, stall, &stall.holders, threshold_us))
}

/// Some ranks wait for others.
fn held_up(job: &Job, comm: &Comm, stall: &Stall, holders: &[Holder], threshold_us: u64) -> Draft {
    let mut ranked: Vec<Holder> = holders.to_vec();
    ranked.sort_by_key(|holder| (holder.why, std::cmp::Reverse(holder.behind)));
    let accused: Vec<ProcessId> = ranked.iter().map(|holder| holder.process).collect();
    let first = ranked[0];
    let behind = ranked.iter().map(|holder| holder.behind).max().unwrap_or(0);
    let base = match (first.why, ranked.len()) {
        (Why::Stopped, 1) => 0.98,
        (Why::Stopped, _) => 0.9,
        (_, 1) => 0.85,
        (_, n) if n * 2 <= comm.members.len() => 0.7,
        _ => 0.5,
    };
    // A rank that is alive may yet come: the longer it does not, the surer.
    let early = first.why == Why::NotEntered && stall.longest_us < threshold_us.saturating_mul(2);
    let hidden = first.why != Why::Stopped && !stall.unseen.is_empty();
    let unsure = if hidden { 0.25 } else { 0.0 } + if early { 0.15 } else { 0.0 };
    let suspects = ranked
        .iter()
        .map(|holder| {
            let share = if behind == 0 { 1.0 } else { holder.behind.max(1) as f64 / behind.max(1) as f64 };
            names::suspect(job, holder.process, base * (0.5 + 0.5 * share))
        })
        .collect();
    let what = format!("{} #{}", stall.function, stall.operation);
    let others = words::count(stall.waiting.len(), "rank");
    let verb = if stall.waiting.len() == 1 { "waits" } else { "wait" };
    let since = words::duration(stall.longest_us);
    let names = names::list(job, &accused);
    let (has, is) = if accused.len() == 1 { ("has", "is") } else { ("have", "are") };
    let summary = match first.why {
        Why::Stopped => {
            format!("{names} {is} stopped by a signal (state T), and {others} {verb} in {what} since {since}")
        }
        Why::Queued => format!(
            "{names} {has} enqueued {what} but {has} not started it on the GPU, whose stream is busy; {others} {verb} in it since {since}"
        ),
        Why::Left => {
            format!("{names} {has} left the communicator while {others} {verb} in {what} since {since}")
        }
        Why::NotEntered | Why::Ended => {
            format!(
                "{names} {has} not entered {what} that {others} {verb} in since {since}{}",
                doing(job, first.process)
            )
        }
    };
    let mut evidence = numbers(comm, stall, threshold_us);
    if first.why == Why::Stopped {
        evidence.insert("stopped".into(), json!("stopped by a signal (state T)"));
    }
    evidence.insert(
        "holders".into(),
        Value::Array(ranked.iter().take(16).map(|h| holder_value(job, comm, h)).collect()),
    );
    Draft {
        kind: Kind::NonCommHang,
        suspects,
        accused,
        confidence: base - unsure,
        since: stall.since,
        summary,
        evidence,
        explains: Vec::new(),
        refuted_by: "the suspect enters the operation by itself, or a rank that holds it up is found",
        place: Some((comm.id, stall.operation)),
    }
}

fn doing(job: &Job, process: ProcessId) -> &'static str {
    match job.process(process).map(|p| p.state) {
        Some(ProcessState::DiskWait) => "; the process waits for a device (state D)",
        Some(ProcessState::Zombie) => "; the process has ended and was not reaped",
        Some(ProcessState::Sleeping) => "; the process sleeps",
        Some(ProcessState::Running) => "; the process is on a CPU",
        _ => "",
    }
}

fn holder_value(job: &Job, comm: &Comm, holder: &Holder) -> Value {
    let member = comm.members.values().find(|member| member.process == holder.process);
    let why = match holder.why {
        Why::Ended => "ended",
        Why::Stopped => "stopped",
        Why::NotEntered => "not_entered",
        Why::Queued => "queued",
        Why::Left => "left",
    };
    json!({
        "who": names::short(job, holder.process),
        "why": why,
        "enqueued": member.map(|m| m.enqueued),
        "started": member.map(|m| m.started),
        "completed": member.map(|m| m.completed),
        "state": job.process(holder.process).map(|p| p.state),
    })
}

/// Communicators that wait for each other: the program's own deadlock.
fn cycle(job: &Job, ids: &[CommId], stalls: &BTreeMap<CommId, Stall>) -> Draft {
    let mut accused = Vec::new();
    let mut sides = Vec::new();
    let (mut longest_us, mut since) = (0, Timestamp(u64::MAX));
    for stall in ids.iter().filter_map(|id| stalls.get(id)) {
        let holders: Vec<ProcessId> = stall.holders.iter().map(|holder| holder.process).collect();
        let label = job.comms.get(&stall.comm).map(Comm::label).unwrap_or_default();
        sides.push(format!(
            "{} in {} #{} of {label} for {}",
            names::list(job, &stall.waiting),
            stall.function,
            stall.operation,
            names::list(job, &holders)
        ));
        longest_us = longest_us.max(stall.longest_us);
        since = since.min(stall.since);
        accused.extend(holders);
    }
    accused.dedup();
    Draft {
        kind: Kind::Desync,
        suspects: accused.iter().map(|process| names::suspect(job, *process, 0.5)).collect(),
        accused,
        confidence: 0.7,
        since,
        summary: format!(
            "the program waits for itself since {}: {}",
            words::duration(longest_us),
            sides.join("; ")
        ),
        evidence: std::iter::once(("cycle".to_owned(), json!(sides))).collect(),
        explains: Vec::new(),
        refuted_by: "one of the operations finishes",
        place: ids.first().and_then(|id| stalls.get(id)).map(|stall| (stall.comm, stall.operation)),
    }
}

pub(crate) fn numbers(comm: &Comm, stall: &Stall, threshold_us: u64) -> BTreeMap<String, Value> {
    let seconds = |us: u64| (us as f64 / 1_000.0).round() / 1_000.0;
    let mut map = BTreeMap::new();
    map.insert("communicator".into(), json!(comm.label()));
    map.insert("operation".into(), json!(stall.operation));
    map.insert("function".into(), json!(stall.function));
    map.insert("waiting".into(), json!(stall.waiting.len()));
    map.insert("ranks".into(), json!(comm.size));
    map.insert("longest_wait_seconds".into(), json!(seconds(stall.longest_us)));
    map.insert("threshold_seconds".into(), json!(seconds(threshold_us)));
    map.insert("longest_normal_wait_seconds".into(), json!(seconds(comm.rhythm.longest_wait_us())));
    if let Some(us) = comm.rhythm.iteration_us() {
        map.insert("iteration_seconds".into(), json!(seconds(us)));
    }
    if !stall.unseen.is_empty() {
        let unseen: Vec<String> = stall
            .unseen
            .iter()
            .take(8)
            .map(|(rank, why)| format!("rank {rank} of {}: {why}", comm.label()))
            .collect();
        map.insert("not_seen".into(), json!(unseen));
    }
    map
}

/// What a stall looks like from outside. Without numbers that change while it lasts, so that it is told once.
fn symptom(comm: &Comm, stall: &Stall) -> String {
    format!("ranks wait in {} #{} of {}", stall.function, stall.operation, comm.label())
}

/// Stalls elsewhere that follow from the one at the root.
fn symptoms(job: &Job, stalls: &BTreeMap<CommId, Stall>, root: CommId) -> Vec<String> {
    let others = stalls.iter().filter(|(id, _)| **id != root);
    others.filter_map(|(id, stall)| Some(symptom(job.comms.get(id)?, stall))).take(MAX_SYMPTOMS).collect()
}

/// Why a stall cannot be pinned on anybody.
fn missing(job: &Job, comm: &Comm, stall: &Stall) -> Vec<String> {
    let mut missing = vec![format!("{}, and who holds them up cannot be seen", symptom(comm, stall))];
    for (comm_rank, why) in stall.unseen.iter().take(8) {
        missing.push(format!("{}: {why}", names::member(job, comm, *comm_rank)));
    }
    missing
}

/// A hang is over when the operation that was waited in has finished somewhere, or nobody is in it any more.
fn clear_if_resolved(
    job: &mut Job,
    stalls: &BTreeMap<CommId, Stall>,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let Some(case) = job.cases.get(&Slot::Hang) else { return };
    let Some((id, operation)) = case.place else { return };
    let over = job.comms.get(&id).is_none_or(|comm| {
        let alive = |process| job.process(process).is_some_and(|p| p.alive());
        let mut there = comm.members.values().filter(|m| !m.left && alive(m.process)).peekable();
        there.peek().is_none() || there.any(|m| m.completed > operation)
    });
    // Members that finish an operation do not all do so in the same window.
    let still = stalls.get(&id).is_some_and(|stall| stall.operation == operation);
    if over && !still {
        job.cases.clear(&Slot::Hang, now, out);
    }
}
