//! Jobs, nodes and findings, as the newest picture shows them.
//!
//! Agents choose the names of jobs and nodes, so the number of series that are labelled with them is bounded; what is left
//! out is counted. Of jobs those with findings come first, then the larger ones.

use std::{collections::BTreeMap, sync::Arc};

use c4_detect::{
    distribution::Distribution,
    finding::{Finding, Kind as FindingKind},
    view::{JOB_STATES, RankState},
};
use c4_metrics::{Collected, Family, Kind, Source};
use tokio::sync::watch;

use crate::{
    ledger::Parts,
    snapshot::{JobState, Snapshot},
};

/// Jobs that have series of their own.
const MAX_JOBS: usize = 1_000;
/// Nodes that have.
const MAX_NODES: usize = 20_000;
/// Open findings that have.
const MAX_FINDINGS: usize = 500;
/// Links that have, of all jobs together.
const MAX_LINKS: usize = 1_024;

const RANK_STATES: [RankState; 6] = [
    RankState::Running,
    RankState::Waiting,
    RankState::Stopped,
    RankState::Dead,
    RankState::Ended,
    RankState::Unknown,
];

pub(super) const KINDS: [FindingKind; 9] = [
    FindingKind::ProcessDeath,
    FindingKind::NonCommHang,
    FindingKind::CommHang,
    FindingKind::Desync,
    FindingKind::NonCommSlow,
    FindingKind::CommSlow,
    FindingKind::Health,
    FindingKind::WorkloadImbalance,
    FindingKind::PathFault,
];

/// Name, labels and help of everything here, by kind.
const GAUGES: [(&str, &[&str], &str); 19] = [
    ("c4_jobs", &["state"], "Jobs"),
    ("c4_nodes", &["state"], "Nodes, by whether an agent of theirs is in sight"),
    ("c4_ranks", &[], "Ranks announced and alive"),
    ("c4_findings_open", &["kind"], "Findings that are open"),
    (
        "c4_series_left_out",
        &["about"],
        "Jobs, nodes, findings and links that have no series of their own here",
    ),
    ("c4_node_up", &["node"], "Whether an agent of the node is in sight"),
    ("c4_node_ranks", &["node"], "Ranks on the node that are alive"),
    ("c4_job_state", &["job", "state"], "1 for the state that the job is in"),
    ("c4_job_ranks", &["job", "state"], "Ranks, by what they are doing"),
    ("c4_job_world_size", &["job"], "Ranks that the job says it has"),
    (
        "c4_job_incarnation",
        &["job"],
        "How often the job had been restarted when its present processes started",
    ),
    ("c4_job_usual_iteration_seconds", &["job"], "Learned duration of an iteration"),
    (
        "c4_job_iteration_noise_ratio",
        &["job"],
        "How much iterations usually differ: a standard deviation, as a share",
    ),
    (
        "c4_job_last_change_timestamp_seconds",
        &["job"],
        "When its iteration time last changed for good, in Unix time",
    ),
    ("c4_job_last_change_ratio", &["job"], "How many times as long iterations were after that change"),
    ("c4_job_downtime_seconds", &["job", "part"], "Downtime of the job, by part"),
    (
        "c4_finding_confidence_ratio",
        &["finding", "job", "kind", "node", "rank", "gpu"],
        "Open findings, with the first suspect and how sure it is that it is to blame",
    ),
    (
        "c4_rank_late_seconds",
        &["job", "rank", "node"],
        "How late ranks that are called slow come to collectives, an iteration",
    ),
    (
        "c4_link_slowness_ratio",
        &["job", "src", "dst"],
        "Network time of directed links between ranks, in that of links of their kind; the slowest only",
    ),
];

const COUNTERS: [(&str, &[&str], &str); 3] = [
    ("c4_job_iterations_total", &["job"], "Iterations seen to end, in the present incarnation"),
    ("c4_job_restarts_total", &["job"], "Restarts begun by C4"),
    ("c4_job_outages_total", &["job"], "Times the job stood still"),
];

const HISTOGRAMS: [(&str, &[&str], &str); 2] = [
    ("c4_job_iteration_seconds", &["job"], "Duration of iterations"),
    (
        "c4_job_straggler_lateness_seconds",
        &["job"],
        "How late the latest rank of a communicator came to its collectives, an iteration",
    ),
];

/// See the module.
pub(super) struct Pictures(pub(super) watch::Receiver<Arc<Snapshot>>);

impl Source for Pictures {
    fn families(&self) -> Vec<Family> {
        let of =
            |kind| move |(name, labels, help): &(&str, &[&str], &str)| Family::new(kind, name, labels, help);
        let gauges = GAUGES.iter().map(of(Kind::Gauge));
        let counters = COUNTERS.iter().map(of(Kind::Counter));
        gauges.chain(counters).chain(HISTOGRAMS.iter().map(of(Kind::Histogram))).collect()
    }

    fn collect(&self, into: &mut Collected<'_>) {
        let picture = self.0.borrow().clone();
        totals(&picture, into);
        nodes(&picture, into);
        findings(&picture, into);
        let mut jobs: Vec<&JobState> = picture.jobs.values().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse((job.open_findings, job.view.ranks.len())));
        left_out(into, "job", jobs.len(), MAX_JOBS);
        let links = jobs.iter().map(|job| job.view.links.len()).sum();
        left_out(into, "link", links, MAX_LINKS);
        let mut links = MAX_LINKS;
        for job in jobs.into_iter().take(MAX_JOBS) {
            about(job, into);
            for link in job.view.links.iter().take(links) {
                let (src, dst) = (link.src.to_string(), link.dst.to_string());
                into.push("c4_link_slowness_ratio", &[&job.view.job.0, &src, &dst], link.times_usual);
            }
            links = links.saturating_sub(job.view.links.len());
        }
    }
}

fn left_out(into: &mut Collected<'_>, about: &str, all: usize, most: usize) {
    into.push("c4_series_left_out", &[about], all.saturating_sub(most) as f64);
}

fn totals(picture: &Snapshot, into: &mut Collected<'_>) {
    for state in JOB_STATES {
        let jobs = picture.jobs.values().filter(|job| job.state == state).count();
        into.push("c4_jobs", &[state], jobs as f64);
    }
    let lost = picture.nodes.iter().filter(|node| node.node.lost).count();
    into.push("c4_nodes", &["connected"], (picture.nodes.len() - lost) as f64);
    into.push("c4_nodes", &["lost"], lost as f64);
    into.push("c4_ranks", &[], picture.nodes.iter().map(|node| f64::from(node.ranks)).sum());
}

fn nodes(picture: &Snapshot, into: &mut Collected<'_>) {
    left_out(into, "node", picture.nodes.len(), MAX_NODES);
    for node in picture.nodes.iter().take(MAX_NODES) {
        let labels = [node.name.0.as_str()];
        into.push("c4_node_up", &labels, f64::from(u8::from(!node.node.lost)));
        into.push("c4_node_ranks", &labels, f64::from(node.ranks));
    }
}

fn findings(picture: &Snapshot, into: &mut Collected<'_>) {
    let open = || picture.findings.values().map(|record| &record.finding).filter(|f| f.cleared.is_none());
    for kind in KINDS {
        let number = open().filter(|finding| finding.kind == kind).count();
        into.push("c4_findings_open", &[kind.name()], number as f64);
    }
    left_out(into, "finding", open().count(), MAX_FINDINGS);
    let mut late: BTreeMap<(&str, String, &str), f64> = BTreeMap::new();
    for finding in open().take(MAX_FINDINGS) {
        let suspect = finding.suspects.first();
        let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
        let node = suspect.and_then(|s| s.node.as_ref()).map_or("", |node| node.0.as_str());
        let (rank, gpu) = (number(suspect.and_then(|s| s.rank)), number(suspect.and_then(|s| s.gpu)));
        let (id, job) = (finding.id.0.as_str(), finding.job.0.as_str());
        let labels = [id, job, finding.kind.name(), node, &rank, &gpu];
        into.push("c4_finding_confidence_ratio", &labels, finding.confidence);
        if let Some(seconds) = lateness(finding).filter(|_| !rank.is_empty()) {
            late.insert((job, rank, node), seconds);
        }
    }
    for ((job, rank, node), seconds) in late {
        into.push("c4_rank_late_seconds", &[job, &rank, node], seconds);
    }
}

fn lateness(finding: &Finding) -> Option<f64> {
    Some(finding.evidence.get("lateness_ms_per_iteration")?.as_f64()? / 1e3)
}

fn about(job: &JobState, into: &mut Collected<'_>) {
    let view = &job.view;
    let name = view.job.0.as_str();
    for state in JOB_STATES {
        into.push("c4_job_state", &[name, state], f64::from(u8::from(job.state == state)));
    }
    for state in RANK_STATES {
        let ranks = view.ranks.iter().filter(|rank| rank.state == state).count();
        into.push("c4_job_ranks", &[name, state.name()], ranks as f64);
    }
    let mut gauge = |family: &str, value: Option<f64>| {
        if let Some(value) = value {
            into.push(family, &[name], value);
        }
    };
    gauge("c4_job_world_size", view.world_size.map(f64::from));
    gauge("c4_job_incarnation", Some(f64::from(view.incarnation)));
    gauge("c4_job_usual_iteration_seconds", view.iteration_ns.map(|ns| ns as f64 / 1e9));
    gauge("c4_job_iteration_noise_ratio", view.iteration_noise);
    let change = view.changes.last();
    gauge("c4_job_last_change_timestamp_seconds", change.map(|change| change.at.0 as f64 / 1e6));
    let ratio = change.map(|change| change.after_us as f64 / change.before_us.max(1) as f64);
    gauge("c4_job_last_change_ratio", ratio);
    gauge("c4_job_iterations_total", Some(view.iterations as f64));
    gauge("c4_job_restarts_total", Some(f64::from(job.restarts)));
    gauge("c4_job_outages_total", Some(job.outages.len() as f64));
    for (part, us) in parts(&job.downtime) {
        into.push("c4_job_downtime_seconds", &[name, part], us as f64 / 1e6);
    }
    histogram(into, "c4_job_iteration_seconds", name, &view.iteration_times);
    histogram(into, "c4_job_straggler_lateness_seconds", name, &view.lateness);
}

fn parts(downtime: &Parts) -> [(&'static str, u64); 4] {
    [
        ("post_checkpoint", downtime.post_checkpoint_us),
        ("detection", downtime.detection_us),
        ("diagnosis_isolation", downtime.diagnosis_isolation_us),
        ("reinitialisation", downtime.reinitialisation_us),
    ]
}

fn histogram(into: &mut Collected<'_>, family: &str, job: &str, values: &Distribution) {
    into.push_histogram(family, &[job], values.scale().bounds(), values.counts(), values.sum());
}
