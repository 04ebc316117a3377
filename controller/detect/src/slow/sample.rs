//! About one iteration of one communicator: how late each rank came, and how much time each spent by itself.

use std::collections::BTreeMap;

use super::{
    Counts,
    cells::{Cell, Part},
    own,
};
use crate::{by_rank::ByRank, rhythm::Shape};

/// Where no iteration is recognised, lateness is summed over this time.
const FALLBACK_NS: u64 = 1_000_000_000;
/// What takes less than one in so many parts of an iteration is none.
const HASTY: u64 = 8;
/// Members of a class of NICs that can be compared with each other only.
const COMPARABLE: usize = 3;
/// Who works for more than so many times as long as the others had to compute beside communication, or they wait for what
/// they need long before they need it. Then they are ahead by what they can be, however little the rank is slower.
const CREDIBLE: f64 = 3.0;
/// Of the excess, the part within a single stretch from which on it is a pause, not slow work.
const PAUSE: f64 = 0.6;

/// Where a communicator stands in its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    /// How many ranks are expected to report.
    pub(crate) members: usize,
    /// The communicator's own repeating pattern.
    pub(crate) shape: Option<Shape>,
    /// The job's iteration: the longest pattern of any of its communicators. That of a tensor-parallel group may be one
    /// layer.
    pub(crate) iteration_us: u64,
    /// Whether lateness is judged here.
    pub(crate) judged: bool,
    /// The rank here of the job's rank 0. It writes checkpoints and logs, so pausing now and then is its duty.
    pub(crate) first: Option<u32>,
    /// How often ranks were late in the job's other communicators of the kind.
    pub(crate) elsewhere: Counts,
    /// How long members of other communicators work by themselves for an operation where they do the same; only where there are few
    /// here to compare with each other.
    pub(crate) work_elsewhere: Option<Work>,
    /// The class of NICs of each rank; empty where all have the same.
    pub(crate) classes: &'a BTreeMap<u32, u16>,
}

/// How long ranks work by themselves for an operation, in nanoseconds: beside sends, and without them.
pub(crate) type Work = [f32; 2];

impl Setting<'_> {
    /// Whether a sample is complete; `ends` says whether an iteration ends with it, where that is known.
    pub(super) fn completes(&self, sample: &Sample, ends: Option<bool>) -> bool {
        let whole = match self.shape {
            Some(shape) if sample.operations < u64::from(shape.operations) * 2 && ends.is_some() => {
                ends == Some(true)
            }
            // Blocks seldom fit an iteration: the sample ends with the one that comes nearest to it.
            Some(shape) => sample.operations * 4 >= u64::from(shape.operations) * 3,
            None => sample.wall_ns >= FALLBACK_NS,
        };
        // Nor does the pattern need to be the iteration: where all operations are alike, one of them may be taken for it. Where it
        // is, one that takes less time than those before is an iteration all the same.
        whole && (!self.is_part() || sample.wall_ns / 1_000 * 4 >= self.iteration_us * 3)
    }

    /// Whether it takes too little time for an iteration: operations that come in quick succession (a check, an evaluation) are
    /// none, although one of them may be.
    pub(super) fn is_hasty(&self, sample: &Sample) -> bool {
        sample.wall_ns / 1_000 * HASTY < self.iteration_us
    }

    /// Whether the pattern here is only a part of the job's iteration.
    pub(super) fn is_part(&self) -> bool {
        self.shape
            .is_none_or(|shape| shape.duration_us.saturating_mul(3) < self.iteration_us.saturating_mul(2))
    }

    pub(super) fn iterations(&self, sample: &Sample) -> f64 {
        let iterations = match self.shape {
            Some(shape) if !self.is_part() => sample.operations as f64 / f64::from(shape.operations.max(1)),
            _ if self.iteration_us > 0 => sample.wall_ns as f64 / 1e3 / self.iteration_us as f64,
            _ => 1.0,
        };
        iterations.max(1.0)
    }
}

/// Cells added up to about an iteration.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) operations: u64,
    pub(super) cells: u32,
    pub(super) wall_ns: u64,
    pub(super) ranks: ByRank<Sum>,
    /// Operations that seem to run beside computation, and that seem to be waited for, of all ranks.
    pub(super) seems: [u32; 2],
}

/// What one rank did in a sample.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) total: Total,
    pub(super) lateness_ns: f64,
    /// Own time beyond that of the peers, beside sends and without them; the same as `lateness_ns` where it is not told.
    pub(super) excess_ns: [f64; 2],
    /// By how much the longest wait of the peers in an operation exceeds the own one.
    longest_lag_ns: f64,
    /// The longest stretch by itself, where the agent tells.
    longest_ns: Option<u64>,
}

/// The longest stretches by themselves of a rank and of the median of its peers, summed over the cells that tell, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Stretches {
    ns: [u64; 2],
    told: u32,
}

impl Stretches {
    fn add(&mut self, other: Self) {
        self.ns = [0, 1].map(|whose| self.ns[whose].saturating_add(other.ns[whose]));
        self.told += other.told;
    }

    /// They, if all of so many cells tell.
    fn of(self, cells: u32) -> Option<[u64; 2]> {
        (self.told == cells).then_some(self.ns)
    }
}

/// What one rank did, as far as it can be added up over several samples.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    cells: u32,
    pub(super) operations: u64,
    pub(super) waited_ns: u64,
    pub(super) peers_waited_ns: u64,
    /// Time by itself, beside sends and without them, in cells that tell it.
    pub(super) own_ns: [u64; 2],
    told: u32,
    stretches: Stretches,
}

impl Total {
    /// One operation beside which a rank worked for so long.
    #[cfg(test)]
    pub(super) fn that_worked(own_ns: u64) -> Self {
        Self { cells: 1, operations: 1, own_ns: [own_ns; 2], told: 1, ..Self::default() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.cells += other.cells;
        self.told += other.told;
        self.operations = self.operations.saturating_add(other.operations);
        self.own_ns = [0, 1].map(|which| self.own_ns[which].saturating_add(other.own_ns[which]));
        self.waited_ns = self.waited_ns.saturating_add(other.waited_ns);
        self.peers_waited_ns = self.peers_waited_ns.saturating_add(other.peers_waited_ns);
        self.stretches.add(other.stretches);
    }

    /// Whether its time by itself is told everywhere. Then no slow link makes it late: that costs all ranks time inside
    /// operations.
    pub(super) fn tells_own(&self) -> bool {
        self.told == self.cells
    }

    /// Its longest stretches by itself and those of its peers, in nanoseconds, where all tell.
    pub(super) fn stretches(&self) -> Option<[u64; 2]> {
        self.stretches.of(self.cells)
    }
}

impl Sum {
    /// The part of the time by which it worked longer than ranks do elsewhere where they do the same; nothing where that is not known.
    pub(super) fn beyond(&self, elsewhere: Option<Work>, sample: &Sample) -> Option<f64> {
        let Total { own_ns, operations, .. } = self.total;
        let elsewhere = elsewhere.filter(|_| self.total.tells_own())?;
        let longer = |which: usize| own_ns[which] as f64 - f64::from(elsewhere[which]) * operations as f64;
        Some(longer(0).min(longer(1)) / sample.wall_ns as f64)
    }

    /// The part of an iteration by which it was late by its own doing.
    pub(super) fn late(&self, wall_ns: u64) -> f64 {
        self.lateness_ns.min(self.excess_ns[0]).min(self.excess_ns[1]) / wall_ns as f64
    }

    /// By which share of the time it is slower where nobody stops for the others. A lag grows with each operation of an
    /// iteration, so in the end it is what the rank is slower by; unless those ahead run out of what they may do ahead and
    /// wait from then on at all `n` operations. Then the mean lag tells: of how much time is lost, `x`, it leaves out what
    /// it took to run out.
    pub(super) fn slower(&self, x: f64, sample: &Sample, iterations: f64) -> f64 {
        let lag = self.longest_lag_ns / (sample.wall_ns as f64 / iterations);
        if x < 0.5 {
            return lag.min(x);
        }
        let n = (sample.operations as f64 / iterations).max(1.0);
        lag.max(0.5 / (n * (1.0 - x).max(1e-3))).min(x)
    }
}

/// What the members of a cell have in common that are compared with each other.
struct Peers {
    waits: Middle,
    longest: Middle,
    owns: [Option<Middle>; 2],
    stretches: Option<Middle>,
}

impl Peers {
    /// Those that belong, if there are two at least.
    fn of(cell: &Cell, values: &mut Vec<u64>, belongs: impl Fn(u32) -> bool) -> Option<Self> {
        let mut middle = |value: fn(&Part) -> Option<u64>| {
            values.clear();
            for (_, part) in cell.whole().filter(|(rank, _)| belongs(*rank)) {
                values.push(value(part)?);
            }
            Middle::of(values)
        };
        Some(Self {
            waits: middle(|part| Some(part.wait_ns))?,
            longest: middle(|part| Some(part.max_wait_ns))?,
            owns: [
                middle(|part| part.own_ns.map(|own| own[0])),
                middle(|part| part.own_ns.map(|own| own[1])),
            ],
            stretches: middle(|part| part.longest_ns),
        })
    }
}

/// The values in the middle of several, as far as the median without one of them may depend on them.
#[derive(Clone, Copy, Debug)]
struct Middle {
    /// One after the other, if all were sorted. The last is in the middle of an even number of values, and the other one is left
    /// out; of an odd number, the second is.
    values: [u64; 3],
    is_odd: bool,
}

impl Middle {
    /// Of two values at least, which are put into another order: it takes less than to sort them.
    fn of(values: &mut [u64]) -> Option<Self> {
        let middle = values.len() / 2;
        if values.len() < 2 {
            return None;
        }
        let (before, at, after) = values.select_nth_unstable(middle);
        let before = before.iter().copied().max().unwrap_or(*at);
        let after = after.iter().copied().min().unwrap_or(*at);
        Some(Self { values: [before, *at, after], is_odd: values.len() % 2 == 1 })
    }

    /// The median without one that equals `own`.
    fn without(&self, own: u64) -> u64 {
        let [before, at, after] = self.values;
        // Of those that are left, the one at a place is the next of all if the one left out comes before it.
        let pick = |this: u64, next: u64| if this < own { this } else { next };
        if self.is_odd {
            (pick(before, at) / 2).saturating_add(pick(at, after) / 2)
        } else {
            pick(before, at)
        }
    }
}

impl Sample {
    /// An empty one, of so many ranks.
    pub(super) fn of(members: usize) -> Self {
        Self { ranks: ByRank::of(u32::try_from(members).unwrap_or(0)), ..Self::default() }
    }

    pub(super) fn add(&mut self, cell: &Cell, setting: &Setting<'_>) {
        let mut values = Vec::with_capacity(cell.members());
        let Some(all) = Peers::of(cell, &mut values, |_| true) else { return };
        // Who has slower NICs may come later by design: a class with some members here is compared within itself.
        let present: BTreeMap<u16, usize> = cell
            .whole()
            .filter_map(|(rank, _)| setting.classes.get(&rank))
            .fold(BTreeMap::new(), |mut counts, class| {
                *counts.entry(*class).or_default() += 1;
                counts
            });
        let classes: BTreeMap<u16, Peers> = present
            .iter()
            .filter(|(_, count)| present.len() > 1 && **count >= COMPARABLE)
            .filter_map(|(class, _)| {
                let is_of = |rank| setting.classes.get(&rank) == Some(class);
                Some((*class, Peers::of(cell, &mut values, is_of)?))
            })
            .collect();
        values.clear();
        values.extend(cell.whole().map(|(_, part)| part.wall_ns()));
        let middle = values.len() / 2;
        let wall_ns = *values.select_nth_unstable(middle).1;
        // A pause that is far longer than the iteration (a checkpoint, say) counts as one iteration of lateness: it
        // is one event, however long.
        let most_ns = setting.shape.map_or(f64::MAX, |shape| {
            let iterations = cell.length.div_ceil(u64::from(shape.operations.max(1)));
            shape.duration_us.saturating_mul(1_000).saturating_mul(iterations) as f64
        });
        self.operations += cell.length;
        self.cells += 1;
        self.wall_ns = self.wall_ns.saturating_add(wall_ns);
        for (comm_rank, part) in cell.whole() {
            let peers = setting.classes.get(&comm_rank).and_then(|class| classes.get(class)).unwrap_or(&all);
            let peers_ns = peers.waits.without(part.wait_ns);
            let lateness_ns = peers_ns as f64 - part.wait_ns as f64;
            let sum = self.ranks.get_or_default(comm_rank);
            sum.lateness_ns += lateness_ns.clamp(-most_ns, most_ns);
            let lag_ns = peers.longest.without(part.max_wait_ns) as f64 - part.max_wait_ns as f64;
            sum.longest_lag_ns = sum.longest_lag_ns.max(lag_ns);
            for (which, owns) in peers.owns.iter().enumerate() {
                let excess_ns = owns
                    .as_ref()
                    .zip(part.own_ns)
                    .map_or(lateness_ns, |(owns, own)| own[which] as f64 - owns.without(own[which]) as f64);
                sum.excess_ns[which] += excess_ns.clamp(-most_ns, most_ns);
            }
            sum.longest_ns = sum.longest_ns.max(part.longest_ns);
            let stretches = peers.stretches.as_ref().zip(part.longest_ns);
            sum.total.add(&Total {
                cells: 1,
                operations: cell.length,
                waited_ns: part.wait_ns,
                peers_waited_ns: peers_ns,
                own_ns: part.own_ns.unwrap_or_default(),
                told: u32::from(part.own_ns.is_some()),
                stretches: stretches.map_or_else(Stretches::default, |(peers, own)| Stretches {
                    ns: [own, peers.without(own)],
                    told: 1,
                }),
            });
            self.seems = [0, 1].map(|which| self.seems[which].saturating_add(part.seems[which]));
        }
    }

    /// Ranks that took part in all of it.
    pub(super) fn whole(&self) -> impl Iterator<Item = (u32, &Sum)> {
        self.ranks.iter().filter(|(_, sum)| sum.total.cells == self.cells)
    }

    /// The usual share of the time that ranks spent by themselves, beside sends and without them, where all tell. Of two,
    /// the smaller one: a slow rank is not usual.
    pub(super) fn work(&self) -> Option<[f64; 2]> {
        let told = || self.whole().filter(|(_, sum)| sum.total.told == self.cells);
        let median = |which: usize| {
            let mut owns: Vec<u64> = told().map(|(_, sum)| sum.total.own_ns[which]).collect();
            let middle = owns.len().checked_sub(1)? / 2;
            Some(*owns.select_nth_unstable(middle).1 as f64 / self.wall_ns as f64)
        };
        Some([median(0)?, median(1)?])
    }

    /// How long ranks worked by themselves for an operation, in the mean, where all tell.
    pub(super) fn worked(&self) -> Option<Work> {
        let told = || self.whole().filter(|(_, sum)| sum.total.tells_own());
        let ranks = told().count();
        let operations = ranks as f64 * self.operations as f64;
        let mean = |which: usize| {
            (told().map(|(_, sum)| sum.total.own_ns[which] as f64).sum::<f64>() / operations) as f32
        };
        (ranks == self.ranks.len() && operations > 0.0).then(|| [mean(0), mean(1)])
    }

    /// Up to which own time the excess over that of the peers says how much longer a rank worked; no limit where that is
    /// not told.
    pub(super) fn credible_ns(&self) -> f64 {
        let mut owns: Vec<u64> = self
            .whole()
            .filter(|(_, sum)| sum.total.told == self.cells)
            .map(|(_, sum)| sum.total.own_ns[0])
            .collect();
        let middle = owns.len() / 2;
        if owns.len() < self.ranks.len().max(1) {
            return f64::INFINITY;
        }
        *owns.select_nth_unstable(middle).1 as f64 * CREDIBLE
    }

    /// Whether a rank that was late by a part of the time worked longer in its longest stretch, too ([`own::is_all_along`]).
    pub(super) fn is_slow_all_along(&self, (comm_rank, late): (u32, f64)) -> bool {
        let told = self.ranks.get(&comm_rank).filter(|sum| sum.total.tells_own());
        let late_ns = late * self.wall_ns as f64;
        told.is_none_or(|sum| own::is_all_along(sum.total.own_ns[0], late_ns, sum.total.stretches()))
    }

    /// Whether a rank worked longer than its peers all along, and did not only pause once. Not known of agents that do
    /// not tell the longest stretch.
    pub(super) fn is_slow_work(&self, comm_rank: u32) -> bool {
        let Some(own) = self.ranks.get(&comm_rank) else { return false };
        let Some(longest) = own.longest_ns else { return false };
        let others = || self.whole().filter(|(rank, _)| *rank != comm_rank).map(|(_, sum)| sum);
        let median = |mut values: Vec<u64>| {
            let middle = values.len() / 2;
            (!values.is_empty()).then(|| *values.select_nth_unstable(middle).1 as f64)
        };
        let usual = median(others().filter_map(|sum| sum.longest_ns).collect());
        let work = median(others().map(|sum| sum.total.own_ns[0]).collect());
        usual.zip(work).is_some_and(|(usual, work)| {
            let excess = own.total.own_ns[0] as f64 - work;
            excess > 0.0 && longest as f64 - usual < excess * PAUSE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Block, Timestamp},
        slow::cells::Cells,
    };

    fn median_without(values: &[u64], own: u64) -> u64 {
        Middle::of(&mut values.to_vec()).expect("two at least").without(own)
    }

    #[test]
    fn median_without_leaves_one_value_out() {
        assert_eq!(median_without(&[1, 9], 1), 9);
        assert_eq!(median_without(&[1, 9], 9), 1);
        assert_eq!(median_without(&[1, 5, 9], 5), 4);
        assert_eq!(median_without(&[3, 3, 3, 8], 8), 3);
        assert_eq!(median_without(&[3, 5, 7, 8], 3), 7);
    }

    /// A sample of eight operations; of each rank: time in and outside of them, and the longest stretch outside.
    fn sample(ranks: &[(u64, u64, u64)], classes: &BTreeMap<u32, u16>) -> Sample {
        let mut cells = Cells::default();
        for (rank, (inside, outside, longest)) in ranks.iter().enumerate() {
            let block = Block {
                first: 0,
                length: 8,
                signature: 1,
                wait_ns: *inside,
                min_wait_ns: 1,
                max_wait_ns: *inside,
                span_ns: inside + outside,
                gap_ns: *outside,
                bytes: 8,
                own_ns: Some(*outside),
                silent_ns: Some(*outside),
                longest_own_ns: Some(*longest),
                beside: 0,
                awaited: 0,
            };
            cells.add(rank as u32, &block, Timestamp(0));
        }
        let setting = Setting {
            members: ranks.len(),
            shape: None,
            iteration_us: 1,
            judged: true,
            first: None,
            elsewhere: Counts::default(),
            work_elsewhere: None,
            classes,
        };
        let mut sample = Sample::default();
        let cell = cells.next(ranks.len(), Timestamp(0)).expect("a full cell");
        sample.add(&cell, &setting);
        sample
    }

    #[test]
    fn a_slow_class_is_by_design_and_a_slow_member_of_it_is_not() {
        // Four ranks with fast NICs, four with slow ones, of which one is later than its like.
        let (fast, slow, fault) = ((500, 500, 100), (400, 600, 100), (200, 800, 100));
        let ranks = [fast, fast, fast, fast, slow, slow, slow, fault];
        let classes: BTreeMap<u32, u16> = (0..8).map(|rank| (rank, u16::from(rank >= 4))).collect();
        let late = |sample: &Sample, rank: u32| sample.ranks.get(&rank).expect("there").late(sample.wall_ns);
        let known = sample(&ranks, &classes);
        assert!((0..7).all(|rank| late(&known, rank).abs() < 1e-9), "{known:?}");
        assert!((late(&known, 7) - 0.2).abs() < 0.03, "{known:?}");
        let unknown = sample(&ranks, &BTreeMap::new());
        assert!(late(&unknown, 7) > 0.25 && late(&unknown, 4) > 0.05, "{unknown:?}");
    }

    #[test]
    fn work_is_compared_with_that_of_others_elsewhere() {
        let two = sample(&[(600, 400, 100), (400, 600, 100)], &BTreeMap::new());
        assert_eq!(two.worked(), Some([500.0 / 8.0; 2]));
        let beyond = |rank: u32, elsewhere| two.ranks.get(&rank).expect("there").beyond(elsewhere, &two);
        assert!(
            beyond(1, Some([550.0 / 8.0, 500.0 / 8.0])).is_some_and(|beyond| (beyond - 0.05).abs() < 1e-6)
        );
        assert_eq!(beyond(1, None), None);
    }

    #[test]
    fn where_nobody_stops_a_lag_counts_once() {
        let sample = Sample { operations: 36, wall_ns: 1_000, ..Sample::default() };
        let slower = |lag, x| Sum { longest_lag_ns: lag, ..Sum::default() }.slower(x, &sample, 1.0);
        assert!((slower(40.0, 0.3) - 0.04).abs() < 1e-9, "a lag that has built up over the iteration");
        assert!((slower(30.0, 0.9) - 0.139).abs() < 1e-3, "all that may be done ahead is done");
        assert!((slower(800.0, 0.8) - 0.8).abs() < 1e-9, "operations in a row");
        assert!(slower(-10.0, -0.2) < 0.0);
    }

    #[test]
    fn a_pause_is_one_stretch_and_slow_work_is_many() {
        let usual = (500, 500, 100);
        let paused = sample(&[(0, 1_000, 600), usual, usual], &BTreeMap::new());
        assert!(!paused.is_slow_work(0));
        let slow = sample(&[(0, 1_000, 200), usual, usual], &BTreeMap::new());
        assert!(slow.is_slow_work(0) && !slow.is_slow_work(1));
        let work = slow.work().expect("all tell");
        assert!((work[0] - 0.47).abs() < 0.05, "{work:?}");
    }
}
