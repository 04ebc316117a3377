//! Sends and receives that stand still: a rank that never comes to its side, or a transfer that both sides are in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    case::Draft,
    config::Config,
    finding::{Kind, Link},
    held,
    model::Job,
    names,
    observation::{CommId, ProcessId},
    patience,
    stall::{Holder, Why},
    wait::{PeerWait, Waits},
    words,
};

/// Waits listed as evidence.
const SHOWN: usize = 8;

/// Ranks that wait for nobody, and for which others wait in sends or receives.
pub(crate) fn unanswered(job: &Job, waits: &Waits, holders: &[Holder], config: &Config) -> Option<Draft> {
    let first = *holders.first()?;
    let for_them: Vec<&PeerWait> =
        holders.iter().flat_map(|holder| waits.waiting_for(holder.process)).collect();
    let longest = for_them.iter().max_by_key(|wait| (wait.wait_us, !wait.is_send))?;
    if first.why != Why::Stopped && longest.wait_us < patience::least(config) {
        return None;
    }
    let threshold_us = patience::unanswered(job, holders, config);
    let allowed_us = match first.why {
        Why::Stopped => config.stopped_floor_ms.saturating_mul(1_000),
        _ if held::is_busy(job, holders) => threshold_us.max(config.busy_pause_ms.saturating_mul(1_000)),
        _ => threshold_us,
    };
    if longest.wait_us < allowed_us {
        return None;
    }
    let accused: Vec<ProcessId> = holders.iter().map(|holder| holder.process).collect();
    let (base, early) = held::confidence(first.why, holders.len(), None, longest.wait_us, threshold_us);
    let names = names::list(job, &accused);
    let since = words::duration(longest.wait_us);
    let waiter = names::short(job, longest.waiter);
    let summary = match (first.why, longest.is_send) {
        (Why::Stopped, _) => {
            format!("{names} stopped by a signal (state T), and {waiter} waits for it since {since}")
        }
        (_, false) => format!(
            "{names} did not send what {waiter} waits to receive since {since}{}",
            held::doing(job, first.process)
        ),
        (_, true) => format!(
            "{names} did not receive what {waiter} sends since {since}{}",
            held::doing(job, first.process)
        ),
    };
    let mut evidence = numbers(job, &for_them, longest, threshold_us);
    if first.why == Why::Stopped {
        evidence.insert("stopped".into(), json!("stopped by a signal (state T)"));
    }
    let mut draft = Draft {
        kind: Kind::NonCommHang,
        suspects: accused.iter().map(|process| names::suspect(job, *process, base)).collect(),
        accused,
        confidence: base - early,
        since: for_them.iter().map(|wait| wait.since).min()?,
        summary,
        evidence,
        explains: Vec::new(),
        refuted_by: "the suspect comes to its side of the transfer by itself, or a rank that holds it up is found",
        place: None,
    };
    held::certain(&mut draft, longest.wait_us, threshold_us);
    Some(draft)
}

/// A transfer that both sides have begun.
pub(crate) fn transfer(
    job: &Job,
    waits: &Waits,
    comm: CommId,
    (src, dst): (ProcessId, ProcessId),
    config: &Config,
) -> Option<Draft> {
    let ends: Vec<&PeerWait> = waits
        .peers
        .iter()
        .filter(|wait| {
            let pair = if wait.is_send { (wait.waiter, wait.peer) } else { (src, Some(wait.waiter)) };
            wait.comm == comm && pair == (src, Some(dst)) && (wait.is_send || wait.peer == Some(src))
        })
        .collect();
    // The later of the two has just come, for all that is known, until it has waited long itself.
    let shortest = ends.iter().min_by_key(|wait| wait.wait_us)?;
    if shortest.wait_us < patience::least(config) {
        return None;
    }
    let threshold_us = patience::transfer(job, config);
    if shortest.wait_us < threshold_us {
        return None;
    }
    let link = Link { src: names::short(job, src), dst: names::short(job, dst) };
    let mut suspect = names::suspect(job, src, 0.9);
    suspect.link = Some(link);
    let evidence = numbers(job, &ends, shortest, threshold_us);
    let mut receiver = names::suspect(job, dst, 0.6);
    receiver.link.clone_from(&suspect.link);
    let mut draft = Draft {
        kind: Kind::CommHang,
        suspects: vec![suspect, receiver],
        accused: vec![src, dst],
        confidence: 0.85,
        since: shortest.since,
        summary: format!(
            "the transfer from {} to {} stands still since {}, and both are in it",
            names::full(job, src),
            names::full(job, dst),
            words::duration(shortest.wait_us)
        ),
        evidence,
        explains: Vec::new(),
        refuted_by: "the transfer finishes, or one of the ranks turns out not to be in it",
        place: None,
    };
    held::certain(&mut draft, shortest.wait_us, threshold_us);
    Some(draft)
}

fn numbers(job: &Job, waits: &[&PeerWait], longest: &PeerWait, threshold_us: u64) -> BTreeMap<String, Value> {
    let label = job.comms.get(&longest.comm).map(|comm| comm.label()).unwrap_or_default();
    let shown = waits.iter().take(SHOWN).map(|wait| {
        json!({
            "who": names::short(job, wait.waiter),
            "for": wait.peer.map(|peer| names::short(job, peer)),
            "in": if wait.is_send { "send" } else { "receive" },
            "seconds": held::seconds(wait.wait_us),
        })
    });
    BTreeMap::from([
        ("communicator".to_owned(), json!(label)),
        ("transfers".to_owned(), Value::Array(shown.collect())),
        ("waiting".to_owned(), json!(waits.len())),
        ("longest_wait_seconds".to_owned(), json!(held::seconds(longest.wait_us))),
        ("threshold_seconds".to_owned(), json!(held::seconds(threshold_us))),
    ])
}

/// Whether anybody still waits for one of these.
pub(crate) fn lasts(waits: &Waits, accused: &[ProcessId]) -> bool {
    accused.iter().any(|process| waits.waiting_for(*process).next().is_some())
}
