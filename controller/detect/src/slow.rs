//! Stragglers: ranks that come late to collectives, again and again.
//!
//! Inside one collective everybody finishes together, so whoever came last has waited least. The lateness of a rank
//! is the median wait of its peers minus its own, over the same operations, as a fraction of the time these took. No
//! clocks are compared. It is summed over about one iteration, so that an operation early in the iteration, where
//! nobody waits, does not hide one at its end.
//!
//! Late is not yet at fault: whoever waited for somebody else before (a tensor-parallel peer, the stage before) comes late
//! because of that one. Such a rank has no more time of its own, outside of all communication, than its peers have. So
//! where agents tell that time, a rank is only as late as it has more of it than its peers in the communicator.
//!
//! A single late iteration is nobody's fault (garbage collection, a checkpoint), so lateness is accumulated
//! (a cumulative sum test): each sample adds what exceeds a reference, capped, and what falls short takes away again.
//! This is done at three scales, over single samples and over medians of four and sixteen, each against the noise
//! measured at its own scale: a large lateness shows at once, a small one in a noisy job after a while.
//!
//! How many samples it takes follows from how often *other* ranks are late in this job: where stragglers take turns,
//! one rank is late several times in a row by chance, and what is wrong is the workload, not a rank.

mod cells;
mod report;
mod track;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    config::Config,
    observation::{Block, Timestamp},
    rhythm::Shape,
    stats::Histogram,
};
use cells::{Cell, Cells};
pub(crate) use report::{Held, assess, reconsider};
use track::{SCALES, Scale, Track};

/// A sample that takes this many times as long as usual holds a pause (a checkpoint, say), which is nobody's slowness.
const PAUSE: f64 = 3.0;
/// Samples before turns are counted.
const LEARN: u64 = 10;
/// Samples over which turns are looked at.
const TURNS: usize = 48;
/// Cells in agreement after which a disagreement is over.
const AGREEMENTS: u32 = 8;
/// Where no iteration is recognised, lateness is summed over this time.
const FALLBACK_NS: u64 = 1_000_000_000;

/// What was found in the blocks.
#[derive(Debug)]
pub(crate) enum News {
    /// A rank of the communicator is late.
    Late(u32, Lateness),
    /// It no longer is.
    Recovered(u32),
    /// Many are late, in turns: mean loss, and how often each was last.
    Turns { loss: f64, last: BTreeMap<u32, usize>, samples: usize },
    /// They no longer are.
    Even,
    /// Ranks called different operations: position, and ranks by hash.
    Disagree { first: u64, length: u64, sides: BTreeMap<u64, Vec<u32>> },
    /// They agree again.
    Agree,
}

/// The numbers behind a late rank.
#[derive(Clone, Debug)]
pub(crate) struct Lateness {
    /// Median, as a fraction of the time of an iteration.
    pub(crate) fraction: f64,
    /// The same as time, per iteration.
    pub(crate) per_iteration_ns: u64,
    /// Samples, and the iterations they cover.
    pub(crate) samples: u32,
    pub(crate) iterations: f64,
    /// Time since it began.
    pub(crate) elapsed_ns: u64,
    /// Median wait of the peers and the own one, per iteration.
    pub(crate) peers_wait_ns: u64,
    pub(crate) own_wait_ns: u64,
    /// Threshold and noise, as fractions.
    pub(crate) threshold: f64,
    pub(crate) noise: f64,
    /// Share of the samples in which it was late: 1 for one that always is.
    pub(crate) share: f64,
}

/// What is known of the lateness of the ranks of one communicator.
#[derive(Debug)]
pub(crate) struct Slowness {
    cells: Cells,
    open: Sample,
    /// Boxed: a node of the tree has room for eleven, and small communicators fill half of one.
    ranks: BTreeMap<u32, Box<RankState>>,
    scales: [Scale; SCALES],
    samples: u64,
    /// Time an operation takes, gaps included, in samples.
    pace: Histogram,
    turns: VecDeque<(u32, f64)>,
    in_turns: bool,
    agreeing: Option<u32>,
    pub(crate) news: Vec<News>,
}

impl Default for Slowness {
    fn default() -> Self {
        Self {
            cells: Cells::default(),
            open: Sample::default(),
            ranks: BTreeMap::new(),
            scales: std::array::from_fn(Scale::new),
            samples: 0,
            pace: Histogram::new(512),
            turns: VecDeque::new(),
            in_turns: false,
            agreeing: None,
            news: Vec::new(),
        }
    }
}

/// Where a communicator stands in its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// How many ranks are expected to report.
    pub(crate) members: usize,
    /// The communicator's own repeating pattern.
    pub(crate) shape: Option<Shape>,
    /// The job's iteration: the longest pattern of any of its communicators. That of a tensor-parallel group may be one
    /// layer.
    pub(crate) iteration_us: u64,
    /// Whether lateness is judged here.
    pub(crate) judged: bool,
    /// The rank here of the job's rank 0. It writes checkpoints and logs, so being late now and then is its duty.
    pub(crate) first: Option<u32>,
    /// How often ranks were late in the job's other communicators.
    pub(crate) elsewhere: Counts,
}

/// Weighted number of values in which ranks were late, and of all values, at each scale.
pub(crate) type Counts = [(f64, f64); SCALES];

impl Setting {
    fn completes(&self, sample: &Sample) -> bool {
        let whole = match self.shape {
            // Blocks seldom fit an iteration: the sample ends with the one that comes nearest to it.
            Some(shape) => sample.operations * 4 >= u64::from(shape.operations) * 3,
            None => sample.wall_ns >= FALLBACK_NS,
        };
        // Nor does the pattern need to be the iteration: where all operations are alike, one of them may be taken for it.
        whole && sample.wall_ns / 1_000 * 4 >= self.iteration_us * 3
    }

    /// Whether the pattern here is only a part of the job's iteration.
    fn is_part(&self) -> bool {
        self.shape
            .is_none_or(|shape| shape.duration_us.saturating_mul(3) < self.iteration_us.saturating_mul(2))
    }

    fn iterations(&self, sample: &Sample) -> f64 {
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
struct Sample {
    operations: u64,
    cells: u32,
    wall_ns: u64,
    ranks: BTreeMap<u32, Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    cells: u32,
    lateness_ns: f64,
    /// Own time beyond that of the peers, beside sends and without them; the same as `lateness_ns` where it is not told.
    excess_ns: [f64; 2],
    own_ns: u64,
    peers_ns: u64,
}

/// One rank at all scales, and the scale at which it was found late.
#[derive(Debug, Default)]
struct RankState {
    tracks: [Track; SCALES],
    late: Option<usize>,
}

impl Slowness {
    /// Takes in the blocks of one rank.
    pub(crate) fn take(
        &mut self,
        comm_rank: u32,
        blocks: &[Block],
        setting: &Setting,
        config: &Config,
        now: Timestamp,
    ) {
        for block in blocks {
            self.cells.add(comm_rank, block, now);
        }
        while let Some(cell) = self.cells.next(setting.members, now) {
            self.compare_signatures(&cell);
            if !setting.judged {
                continue;
            }
            self.add(&cell, setting.shape);
            if setting.completes(&self.open) {
                let sample = std::mem::take(&mut self.open);
                self.judge(&sample, setting, config);
            }
        }
    }

    /// How often ranks were late lately, and of how many chances, at each scale.
    pub(crate) fn counts(&self) -> Counts {
        self.scales.each_ref().map(Scale::counts)
    }

    /// Whether the rank is called late at the moment.
    pub(crate) fn is_late(&self, comm_rank: u32) -> bool {
        self.ranks.get(&comm_rank).is_some_and(|state| state.late.is_some())
    }

    fn compare_signatures(&mut self, cell: &Cell) {
        let mut sides: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (comm_rank, part) in cell.whole() {
            sides.entry(part.signature).or_default().push(comm_rank);
        }
        match (sides.len(), self.agreeing) {
            (0 | 1, None) => {}
            (0 | 1, Some(cells)) if cells + 1 >= AGREEMENTS => {
                self.agreeing = None;
                self.news.push(News::Agree);
            }
            (0 | 1, Some(cells)) => self.agreeing = Some(cells + 1),
            _ => {
                self.agreeing = Some(0);
                self.news.push(News::Disagree { first: cell.first, length: cell.length, sides });
            }
        }
    }

    fn add(&mut self, cell: &Cell, shape: Option<Shape>) {
        let mut waits: Vec<u64> = cell.whole().map(|(_, part)| part.wait_ns).collect();
        if waits.len() < 2 {
            return;
        }
        waits.sort_unstable();
        let mut walls: Vec<u64> = cell.whole().map(|(_, part)| part.wall_ns()).collect();
        walls.sort_unstable();
        // A pause that is far longer than the iteration (a checkpoint, say) counts as one iteration of lateness: it
        // is one event, however long.
        let most_ns = shape.map_or(u64::MAX, |shape| {
            let iterations = cell.length.div_ceil(u64::from(shape.operations.max(1)));
            shape.duration_us.saturating_mul(1_000).saturating_mul(iterations)
        });
        let sorted = |which: usize| -> Option<Vec<u64>> {
            let mut owns: Vec<u64> =
                cell.whole().map(|(_, part)| part.own_ns.map(|own| own[which])).collect::<Option<_>>()?;
            owns.sort_unstable();
            Some(owns)
        };
        let owns = [sorted(0), sorted(1)];
        let sample = &mut self.open;
        sample.operations += cell.length;
        sample.cells += 1;
        sample.wall_ns = sample.wall_ns.saturating_add(walls[walls.len() / 2]);
        for (comm_rank, part) in cell.whole() {
            let peers_ns = median_without(&waits, part.wait_ns);
            let lateness_ns = peers_ns as f64 - part.wait_ns as f64;
            let sum = sample.ranks.entry(comm_rank).or_default();
            sum.cells += 1;
            sum.lateness_ns += lateness_ns.clamp(-(most_ns as f64), most_ns as f64);
            for (which, owns) in owns.iter().enumerate() {
                let excess_ns = owns.as_ref().zip(part.own_ns).map_or(lateness_ns, |(owns, own)| {
                    own[which] as f64 - median_without(owns, own[which]) as f64
                });
                sum.excess_ns[which] += excess_ns.clamp(-(most_ns as f64), most_ns as f64);
            }
            sum.own_ns = sum.own_ns.saturating_add(part.wait_ns);
            sum.peers_ns = sum.peers_ns.saturating_add(peers_ns);
        }
    }

    fn judge(&mut self, sample: &Sample, setting: &Setting, config: &Config) {
        if sample.wall_ns == 0 {
            return;
        }
        let wall = sample.wall_ns as f64;
        let iterations = setting.iterations(sample);
        self.samples += 1;
        let pace = wall / sample.operations.max(1) as f64;
        let pause = self.pace.median().is_some_and(|usual| pace > usual * PAUSE);
        self.pace.push(pace);
        let mut worst: Option<(u32, f64)> = None;
        for scale in &mut self.scales {
            scale.begin(self.samples, config);
        }
        for (comm_rank, sum) in &sample.ranks {
            if sum.cells < sample.cells {
                continue;
            }
            let x = sum.lateness_ns.min(sum.excess_ns[0]).min(sum.excess_ns[1]) / wall;
            if worst.is_none_or(|(_, most)| x > most) {
                worst = Some((*comm_rank, x));
            }
            let state = self.ranks.entry(*comm_rank).or_default();
            for (i, (scale, track)) in self.scales.iter_mut().zip(&mut state.tracks).enumerate() {
                let (here, found) = (state.late == Some(i), state.late.is_some());
                let rate = scale.rate(track, sample.ranks.len(), setting.elsewhere[i]);
                let rate = (!pause && setting.first != Some(*comm_rank)).then_some(rate);
                track.push(x, iterations, sample.wall_ns, sum, scale, here, found, rate);
            }
        }
        self.convict(&setting.elsewhere);
        self.take_turn(worst, config);
    }

    /// Names ranks whose lateness has lasted, and takes back those whose lateness is gone.
    fn convict(&mut self, elsewhere: &Counts) {
        let ranks = self.ranks.len();
        let (in_turns, turns) = (self.in_turns, &self.turns);
        let dominates = |comm_rank: u32| {
            let times = turns.iter().filter(|(last, _)| *last == comm_rank).count();
            times * 10 >= turns.len() * 7
        };
        for (comm_rank, state) in &mut self.ranks {
            if let Some(i) = state.late {
                if state.tracks[i].has_recovered() {
                    **state = RankState::default();
                    self.news.push(News::Recovered(*comm_rank));
                }
                continue;
            }
            let found =
                self.scales.iter().zip(&mut state.tracks).enumerate().find_map(|(i, (scale, track))| {
                    track.convict(scale, ranks, elsewhere[i]).map(|lateness| (i, lateness))
                });
            // Where stragglers take turns, some rank is late for a while by chance.
            let found = found.filter(|_| !in_turns || dominates(*comm_rank));
            if let Some((i, lateness)) = found {
                state.late = Some(i);
                // What is explained says nothing about how often ranks are late by chance.
                for (scale, track) in self.scales.iter_mut().zip(&mut state.tracks) {
                    track.explain(scale);
                }
                self.news.push(News::Late(*comm_rank, lateness));
            }
        }
    }

    /// Whether much time is lost to stragglers that take turns.
    fn take_turn(&mut self, worst: Option<(u32, f64)>, config: &Config) {
        let Some(worst) = worst.filter(|_| self.samples > LEARN) else { return };
        self.turns.push_back(worst);
        if self.turns.len() > TURNS {
            self.turns.pop_front();
        }
        let loss = self.turns.iter().map(|(_, x)| x.min(1.0)).sum::<f64>() / self.turns.len() as f64;
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        for (comm_rank, _) in &self.turns {
            *last.entry(*comm_rank).or_default() += 1;
        }
        let top = last.values().copied().max().unwrap_or(0);
        let shared = top * 10 <= self.turns.len() * if self.ranks.len() <= 3 { 7 } else { 5 };
        let someone = self.ranks.values().any(|state| state.late.is_some());
        if !self.in_turns && self.turns.len() == TURNS && loss >= config.imbalance_floor && shared && !someone
        {
            self.in_turns = true;
            self.news.push(News::Turns { loss, last, samples: TURNS });
        } else if self.in_turns && loss < config.imbalance_floor * 0.5 {
            self.in_turns = false;
            self.news.push(News::Even);
        }
    }

    /// The rank is gone, or somebody else now.
    pub(crate) fn forget(&mut self, comm_rank: u32) {
        self.ranks.remove(&comm_rank);
    }
}

/// Median of sorted values without one that equals `own`.
fn median_without(sorted: &[u64], own: u64) -> u64 {
    let at = sorted.partition_point(|value| *value < own);
    let left = sorted.len() - 1;
    let pick = |i: usize| sorted[if i < at { i } else { i + 1 }];
    if left % 2 == 1 { pick(left / 2) } else { (pick(left / 2 - 1) / 2).saturating_add(pick(left / 2) / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_without_leaves_one_value_out() {
        assert_eq!(median_without(&[1, 9], 1), 9);
        assert_eq!(median_without(&[1, 9], 9), 1);
        assert_eq!(median_without(&[1, 5, 9], 5), 4);
        assert_eq!(median_without(&[3, 3, 3, 8], 8), 3);
        assert_eq!(median_without(&[3, 5, 7, 8], 3), 7);
    }
}
