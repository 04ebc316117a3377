//! Ranks that wait for each other in a circle: the program's own deadlock, since they call operations on several
//! communicators in different orders.
//!
//! Both sides are named. Who is wrong follows from how many do the same: of the ranks in the circle, the one that all
//! others wait for in one communicator has most likely left the order that these share.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    case::Draft,
    comm_slow,
    config::Config,
    finding::{CERTAINTY, Kind},
    model::{Comm, Job},
    names,
    nodes::Nodes,
    observation::{CommId, ProcessId, Timestamp},
    patience,
    stall::Stall,
    wait::{PeerWait, Root, Waits},
    words,
};

/// So many times as long a circle has to last where a link in it is under suspicion.
const BY_SLOW_LINK: u64 = 4;

/// Ranks that seem to wait for each other, and for how long those did that got on: data may have been under way to them, so
/// another circle of that length proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Circles {
    open: Vec<(BTreeSet<ProcessId>, u64)>,
    resolved_us: u64,
}

impl Circles {
    /// Takes in the circles there are. `still` says whether any of these ranks has waited for so long, in microseconds; nothing if
    /// that is not known of one of them, or one has ended.
    pub(crate) fn note(
        &mut self,
        circles: impl Iterator<Item = (BTreeSet<ProcessId>, u64)>,
        still: impl Fn(&BTreeSet<ProcessId>, u64) -> Option<bool>,
    ) {
        for (ranks, longest_us) in std::mem::take(&mut self.open) {
            match still(&ranks, longest_us) {
                Some(false) => self.resolved_us = self.resolved_us.max(longest_us),
                Some(true) => self.open.push((ranks, longest_us)),
                None => {}
            }
        }
        for (ranks, longest_us) in circles {
            self.open.retain(|(known, _)| *known != ranks);
            self.open.push((ranks, longest_us));
        }
    }
}

/// Notes which circles there are, and which of those before are none any more.
pub(crate) fn note(job: &mut Job, waits: &Waits, roots: &[Root], nodes: &Nodes, config: &Config) {
    let now = job.examined;
    let mut known = std::mem::take(&mut job.circles);
    let circles = roots.iter().filter_map(|root| match root {
        Root::Circle { ranks, stalls } => {
            let longest_us = waited(waits, ranks, stalls).map(|(us, _)| us).max()?;
            Some((ranks.clone(), longest_us))
        }
        _ => None,
    });
    known.note(circles, |ranks, longest_us| {
        let seen = |id: &ProcessId| {
            let process = job.process(*id).filter(|process| process.alive());
            process.is_some_and(|process| process.blind_because(nodes, config, now).is_none())
        };
        let in_stall =
            |stall: &Stall| stall.waiting.iter().any(|id| ranks.contains(id)).then_some(stall.longest_us);
        let stalled = waits.stalls.values().filter_map(in_stall);
        let peers = waits.peers.iter().filter(|wait| ranks.contains(&wait.waiter)).map(|wait| wait.wait_us);
        ranks.iter().all(seen).then(|| stalled.chain(peers).any(|us| us >= longest_us))
    });
    job.circles = known;
}

/// For how long, and since when, these ranks have waited for each other.
fn waited<'a>(
    waits: &'a Waits,
    ranks: &'a BTreeSet<ProcessId>,
    stalls: &'a [CommId],
) -> impl Iterator<Item = (u64, Timestamp)> + 'a {
    let stalls = stalls.iter().filter_map(|id| waits.stalls.get(id));
    let stalls = stalls.map(|stall| (stall.longest_us, stall.since));
    stalls.chain(between(waits, ranks).map(|wait| (wait.wait_us, wait.since)))
}

/// The sends and receives in which these ranks wait for each other.
fn between<'a>(waits: &'a Waits, ranks: &'a BTreeSet<ProcessId>) -> impl Iterator<Item = &'a PeerWait> {
    let inside =
        |wait: &&PeerWait| ranks.contains(&wait.waiter) && wait.peer.is_some_and(|p| ranks.contains(&p));
    waits.peers.iter().filter(inside)
}

/// The finding, once everybody in the circle has waited for long.
pub(crate) fn draft(
    job: &Job,
    waits: &Waits,
    ranks: &BTreeSet<ProcessId>,
    stalls: &[CommId],
    config: &Config,
) -> Option<Draft> {
    let waited: Vec<_> = waited(waits, ranks, stalls).collect();
    let stalls: Vec<(&Comm, &Stall)> =
        stalls.iter().filter_map(|id| Some((job.comms.get(id)?, waits.stalls.get(id)?))).collect();
    let threshold_us = threshold_us(job, ranks, &stalls, config);
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
    for wait in between(waits, ranks).filter(|wait| !wait.is_send).take(4) {
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

/// Who waits on its GPU does not compute, so a circle that is one never resolves: no pause or warm-up looks like it, only data that is
/// under way for long. Where only the host's view is known, some of them may compute.
fn threshold_us(job: &Job, ranks: &BTreeSet<ProcessId>, stalls: &[(&Comm, &Stall)], config: &Config) -> u64 {
    let threshold_us = if ranks.iter().all(|rank| job.process(*rank).is_some_and(|p| p.kernel_events)) {
        patience::beyond(job.circles.resolved_us, config)
    } else {
        let by_stall = stalls.iter().map(|(comm, _)| patience::inside(comm, config)).max();
        by_stall.unwrap_or_else(|| patience::transfer(job, config))
    };
    let times = if comm_slow::any_between(job, ranks) { BY_SLOW_LINK } else { 1 };
    threshold_us.saturating_mul(times)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_that_got_on_says_how_long_another_may_last() {
        let (ranks, others) = (BTreeSet::from([ProcessId(1), ProcessId(2)]), BTreeSet::from([ProcessId(3)]));
        let mut circles = Circles::default();
        let none = || std::iter::empty();
        circles.note([(ranks.clone(), 2), (others.clone(), 9)].into_iter(), |_, _| None);
        circles.note([(ranks.clone(), 3)].into_iter(), |_, _| Some(true));
        assert_eq!(circles.resolved_us, 0, "they wait");
        circles.note(none(), |known, _| (*known == ranks).then_some(false));
        assert_eq!(circles.resolved_us, 3, "of the others nothing is known");
        circles.note([(ranks.clone(), 2)].into_iter(), |_, _| Some(false));
        circles.note(none(), |_, _| Some(false));
        assert_eq!(circles.resolved_us, 3, "the longest");
        assert!(circles.open.is_empty());
    }
}
