//! Health events joined with behaviour: an event turns "rank 12 hangs" into the cause; an event that nobody suffers
//! from stays a warning.
//!
//! Not every event explains every symptom. A GPU that is too hot makes a rank late, but does not make it hang; a fault
//! of the program kills a rank, and names the program, not the hardware. [`catalogue`] says what an event does to a
//! rank, [`explains`] what follows for the kinds of findings. All events about the suspects are shown as evidence; one of
//! them, at most, becomes the sentence.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    case::{Case, Draft, Slot},
    catalogue::{self, Effect, Entry, Origin, Part},
    config::Config,
    finding::{Finding, Kind, Suspect},
    model::Job,
    nodes::{Heard, Nodes},
    observation::{HealthEvent, Severity, Timestamp},
    words::{clock, rfc3339},
};
use symptom::Symptom;

mod symptom;
mod throttle;

pub(crate) use throttle::{Change, Throttling};

/// Whether what happened can be why a finding of this kind is there.
fn explains(kind: Kind, entry: &Entry) -> bool {
    match (kind, entry.effect) {
        (_, Effect::Nothing) => false,
        (Kind::ProcessDeath | Kind::NonCommHang, effect) => effect == Effect::Stops,
        (Kind::CommHang, effect) => effect == Effect::Stops || entry.part == Part::Nic,
        (Kind::Desync, _) => entry.origin == Origin::Application && entry.part != Part::Host,
        (Kind::NonCommSlow, effect) => effect == Effect::Slows && entry.part != Part::Nic,
        (Kind::CommSlow, effect) => {
            entry.part == Part::Nic
                || (effect == Effect::Slows && matches!(entry.part, Part::Pcie | Part::Fabric))
        }
        (Kind::Health | Kind::WorkloadImbalance | Kind::PathFault, _) => false,
    }
}

/// "GPU 4 of node-07", "NIC mlx5_0 of node-07" or "node-07".
fn place(event: &HealthEvent) -> String {
    match (event.gpu, &event.nic) {
        (Some(gpu), _) => format!("GPU {gpu} of {}", event.node.0),
        (None, Some(nic)) => format!("NIC {nic} of {}", event.node.0),
        (None, None) if event.code.starts_with("xid-") => format!("a GPU of {}", event.node.0),
        (None, None) if event.code.starts_with("sxid-") => format!("an NVSwitch of {}", event.node.0),
        (None, None) => event.node.0.clone(),
    }
}

/// "rank 12, GPU 4 of node-07, fell off the bus at 02:58:14 UTC (XID 79)".
fn sentence(event: &HealthEvent, rank: Option<u32>, at: Timestamp) -> String {
    let (place, title, at) = (place(event), catalogue::title(&event.code), clock(at));
    let subject = match (rank, event.gpu.is_some() || event.nic.is_some()) {
        (Some(rank), true) => format!("rank {rank}, {place},"),
        (Some(rank), false) => format!("{place}, where rank {rank} runs,"),
        (None, _) => place,
    };
    match catalogue::entry(&event.code, &event.detail) {
        Some(Entry { said, moment: true, .. }) => format!("{subject} {said} at {at} UTC ({title})"),
        Some(Entry { said, .. }) => format!("{subject} {said} since {at} UTC ({title}: {})", event.detail),
        None if event.detail.is_empty() => format!("{subject} reported {title} at {at} UTC"),
        None => format!("{subject} reported {title} at {at} UTC: {}", event.detail),
    }
}

fn value(event: &HealthEvent, at: Timestamp) -> Value {
    let mut value = json!({
        "code": event.code, "detail": event.detail, "node": event.node.0, "severity": event.severity, "at": rfc3339(at),
    });
    if let Some(gpu) = event.gpu {
        value["gpu"] = json!(gpu);
    }
    if let Some(nic) = &event.nic {
        value["nic"] = json!(nic);
    }
    if let Some(entry) = catalogue::entry(&event.code, &event.detail) {
        value["origin"] = json!(entry.origin);
        value["action"] = json!(entry.action.words());
    }
    value
}

/// Whether two names mean the same NIC: sysfs says "mlx5_0:1" where NCCL says "mlx5_0".
fn same_nic(a: &str, b: &str) -> bool {
    a.split(':').next() == b.split(':').next()
}

fn concerns(event: &HealthEvent, suspect: &Suspect) -> bool {
    suspect.node.as_ref() == Some(&event.node)
        && match (event.gpu, suspect.gpu) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
        && match (&event.nic, &suspect.nic) {
            (Some(a), Some(b)) => same_nic(a, b),
            _ => true,
        }
}

/// Whether what a program did wrong was done by the suspect's process. Where the driver names a process it must be this one:
/// programs that end take their neighbours on the GPU through the same errors. In a container the process may have another
/// number; then nobody is accused. Where the driver names none, the GPU must tell.
fn is_its_own(job: &Job, suspect: &Suspect, heard: &Heard) -> bool {
    let process = suspect.rank.and_then(|rank| job.process(*job.by_rank.get(&rank)?));
    let Some(process) = process else { return false };
    match catalogue::pid(&heard.event.detail) {
        Some(pid) if process.info.pid > 0 => process.info.pid == pid,
        _ => heard.event.gpu.is_some() && heard.event.gpu == suspect.gpu && heard.at >= process.first_seen,
    }
}

/// Adds what sensors said about the suspects to a draft.
pub(crate) fn join(draft: &mut Draft, job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) {
    let Draft { kind, since, suspects, accused, confidence, summary, evidence, .. } = draft;
    Symptom { kind: *kind, since: *since, suspects, accused, confidence, summary, evidence }
        .join(job, nodes, config, now);
}

/// Adds an event that has just come in to the findings that are open and have no cause yet.
pub(crate) fn arrived(
    job: &mut Job,
    event: &HealthEvent,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let mut cases = std::mem::take(&mut job.cases);
    cases.amend_where(out, |case| {
        let Case { finding, accused, .. } = case;
        let about = finding
            .suspects
            .iter()
            .any(|suspect| suspect.node.as_ref() == Some(&event.node) || suspect.link.is_some());
        if finding.kind == Kind::Health || finding.evidence.contains_key("cause") || !about {
            return false;
        }
        let Finding { kind, since, suspects, confidence, summary, evidence, .. } = finding;
        Symptom { kind: *kind, since: *since, suspects, accused, confidence, summary, evidence }
            .join(job, nodes, config, now)
    });
    job.cases = cases;
}

/// Whether an event is told even if nobody suffers from it: what is broken, and what is about to be. Hosts that are busy
/// and programs with mistakes are everyday.
pub(crate) fn is_news(event: &HealthEvent) -> bool {
    match (event.severity, catalogue::entry(&event.code, &event.detail)) {
        (Severity::Fatal, entry) => entry.is_none_or(|entry| entry.origin != Origin::Application),
        (Severity::Warning, Some(entry)) => entry.origin == Origin::Hardware && entry.part != Part::Host,
        _ => false,
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

/// An event that no symptom has shown up for.
pub(crate) fn warning(event: &HealthEvent, job: Option<&Job>, at: Timestamp) -> Draft {
    let rank = job.and_then(|job| {
        let mut on_it = job.processes.values().filter(|p| {
            p.alive() && p.info.node == event.node && event.gpu.is_some() && p.info.gpu == event.gpu
        });
        on_it.next().and_then(|process| process.info.rank)
    });
    let suffers = if job.is_some() { "; the job does not suffer from it so far" } else { "" };
    let confidence = if event.severity == Severity::Fatal { 0.4 } else { 0.3 };
    let mut evidence = BTreeMap::from([("health".to_owned(), json!([value(event, at)]))]);
    let known = catalogue::entry(&event.code, &event.detail);
    if let Some(entry) = known {
        evidence.insert("recommended_action".into(), json!(entry.action.words()));
    }
    let lasts = known.is_none_or(|entry| !entry.moment);
    Draft {
        kind: Kind::Health,
        suspects: vec![Suspect {
            rank,
            node: Some(event.node.clone()),
            gpu: event.gpu,
            nic: event.nic.clone(),
            link: None,
            score: confidence,
        }],
        accused: Vec::new(),
        confidence,
        since: at,
        summary: format!("{}{suffers}", sentence(event, rank, at)),
        evidence,
        explains: Vec::new(),
        refuted_by: if lasts { "the sensor takes the event back" } else { "it does not come again" },
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
