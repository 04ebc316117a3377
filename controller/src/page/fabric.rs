//! The fabric as JSON: switches, what links between them carry with the plan and without, and the paths of flows.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    paths::{
        view::{FlowView, LinkView, NodeView, PathsView},
        work::state_name,
    },
    snapshot::Snapshot,
};

/// Flows listed.
const MAX_FLOWS: usize = 300;
/// Nodes listed that do not know their paths.
const MAX_NODES: usize = 100;
/// Mistakes of the topology listed.
const MAX_MISTAKES: usize = 50;

pub(super) fn fabric(picture: &Snapshot) -> Value {
    let Some(view) = &picture.paths else { return json!({"view": "fabric", "configured": false}) };
    let numbers: HashMap<&str, usize> =
        view.switches.iter().enumerate().map(|(number, switch)| (switch.name.as_str(), number)).collect();
    let number = |name: &str| numbers.get(name).copied();
    let ready = view.nodes.iter().filter(|node| is_ready(node)).count();
    let not_ready = view.nodes.iter().filter(|node| !is_ready(node));
    json!({
        "view": "fabric",
        "configured": true,
        "planned_us": view.planned.map(|at| at.0),
        "plans": view.plans,
        "moves": view.moves,
        "max_link": short(view.max_link),
        "max_fabric": short(view.max_fabric),
        "max_hashed": view.max_hashed.map(short),
        "lower_bound": short(view.lower_bound),
        "switches": view.switches.iter()
            .map(|switch| json!([switch.name, switch.tier.name(), switch.ports]))
            .collect::<Vec<_>>(),
        "links": view.links.iter()
            .filter_map(|one| Some(link(number(&one.from)?, number(&one.to)?, one, view.measured(one))))
            .collect::<Vec<_>>(),
        "links_left_out": view.links_left_out,
        "jobs": view.jobs.iter()
            .map(|job| json!({"job": job.job, "pattern": job.pattern, "flows": job.flows, "running": job.running}))
            .collect::<Vec<_>>(),
        "flows": view.flows.iter().take(MAX_FLOWS).map(flow).collect::<Vec<_>>(),
        "flows_total": view.flows.len(),
        "nodes": view.nodes.len(),
        "nodes_ready": ready,
        "not_ready": not_ready.take(MAX_NODES).map(|one| json!([one.node.0, why_not(one)])).collect::<Vec<_>>(),
        "mistakes": view.mistakes.iter().take(MAX_MISTAKES).collect::<Vec<_>>(),
    })
}

/// What the fleet is told of it.
pub(super) fn brief(view: &PathsView) -> Value {
    json!({
        "planned": view.planned.is_some(),
        "max_fabric": short(view.max_fabric),
        "max_hashed": view.max_hashed.map(short),
        "mistakes": view.mistakes.len(),
    })
}

/// A column for each property would not be smaller: names are numbers already.
fn link(from: usize, to: usize, link: &LinkView, measured: Option<f64>) -> Value {
    json!([
        from,
        to,
        link.index,
        link.gbps,
        short(link.planned),
        link.hashed.map(short),
        link.before.map(short),
        state_name(link.state),
        link.probed,
        measured.map(short),
    ])
}

fn flow(flow: &FlowView) -> Value {
    json!({
        "job": flow.job,
        "from": flow.from,
        "to": flow.to,
        "gbps": short(flow.gbps),
        "pieces": flow.pieces.iter().map(|piece| json!([short(piece.share), piece.path])).collect::<Vec<_>>(),
        "why": flow.why,
    })
}

fn is_ready(node: &NodeView) -> bool {
    let knows = |report: &crate::paths::NodeReport| report.report.settled && report.report.missing == 0;
    node.follows && node.report.as_ref().is_some_and(knows)
}

fn why_not(node: &NodeView) -> String {
    match &node.report {
        None => "has not reported".into(),
        Some(_) if !node.follows => "follows older orders".into(),
        Some(report) if report.report.missing > 0 => {
            format!("knows no port for {} of its {} orders", report.report.missing, node.orders)
        }
        Some(_) => "is learning which ports take which path".into(),
    }
}

/// A thousandth is as fine as anybody can see.
fn short(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
