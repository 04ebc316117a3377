//! The picture in the words of the wire protocol.

use c4_detect::{change::ChangePoint, finding::Suspect, observation::Timestamp, view::RankView};
use c4_proto::v1;

use crate::{
    alerts::sentence,
    events::Event,
    findings::Record,
    ledger::Outage,
    snapshot::{JobState, NodeState, Snapshot},
};

pub(super) fn status(picture: &Snapshot, now: Timestamp) -> v1::Status {
    let ranks: u32 = picture.nodes.iter().map(|node| node.ranks).sum();
    let open = picture.findings.values().filter(|record| record.finding.cleared.is_none()).count();
    v1::Status {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_us: now.micros_since(picture.started),
        mode: picture.mode.name().into(),
        nodes: picture.nodes.iter().map(|state| node(state, now)).collect(),
        jobs: count(picture.jobs.len()),
        ranks,
        open_findings: count(open),
    }
}

fn node(state: &NodeState, now: Timestamp) -> v1::Node {
    let NodeState { name, node, ranks } = state;
    let sensors = node.sensors.iter().map(|sensor| v1::NodeSensor {
        name: sensor.name.clone(),
        present: sensor.present,
        detail: sensor.detail.clone(),
    });
    v1::Node {
        name: name.0.clone(),
        connected: node.streams > 0,
        last_seen_us: now.micros_since(node.last_seen),
        agent_version: node.agent_version.clone(),
        ranks: *ranks,
        sensors: sensors.collect(),
        spool_dropped: node.spool_dropped,
    }
}

pub(super) fn summary(job: &JobState) -> v1::JobSummary {
    v1::JobSummary {
        name: job.view.job.0.clone(),
        incarnation: job.view.incarnation,
        world_size: job.view.world_size.unwrap_or(0),
        ranks_seen: count(job.view.ranks.len()),
        state: job.state.into(),
        missing: job.missing.clone(),
        iteration_seconds: job.view.iteration_ns.map_or(0.0, |ns| ns as f64 / 1e9),
        iteration_noise: job.view.iteration_noise.unwrap_or(0.0),
        open_findings: job.open_findings,
        restarts: job.restarts,
    }
}

pub(super) fn job(picture: &Snapshot, job: &JobState, now: Timestamp) -> v1::Job {
    let findings = picture.findings.values().filter(|record| record.finding.job == job.view.job);
    v1::Job {
        summary: Some(summary(job)),
        ranks: job.view.ranks.iter().map(rank).collect(),
        ledger: Some(v1::Ledger {
            entries: job.outages.iter().map(|outage| downtime(outage, now)).collect(),
            total_seconds: seconds(job.downtime.total_us()),
        }),
        findings: findings.map(finding).collect(),
        iteration_changes: job.view.changes.iter().map(change).collect(),
    }
}

fn change(change: &ChangePoint) -> v1::IterationChange {
    let grew = change.grew.iter().map(|grown| v1::GrownPart {
        communicator: grown.communicator.clone(),
        communicators: grown.communicators,
        part: grown.part.name().into(),
        operations: grown.operations.clone(),
        before_seconds: seconds(grown.before_us),
        after_seconds: seconds(grown.after_us),
    });
    v1::IterationChange {
        at_unix_us: unix_us(change.at),
        before_seconds: seconds(change.before_us),
        after_seconds: seconds(change.after_us),
        gradual: change.gradual,
        grew: grew.collect(),
    }
}

fn rank(rank: &RankView) -> v1::Rank {
    v1::Rank {
        rank: rank.rank.unwrap_or(u32::MAX),
        node: rank.node.0.clone(),
        gpu: rank.gpu,
        pid: rank.pid,
        state: rank.state.name().into(),
        enqueued: rank.enqueued,
        started: rank.started,
        completed: rank.completed,
        blind_spots: rank.blind_spots.clone(),
    }
}

pub(super) fn downtime(outage: &Outage, now: Timestamp) -> v1::Downtime {
    let parts = outage.parts(now);
    v1::Downtime {
        finding: outage.finding.0.clone(),
        started_unix_us: unix_us(outage.fault),
        post_checkpoint_seconds: seconds(parts.post_checkpoint_us),
        detection_seconds: seconds(parts.detection_us),
        diagnosis_isolation_seconds: seconds(parts.diagnosis_isolation_us),
        reinitialisation_seconds: seconds(parts.reinitialisation_us),
        complete: outage.complete(),
        post_checkpoint_unknown: outage.checkpoint.is_none(),
    }
}

pub(super) fn finding(record: &Record) -> v1::Finding {
    let finding = &record.finding;
    v1::Finding {
        id: finding.id.0.clone(),
        job: finding.job.0.clone(),
        kind: finding.kind.name().into(),
        suspects: finding.suspects.iter().map(suspect).collect(),
        confidence: finding.confidence,
        since_unix_us: unix_us(finding.since),
        detected_unix_us: unix_us(finding.detected),
        cleared_unix_us: finding.cleared.map(unix_us),
        summary: sentence(&finding.summary, &record.actions),
        // Keys are strings and values are JSON already, so this cannot fail.
        evidence_json: serde_json::to_string(&finding.evidence).unwrap_or_else(|_| "{}".into()),
        explains: finding.explains.clone(),
        refuted_by: finding.refuted_by.clone(),
        actions: record.actions.clone(),
        incarnation: finding.incarnation,
    }
}

fn suspect(suspect: &Suspect) -> v1::Suspect {
    v1::Suspect {
        rank: suspect.rank,
        node: suspect.node.as_ref().map_or_else(String::new, |node| node.0.clone()),
        gpu: suspect.gpu,
        nic: suspect.nic.clone().unwrap_or_default(),
        link: suspect.link.as_ref().map(|link| v1::Link { src: link.src.clone(), dst: link.dst.clone() }),
        score: suspect.score,
    }
}

pub(super) fn event(event: Event) -> v1::Event {
    v1::Event { unix_us: unix_us(event.at), kind: event.kind.into(), job: event.job, text: event.text }
}

fn unix_us(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
