//! Some ranks wait in a collective for others that do not come.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    case::Draft,
    config::Config,
    finding::{CERTAINTY, Kind},
    model::{Comm, Job, Process},
    names,
    observation::{ProcessId, ProcessState},
    patience,
    stall::{Holder, Stall, Why},
    words,
};

/// The finding, once they have waited for long enough, which depends on what is known of those that hold them up.
pub(crate) fn draft(
    job: &Job,
    comm: &Comm,
    stall: &Stall,
    holders: &[Holder],
    config: &Config,
) -> Option<Draft> {
    let threshold_us = patience::held(job, comm, holders, config);
    let allowed_us = match holders.first()?.why.class() {
        Why::Stopped => config.stopped_floor_ms.saturating_mul(1_000),
        _ if is_busy(job, holders) => threshold_us.max(config.busy_pause_ms.saturating_mul(1_000)),
        _ => threshold_us,
    };
    (stall.longest_us >= allowed_us).then(|| {
        let mut draft = held_up(job, comm, stall, holders, threshold_us);
        certain(&mut draft, stall.longest_us, threshold_us);
        draft
    })
}

/// Whether one that has not come is on a CPU or waits for a device, as one that writes a checkpoint does, or did so until a
/// moment ago.
pub(crate) fn is_busy(job: &Job, holders: &[Holder]) -> bool {
    let works = |state| matches!(state, ProcessState::Running | ProcessState::DiskWait);
    holders.iter().any(|holder| match holder.why {
        Why::Arriving => true,
        Why::NotEntered => {
            job.process(holder.process).is_some_and(|process| works(process.state) && !process.gpu_spins())
        }
        _ => false,
    })
}

/// How sure it is that these are to blame, and how much less so because it is early. `members` is how many could be
/// to blame, where that is known.
pub(crate) fn confidence(
    why: Why,
    accused: usize,
    members: Option<usize>,
    longest_us: u64,
    threshold_us: u64,
) -> (f64, f64) {
    let base = match (why, accused) {
        (Why::Stopped, 1) => 0.98,
        (Why::Stopped, _) => 0.9,
        (_, 1) => 0.85,
        (_, n) if members.is_none_or(|members| n * 2 <= members) => 0.7,
        _ => 0.5,
    };
    // A rank that is alive may yet come: the longer it does not, the surer.
    let early = why == Why::NotEntered && longest_us < threshold_us.saturating_mul(2);
    (base, if early { 0.15 } else { 0.0 })
}

/// Says in the evidence how sure it is that nobody gets on: surer than who is to blame, after a while.
pub(crate) fn certain(draft: &mut Draft, longest_us: u64, threshold_us: u64) {
    // Twice the threshold is far beyond anything that ever resolved by itself.
    let certainty: f64 = if longest_us >= threshold_us.saturating_mul(2) { 0.95 } else { 0.7 };
    draft.evidence.insert(CERTAINTY.into(), json!(certainty.max(draft.confidence)));
}

pub(crate) fn seconds(us: u64) -> f64 {
    (us as f64 / 1_000.0).round() / 1_000.0
}

fn held_up(job: &Job, comm: &Comm, stall: &Stall, holders: &[Holder], threshold_us: u64) -> Draft {
    let mut ranked: Vec<Holder> = holders.to_vec();
    ranked.sort_by_key(|holder| (holder.why, std::cmp::Reverse(holder.behind)));
    let accused: Vec<ProcessId> = ranked.iter().map(|holder| holder.process).collect();
    let first = ranked[0];
    let behind = first.behind.max(1) as f64;
    let members = Some(comm.members.len());
    let (base, early) = confidence(first.why, ranked.len(), members, stall.longest_us, threshold_us);
    let hidden = first.why != Why::Stopped && !stall.unseen.is_empty();
    let unsure = if hidden { 0.25 + early } else { early };
    // How far behind, beside the first; but for whoever has the stronger reason, nobody is suspected more than the one before.
    let mut share: f64 = 1.0;
    let suspects = ranked
        .iter()
        .map(|holder| {
            share = share.min(holder.behind.max(1) as f64 / behind);
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
        Why::Queued | Why::Arriving => format!(
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

pub(crate) fn doing(job: &Job, process: ProcessId) -> &'static str {
    let process = job.process(process);
    if process.is_some_and(Process::gpu_spins) {
        return "; its GPU is busy and touches no memory";
    }
    match process.map(|p| p.state) {
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
        Why::Arriving => "arriving",
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

pub(crate) fn numbers(comm: &Comm, stall: &Stall, threshold_us: u64) -> BTreeMap<String, Value> {
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
