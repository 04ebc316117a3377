//! Ranks that wait for each other in a circle: the program's own deadlock, since they call operations on several
//! communicators in different orders.
//!
//! Both sides are named. Who is wrong follows from how many do the same: of the ranks in the circle, the one that all
//! others wait for in one communicator has most likely left the order that these share.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    case::Draft,
    config::Config,
    finding::{CERTAINTY, Kind},
    model::{Comm, Job},
    names,
    observation::{CommId, ProcessId},
    patience,
    stall::Stall,
    wait::{PeerWait, Waits},
    words,
};

/// The finding, once everybody in the circle has waited for long.
pub(crate) fn draft(
    job: &Job,
    waits: &Waits,
    ranks: &BTreeSet<ProcessId>,
    stalls: &[CommId],
    config: &Config,
) -> Option<Draft> {
    let stalls: Vec<(&Comm, &Stall)> =
        stalls.iter().filter_map(|id| Some((job.comms.get(id)?, waits.stalls.get(id)?))).collect();
    let peers: Vec<&PeerWait> = waits
        .peers
        .iter()
        .filter(|wait| ranks.contains(&wait.waiter) && wait.peer.is_some_and(|peer| ranks.contains(&peer)))
        .collect();
    let threshold_us = threshold_us(job, ranks, &stalls, config);
    let waited = stalls.iter().map(|(_, stall)| (stall.longest_us, stall.since));
    let waited: Vec<_> = waited.chain(peers.iter().map(|wait| (wait.wait_us, wait.since))).collect();
    let longest_us = waited.iter().map(|(us, _)| *us).max()?;
    // Windows of different ranks are taken at different times: what looks like a circle may be two moments.
    let settled = waited.iter().all(|(us, _)| *us >= config.stopped_floor_ms.saturating_mul(1_000));
    if longest_us < threshold_us || !settled {
        return None;
    }
    let mut sides = Vec::new();
    for (comm, stall) in &stalls {
        let holders: Vec<ProcessId> =
            stall.holders.iter().map(|h| h.process).filter(|p| ranks.contains(p)).collect();
        sides.push(format!(
            "{} in {} #{} of {} for {}",
            names::list(job, &within(&stall.waiting, ranks)),
            stall.function,
            stall.operation,
            comm.label(),
            names::list(job, &holders)
        ));
    }
    for wait in peers.iter().filter(|wait| !wait.is_send).take(4) {
        let peer = wait.peer.map(|peer| names::short(job, peer)).unwrap_or_default();
        sides.push(format!("{} in a receive from {peer}", names::short(job, wait.waiter)));
    }
    let (accused, scores) = suspects(&stalls, ranks);
    let suspects = accused.iter().zip(&scores).map(|(p, score)| names::suspect(job, *p, *score)).collect();
    let stands_out = scores.len() > 1 && scores[0] > scores[1];
    let place = stalls.first().map(|(_, stall)| (stall.comm, stall.operation));
    Some(Draft {
        kind: Kind::Desync,
        suspects,
        accused,
        confidence: if stands_out { 0.8 } else { 0.7 },
        since: waited.iter().map(|(_, since)| *since).min()?,
        summary: format!(
            "deadlock: the program waits for itself since {}: {}",
            words::duration(longest_us),
            sides.join("; ")
        ),
        evidence: BTreeMap::from([("cycle".to_owned(), json!(sides)), (CERTAINTY.to_owned(), json!(0.95))]),
        explains: Vec::new(),
        refuted_by: "one of the operations finishes",
        place,
    })
}

/// Who waits on its GPU does not compute, so a circle that is one never resolves: no pause or warm-up looks like it. Where only
/// the host's view is known, some of them may compute.
fn threshold_us(job: &Job, ranks: &BTreeSet<ProcessId>, stalls: &[(&Comm, &Stall)], config: &Config) -> u64 {
    if ranks.iter().all(|rank| job.process(*rank).is_some_and(|process| process.kernel_events)) {
        return config.hang_floor_ms.saturating_mul(1_000);
    }
    let by_stall = stalls.iter().map(|(comm, _)| patience::inside(comm, config)).max();
    by_stall.unwrap_or_else(|| patience::transfer(job, config))
}

fn within(processes: &[ProcessId], ranks: &BTreeSet<ProcessId>) -> Vec<ProcessId> {
    processes.iter().copied().filter(|process| ranks.contains(process)).collect()
}

/// The ranks of the circle, those first for which, in some collective, most of the others wait together.
fn suspects(stalls: &[(&Comm, &Stall)], ranks: &BTreeSet<ProcessId>) -> (Vec<ProcessId>, Vec<f64>) {
    let mut awaited: BTreeMap<ProcessId, f64> = ranks.iter().map(|process| (*process, 0.0)).collect();
    for (_, stall) in stalls {
        let holders: Vec<ProcessId> =
            stall.holders.iter().map(|h| h.process).filter(|p| ranks.contains(p)).collect();
        let waiting = within(&stall.waiting, ranks).len() as f64;
        for holder in &holders {
            let share = waiting / (waiting + holders.len() as f64);
            awaited.entry(*holder).and_modify(|most| *most = most.max(share));
        }
    }
    let mut ranked: Vec<(ProcessId, f64)> = awaited.into_iter().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.into_iter().unzip()
}
