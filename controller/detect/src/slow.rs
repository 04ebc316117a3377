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
//! A single late iteration is nobody's fault (garbage collection, a checkpoint), so it is counted in how many samples a rank
//! is late by more than the noise, and tested sequentially whether that is far more often than other ranks are.
//! This is done at several scales, over single samples and over medians of four and sixteen, each against the noise
//! measured at its own scale: a large lateness shows at once, a small one in a noisy job after a while. Of a lateness far beyond
//! the noise, which is rarer by chance, fewer samples are enough.
//!
//! Late ranks are on time again when their values lie nearer to none than to what they were found with, for as long as it took
//! to find them. Where the noise is near the threshold, a rank that is well again still looks late now and then.
//!
//! Nor is a rank late by its own doing that spends no more time by itself than it did before ([`own`]). Who comes late since one
//! moment is found by less than who was never on time ([`step`]).
//!
//! Where ranks wait for each other elsewhere, in sends and receives, one that works longer than before is late although it comes
//! in time, if it is the only one that does ([`own::only_one`]).
//!
//! Nor is one of two late who is only slower than the other: GPUs differ, and then the other one may be the fast one. So members of
//! small communicators are also compared with those of others in which the same work is done, for how long they work.
//!
//! Nor does lateness always add up. Where ranks compute beside the operations, or fetch ahead what they need, who is a
//! little behind stays behind at operation after operation, and a little more at each: the sum says who is last, and is far
//! more than what it costs the others. There the longest single wait counts ([`sample::Sum::slower`]), and where those ahead
//! are as far ahead as they can be, how much longer the iteration takes since that is so ([`before`]).
//!
//! How many samples it takes follows from how often *other* ranks are late in this job, here and in communicators of the
//! same kind: where stragglers take turns,
//! one rank is late several times in a row by chance, and what is wrong is the workload, not a rank.

mod before;
mod cells;
mod own;
mod phase;
mod report;
mod sample;
mod step;
mod track;
mod turns;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    by_rank::ByRank,
    config::Config,
    makeup::Makeup,
    observation::{Block, Timestamp},
    stats::Histogram,
};
use before::{Before, Usual};
use cells::{Cell, Cells};
use own::{Change, OwnUsual};
use phase::Phase;
pub(crate) use report::{Held, assess, reconsider};
use sample::{Sample, Sum};
pub(crate) use sample::{Setting, Work};
use track::{SCALES, STEP, Scale, Track, Value};
use turns::Turns;

/// A sample that takes this many times as long as usual holds a pause (a checkpoint, say), which is nobody's slowness.
const PAUSE: f64 = 3.0;
/// Samples before turns are counted.
const LEARN: u64 = 10;
/// An iteration of so many times the duration is another one; of the same operations here, of so many times.
const ANOTHER: u64 = 2;
const SAME: u64 = 5;
/// Paces remembered.
const PACES: u32 = 512;
/// Cells in agreement after which a disagreement is over.
const AGREEMENTS: u32 = 8;
/// Samples over which the usual work of the ranks is taken, and how many it takes.
const WORK: usize = 32;
const LEAST_WORK: usize = 16;
/// Part of its weight that keeps with each later sample whether operations are waited for.
const SEEMS_FADE: f64 = 0.98;
/// The scale at which it is looked whether other groups see the same: medians of some samples.
const LEANING: usize = 1;

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
    /// Whether it is known that it spent that time by itself.
    pub(crate) by_itself: bool,
    /// By how much longer it worked than before it came late, as a share of the time, where that is known.
    pub(crate) own_rise: Option<f64>,
    /// Whether it was found because it came late since one moment: then `fraction` is how much later than before it comes.
    pub(crate) is_step: bool,
}

impl Lateness {
    /// Whether the others hardly wait for it in collectives, so that they do in sends and receives if anywhere.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.peers_wait_ns.saturating_mul(2) < self.per_iteration_ns
    }
}

/// What is known of the lateness of the ranks of one communicator.
#[derive(Debug)]
pub(crate) struct Slowness {
    cells: Cells,
    phase: Phase,
    open: Sample,
    /// Boxed: there is room for eight, and small communicators fill half of it.
    ranks: ByRank<Box<RankState>>,
    scales: [Scale; SCALES],
    samples: u64,
    /// The iteration that samples are of: its operations here, and its duration.
    iteration: (u32, u64),
    /// Time an operation takes, gaps included, in samples.
    pace: Histogram,
    turns: Turns,
    agreeing: Option<u32>,
    /// Operations that seem to run beside computation, and that seem to be waited for, of late.
    seems: [f64; 2],
    /// Shares of the time that ranks usually work by themselves, in the latest samples.
    work: VecDeque<[f32; 2]>,
    /// How long ranks worked by themselves for an operation in the latest sample, in the mean.
    worked: Option<Work>,
    before: Before,
    pub(crate) makeup: Makeup,
    /// How late the latest rank was in the samples since this was last asked, in seconds an iteration.
    latest: Vec<f64>,
    pub(crate) news: Vec<News>,
}

impl Default for Slowness {
    fn default() -> Self {
        Self {
            cells: Cells::default(),
            phase: Phase::default(),
            open: Sample::default(),
            ranks: ByRank::default(),
            scales: std::array::from_fn(Scale::new),
            samples: 0,
            iteration: (0, 0),
            pace: Histogram::new(PACES),
            turns: Turns::default(),
            agreeing: None,
            seems: [0.0; 2],
            work: VecDeque::new(),
            worked: None,
            before: Before::default(),
            makeup: Makeup::default(),
            latest: Vec::new(),
            news: Vec::new(),
        }
    }
}

/// Weighted number of values in which ranks were late, and of all values, at each scale.
pub(crate) type Counts = [(f64, f64); SCALES];

/// One rank at all scales, and the scale at which it was found late.
#[derive(Debug, Default)]
struct RankState {
    tracks: [Track; SCALES],
    late: Option<usize>,
    /// By how much longer it worked than before when it was found.
    own_rise: Option<f64>,
    usual: Usual,
    own: OwnUsual,
}

impl Slowness {
    /// Of a communicator of so many ranks; 0: nobody knows.
    pub(crate) fn of(size: u32) -> Self {
        Self { ranks: ByRank::of(size), ..Self::default() }
    }

    /// Takes in the blocks of one rank.
    pub(crate) fn take(
        &mut self,
        comm_rank: u32,
        blocks: &[Block],
        setting: &Setting<'_>,
        config: &Config,
        now: Timestamp,
    ) {
        for block in blocks {
            self.cells.add(comm_rank, block, now);
        }
        while let Some(cell) = self.cells.next(setting.members, now) {
            self.compare_signatures(&cell);
            if let Some(times) = cell.times() {
                self.makeup.add(times, setting.iteration_us, now);
            }
            if !setting.judged {
                continue;
            }
            self.fit(setting);
            self.phase.see(&cell, setting.shape.map_or(0, |shape| shape.operations));
            if self.open.cells == 0 && self.phase.begins_at(cell.first) == Some(false) {
                continue;
            }
            self.open.add(&cell, setting);
            if setting.completes(&self.open, self.phase.begins_at(cell.first + cell.length)) {
                let sample = std::mem::replace(&mut self.open, Sample::of(setting.members));
                if !setting.is_hasty(&sample) {
                    self.judge(&sample, setting, config);
                }
            }
        }
    }

    /// How late the latest rank was in the samples since the last call, in seconds an iteration.
    pub(crate) fn take_latest(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.latest)
    }

    /// How often ranks were late lately, and of how many chances, at each scale.
    pub(crate) fn counts(&self) -> Counts {
        self.scales.each_ref().map(Scale::counts)
    }

    /// Whether the rank comes late lately, if perhaps not for long enough to say so.
    pub(crate) fn leans_late(&self, comm_rank: u32) -> bool {
        self.is_late(comm_rank)
            || self
                .ranks
                .get(&comm_rank)
                .is_some_and(|state| state.tracks[LEANING].leans(&self.scales[LEANING]))
    }

    /// Whether ranks wait for the operations here, so that their lateness adds up.
    pub(crate) fn is_awaited(&self) -> bool {
        self.seems[1] >= self.seems[0]
    }

    /// How late the latest rank but this one is at the moment of those that were not found late before, and by how much longer than
    /// before it works, where that is known.
    pub(crate) fn worst_but(&self, comm_rank: Option<u32>) -> Option<(f64, Option<f64>)> {
        let others =
            self.ranks.iter().filter(|(rank, state)| Some(*rank) != comm_rank && state.late.is_none());
        let late =
            others.filter_map(|(_, state)| Some((state.tracks[0].lasting()?, state.tracks[0].own_rise())));
        late.max_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// How late the rank is again and again, or was when it was found late.
    pub(crate) fn repeated(&self, comm_rank: u32) -> Option<f64> {
        self.ranks.get(&comm_rank)?.tracks[0].repeated()
    }

    /// By how much longer the rank works than before, as a share of the time, if it was found late or has come late of late.
    pub(crate) fn own_rise(&self, comm_rank: u32) -> Option<f64> {
        let state = self.ranks.get(&comm_rank)?;
        state.own_rise.or_else(|| state.tracks[0].own_rise()).or_else(|| state.tracks[STEP].own_rise())
    }

    /// Whether stragglers take turns here.
    pub(crate) fn is_uneven(&self) -> bool {
        self.turns.uneven()
    }

    /// The share of its time that a rank here usually spends by itself, beside sends and without them.
    pub(crate) fn work(&self) -> Option<[f64; 2]> {
        let median = |which: usize| {
            let mut shares: Vec<f32> = self.work.iter().map(|work| work[which]).collect();
            shares.sort_by(f32::total_cmp);
            f64::from(shares[shares.len() / 2])
        };
        (self.work.len() >= LEAST_WORK).then(|| [median(0), median(1)])
    }

    /// How long ranks here worked by themselves for an operation of late, in the mean, beside sends and without them; where all
    /// tell.
    pub(crate) fn worked(&self) -> Option<Work> {
        self.worked
    }

    /// Whether the rank is called late at the moment.
    pub(crate) fn is_late(&self, comm_rank: u32) -> bool {
        self.ranks.get(&comm_rank).is_some_and(|state| state.late.is_some())
    }

    /// Samples of what was wrongly taken for an iteration do not compare with those of iterations. One that has the same
    /// operations and takes longer is still the same: a fault may double it.
    fn fit(&mut self, setting: &Setting<'_>) {
        let now = (setting.shape.map_or(0, |shape| shape.operations), setting.iteration_us);
        let before = std::mem::replace(&mut self.iteration, now);
        let most = if now.0 == before.0 { SAME } else { ANOTHER };
        if before.1 == 0 || (now.1 >= before.1 / most && now.1 / most <= before.1) {
            return;
        }
        self.open = Sample::of(setting.members);
        self.scales = std::array::from_fn(Scale::new);
        self.samples = 0;
        self.pace = Histogram::new(PACES);
        self.before = Before::default();
        self.ranks.retain(|state| state.late.is_some());
    }

    /// Whether ranks called different operations a moment ago.
    pub(crate) fn disagrees(&self) -> bool {
        self.agreeing.is_some()
    }

    fn compare_signatures(&mut self, cell: &Cell) {
        if cell.agrees() {
            let agreeing = self.agreeing.map(|cells| cells + 1);
            self.agreeing = agreeing.filter(|cells| *cells < AGREEMENTS);
            return;
        }
        let mut sides: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (comm_rank, part) in cell.whole() {
            sides.entry(part.signature).or_default().push(comm_rank);
        }
        self.agreeing = Some(0);
        self.news.push(News::Disagree { first: cell.first, length: cell.length, sides });
    }

    fn judge(&mut self, sample: &Sample, setting: &Setting<'_>, config: &Config) {
        if sample.wall_ns == 0 {
            return;
        }
        let iterations = setting.iterations(sample);
        self.samples += 1;
        let pace = sample.wall_ns as f64 / sample.operations.max(1) as f64;
        let pause = self.pace.median().is_some_and(|usual| pace > usual * PAUSE);
        self.pace.push(pace);
        self.seems = [0, 1].map(|which| self.seems[which] * SEEMS_FADE + f64::from(sample.seems[which]));
        let (awaited, credible_ns) = (self.is_awaited(), sample.credible_ns());
        // Where nobody waits for who is late, he is behind at all that follows in the iteration, wherever samples begin.
        let spills = !awaited && (setting.is_part() || !self.phase.is_known());
        if let Some(work) = sample.work().filter(|_| !pause) {
            if self.work.len() >= WORK {
                self.work.pop_front();
            }
            self.work.push_back(work.map(|share| share as f32));
        }
        if !pause {
            self.worked = sample.worked();
        }
        let someone = self.ranks.values().any(|state| state.late.is_some());
        let longer = self.before.longer(pace);
        if !pause && !someone {
            self.before.push(pace);
        }
        let slower_alone = self.slower_alone(sample).filter(|_| !pause);
        let mut worst: Option<(u32, f64)> = None;
        let mut noise = None;
        for scale in &mut self.scales {
            noise = scale.begin(self.samples, sample.ranks.len(), noise, config);
        }
        for (comm_rank, sum) in sample.whole() {
            let state = self.ranks.get_or_default(comm_rank);
            let x = sum.late(sample.wall_ns);
            if state.late.is_none() && !pause {
                state.usual.push(x);
            }
            let adds_up = awaited && sum.total.own_ns[0] as f64 <= credible_ns;
            let x = if adds_up {
                x
            } else {
                let slower = sum.slower(x, sample, iterations);
                state.usual.rise(x).map_or(slower, |rise| slower.max(rise.min(longer)))
            };
            let alone =
                slower_alone.filter(|(rank, _)| *rank == comm_rank).map(|(_, ns)| ns / sample.wall_ns as f64);
            let x = alone.map_or(x, |alone| x.max(alone));
            let x = sum.beyond(setting.work_elsewhere, sample).map_or(x, |beyond| x.min(beyond));
            if worst.is_none_or(|(_, most)| x > most) {
                worst = Some((comm_rank, x));
            }
            let is_first = setting.first == Some(comm_rank);
            // Pauses are the duty of the first rank, slow work is not.
            let counts = !is_first || sample.is_slow_work(comm_rank);
            let own_before = state.own.get().filter(|_| sum.total.tells_own());
            if !pause
                && state.late.is_none()
                && sum.total.tells_own()
                && state.tracks[0].is_on_time(x, &self.scales[0])
            {
                state.own.push(sum.total.own_ns, sample.wall_ns, sum.total.operations);
            }
            let value =
                Value { x, iterations, wall_ns: sample.wall_ns, total: &sum.total, counts, own_before };
            for (i, (scale, track)) in self.scales.iter_mut().zip(&mut state.tracks).enumerate() {
                let (here, found) = (state.late == Some(i), state.late.is_some());
                let rate = scale.rate(track, sample.ranks.len(), setting.elsewhere[i], spills);
                // Of a median of several samples it cannot be said whether they held a pause.
                let pauses = pause || (is_first && i > 0);
                track.push(&value, scale, here, found, rate, pauses);
            }
        }
        if let Some((_, x)) = worst.filter(|_| !pause && iterations > 0.0) {
            self.latest.push(x.max(0.0) * sample.wall_ns as f64 / 1e9 / iterations.max(1.0));
        }
        self.convict();
        if let Some(worst) = worst.filter(|_| self.samples > LEARN) {
            let worst = (worst.0, if sample.is_slow_all_along(worst) { worst.1 } else { 0.0 });
            let someone = self.ranks.values().any(|state| state.late.is_some());
            self.news.extend(self.turns.take(worst, self.ranks.len(), someone, config));
        }
    }

    /// The rank that alone works longer than before, where that is known of all, and how much longer the sample took because of it.
    fn slower_alone(&self, sample: &Sample) -> Option<(u32, f64)> {
        let change = |(comm_rank, sum): (u32, &Sum)| {
            let before = self.ranks.get(&comm_rank)?.own.get().filter(|_| sum.total.tells_own())?;
            Some((comm_rank, Change::of(before, sum.total.own_ns, sum.total.operations, sample.wall_ns)))
        };
        let changes: Vec<_> = sample.whole().filter_map(change).collect();
        own::only_one(&changes).filter(|_| changes.len() == sample.ranks.len())
    }

    /// Names ranks whose lateness has lasted, and takes back those whose lateness is gone.
    fn convict(&mut self) {
        let turns = &mut self.turns;
        for (comm_rank, state) in self.ranks.iter_mut() {
            if let Some(i) = state.late {
                if state.tracks[i].has_recovered() {
                    // What it usually worked was learned while it was well: all ranks are to be measured by the same iterations.
                    **state = RankState { own: std::mem::take(&mut state.own), ..RankState::default() };
                    self.news.push(News::Recovered(comm_rank));
                }
                continue;
            }
            let found = self
                .scales
                .iter()
                .zip(&mut state.tracks)
                .enumerate()
                .find_map(|(i, (scale, track))| track.convict(scale).map(|lateness| (i, lateness)));
            // Where stragglers take turns, some rank is late for a while by chance.
            let found = found.filter(|_| !turns.uneven() || turns.dominated_by(comm_rank));
            if let Some((i, lateness)) = found {
                (state.late, state.own_rise) = (Some(i), lateness.own_rise);
                // What is explained says nothing about how often ranks are late by chance.
                for (scale, track) in self.scales.iter_mut().zip(&mut state.tracks) {
                    track.explain(scale);
                }
                turns.explain(comm_rank);
                self.news.push(News::Late(comm_rank, lateness));
            }
        }
    }

    /// The rank is gone, or somebody else now.
    pub(crate) fn forget(&mut self, comm_rank: u32) {
        self.ranks.remove(&comm_rank);
    }
}

#[cfg(test)]
mod tests;
