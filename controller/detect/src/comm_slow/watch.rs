//! Whose network steps are all to be timed for a while, and not only those of sampled operations.
//!
//! Timing costs the job little, but not nothing, so it is bounded: it is wished for while links are suspicious or the job has become
//! slower and nobody is late, for so many processes, and for so much of the time. What of that is not used is saved up for
//! when it is needed (a token bucket), so a link that was suspected for a moment an hour ago leaves enough for one that is
//! slow now. In a busy fabric some link is always suspected for a moment: half of what can be saved up is only used where a link
//! is slow for certain or the job has become slower. Agents stop by themselves; a wish is said again as long as it stands.
//!
//! A link is judged against others of its kind that were timed at the same time, so some of these are timed, too.

use std::collections::BTreeSet;

use super::{
    Key, Kin,
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
/// Longest time that a job's steps are timed at a stretch, which is saved up within so many times as long.
const STRETCH_US: u64 = 180_000_000;
const SAVED_UP_IN: u64 = 4;
/// Of that, what is kept back for more than a suspicion.
const KEPT_US: u64 = STRETCH_US / 2;
/// How much longer an iteration has to take for the network to be looked at closely, without a late rank.
const SLOWER: f64 = 0.1;
/// Processes timed at once.
const MOST: usize = 64;
/// Suspects whose other links are looked at, and links of a communicator that are looked through for them.
const CENTRAL: usize = 32;
const LOOKED_THROUGH: usize = 4_096;
/// Links that suspects are compared with, if they were heard of within this time.
const COMPARED: usize = 12;
const HEARD_US: u64 = 60_000_000;

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
#[derive(Debug)]
pub(super) struct Watch {
    /// Time for which steps may still be timed, and when that was so.
    left_us: u64,
    at: Timestamp,
    said: Timestamp,
    watched: BTreeSet<ProcessId>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { left_us: STRETCH_US, at: Timestamp(0), said: Timestamp(0), watched: BTreeSet::new() }
    }
}

impl Watch {
    /// What to wish for, given whose links are suspicious at the moment, the worst first, and whether it is certain that something
    /// is slow.
    pub(super) fn next(
        &mut self,
        suspects: &[(ProcessId, NodeName)],
        certain: bool,
        now: Timestamp,
    ) -> Vec<Wish> {
        let suspects = &suspects[..suspects.len().min(MOST)];
        let passed_us = now.micros_since(std::mem::replace(&mut self.at, now));
        self.left_us = self.left_us.saturating_add(passed_us / SAVED_UP_IN).min(STRETCH_US);
        let due = now.micros_since(self.said) >= AGAIN_US;
        let known = suspects.iter().all(|(process, _)| self.watched.contains(process));
        if suspects.is_empty() || (!due && known) {
            return Vec::new();
        }
        // The last wish stands until then anyway.
        let longer_us = now.micros_since(self.said).min(LENGTH_US);
        let kept_us = if certain { 0 } else { KEPT_US };
        if self.left_us < longer_us.saturating_add(kept_us) {
            return Vec::new();
        }
        self.left_us -= longer_us;
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
    let pairs: Vec<Pair> = keys.iter().take(MOST).filter_map(|(key, _)| ends(job, key)).collect();
    let mut processes: Vec<ProcessId> = Vec::new();
    add(&mut processes, pairs.into_iter().flat_map(|(src, dst)| [src, dst]));
    // Then those whom these exchange data with, in whichever communicator: whether their links are slow, too, tells what the cause is.
    let mut others = Vec::new();
    let central = processes.iter().take(CENTRAL).filter_map(|id| Some(job.process(*id)?.memberships.iter()));
    for (comm, comm_rank) in central.flatten() {
        let first = Key { comm: *comm, src: 0, dst: 0, class: 0 };
        let links = network.cells.range(first..).map(|(key, _)| key).take_while(|key| key.comm == *comm);
        let own = links.take(LOOKED_THROUGH).filter(|key| key.src == *comm_rank || key.dst == *comm_rank);
        others.extend(own.filter_map(|key| ends(job, key)).flat_map(|(src, dst)| [src, dst]));
    }
    add(&mut processes, others);
    let kinds: BTreeSet<Kin> =
        keys.iter().filter_map(|(key, _)| Some(network.cells.get(key)?.kin)).take(CENTRAL).collect();
    let cells = network.cells.iter().take(LOOKED_THROUGH);
    let alike = cells.filter(|(key, cell)| kinds.contains(&cell.kin) && !network.suspicious.contains(key));
    let alike = alike.filter(|(_, cell)| now.micros_since(cell.heard) < HEARD_US);
    add(
        &mut processes,
        alike.take(COMPARED).filter_map(|(key, _)| ends(job, key)).flat_map(|(src, dst)| [src, dst]),
    );
    let late = job.cases.iter().any(|(slot, _)| matches!(slot, Slot::Slow(_) | Slot::Imbalance(_)));
    let slower = !late && network.pace.loss() > SLOWER;
    if keys.is_empty() && slower {
        let busiest = job.comms.values().max_by(|a, b| a.busy().total_cmp(&b.busy()));
        let members = busiest.into_iter().flat_map(|comm| comm.members.values());
        add(&mut processes, members.map(|member| member.process));
    }
    let suspects: Vec<(ProcessId, NodeName)> = processes
        .into_iter()
        .filter_map(|process| Some((process, job.process(process)?.info.node.clone())))
        .collect();
    let certain = slower || !job.network.slow.is_empty();
    let wishes = job.network.watch.next(&suspects, certain, now);
    if !wishes.is_empty() {
        job.network.wishes = wishes;
    }
}

/// Adds those that are not there yet, as long as there is room.
fn add(processes: &mut Vec<ProcessId>, more: impl IntoIterator<Item = ProcessId>) {
    for process in more {
        if processes.len() < MOST && !processes.contains(&process) {
            processes.push(process);
        }
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
        let wishes = watch.next(&suspects, true, at(0));
        let said: Vec<(&str, usize)> =
            wishes.iter().map(|w| (w.node.0.as_str(), w.processes.len())).collect();
        assert_eq!(said, [("node-0", 2), ("node-2", 1)]);
        assert_eq!(watch.next(&suspects, true, at(1)), [], "it stands");
        assert_eq!(watch.next(&[suspect(7)], true, at(2)).len(), 1, "somebody else");
        assert_eq!(watch.next(&[suspect(7)], true, at(21)), []);
        assert_eq!(watch.next(&[suspect(7)], true, at(23)).len(), 1, "said again");
        let said = (24..2_000).filter(|s| !watch.next(&[suspect(7)], true, at(*s)).is_empty()).count();
        // 180 seconds, and then a quarter of the time: of each wish, a stretch of 20 to 30 seconds counts.
        assert!((22..34).contains(&said), "{said}");
    }

    #[test]
    fn a_short_suspicion_leaves_enough_for_a_long_one() {
        let mut watch = Watch::default();
        assert_eq!(watch.next(&[suspect(0)], true, at(0)).len(), 1);
        // Five minutes later another link is slow, for good.
        let said: Vec<u64> =
            (300..480).filter(|s| !watch.next(&[suspect(3)], true, at(*s)).is_empty()).collect();
        assert!(said.len() >= 8 && said[0] == 300, "{said:?}");
        assert!(said.windows(2).all(|pair| pair[1] - pair[0] <= 20), "{said:?}");
    }

    #[test]
    fn what_is_only_suspected_leaves_enough_for_what_is_certain() {
        // All the time some link is suspected, and none is slow.
        let mut watch = Watch::default();
        (0..3_600).for_each(|s| drop(watch.next(&[suspect(s / 7)], false, at(s))));
        let said: Vec<u64> =
            (3_600..3_690).filter(|s| !watch.next(&[suspect(3)], true, at(*s)).is_empty()).collect();
        assert!(said.len() >= 4 && said.windows(2).all(|pair| pair[1] - pair[0] <= 20), "{said:?}");
    }

    #[test]
    fn many_are_not_all_watched() {
        let suspects: Vec<_> = (0..1_000).map(suspect).collect();
        let wishes = Watch::default().next(&suspects, true, at(0));
        assert_eq!(wishes.iter().map(|wish| wish.processes.len()).sum::<usize>(), MOST);
        assert_eq!(Watch::default().next(&[], true, at(0)), []);
    }
}
