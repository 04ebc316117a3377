//! Slow communication: which link, sender, receiver or part of the fabric moves data more slowly than its peers do.
//!
//! The measure is network time per byte of a directed link: of the two ends' times the smaller one, and the receiver's
//! flush. A sender's data is "with the network" for long also when the receiver comes late and takes none of it (with
//! sockets, at least), and a receiver waits for data also when the sender comes late. Only on a slow link both last, so a
//! late rank, a slow GPU or a bubble of the pipeline never looks like one. Where only one end tells, nothing is claimed.
//!
//! Like is compared with like: links of communicators of the same size and name, steps of one size class, inside a node or
//! between nodes with the same kinds of NICs. Two questions are asked of a link, each against the noise of its kind: has
//! it become slower, relative to its peers, than it used to be; and does it stand out from them, as one of few. Links of another NIC class, always slower and not few, answer no to both. Samples are summed up as in `slow`
//! (a cumulative sum test), so that one bad second accuses nobody. Links that are behind one switch are used together, and told of
//! together, so a part of a kind of which most have become far slower is not compared within itself.
//!
//! Slow links together make the delay matrix of the job, over all communicators: `locate` finds the simplest cause of
//! its pattern. And it must matter: a link is only reported when the job loses time to it.

mod cell;
mod delays;
mod draft;
mod incidents;
mod lateness;
mod locate;
mod loss;
mod matrix;
mod report;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::Config,
    nodes::Nodes,
    observation::{CommId, Iteration, LinkTime, NodeName, ProcessId, Timestamp},
    signature::{fnv, fnv_start},
    stats::Histogram,
    tree::{Slot, Tree},
};
use cell::{Cell, Verdict};
pub(crate) use delays::{Delay, delays, delays_at_once};
pub(crate) use lateness::{any_between, any_is_gross, explains, explains_turns, is_near_slow, may_explain};
use loss::Pace;
pub(crate) use report::assess;
pub use watch::Wish;

/// Steps smaller than this are ruled by latency, which says more of hosts than of links.
const MIN_STEP_BYTES: u64 = 4_096;
/// Links of which one can stand out.
const ENOUGH: usize = 6;
/// What links of a kind cost is remembered for so long.
const REMEMBER_US: u64 = 60_000_000;
/// Least time between two looks.
const EXAMINE_US: u64 = 1_000_000;
/// A link that is ready waits this long for the others of its kind.
const PATIENCE_US: u64 = 3_000_000;
/// Links remembered per job: a bound on what an all-to-all of a large job takes.
const MAX_CELLS: usize = 1 << 20;
/// A link that nothing was heard of for this long is forgotten.
const FORGET_US: u64 = 600_000_000;
/// A slow link that is not used for this long, or for twelve iterations, is slow no longer.
const UNUSED_US: u64 = 60_000_000;
/// Iterations that what is not known yet is waited for.
const PATIENCE_ITERATIONS: u64 = 6;
/// What peers are measured against is the lower quartile: up to three quarters of a kind may be slow.
const REFERENCE: f64 = 0.25;

/// A directed link of a communicator, by ranks in it, and a size class of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    comm: CommId,
    src: u32,
    dst: u32,
    class: u32,
}

/// Links that are compared with each other: of communicators that are alike, since all links of one may go through the
/// same switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kin {
    size: u32,
    /// Hash of the communicator's name.
    name: u64,
    likeness: Likeness,
}

/// What makes links of such communicators alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    size_class: u32,
    /// Whether both ends are on one node.
    local: bool,
    /// Hash of what NICs the sender's and the receiver's nodes have.
    nics: u64,
}

/// Links of one kind.
#[derive(Debug)]
struct Group {
    /// Differences from sample to sample.
    differences: Histogram,
    ready: Vec<(Key, Slot)>,
    ready_since: Timestamp,
    links: usize,
    /// All there are of the kind.
    known: usize,
    /// What several links were last measured against: logarithms of what the lower quartile and the median of them cost, and when.
    last: Option<([f64; 2], Timestamp)>,
    /// The same of several that were not mostly far slower than usual, and when such as were could not be judged.
    calm: Option<([f64; 2], Timestamp)>,
    risen: Option<Timestamp>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            differences: Histogram::new(4_096),
            ready: Vec::new(),
            ready_since: Timestamp(0),
            links: 0,
            known: 0,
            last: None,
            calm: None,
            risen: None,
        }
    }
}

impl Group {
    /// What these links are to be measured against, if that can be said: logarithms of what the lower quartile and the median cost.
    /// That is `of_these`, unless they are a part of their kind and most of them take far longer than they usually do. Then so may all
    /// of the kind, or only they, which shows once others have been seen since that do not.
    fn measures(&mut self, of_these: [f64; 2], costs: &[Told], now: Timestamp) -> Option<[f64; 2]> {
        if costs.len() < 2 {
            return Some(of_these);
        }
        self.last = Some((of_these, now));
        let risen = costs.iter().filter(|told| told.has_risen_grossly).count();
        if risen * 4 <= costs.len() * 3 {
            self.calm = Some((of_these, now));
            return Some(of_these);
        }
        let calm = self.calm.filter(|(_, at)| now.micros_since(*at) < REMEMBER_US);
        if let Some((since, _)) = calm.filter(|(_, at)| self.risen.is_some_and(|risen| risen < *at)) {
            return Some(since);
        }
        if costs.len() * 4 >= self.known * 3 {
            return Some(of_these);
        }
        self.risen = Some(now);
        None
    }
}

/// A link, and what its latest sample took.
struct Told {
    key: Key,
    slot: Slot,
    /// In ns per byte.
    cost: f64,
    has_risen_grossly: bool,
}

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) process: ProcessId,
    pub(crate) node: &'a NodeName,
    /// Where it is known what NICs that has.
    pub(crate) nodes: Option<&'a Nodes>,
}

/// A communicator, as far as links are told apart by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Where<'a> {
    pub(crate) comm: CommId,
    pub(crate) size: u32,
    pub(crate) name: &'a str,
}

/// The delay matrix of a job.
#[derive(Debug, Default)]
pub(crate) struct Network {
    cells: Tree<Key, Cell>,
    groups: BTreeMap<Kin, Group>,
    /// Links that are slow, or on their way there.
    suspicious: BTreeSet<Key>,
    /// Links that were found slow and have not recovered.
    slow: BTreeSet<Key>,
    examined: Timestamp,
    swept: Timestamp,
    incidents: incidents::Incidents,
    watch: watch::Watch,
    wishes: Vec<Wish>,
    pace: Pace,
}

impl Network {
    /// Takes in what a rank of a communicator told of one of its links; `place` is asked for both ends when the link is new.
    pub(crate) fn take<'a>(
        &mut self,
        at: Where<'_>,
        own: u32,
        link: &LinkTime,
        place: impl Fn(u32) -> Option<Place<'a>>,
        now: Timestamp,
    ) {
        let step_bytes = link.bytes.checked_div(link.steps).unwrap_or(0);
        if step_bytes < MIN_STEP_BYTES {
            return;
        }
        let (src, dst) = if link.is_send { (own, link.peer) } else { (link.peer, own) };
        let key = Key { comm: at.comm, src, dst, class: link.size_class() };
        let known = self.cells.slot(&key);
        let Some(slot) = known.or_else(|| self.begin(key, at, place(src)?, place(dst)?, now)) else { return };
        let Some(cell) = self.cells.at_mut(slot, &key) else { return };
        if cell.take(link, now) {
            let group = self.groups.entry(cell.kin).or_default();
            if group.ready.is_empty() {
                group.ready_since = now;
            }
            group.ready.push((key, slot));
        }
    }

    /// Makes room for a link that was not told of before.
    fn begin(
        &mut self,
        key: Key,
        at: Where<'_>,
        src: Place<'_>,
        dst: Place<'_>,
        now: Timestamp,
    ) -> Option<Slot> {
        if src.process == dst.process || self.cells.len() >= MAX_CELLS {
            return None;
        }
        let local = !src.node.0.is_empty() && src.node == dst.node;
        let likeness = Likeness { size_class: key.class, local, nics: nics(&src, &dst) };
        let kin = Kin { size: at.size, name: fnv(fnv_start(), at.name.as_bytes()), likeness };
        self.groups.entry(kin).or_default().known += 1;
        Some(self.cells.insert(key, Cell::new(kin, now)))
    }

    /// Takes in iterations of a communicator that one rank tells of.
    pub(crate) fn pace(&mut self, comm: CommId, iterations: &[Iteration], whole_us: u64, undisturbed: bool) {
        let undisturbed = undisturbed && self.suspicious.is_empty();
        for iteration in iterations.iter().filter(|_| whole_us > 0) {
            let is_whole = iteration.duration_ns / 500 >= whole_us;
            self.pace.take(comm, iteration, is_whole, !undisturbed, self.examined);
        }
    }

    /// Compares links that have become ready.
    fn compare(&mut self, config: &Config, now: Timestamp) {
        for group in self.groups.values_mut() {
            let all = group.ready.len() * 4 >= group.links * 3 && group.ready.len() > 1;
            if group.ready.is_empty() || !(all || now.micros_since(group.ready_since) >= PATIENCE_US) {
                continue;
            }
            let ready = std::mem::take(&mut group.ready);
            group.links = group.links.max(ready.len());
            judge(group, &ready, &mut self.cells, config, now);
            for (key, slot) in ready {
                let verdict = self.cells.at(slot, &key).map_or(Verdict::Fine, Cell::verdict);
                set(&mut self.suspicious, key, verdict != Verdict::Fine);
                set(&mut self.slow, key, verdict == Verdict::Slow);
            }
        }
    }

    /// Forgets links of which nothing was heard for long.
    fn sweep(&mut self, now: Timestamp) {
        if now.micros_since(self.swept) < FORGET_US / 10 {
            return;
        }
        self.swept = now;
        let (suspicious, slow) = (&mut self.suspicious, &mut self.slow);
        self.cells.retain(|key, cell| {
            let keep = now.micros_since(cell.heard) < FORGET_US;
            if !keep {
                suspicious.remove(key);
                slow.remove(key);
            }
            keep
        });
        for group in self.groups.values_mut() {
            (group.links, group.known) = (0, 0);
        }
        for cell in self.cells.values() {
            self.groups.entry(cell.kin).or_default().known += 1;
        }
    }

    /// What was slow and is no longer used is slow no longer.
    fn expire(&mut self, now: Timestamp) {
        let after_us = UNUSED_US.max(self.pace.now_us().saturating_mul(PATIENCE_ITERATIONS * 2));
        // A link that is slow cuts its data into steps of other sizes; those tell nothing once the usual ones are fine.
        let outlived: BTreeSet<Key> =
            self.slow.union(&self.suspicious).filter(|key| self.is_outlived(key)).copied().collect();
        let cells = &mut self.cells;
        let mut keep = |key: &Key| {
            let after_us = if outlived.contains(key) { 0 } else { after_us };
            cells.get_mut(key).is_some_and(|cell| !cell.expire(after_us, now))
        };
        self.slow.retain(&mut keep);
        self.suspicious.retain(&mut keep);
    }

    /// Whether steps of another size, no smaller but for a little, have since shown again and again that the link is fine.
    fn is_outlived(&self, key: &Key) -> bool {
        let Some(last) = self.cells.get(key).map(|cell| cell.last_judged().after(1)) else { return false };
        let sizes = Key { class: key.class.saturating_sub(1), ..*key }..=Key { class: u32::MAX, ..*key };
        let mut others = self.cells.range(sizes).filter(|(other, _)| *other != key);
        others.any(|(other, cell)| {
            cell.known_since(last) && !self.slow.contains(other) && !self.suspicious.contains(other)
        })
    }

    /// Whose steps should all be timed, each wish once.
    pub(crate) fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }
}

fn set(set: &mut BTreeSet<Key>, key: Key, present: bool) {
    if present {
        set.insert(key);
    } else {
        set.remove(&key);
    }
}

fn nics(src: &Place<'_>, dst: &Place<'_>) -> u64 {
    let add = |state, place: &Place<'_>| match place.nodes.and_then(|nodes| nodes.nic_class(place.node)) {
        Some(class) => fnv(fnv(state, class.0.as_bytes()), &[0]),
        None => fnv(state, &[1]),
    };
    add(add(fnv_start(), src), dst)
}

/// Sets the links of a group against each other.
fn judge(
    group: &mut Group,
    ready: &[(Key, Slot)],
    cells: &mut Tree<Key, Cell>,
    config: &Config,
    now: Timestamp,
) {
    let told = |(key, slot): &(Key, Slot)| {
        let cell = cells.at_mut(*slot, key)?;
        let cost = cell.cost()?;
        Some(Told { key: *key, slot: *slot, cost, has_risen_grossly: cell.has_risen_grossly() })
    };
    let costs: Vec<Told> = ready.iter().filter_map(told).collect();
    let mut sorted: Vec<f64> = costs.iter().map(|told| told.cost.ln()).collect();
    sorted.sort_by(f64::total_cmp);
    let lately = group.last.filter(|(_, at)| now.micros_since(*at) < REMEMBER_US);
    // Where all others wait for one link, it may be the only one that has anything to tell for a while.
    let measures = match (sorted.as_slice(), lately) {
        ([], _) | ([_], None) => return,
        ([_], Some((last, _))) => last,
        (all, _) => [all[((all.len() - 1) as f64 * REFERENCE) as usize], all[all.len() / 2]],
    };
    let Some([reference, middle]) = group.measures(measures, &costs, now) else { return };
    // How far healthy links of this kind are apart: what lies below the middle is certainly not slow.
    let spread = middle - sorted[sorted.len() / 10];
    let noise = group.differences.median().unwrap_or(0.0) * cell::DIFFERENCE_TO_SIGMA;
    let changed = cell::LEAST_CHANGE.max(noise * config.slow_noise);
    let differs = cell::LEAST_DIFFERENCE.max(noise * config.slow_noise).max(spread * 4.0);
    // One of few: in a group of another NIC class, each has many like itself.
    let apart = sorted.iter().filter(|cost| **cost > middle + differs).count();
    let few = costs.len() >= ENOUGH && apart * 4 <= costs.len();
    // Of a part of its kind that is no more than a few, all may have the same cause.
    let is_part = costs.len() < ENOUGH && costs.len() * 4 < group.links * 3;
    for Told { key, slot, cost, .. } in &costs {
        let Some(cell) = cells.at_mut(*slot, key) else { continue };
        let relative = cost.ln() - reference;
        if is_part && cell.rose_with_others(relative, changed) {
            continue;
        }
        let setting = cell::Setting {
            changed,
            differs: few.then_some(differs),
            from_middle: cost.ln() - middle,
            peers_cost: middle.exp(),
            peers: costs.len(),
            noise,
        };
        if let Some(difference) = cell.judge(relative, &setting, now) {
            group.differences.push(difference);
        }
    }
}

#[cfg(test)]
mod tests;
