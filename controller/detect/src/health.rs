//! Health events joined with behaviour: an event turns "rank 12 hangs" into the cause; an event that nobody suffers
//! from stays a warning.

use serde_json::{Value, json};

use crate::{
    case::{Case, Draft, Slot},
    config::Config,
    finding::{Finding, Kind, Suspect},
    model::Job,
    nodes::Nodes,
    observation::{HealthEvent, Severity, Timestamp},
    words::rfc3339,
};

/// Events that follow from the end of a process and therefore never are its cause.
const CONSEQUENCES: [&str; 2] = ["xid-43", "xid-45"];

/// What an event means, in words that end a sentence about its GPU or node.
fn meaning(event: &HealthEvent) -> String {
    let known = match event.code.as_str() {
        "xid-48" => "double-bit ECC error",
        "xid-62" => "internal microcontroller halted",
        "xid-63" | "xid-64" => "row remapping of GPU memory",
        "xid-74" => "NVLink error",
        "xid-79" => "fell off the bus",
        "xid-92" => "high rate of single-bit ECC errors",
        "xid-94" => "contained ECC error",
        "xid-95" => "uncontained ECC error",
        "xid-119" | "xid-120" => "GSP firmware does not answer",
        "xid-140" => "unrecovered ECC error",
        _ => "",
    };
    let code = match event.code.strip_prefix("xid-") {
        Some(number) => format!("XID {number}"),
        None => event.code.clone(),
    };
    match (known, event.detail.as_str()) {
        ("", "") => code,
        ("", detail) => format!("{detail} ({code})"),
        (known, _) => format!("{known} ({code})"),
    }
}

/// "GPU 4 of node-07", "NIC mlx5_0 of node-07" or "node-07".
fn place(event: &HealthEvent) -> String {
    match (event.gpu, &event.nic) {
        (Some(gpu), _) => format!("GPU {gpu} of {}", event.node.0),
        (None, Some(nic)) => format!("NIC {nic} of {}", event.node.0),
        (None, None) => event.node.0.clone(),
    }
}

fn concerns(event: &HealthEvent, suspect: &Suspect) -> bool {
    suspect.node.as_ref() == Some(&event.node)
        && match (event.gpu, suspect.gpu) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
}

/// Adds what sensors said about the first suspects to a draft.
pub(crate) fn join(draft: &mut Draft, nodes: &Nodes, config: &Config, now: Timestamp) {
    let earliest = draft.since.before(config.health_join_ms.saturating_mul(1_000));
    let mut told: Vec<Value> = Vec::new();
    let mut worst: Option<&HealthEvent> = None;
    let top = draft.suspects.iter().map(|suspect| suspect.score).fold(0.0, f64::max);
    for suspect in draft.suspects.iter_mut().take(4) {
        let Some(node) = suspect.node.clone() else { continue };
        for (at, event) in nodes.events(&node) {
            let near = *at >= earliest && *at <= now;
            if !near || !concerns(event, suspect) || CONSEQUENCES.contains(&event.code.as_str()) {
                continue;
            }
            if event.severity >= Severity::Warning && told.len() < 8 {
                told.push(json!({
                    "code": event.code, "detail": event.detail, "gpu": event.gpu, "nic": event.nic,
                    "node": event.node.0, "severity": event.severity, "at": rfc3339(*at),
                }));
            }
            if event.severity == Severity::Fatal && suspect.score >= top && worst.is_none() {
                worst = Some(event);
                if suspect.nic.is_none() {
                    suspect.nic.clone_from(&event.nic);
                }
            }
        }
    }
    if let Some(event) = worst {
        draft.summary = format!("{}; {}: {}", draft.summary, place(event), meaning(event));
        draft.confidence = (draft.confidence + 0.1).min(0.99);
    }
    if !told.is_empty() {
        draft.evidence.insert("health".into(), Value::Array(told));
    }
}

/// Whether an open finding already tells of the event.
pub(crate) fn joined(case: &Case, event: &HealthEvent) -> bool {
    case.finding.kind != Kind::Health && case.finding.suspects.iter().any(|suspect| concerns(event, suspect))
}

/// Whether the job runs on what the event is about.
pub(crate) fn runs_on(job: &Job, event: &HealthEvent) -> bool {
    job.processes.values().any(|process| {
        process.alive()
            && process.info.node == event.node
            && match (event.gpu, process.info.gpu) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    })
}

pub(crate) fn slot(event: &HealthEvent) -> Slot {
    let code = match &event.nic {
        Some(nic) => format!("{nic} {}", event.code),
        None => event.code.clone(),
    };
    Slot::Health(event.node.clone(), event.gpu, code)
}

/// A fatal event that no symptom has shown up for.
pub(crate) fn warning(event: &HealthEvent, job: Option<&Job>, at: Timestamp) -> Draft {
    let rank = job.and_then(|job| {
        let mut on_it = job.processes.values().filter(|p| {
            p.alive() && p.info.node == event.node && event.gpu.is_some() && p.info.gpu == event.gpu
        });
        on_it.next().and_then(|process| process.info.rank)
    });
    let suffers = if job.is_some() { "; the job does not suffer from it so far" } else { "" };
    Draft {
        kind: Kind::Health,
        suspects: vec![Suspect {
            rank,
            node: Some(event.node.clone()),
            gpu: event.gpu,
            nic: event.nic.clone(),
            link: None,
            score: 0.4,
        }],
        accused: Vec::new(),
        confidence: 0.4,
        since: at,
        summary: format!("{}: {}{suffers}", place(event), meaning(event)),
        evidence: std::iter::once((
            "health".to_owned(),
            json!([{ "code": event.code, "detail": event.detail, "severity": event.severity, "at": rfc3339(at) }]),
        ))
        .collect(),
        explains: Vec::new(),
        refuted_by: "the sensor takes the event back",
        place: None,
    }
}

/// Clears warnings about what a finding has now explained.
pub(crate) fn absorb(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    let suspects: Vec<Suspect> = job
        .cases
        .iter()
        .filter(|(slot, _)| !matches!(slot, Slot::Health(..)))
        .flat_map(|(_, case)| case.finding.suspects.clone())
        .collect();
    if suspects.is_empty() {
        return;
    }
    job.cases.clear_where(now, out, |slot, _| match slot {
        Slot::Health(node, gpu, _) => suspects
            .iter()
            .any(|s| s.node.as_ref() == Some(node) && (gpu.is_none() || s.gpu.is_none() || s.gpu == *gpu)),
        _ => false,
    });
}
