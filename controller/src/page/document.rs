//! Views as JSON. This is between the page and its controller, which are one program; scripts use `c4ctl --json`.
//!
//! Moments are in microseconds since the epoch, and nothing in here ages by itself: a document is sent again only when it
//! differs.

use c4_detect::{
    finding::{FindingId, Suspect},
    observation::JobId,
    view::{RankState, RankView, urgency},
};
use serde_json::{Value, json};

use super::{actions, fabric, scene};
use crate::{
    alerts::sentence,
    events::{Event, EventLog},
    findings::Record,
    ledger::{Outage, Parts},
    snapshot::{JobState, Snapshot},
};

/// Jobs listed, the worst first.
const MAX_JOBS: usize = 500;
/// Findings listed.
const MAX_FINDINGS: usize = 100;
/// Nodes out of sight that are named.
const MAX_NODES: usize = 100;
/// Ranks with a row of their own.
const MAX_ROWS: usize = 200;
/// Suspects listed.
const MAX_SUSPECTS: usize = 64;
/// Events listed.
const EVENTS: usize = 30;
/// Events that are looked through for those of one job.
const EVENTS_SEARCHED: usize = 2_000;
/// Outages listed.
const MAX_OUTAGES: usize = 50;

pub(super) fn fleet(picture: &Snapshot, events: &EventLog) -> Value {
    let mut jobs: Vec<&JobState> = picture.jobs.values().collect();
    jobs.sort_by_key(|job| (urgency(job.state), std::cmp::Reverse(job.view.ranks.len())));
    let lost: Vec<_> = picture.nodes.iter().filter(|node| node.node.lost).collect();
    let blind: Vec<Value> = lost
        .iter()
        .take(MAX_NODES)
        .map(|node| json!({"name": node.name.0, "last_seen_us": node.node.last_seen.0, "ranks": node.ranks}))
        .collect();
    let mut sum = Parts::default();
    for job in picture.jobs.values() {
        sum.post_checkpoint_us += job.downtime.post_checkpoint_us;
        sum.detection_us += job.downtime.detection_us;
        sum.diagnosis_isolation_us += job.downtime.diagnosis_isolation_us;
        sum.reinitialisation_us += job.downtime.reinitialisation_us;
    }
    json!({
        "view": "fleet",
        "version": env!("CARGO_PKG_VERSION"),
        "mode": picture.mode.name(),
        "started_us": picture.started.0,
        "nodes": picture.nodes.len(),
        "nodes_lost": lost.len(),
        "lost": blind,
        "ranks": picture.nodes.iter().map(|node| u64::from(node.ranks)).sum::<u64>(),
        "jobs": jobs.iter().take(MAX_JOBS).map(|job| summary(job)).collect::<Vec<_>>(),
        "jobs_total": jobs.len(),
        "findings": findings(picture, None),
        "downtime": parts(sum),
        "steer": actions::weather(picture, None),
        "fabric": picture.paths.as_deref().map(fabric::brief),
        "events": recent(events, None),
    })
}

pub(super) fn job(picture: &Snapshot, events: &EventLog, id: &JobId) -> Option<Value> {
    let job = picture.jobs.get(id)?;
    let outages: Vec<Value> =
        job.outages.iter().rev().take(MAX_OUTAGES).map(|one| outage(one, picture)).collect();
    let troubled = job.view.ranks.iter().filter(|rank| !matches!(rank.state, RankState::Running));
    Some(json!({
        "view": "job",
        "mode": picture.mode.name(),
        "job": summary(job),
        "findings": findings(picture, Some(id)),
        "changes": job.view.changes.iter().map(|change| json!({
            "at_us": change.at.0,
            "before_us": change.before_us,
            "after_us": change.after_us,
            "sentence": change.sentence(),
        })).collect::<Vec<_>>(),
        "states": states(&job.view.ranks),
        "troubled": troubled.take(MAX_ROWS).map(row).collect::<Vec<_>>(),
        "blind_spots": blind_spots(&job.view.ranks),
        "outages": outages,
        "downtime": parts(job.downtime),
        "steer": actions::weather(picture, Some(id)),
        "scene": picture.live.get(id).map(|seen| scene::value(seen)),
        "events": recent(events, Some(id)),
    }))
}

pub(super) fn finding(picture: &Snapshot, id: &FindingId) -> Option<Value> {
    let record = picture.findings.get(id)?;
    let of_job = picture.jobs.get(&record.finding.job);
    let outage = of_job.and_then(|job| job.outages.iter().rev().find(|outage| outage.finding == *id));
    let seen = picture.kept.get(id);
    let (steps, trail) = actions::about(picture, id);
    let changes = of_job.filter(|job| seen.is_some_and(|seen| seen.incarnation == job.view.incarnation));
    Some(json!({
        "view": "finding",
        "mode": picture.mode.name(),
        "finding": full(record),
        "steps": steps,
        "trail": trail,
        "steer": actions::weather(picture, Some(&record.finding.job)),
        "job": of_job.map(summary),
        "changes": changes.map_or(&[][..], |job| &job.view.changes).iter().map(|change| json!({
            "at_us": change.at.0, "before_us": change.before_us, "after_us": change.after_us,
            "sentence": change.sentence(),
        })).collect::<Vec<_>>(),
        "outage": outage.map(|one| self::outage(one, picture)),
        "scene": seen.map(|seen| scene::value(seen)),
    }))
}

fn summary(job: &JobState) -> Value {
    json!({
        "name": job.view.job.0,
        "incarnation": job.view.incarnation,
        "world_size": job.view.world_size,
        "ranks_seen": job.view.ranks.len(),
        "state": job.state,
        "missing": job.missing,
        "iteration_us": job.view.iteration_ns.map(|ns| ns / 1_000),
        "iteration_noise": job.view.iteration_noise,
        "iterations": job.view.iterations,
        "open_findings": job.open_findings,
        "restarts": job.restarts,
        "downtime_us": job.downtime.total_us(),
    })
}

/// Findings of a job or of all, those that are open first, then the newest.
fn findings(picture: &Snapshot, job: Option<&JobId>) -> Value {
    let mut records: Vec<&Record> =
        picture.findings.values().filter(|record| job.is_none_or(|job| record.finding.job == *job)).collect();
    records.sort_by_key(|record| {
        (record.finding.cleared.is_some(), std::cmp::Reverse(record.finding.detected), &record.finding.id)
    });
    records.into_iter().take(MAX_FINDINGS).map(brief).collect()
}

fn brief(record: &Record) -> Value {
    let finding = &record.finding;
    json!({
        "id": finding.id.0,
        "job": finding.job.0,
        "kind": finding.kind.name(),
        "confidence": finding.confidence,
        "since_us": finding.since.0,
        "detected_us": finding.detected.0,
        "cleared_us": finding.cleared.map(|at| at.0),
        "summary": finding.summary,
        "sentence": sentence(&finding.summary, &record.actions),
        "action": record.actions.last(),
    })
}

fn full(record: &Record) -> Value {
    let mut value = brief(record);
    let finding = &record.finding;
    value["certainty"] = json!(finding.certainty());
    value["incarnation"] = json!(finding.incarnation);
    value["suspects"] = finding.suspects.iter().take(MAX_SUSPECTS).map(suspect).collect();
    value["suspects_total"] = json!(finding.suspects.len());
    value["evidence"] = json!(finding.evidence);
    value["explains"] = json!(finding.explains);
    value["refuted_by"] = json!(finding.refuted_by);
    value["actions"] = json!(record.actions);
    value
}

fn suspect(suspect: &Suspect) -> Value {
    json!({
        "rank": suspect.rank,
        "node": suspect.node.as_ref().map(|node| &node.0),
        "gpu": suspect.gpu,
        "nic": suspect.nic,
        "link": suspect.link,
        "score": suspect.score,
    })
}

fn states(ranks: &[RankView]) -> Value {
    let mut counts = serde_json::Map::new();
    for rank in ranks {
        let count = counts.entry(rank.state.name()).or_insert_with(|| json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + 1);
    }
    Value::Object(counts)
}

fn row(rank: &RankView) -> Value {
    json!({
        "rank": rank.rank,
        "node": rank.node.0,
        "gpu": rank.gpu,
        "pid": rank.pid,
        "state": rank.state.name(),
        "enqueued": rank.enqueued,
        "started": rank.started,
        "completed": rank.completed,
    })
}

fn blind_spots(ranks: &[RankView]) -> Vec<&str> {
    let mut spots: Vec<&str> =
        ranks.iter().flat_map(|rank| rank.blind_spots.iter().map(String::as_str)).collect();
    spots.sort_unstable();
    spots.dedup();
    spots
}

fn parts(parts: Parts) -> Value {
    json!({
        "post_checkpoint_us": parts.post_checkpoint_us,
        "detection_us": parts.detection_us,
        "diagnosis_isolation_us": parts.diagnosis_isolation_us,
        "reinitialisation_us": parts.reinitialisation_us,
        "total_us": parts.total_us(),
    })
}

fn outage(outage: &Outage, picture: &Snapshot) -> Value {
    json!({
        "finding": outage.finding.0,
        "fault_us": outage.fault.0,
        "detected_us": outage.detected.0,
        "stopped_us": outage.stopped.map(|at| at.0),
        "progress_us": outage.progress.map(|at| at.0),
        "checkpoint": outage.checkpoint.map(|checkpoint| checkpoint.iteration),
        "parts": outage.complete().then(|| parts(outage.parts(picture.taken))),
    })
}

fn recent(events: &EventLog, job: Option<&JobId>) -> Value {
    let (past, _) = events.follow(if job.is_some() { EVENTS_SEARCHED } else { EVENTS });
    let value = |event: &Event| json!({"at_us": event.at.0, "kind": event.kind, "job": event.job, "text": event.text});
    let wanted = |event: &&Event| job.is_none_or(|job| event.job == job.0);
    past.iter().rev().filter(wanted).take(EVENTS).map(value).collect()
}
