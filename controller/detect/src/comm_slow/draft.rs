//! What is said of a cause: suspects, the sentence and the numbers behind it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Key,
    cell::Numbers,
    locate::{Cause, Found},
    matrix::{Matrix, ends},
};
use crate::{
    case::Draft,
    finding::{self, Kind, Suspect},
    model::Job,
    names,
    observation::{CommId, ProcessId, Timestamp},
    words,
};

/// Links listed with a finding.
const LISTED: usize = 8;
const BYTES_PER_MIB: f64 = 1_048_576.0;

pub(super) fn draft(
    job: &Job,
    matrix: &Matrix,
    found: &Found,
    keys: &[Key],
    lost: f64,
    now: Timestamp,
) -> Draft {
    let numbers: Vec<(Key, Numbers)> =
        keys.iter().filter_map(|key| Some((*key, job.network.cells.get(key)?.numbers))).collect();
    let worst = numbers.iter().max_by(|(_, a), (_, b)| a.excess.total_cmp(&b.excess));
    let worst = worst.map(|(_, numbers)| *numbers).unwrap_or_default();
    let since = numbers.iter().map(|(_, numbers)| numbers.since).min().unwrap_or(now);
    let whole = found.slow.len() as f64 / found.covered.max(1) as f64;
    let confidence = ((0.65 + 0.1 * (worst.excess / 0.69).min(2.0)) * whole.sqrt()).min(0.9);
    let confidence = confidence / (found.equals.len() + 1) as f64;
    let causes: Vec<&Cause> = std::iter::once(&found.cause).chain(&found.equals).collect();
    let suspects: Vec<(Suspect, Option<ProcessId>)> =
        causes.iter().flat_map(|cause| suspects(job, matrix, cause, confidence)).collect();
    let what: Vec<String> = causes.iter().map(|cause| describe(job, matrix, cause)).collect();
    let ns = |per_byte: f64| (per_byte * BYTES_PER_MIB).round();
    let time = |per_byte: f64| words::duration((ns(per_byte) / 1_000.0) as u64);
    let summary = format!(
        "{} {:.1} times as slow as comparable links ({} instead of {} for a MiB) since {} UTC; the job loses about {:.0} % of each iteration to it",
        what.join(", or "),
        worst.excess.exp(),
        time(worst.cost),
        time(worst.cost / worst.excess.exp()),
        words::clock(since),
        lost * 100.0,
    );
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let labels = comms.iter().filter_map(|comm| job.comms.get(comm)).map(|comm| comm.label());
    let iteration_us = job.iteration_us();
    let iterations = now.micros_since(since) as f64 / iteration_us.max(1) as f64;
    let percent = |x: f64| (x * 1_000.0).round() / 10.0;
    let evidence = [
        ("cause", json!(kind_name(&found.cause))),
        ("communicators", json!(labels.take(LISTED).collect::<BTreeSet<_>>())),
        ("ns_per_mib", json!(ns(worst.cost))),
        ("peers_median_ns_per_mib", json!(ns(worst.peers_cost))),
        ("peers", json!(worst.peers)),
        ("times_as_slow", json!((worst.excess.exp() * 100.0).round() / 100.0)),
        ("noise_percent", json!(percent(worst.noise.exp_m1()))),
        ("flush_percent", json!(percent(worst.flush))),
        ("bytes_timed", json!(numbers.iter().map(|(_, n)| n.bytes).sum::<u64>())),
        ("samples", json!(worst.samples)),
        ("slow_links", json!(found.slow.len())),
        ("links_of_the_cause", json!(found.covered)),
        ("links_compared", json!(matrix.slow.len() + matrix.fine.len())),
        ("links", links(job, &numbers)),
        ("lost_percent_of_iteration", json!(percent(lost))),
        ("lost_ms_per_iteration", json!((lost * iteration_us as f64 / 10.0).round() / 100.0)),
        ("iterations_lost", json!((lost * iterations * 10.0).round() / 10.0)),
    ];
    let waiting: usize =
        comms.iter().filter_map(|comm| job.comms.get(comm)).map(|comm| comm.members.len()).max().unwrap_or(0);
    Draft {
        kind: Kind::CommSlow,
        accused: suspects.iter().filter_map(|(_, process)| *process).collect(),
        suspects: suspects.into_iter().map(|(suspect, _)| suspect).collect(),
        confidence,
        since,
        summary,
        evidence: evidence.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        explains: vec![format!(
            "the {} of each communicator concerned wait for it inside their operations",
            words::count(waiting, "rank")
        )],
        refuted_by: "a transfer between the same ends outside of the job is as fast as between others, or the ranks at \
                     these ends share a NIC or a GPU with more traffic than their peers do",
        place: keys.first().map(|key| (key.comm, 0)),
    }
}

/// The slowest links, with the numbers of each.
fn links(job: &Job, numbers: &[(Key, Numbers)]) -> Value {
    let mut worst: Vec<&(Key, Numbers)> = numbers.iter().collect();
    worst.sort_by(|(a, x), (b, y)| y.excess.total_cmp(&x.excess).then(a.cmp(b)));
    let value = |(key, numbers): &&(Key, Numbers)| {
        let (src, dst) = ends(job, key)?;
        Some(json!({
            "src": names::short(job, src),
            "dst": names::short(job, dst),
            "communicator": job.comms.get(&key.comm).map(|comm| comm.label()),
            "ns_per_mib": (numbers.cost * BYTES_PER_MIB).round(),
            "times_as_slow": (numbers.excess.exp() * 100.0).round() / 100.0,
        }))
    };
    worst.iter().take(LISTED).filter_map(value).collect()
}

fn kind_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Path(..) => "path",
        Cause::Sender(_) | Cause::NodeOut(_) => "sender",
        Cause::Receiver(_) | Cause::NodeIn(_) => "receiver",
        Cause::Ends(_) => "nic",
        Cause::Node(_) => "node",
        Cause::Between(..) | Cause::Group(_) | Cause::Uplink(_) => "switch",
    }
}

/// Who is suspected: of a path the sender first, since nothing tells its ends apart.
fn suspects(job: &Job, matrix: &Matrix, cause: &Cause, score: f64) -> Vec<(Suspect, Option<ProcessId>)> {
    let rank = |number: usize, score: f64| {
        let process = matrix.processes[number];
        (names::suspect(job, process, score), Some(process))
    };
    let node = |number: &usize, link: Option<finding::Link>| {
        let name = matrix.nodes[*number].clone();
        (Suspect { node: Some(name), link, score, ..Suspect::default() }, None)
    };
    match cause {
        Cause::Path(src, dst) => {
            let name = |number: usize| names::short(job, matrix.processes[number]);
            let link = finding::Link { src: name(*src), dst: name(*dst) };
            let mut ends = [rank(*src, score), rank(*dst, score * 0.8)];
            for (suspect, _) in &mut ends {
                suspect.link = Some(link.clone());
            }
            ends.into()
        }
        Cause::Sender(number) | Cause::Receiver(number) | Cause::Ends(number) => vec![rank(*number, score)],
        Cause::NodeOut(number) | Cause::NodeIn(number) | Cause::Node(number) => vec![node(number, None)],
        Cause::Between(from, to) => {
            let link = finding::Link { src: nodes_list(matrix, from), dst: nodes_list(matrix, to) };
            from.iter().map(|number| node(number, Some(link.clone()))).collect()
        }
        Cause::Group(nodes) | Cause::Uplink(nodes) => {
            let link = finding::Link { src: nodes_list(matrix, nodes), dst: "the other nodes".to_owned() };
            nodes.iter().map(|number| node(number, Some(link.clone()))).collect()
        }
    }
}

fn nodes_list(matrix: &Matrix, nodes: &BTreeSet<usize>) -> String {
    let names: Vec<String> = nodes.iter().map(|number| matrix.nodes[*number].0.clone()).collect();
    words::list(&names, 6)
}

/// The opening of a sentence, with its verb.
fn describe(job: &Job, matrix: &Matrix, cause: &Cause) -> String {
    let rank = |number: &usize| names::full(job, matrix.processes[*number]);
    let node = |number: &usize| &matrix.nodes[*number].0;
    match cause {
        Cause::Path(src, dst) => format!("the link from {} to {} is", rank(src), rank(dst)),
        Cause::Sender(number) => format!("everything that {} sends is", rank(number)),
        Cause::Receiver(number) => format!("everything that {} receives is", rank(number)),
        Cause::Ends(number) => format!("everything that {} sends and receives is", rank(number)),
        Cause::NodeOut(number) => format!("everything that leaves {} is", node(number)),
        Cause::NodeIn(number) => format!("everything that comes to {} is", node(number)),
        Cause::Node(number) => format!("everything in and out of {} is", node(number)),
        Cause::Between(from, to) => {
            format!("everything from {} to {} is", nodes_list(matrix, from), nodes_list(matrix, to))
        }
        Cause::Group(nodes) => format!("everything in, out of and between {} is", nodes_list(matrix, nodes)),
        Cause::Uplink(nodes) => {
            format!("everything between {} and the other nodes is", nodes_list(matrix, nodes))
        }
    }
}
