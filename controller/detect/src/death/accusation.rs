//! The words and numbers for a process that died.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    case::Draft,
    finding::{CERTAINTY, Kind},
    model::{End, Job},
    names,
    observation::ProcessId,
    words,
};

/// How sure it is who died first, where that rests on the order in which ends were seen.
const AMONG_RIVALS: f64 = 0.75;
/// The same, where the first may have been a rank of which nothing is heard.
const AMONG_UNSEEN: f64 = 0.5;
/// Rivals named in the evidence.
const SHOWN: usize = 8;

/// The finding. `rivals` ended together with it, and may as well have been the first, and so may any of so many ranks of which nothing is
/// heard.
pub(super) fn accusation(job: &Job, id: ProcessId, end: &End, rivals: &[ProcessId], unseen: usize) -> Draft {
    let certainty: f64 = match (end.signal, end.exit_code) {
        (Some(_), _) => 0.99,
        (_, Some(0)) => 0.8,
        (_, Some(_)) => 0.97,
        (None, None) => 0.9,
    };
    let most = match (unseen, rivals) {
        (0, []) => 1.0,
        (0, _) => AMONG_RIVALS,
        _ => AMONG_UNSEEN,
    };
    let confidence = certainty.min(most);
    let peers = job.processes.values().filter(|process| process.alive()).count();
    let mut evidence = BTreeMap::new();
    if !rivals.is_empty() {
        let names: Vec<String> = rivals.iter().take(SHOWN).map(|rival| names::short(job, *rival)).collect();
        evidence.insert("ended_together_with".into(), json!(names));
    }
    if unseen > 0 {
        evidence.insert("ranks_out_of_sight".into(), json!(unseen));
    }
    if confidence < certainty {
        // Who was the first may not be certain; that the job lost somebody is.
        evidence.insert(CERTAINTY.into(), json!(certainty));
    }
    if end.found {
        // Then `since` is when it was last known to live.
        evidence.insert("found_ended".into(), json!(true));
    }
    evidence.insert("finalized".into(), json!(end.finalized));
    evidence.insert("exit_code".into(), json!(end.exit_code));
    evidence.insert("signal".into(), json!(end.signal));
    evidence.insert("peers_alive".into(), json!(peers));
    evidence.insert("seconds_to_verdict".into(), json!(end.told.micros_since(end.at) as f64 * 1e-6));
    if let Some(process) = job.process(id) {
        let positions: Vec<_> = process
            .memberships
            .iter()
            .take(4)
            .filter_map(|(comm, rank)| {
                let comm = job.comms.get(comm)?;
                let member = comm.members.get(rank)?;
                Some(json!({ "communicator": comm.label(), "enqueued": member.enqueued, "completed": member.completed }))
            })
            .collect();
        evidence.insert("positions".into(), json!(positions));
    }
    Draft {
        kind: Kind::ProcessDeath,
        suspects: vec![names::suspect(job, id, confidence)],
        accused: vec![id],
        confidence,
        since: end.at,
        summary: format!(
            "{} died: {} {} {} UTC",
            names::full(job, id),
            how(end),
            if end.found { "after" } else { "at" },
            words::clock(end.at)
        ),
        evidence,
        explains: Vec::new(),
        refuted_by: "the job was stopped on purpose, or the process had ended properly",
        place: None,
    }
}

/// "killed by signal 9 (SIGKILL)".
pub(super) fn how(end: &End) -> String {
    let name = |signal: i32| match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    };
    match (end.signal, end.exit_code) {
        (Some(signal), _) if signal != 0 => format!("killed by signal {signal}{}", name(signal)),
        (_, Some(0)) => "ended with exit code 0 while others need it".to_owned(),
        (_, Some(code)) => format!("ended with exit code {code}"),
        _ if end.finalized => "ended while others need it".to_owned(),
        _ => "ended without finalising its communicators".to_owned(),
    }
}
