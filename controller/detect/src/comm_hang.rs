//! A collective that everybody has entered and nobody finishes: which connection, or whose GPU, holds it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    case::Draft,
    edges::{self, EdgeEvidence},
    finding::{Kind, Link, Suspect},
    held::{self, numbers},
    model::{Comm, Job},
    names,
    observation::ProcessId,
    stall::Stall,
    words,
};

/// Everybody is in, nobody comes out.
pub(crate) fn nobody_finishes(job: &Job, comm: &Comm, stall: &Stall, threshold_us: u64) -> Draft {
    let found = edges::weigh(job, comm);
    let what = format!("{} #{}", stall.function, stall.operation);
    let since = words::duration(stall.longest_us);
    let n = stall.waiting.len();
    let who = match comm.members.len() - n {
        0 => format!("all {n} ranks are in {what} since {since}"),
        _ => format!("{n} of {} ranks are in {what} since {since}", comm.members.len()),
    };
    let mut evidence = numbers(comm, stall, threshold_us);
    evidence.insert("edges".into(), edges_value(job, comm, &found));
    let strong = found.edges.first().is_some_and(|edge| edge.score >= 0.5);
    let (suspects, accused, confidence, summary) = if strong {
        link_suspects(job, comm, &found, &format!("{who} and none finishes"))
    } else if (1..=2).contains(&found.stuck_gpus.len()) {
        let suspects = found.stuck_gpus.iter().map(|p| names::suspect(job, *p, 0.7)).collect();
        let names = names::list(job, &found.stuck_gpus);
        let text = format!("{who}; data has arrived for {names}, whose GPU does not take it");
        (suspects, found.stuck_gpus.clone(), 0.65, text)
    } else {
        let suspects = stall.waiting.iter().map(|p| names::suspect(job, *p, 1.0 / n as f64)).collect();
        let text = format!(
            "{who} and none finishes; no connection stands out, so a GPU or the network may be at fault"
        );
        (suspects, stall.waiting.clone(), 0.3, text)
    };
    let mut draft = Draft {
        kind: Kind::CommHang,
        suspects,
        accused,
        confidence,
        since: stall.since,
        summary,
        evidence,
        explains: Vec::new(),
        refuted_by: "the operation finishes, or one of the ranks turns out not to be in it",
        place: Some((comm.id, stall.operation)),
    };
    held::certain(&mut draft, stall.shortest_us, threshold_us);
    draft
}

type Suspicion = (Vec<Suspect>, Vec<ProcessId>, f64, String);

fn link_suspects(job: &Job, comm: &Comm, found: &EdgeEvidence, opening: &str) -> Suspicion {
    let best = found.edges.first().map_or(0.0, |edge| edge.score);
    let close: Vec<_> = found.edges.iter().filter(|edge| edge.score >= best - 0.15).take(8).collect();
    // A rank that several of the suspected links share is the likelier end of each of them; else the sender is.
    let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
    for edge in &close {
        *shares.entry(edge.src).or_default() += 1;
        *shares.entry(edge.dst).or_default() += 1;
    }
    let share = |comm_rank: u32| shares.get(&comm_rank).copied().unwrap_or(0);
    let process = |comm_rank: u32| comm.members.get(&comm_rank).map(|member| member.process);
    let (mut suspects, mut accused) = (Vec::new(), Vec::new());
    for edge in &close {
        let likelier = if share(edge.dst) > share(edge.src) { edge.dst } else { edge.src };
        let mut suspect = match process(likelier).or(process(edge.src)).or(process(edge.dst)) {
            Some(id) => {
                accused.push(id);
                names::suspect(job, id, edge.score)
            }
            None => Suspect { score: edge.score, ..Suspect::default() },
        };
        suspect.link =
            Some(Link { src: names::member(job, comm, edge.src), dst: names::member(job, comm, edge.dst) });
        suspects.push(suspect);
    }
    let place = |comm_rank: u32| match process(comm_rank) {
        Some(id) => names::full(job, id),
        None => names::member(job, comm, comm_rank),
    };
    let summary = match close.first() {
        Some(edge) => format!(
            "{opening}; the connection from {} to {} stands still: {}",
            place(edge.src),
            place(edge.dst),
            edge.why
        ),
        None => opening.to_owned(),
    };
    let confidence = if close.len() == 1 { best } else { best - 0.2 };
    (suspects, accused, confidence, summary)
}

fn edges_value(job: &Job, comm: &Comm, found: &EdgeEvidence) -> Value {
    if !found.reported {
        return json!("no rank reported the state of its connections");
    }
    let shown = found.edges.iter().take(8).map(|edge| {
        json!({
            "src": names::member(job, comm, edge.src), "dst": names::member(job, comm, edge.dst),
            "score": edge.score, "why": edge.why,
        })
    });
    Value::Array(shown.collect())
}
