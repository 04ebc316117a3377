//! `c4ctl topology --probed`: the topology that the controller has learned from probes.

use c4_proto::v1;
use serde_json::json;

use super::Asked;
use crate::{
    failure::Failure,
    words::{count, printable},
};

pub(super) async fn run(asked: &mut Asked<'_>) -> Result<(), Failure> {
    let mut calls = asked.client.calls.clone();
    let request = v1::GetPathsRequest { job: String::new(), topology: true };
    let paths = asked.client.call(asked.timeout, "", calls.get_paths(request)).await?;
    if !paths.configured {
        let what = "the controller learns no topology: its configuration has no paths.topology (a file, or: learned)";
        return Err(Failure::Check(what.to_owned()));
    }
    let Some(learned) = paths.learned else {
        return Err(Failure::Check("the controller is too old: it learns no topology".to_owned()));
    };
    if asked.json {
        asked.out.json(&document(&learned)?)?;
        return if learned.yaml.is_empty() { Err(none(&learned)) } else { Ok(()) };
    }
    if learned.yaml.is_empty() {
        return Err(none(&learned));
    }
    if learned.waiting > 0 {
        let nodes = count(learned.waiting.into(), "node");
        asked.out.line(format!("# of before: {nodes} of {} explore anew", learned.nodes))?;
    }
    for note in &learned.notes {
        asked.out.line(format!("# {}", printable(note)))?;
    }
    for line in learned.yaml.lines() {
        asked.out.line(printable(line))?;
    }
    Ok(())
}

fn document(learned: &v1::LearnedTopology) -> Result<serde_json::Value, Failure> {
    // The same words as those of what LLDP tells.
    let topology: serde_json::Value = if learned.yaml.is_empty() {
        serde_json::Value::Null
    } else {
        serde_yaml::from_str(&learned.yaml)
            .map_err(|error| Failure::Check(format!("the controller's topology is no YAML: {error}")))?
    };
    Ok(json!({
        "topology": topology,
        "notes": learned.notes,
        "mistakes": learned.mistakes,
        "nodes": learned.nodes,
        "waiting": learned.waiting,
        "planned": learned.planned,
    }))
}

/// Why there is no topology.
fn none(learned: &v1::LearnedTopology) -> Failure {
    let why = if !learned.mistakes.is_empty() {
        learned
            .mistakes
            .iter()
            .chain(&learned.notes)
            .map(|what| printable(what))
            .collect::<Vec<_>>()
            .join("; ")
    } else if learned.nodes == 0 {
        "no agent explores: name interfaces in `paths: {explore: […]}` of the agents' configuration"
            .to_owned()
    } else {
        format!("{} explore still, of {}", count(learned.waiting.into(), "node"), learned.nodes)
    };
    Failure::Check(format!("no topology was learned: {why}"))
}
