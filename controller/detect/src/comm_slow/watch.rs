//! Whose network steps are all to be timed for a while, and not only those of sampled operations.
//!
//! Timing costs the job little, but not nothing, so it is bounded: it is wished for while links are suspicious or the job has become
//! slower and nobody is late, for so many processes, for so long, and then not again for a while. Agents stop by
//! themselves; a wish is said again as long as it stands.

use std::collections::BTreeSet;

use super::{
    Key,
    matrix::{Pair, ends},
};
use crate::{
    case::Slot,
    model::Job,
    observation::{NodeName, ProcessId, Timestamp},
};

/// A wish stands this long in an agent.
const LENGTH_US: u64 = 30_000_000;
/// It is said again after this time.
const AGAIN_US: u64 = 20_000_000;
/// Longest time that a job's steps are timed at a stretch, and the rest after it.
const STRETCH_US: u64 = 180_000_000;
const REST_US: u64 = 600_000_000;
/// How much longer an iteration has to take for the network to be looked at closely, without a late rank.
const SLOWER: f64 = 0.1;
/// Processes timed at once.
const MOST: usize = 64;

/// All network steps of these processes should be timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The node they are on.
    pub node: NodeName,
    /// The processes.
    pub processes: Vec<ProcessId>,
    /// For how long from now.
    pub duration_us: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when steps are timed.
    began: Option<Timestamp>,
    said: Timestamp,
    watched: BTreeSet<ProcessId>,
    rests_until: Timestamp,
}

impl Watch {
    /// What to wish for, given whose links are suspicious at the moment: the worst first.
    pub(super) fn next(&mut self, suspects: &[(ProcessId, NodeName)], now: Timestamp) -> Vec<Wish> {
        let suspects = &suspects[..suspects.len().min(MOST)];
        if now < self.rests_until {
            return Vec::new();
        }
        if suspects.is_empty() {
            // What the agents were asked for runs out by itself; a suspicion that comes back is the same one.
            if now.micros_since(self.said) > REST_US {
                self.began = None;
                self.watched.clear();
            }
            return Vec::new();
        }
        let began = *self.began.get_or_insert(now);
        if now.micros_since(began) >= STRETCH_US {
            *self = Watch { rests_until: now.after(REST_US), ..Watch::default() };
            return Vec::new();
        }
        let due = now.micros_since(self.said) >= AGAIN_US;
        if !due && suspects.iter().all(|(process, _)| self.watched.contains(process)) {
            return Vec::new();
        }
        self.said = now;
        self.watched = suspects.iter().map(|(process, _)| *process).collect();
        let mut wishes: Vec<Wish> = Vec::new();
        for (process, node) in suspects {
            match wishes.iter_mut().find(|wish| wish.node == *node) {
                Some(wish) => wish.processes.push(*process),
                None => wishes.push(Wish {
                    node: node.clone(),
                    processes: vec![*process],
                    duration_us: LENGTH_US,
                }),
            }
        }
        wishes
    }
}

/// Has all steps timed where links are suspicious, or where the job has become slower and nobody is late.
pub(super) fn look_closer(job: &mut Job, now: Timestamp) {
    let network = &job.network;
    let mut keys: Vec<(&Key, f64)> = network
        .suspicious
        .iter()
        .filter_map(|key| Some((key, network.cells.get(key)?.numbers.excess)))
        .collect();
    keys.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut processes: Vec<ProcessId> = Vec::new();
    let mut add = |process: ProcessId| {
        if !processes.contains(&process) && processes.len() < 128 {
            processes.push(process);
        }
    };
    let pairs: Vec<Pair> = keys.iter().take(128).filter_map(|(key, _)| ends(job, key)).collect();
    pairs.iter().for_each(|(src, dst)| {
        add(*src);
        add(*dst);
    });
    // Then those whom these exchange data with: whether their links are slow, too, tells what the cause is.
    for (key, _) in keys.iter().take(16) {
        let of_end =
            |other: &&Key| [key.src, key.dst].iter().any(|end| other.src == *end || other.dst == *end);
        let range = Key { src: 0, dst: 0, class: 0, ..**key }..;
        let same = network.cells.range(range).map(|(key, _)| key).take_while(|other| other.comm == key.comm);
        same.filter(of_end).filter_map(|key| ends(job, key)).take(64).for_each(|(src, dst)| {
            add(src);
            add(dst);
        });
    }
    let late = job.cases.iter().any(|(slot, _)| matches!(slot, Slot::Slow(_) | Slot::Imbalance(_)));
    if keys.is_empty() && !late && network.pace.loss() > SLOWER {
        let busiest = job.comms.values().max_by(|a, b| a.busy().total_cmp(&b.busy()));
        busiest.into_iter().flat_map(|comm| comm.members.values()).for_each(|member| add(member.process));
    }
    let suspects: Vec<(ProcessId, NodeName)> = processes
        .into_iter()
        .filter_map(|process| Some((process, job.process(process)?.info.node.clone())))
        .collect();
    let wishes = job.network.watch.next(&suspects, now);
    if !wishes.is_empty() {
        job.network.wishes = wishes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(n: u64) -> (ProcessId, NodeName) {
        (ProcessId(n), NodeName(format!("node-{}", n / 2)))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn a_wish_is_said_again_and_ends_by_itself() {
        let mut watch = Watch::default();
        let suspects = [suspect(0), suspect(1), suspect(5)];
        let wishes = watch.next(&suspects, at(0));
        let said: Vec<(&str, usize)> =
            wishes.iter().map(|w| (w.node.0.as_str(), w.processes.len())).collect();
        assert_eq!(said, [("node-0", 2), ("node-2", 1)]);
        assert_eq!(watch.next(&suspects, at(1)), [], "it stands");
        assert_eq!(watch.next(&[suspect(7)], at(2)).len(), 1, "somebody else");
        assert_eq!(watch.next(&[suspect(7)], at(21)), []);
        assert_eq!(watch.next(&[suspect(7)], at(23)).len(), 1, "said again");
        let said = (24..2_000).filter(|s| !watch.next(&[suspect(7)], at(*s)).is_empty()).count();
        // 180 seconds at a stretch, then ten minutes of rest: twice again by now.
        assert!((20..30).contains(&said), "{said}");
    }

    #[test]
    fn many_are_not_all_watched() {
        let suspects: Vec<_> = (0..1_000).map(suspect).collect();
        let wishes = Watch::default().next(&suspects, at(0));
        assert_eq!(wishes.iter().map(|wish| wish.processes.len()).sum::<usize>(), MOST);
        assert_eq!(Watch::default().next(&[], at(0)), []);
    }
}
