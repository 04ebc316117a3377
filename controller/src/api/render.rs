//! The picture in the words of the wire protocol.

use c4_detect::{
    change::ChangePoint,
    finding::Suspect,
    observation::{JobId, NodeName, Timestamp},
    view::RankView,
};
use c4_proto::v1;

use crate::{
    alerts::sentence,
    brain::Evidence,
    events::Event,
    findings::Record,
    ha::election::View,
    ledger::{Account, Outage, Parts, Summary},
    snapshot::{JobState, NodeState, Snapshot},
    steer::{
        action::{Action, Deed},
        journal::{AuditEntry, NodeRecord},
        modes::{Scope, Setting},
    },
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
        ..v1::Status::default()
    }
}

/// Who leads, and who else is there.
pub(super) fn among_others(status: &mut v1::Status, view: &View, term: u64) {
    let leader = view.leader.as_ref().map(|(leader, _)| leader.clone()).unwrap_or_default();
    let beside = view.members.iter().filter(|member| member.name != leader.name);
    status.standbys = beside.map(|member| format!("{} ({})", member.name, member.address)).collect();
    (status.controller, status.term) = (leader.name, term);
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

/// Actions, and everything that decides about them.
pub(super) fn actions(picture: &Snapshot, include_ended: bool) -> v1::ListActionsResponse {
    let view = &picture.steer;
    let wanted = view.actions.iter().filter(|action| include_ended || !action.state.is_final());
    v1::ListActionsResponse {
        actions: wanted.map(action).collect(),
        pause: view.pause.as_ref().map(|pause| v1::Pause {
            by: pause.by.clone(),
            why: pause.why.clone(),
            since_unix_us: unix_us(pause.since),
        }),
        breaker: view.breaker.clone().unwrap_or_default(),
        mode: picture.mode.name().into(),
        modes: view.modes.iter().map(mode).collect(),
        nodes: view.nodes.iter().map(|(name, record)| steering_of(name, record)).collect(),
        store_ok: view.store_ok,
    }
}

fn action(action: &Action) -> v1::Action {
    let incarnation = match &action.deed {
        Deed::Restart { incarnation, .. } => *incarnation,
        _ => 0,
    };
    v1::Action {
        id: action.id.0.clone(),
        deed: action.deed.name().into(),
        text: action.deed.to_string(),
        job: action.job.as_ref().map_or_else(String::new, |job| job.0.clone()),
        incarnation,
        nodes: action.deed.nodes().iter().map(|node| node.0.clone()).collect(),
        finding: action.finding.as_ref().map_or_else(String::new, |finding| finding.0.clone()),
        because: action.because.clone(),
        by: action.by.clone().unwrap_or_default(),
        state: action.state.name().into(),
        detail: action.state.detail().into(),
        attempt: action.attempt,
        planned_unix_us: unix_us(action.planned),
        ended_unix_us: action.ended.map(unix_us),
    }
}

fn mode(setting: &Setting) -> v1::ModeSetting {
    let (scope, name) = match &setting.scope {
        Scope::Cluster => ("cluster", ""),
        Scope::Job(job) => ("job", job.0.as_str()),
        Scope::Node(node) => ("node", node.0.as_str()),
        Scope::Kind(kind) => ("kind", kind.name()),
    };
    v1::ModeSetting {
        scope: scope.into(),
        name: name.into(),
        mode: setting.mode.name().into(),
        by: setting.by.clone(),
        until_unix_us: setting.until.map(unix_us),
    }
}

fn steering_of(name: &NodeName, record: &NodeRecord) -> v1::NodeSteering {
    v1::NodeSteering {
        node: name.0.clone(),
        isolated_unix_us: record.isolated.as_ref().map(|isolation| unix_us(isolation.since)),
        why: record.isolated.as_ref().map_or_else(String::new, |isolation| isolation.why.clone()),
        probation_until_unix_us: record.probation_until.map(unix_us),
        undone_by: record.undone_by.clone().unwrap_or_default(),
    }
}

pub(super) fn audit(entry: &AuditEntry) -> v1::AuditEntry {
    v1::AuditEntry {
        unix_us: unix_us(entry.at),
        who: entry.who.clone(),
        what: entry.what.clone(),
        text: entry.text.clone(),
        action: entry.action.as_ref().map_or_else(String::new, |id| id.0.clone()),
        finding: entry.finding.as_ref().map_or_else(String::new, |id| id.0.clone()),
        job: entry.job.as_ref().map_or_else(String::new, |job| job.0.clone()),
        nodes: entry.nodes.iter().map(|node| node.0.clone()).collect(),
    }
}

pub(super) fn evidence(evidence: &Evidence) -> v1::Evidence {
    let saved = &evidence.saved;
    v1::Evidence {
        unix_us: unix_us(evidence.at),
        job: saved.job.0.clone(),
        incarnation: saved.incarnation,
        node: evidence.node.0.clone(),
        path: saved.path.clone(),
        bytes: saved.bytes,
        files: saved.files,
    }
}

/// A job's downtime, and what follows for its checkpoints.
pub(super) fn ledger(job: &JobState, now: Timestamp) -> v1::JobLedger {
    let ranks = job.view.world_size.unwrap_or_else(|| count(job.view.ranks.len()));
    account(&job.view.job, ranks, (&job.outages, job.downtime), job.account, now)
}

/// The same of a job that is not in sight.
pub(super) fn past_ledger(job: &JobId, of: &Account, now: Timestamp) -> v1::JobLedger {
    let (outages, downtime) = of.outages(now);
    account(job, of.ranks(), (&outages, downtime), of.summary(true, now), now)
}

fn account(
    job: &JobId,
    ranks: u32,
    (outages, sum): (&[Outage], Parts),
    summary: Summary,
    now: Timestamp,
) -> v1::JobLedger {
    let lost = seconds(sum.total_us());
    v1::JobLedger {
        job: job.0.clone(),
        entries: outages.iter().map(|outage| downtime(outage, now)).collect(),
        observed_seconds: seconds(summary.observed_us),
        post_checkpoint_seconds: seconds(sum.post_checkpoint_us),
        detection_seconds: seconds(sum.detection_us),
        diagnosis_isolation_seconds: seconds(sum.diagnosis_isolation_us),
        reinitialisation_seconds: seconds(sum.reinitialisation_us),
        lost_share: if summary.observed_us > 0 {
            (lost / seconds(summary.observed_us)).min(1.0)
        } else {
            0.0
        },
        ranks,
        lost_rank_seconds: lost * f64::from(ranks),
        checkpoint: summary.recommendation.map(|advice| v1::Recommendation {
            interval_seconds: advice.interval_seconds,
            present_seconds: advice.present_seconds,
            cost_seconds: advice.cost_seconds,
            mean_time_between_failures_seconds: advice.mtbf_seconds,
            saves_share: advice.saves_share,
        }),
    }
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
