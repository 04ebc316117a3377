//! Ranks that disagree on what the operation at one position is. That is the program's fault (a rank skipped a
//! collective, or called it with another size), never the hardware's.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    case::Draft,
    finding::{CERTAINTY, Kind},
    held::numbers,
    model::{Comm, Job},
    names,
    observation::{OperationSignature, ProcessId},
    stall::Stall,
    words,
};

/// Splits ranks by what they say into those who are the fewest and the others. With a tie all are returned as
/// suspects: nothing tells who is wrong.
pub(crate) fn minority<K: Ord>(groups: &BTreeMap<K, Vec<ProcessId>>) -> (Vec<ProcessId>, bool) {
    let most = groups.values().map(Vec::len).max().unwrap_or(0);
    let largest = groups.values().filter(|ranks| ranks.len() == most).count();
    let tied = largest > 1;
    let suspects =
        groups.values().filter(|ranks| tied || ranks.len() < most).flatten().copied().collect::<Vec<_>>();
    (suspects, tied)
}

/// "AllReduce of 1024 ncclFloat32".
pub(crate) fn describe(signature: &OperationSignature) -> String {
    let root = match signature.function.as_str() {
        "Broadcast" | "Reduce" | "Gather" | "Scatter" => format!(" with root {}", signature.root),
        _ => String::new(),
    };
    format!("{} of {} {}{root}", signature.function, signature.count, signature.datatype)
}

/// Sizes differ by right in operations with a size for each peer.
fn comparable(signature: &OperationSignature) -> OperationSignature {
    let mut signature = signature.clone();
    if signature.function.ends_with('V') || signature.function.ends_with('v') {
        signature.count = 0;
    }
    signature
}

/// Whether the ranks that stand in the same operation mean the same by it.
pub(crate) fn in_stall(job: &Job, comm: &Comm, stall: &Stall) -> Option<Draft> {
    let mut groups: BTreeMap<String, Vec<ProcessId>> = BTreeMap::new();
    for (process, signature) in &stall.entered {
        groups.entry(describe(&comparable(signature))).or_default().push(*process);
    }
    if groups.len() < 2 {
        return None;
    }
    let (suspects, tied) = minority(&groups);
    let says = |process: &ProcessId| stall.entered.get(process).map(describe).unwrap_or_default();
    let majority = groups.iter().max_by_key(|(_, ranks)| ranks.len()).map(|(what, _)| what.clone());
    let position = format!("position {} of {}", stall.operation, comm.label());
    let summary = if tied {
        let sides: Vec<String> =
            groups.iter().map(|(what, ranks)| format!("{} called {what}", names::list(job, ranks))).collect();
        format!("ranks disagree at {position}: {}", sides.join(", "))
    } else {
        format!(
            "{} called {} where the other {} called {} ({position}): a collective was skipped, or called with other arguments",
            names::list(job, &suspects),
            suspects.first().map(says).unwrap_or_default(),
            words::count(stall.entered.len() - suspects.len(), "rank"),
            majority.unwrap_or_default(),
        )
    };
    let mut evidence = numbers(comm, stall, comm.rhythm.longest_wait_us());
    evidence.remove("threshold_seconds");
    let sides: Vec<_> = groups
        .iter()
        .map(|(what, ranks)| {
            json!({ "called": what, "ranks": ranks.len(),
                    "who": ranks.iter().take(8).map(|p| names::short(job, *p)).collect::<Vec<_>>() })
        })
        .collect();
    evidence.insert("sides".into(), json!(sides));
    let confidence = if tied { 0.7 } else { 0.95 };
    // Who is wrong may not be certain; that nobody gets out of this is.
    evidence.insert(CERTAINTY.into(), json!(0.95));
    let score = if tied { 1.0 / suspects.len().max(1) as f64 } else { confidence };
    Some(Draft {
        kind: Kind::Desync,
        suspects: suspects.iter().map(|process| names::suspect(job, *process, score)).collect(),
        accused: suspects,
        confidence,
        since: stall.since,
        summary,
        evidence,
        explains: Vec::new(),
        refuted_by: "events of one of the ranks were lost, so that its positions are off",
        place: Some((comm.id, stall.operation)),
    })
}
