//! Planned paths in the words of the wire protocol.

use c4_detect::observation::JobId;
use c4_proto::v1;

use crate::{
    paths::{
        view::{FlowView, JobPaths, LearnedView, LinkView, NodeView},
        work::state_name,
    },
    snapshot::Snapshot,
};

pub(super) fn paths(picture: &Snapshot, asked: &v1::GetPathsRequest) -> v1::Paths {
    let job = asked.job.as_str();
    let Some(view) = &picture.paths else { return v1::Paths::default() };
    let wanted = |name: &str| job.is_empty() || job == name;
    v1::Paths {
        configured: true,
        revision: view.revision,
        epoch: view.epoch,
        planned_unix_us: view.planned.map_or(0, |at| i64::try_from(at.0).unwrap_or(i64::MAX)),
        max_link_utilisation: view.max_link,
        max_fabric_utilisation: view.max_fabric,
        lower_bound: view.lower_bound,
        plans: view.plans,
        moves: view.moves,
        links: view.links.iter().map(|one| link(one, view.measured(one))).collect(),
        flows: view.flows.iter().filter(|flow| wanted(&flow.job)).map(flow).collect(),
        jobs: view.jobs.iter().filter(|job| wanted(&job.job)).map(|job| about(picture, job)).collect(),
        nodes: view.nodes.iter().map(node).collect(),
        mistakes: view.mistakes.clone(),
        learned: asked.topology.then(|| learned(&view.learned)),
    }
}

fn learned(view: &LearnedView) -> v1::LearnedTopology {
    v1::LearnedTopology {
        yaml: view.yaml.to_string(),
        notes: view.notes.clone(),
        mistakes: view.mistakes.clone(),
        nodes: view.nodes,
        waiting: view.waiting,
        planned: view.planned,
    }
}

fn link(link: &LinkView, measured: Option<f64>) -> v1::PathLink {
    v1::PathLink {
        from: link.from.clone(),
        to: link.to.clone(),
        index: link.index,
        gbps: link.gbps,
        planned_utilisation: link.planned,
        state: state_name(link.state).to_owned(),
        probed_ports: link.probed,
        measured_utilisation: measured,
    }
}

fn flow(flow: &FlowView) -> v1::PathFlow {
    let pieces = flow.pieces.iter();
    v1::PathFlow {
        job: flow.job.clone(),
        from: flow.from.clone(),
        to: flow.to.clone(),
        gbps: flow.gbps,
        pieces: pieces.map(|piece| v1::PathPiece { share: piece.share, path: piece.path.clone() }).collect(),
        why: flow.why.clone().unwrap_or_default(),
    }
}

fn about(picture: &Snapshot, job: &JobPaths) -> v1::PathJob {
    let learned = picture.jobs.get(&JobId(job.job.clone())).and_then(|known| known.view.iteration_ns);
    let next = learned.and_then(|ns| job.next(ns / 1_000, picture.taken));
    v1::PathJob {
        job: job.job.clone(),
        pattern: job.pattern.clone(),
        flows: job.flows,
        running: job.running,
        period_seconds: learned.map_or(0.0, |ns| ns as f64 * 1e-9),
        next_unix_us: next.map_or(0, |at| i64::try_from(at.0).unwrap_or(i64::MAX)),
    }
}

fn node(node: &NodeView) -> v1::PathNode {
    let report = node.report.as_ref().map(|report| &report.report);
    let mut told = v1::PathNode {
        name: node.node.0.clone(),
        orders: node.orders,
        follows: node.follows,
        ..v1::PathNode::default()
    };
    if let Some(report) = report {
        told.settled = report.settled;
        told.missing = report.missing;
        told.ports_tried = report.ports;
        told.probes = report.probes;
        told.given_up = report.given_up;
        told.learning_seconds = report.learning_us as f64 * 1e-6;
        told.paths_seen = u32::try_from(report.seen.len()).unwrap_or(u32::MAX);
        told.changes = report.changes;
    }
    told
}
