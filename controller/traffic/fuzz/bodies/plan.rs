//! Any bytes as a topology (YAML), flows and the plan of before (JSON), cut at zero bytes; what is taken, and small, is planned. Each
//! flow is placed whole or not at all, on switches that are there, and the plan that is written down is understood again.

use c4_traffic::{
    Flows, Previous, Topology,
    document::{flows, plan as plans, topology},
    plan,
};

/// Nobody waits for a fuzzer's cluster.
const MOST_PARTS: usize = 300;

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let topology = match topology::parse_topology(next()) {
        Ok(topology) => topology,
        Err(problems) => return assert!(!problems.to_string().is_empty(), "a refusal without a reason"),
    };
    let flows = match flows::parse_flows(next(), &topology) {
        Ok(flows) => flows,
        Err(problems) => return assert!(!problems.to_string().is_empty(), "a refusal without a reason"),
    };
    let previous = plans::parse_previous(next(), &topology).ok();
    let parts = topology.nics().len() + topology.links().len() + flows.as_slice().len();
    if parts <= MOST_PARTS {
        planned(&topology, &flows, previous.as_ref());
    }
}

fn planned(topology: &Topology, flows: &Flows, previous: Option<&Previous>) {
    let plan = plan(topology, flows, previous);
    assert_eq!(plan.flows.len(), flows.as_slice().len());
    for planned in &plan.flows {
        let share: f64 = planned.pieces.iter().map(|piece| piece.share()).sum();
        assert!(planned.unplaced.is_some() != ((share - 1.0).abs() < 1e-9), "a flow that is half there");
        assert!(planned.pieces.iter().all(|piece| !piece.path.is_empty()));
    }
    let written = serde_json::to_string(&plans::plan_json(&plan, flows, topology)).expect("a document");
    plans::parse_previous(&written, topology).expect("our own plan");
}
