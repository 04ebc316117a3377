//! The cumulative sum test of one rank at one scale.

use super::{Lateness, sample::Sum};
use crate::{config::Config, stats::Histogram};

/// Scales at which lateness is judged.
pub(super) const SCALES: usize = 3;
/// Samples whose median is one value of a scale. Medians, so that a checkpoint in every group accuses nobody.
const GROUPS: [u64; SCALES] = [1, 4, 16];
/// Values before anybody is judged: the noise has to be known, and at the larger scales also whether stragglers take
/// turns, which takes some sixty samples to see.
const LEARN: [u64; SCALES] = [10, 16, 10];
/// What a value has to exceed, in thresholds, to count against a rank.
const REFERENCE: f64 = 0.6;
/// What a value may count at most, in thresholds.
const CAP: f64 = 2.0;
/// How improbable a run of late values has to be by chance: some ten samples a second and a hundred ranks for a
/// month are 2.6e9 chances.
const CHANCE: f64 = 1e-10;
/// Part of its weight that a value keeps with each later one, in how often ranks are late.
const FADE: f64 = 0.98;
/// What is assumed of how often ranks are late before it was seen: three values in a thousand, with the weight of a
/// hundred.
const PRIOR_LATE: f64 = 0.3;
const PRIOR_WEIGHT: f64 = 100.0;
/// Standard deviation of normal noise over the median of the difference of two draws from it.
const DIFFERENCE_TO_SIGMA: f64 = 1.048;
/// How often a rank has to be late at least to be called late now and then.
const OFTEN: f64 = 0.08;
/// Values on time after which a rank that was late now and then no longer is.
const LONG_QUIET: u32 = 60;
/// Values of a run that are remembered.
const MAX_RUN: usize = 256;

/// What all ranks have in common at one scale.
#[derive(Debug)]
pub(super) struct Scale {
    group: u64,
    learn: u64,
    /// Whether the current sample completes a group.
    closes: bool,
    values: u64,
    /// Differences from value to value, of all ranks: a rank that is always late has small ones too.
    differences: Histogram,
    threshold: f64,
    /// What is never called slow.
    floor: f64,
    noise: f64,
    late_weight: f64,
    weight: f64,
}

impl Scale {
    pub(super) fn new(index: usize) -> Self {
        Self {
            group: GROUPS[index],
            learn: LEARN[index],
            closes: false,
            values: 0,
            differences: Histogram::new(20_000),
            threshold: 1.0,
            floor: 1.0,
            noise: 0.0,
            late_weight: 0.0,
            weight: 0.0,
        }
    }

    /// The `samples`th sample is about to be judged.
    pub(super) fn begin(&mut self, samples: u64, config: &Config) {
        self.closes = samples.is_multiple_of(self.group);
        if self.closes {
            self.values += 1;
            self.noise = self.differences.median().unwrap_or(0.0) * DIFFERENCE_TO_SIGMA;
            self.floor = config.slow_floor;
            self.threshold = config.slow_floor.max(self.noise * config.slow_noise);
            (self.late_weight, self.weight) = (self.late_weight * FADE, self.weight * FADE);
        }
    }

    pub(super) fn counts(&self) -> (f64, f64) {
        (self.late_weight, self.weight)
    }

    /// How often ranks other than this one are late: here, or in the job's other communicators if that is more often.
    pub(super) fn rate(&self, track: &Track, ranks: usize, elsewhere: (f64, f64)) -> f64 {
        let others = (self.late_weight - track.late_weight).max(0.0);
        let weight = self.weight * (1.0 - 1.0 / ranks.max(1) as f64);
        let rate = |late: f64, of: f64| (late + PRIOR_LATE) / (of + PRIOR_WEIGHT);
        rate(others, weight).max(rate(others + elsewhere.0, weight + elsewhere.1)).clamp(5e-4, 0.5)
    }

    /// How many values in a row it takes, given how often others are late.
    fn needed(rate: f64) -> f64 {
        (CHANCE.ln() / rate.ln()).ceil().max(3.0)
    }
}

/// The sequential test (Wald's) of whether a rank is late far more often than others, though not each time: the
/// logarithm of how much likelier that makes what was seen, since it last was no likelier at all.
#[derive(Debug, Default)]
struct NowAndThen {
    odds: f64,
    found: bool,
    samples: u32,
    late: u32,
    /// Sum over late values.
    lateness: f64,
    iterations: f64,
    late_iterations: f64,
    ns: u64,
    late_ns: u64,
    total: Sum,
}

/// A rank in a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    /// Lateness, as a share of the time.
    pub(super) x: f64,
    pub(super) iterations: f64,
    pub(super) wall_ns: u64,
    pub(super) sum: &'a Sum,
    /// Whether it may be slow in it now and then: not where it only pauses, as is its duty.
    pub(super) counts: bool,
}

/// One rank at one scale.
#[derive(Debug, Default)]
pub(super) struct Track {
    pending: Vec<f64>,
    pending_iterations: f64,
    pending_ns: u64,
    pending_total: Sum,
    before: Option<f64>,
    /// The cumulative sum, in thresholds.
    sum: f64,
    run: Vec<f64>,
    run_iterations: f64,
    run_ns: u64,
    run_total: Sum,
    /// Weighted values in which it was late.
    late_weight: f64,
    quiet: u32,
    took: u32,
    now_and_then: NowAndThen,
}

impl Track {
    /// Takes in a sample; `late` says whether the rank was found late at this scale, `found` whether at any, and
    /// `rate` how often others are late, unless the sample holds a pause.
    pub(super) fn push(
        &mut self,
        value: &Value<'_>,
        scale: &mut Scale,
        late: bool,
        found: bool,
        rate: Option<f64>,
    ) {
        self.pending.push(value.x);
        self.pending_iterations += value.iterations;
        self.pending_ns = self.pending_ns.saturating_add(value.wall_ns);
        self.pending_total.add(value.sum);
        if !scale.closes {
            return;
        }
        let x = median(&mut self.pending);
        let iterations = std::mem::take(&mut self.pending_iterations);
        let wall_ns = std::mem::take(&mut self.pending_ns);
        let total = std::mem::take(&mut self.pending_total);
        self.pending.clear();
        if let Some(before) = self.before.replace(x) {
            scale.differences.push((x - before).abs());
        }
        if scale.values <= scale.learn {
            return;
        }
        let z = (x / scale.threshold).clamp(-CAP, CAP);
        if !found {
            let exceeds = if x > scale.threshold { 1.0 } else { 0.0 };
            self.late_weight = self.late_weight * FADE + exceeds;
            scale.late_weight += exceeds;
            scale.weight += 1.0;
        }
        if late {
            self.quiet = match z {
                z if z < 0.5 => self.quiet + 1,
                // Who is late now and then is on time most of the time.
                _ if self.now_and_then.found => 0,
                _ => self.quiet.saturating_sub(1),
            };
            return;
        }
        if let Some(rate) = rate {
            let late = value.counts && x > scale.threshold;
            self.now_and_then.push(x, late, rate, iterations, wall_ns, &total);
        }
        self.sum = (self.sum + z - REFERENCE).max(0.0);
        if self.sum == 0.0 {
            self.run.clear();
            (self.run_iterations, self.run_ns, self.run_total) = (0.0, 0, Sum::default());
            return;
        }
        if self.run.len() < MAX_RUN {
            self.run.push(x);
        }
        self.run_iterations += iterations;
        self.run_ns = self.run_ns.saturating_add(wall_ns);
        self.run_total.add(&total);
    }

    /// How late it is since it last was on time, if that is more than once.
    pub(super) fn lasting(&self) -> Option<f64> {
        (self.run.len() > 1).then(|| median(&mut self.run.clone()))
    }

    /// Whether the latest value is more late than not.
    pub(super) fn leans(&self, scale: &Scale) -> bool {
        self.before.is_some_and(|x| x > scale.threshold * REFERENCE)
    }

    /// The rank was found late: that it was is no longer counted as chance.
    pub(super) fn explain(&mut self, scale: &mut Scale) {
        scale.late_weight = (scale.late_weight - std::mem::take(&mut self.late_weight)).max(0.0);
    }

    /// The numbers of a lateness that has lasted long enough.
    pub(super) fn convict(&mut self, scale: &Scale, ranks: usize, elsewhere: (f64, f64)) -> Option<Lateness> {
        if !scale.closes {
            return None;
        }
        if self.now_and_then.odds >= -CHANCE.ln() {
            self.quiet = 0;
            self.took = LONG_QUIET;
            return Some(self.now_and_then.convict(scale));
        }
        if self.run.len() < 3 {
            return None;
        }
        let needed = Scale::needed(scale.rate(self, ranks, elsewhere));
        if self.sum < (needed - 0.5) * (CAP - REFERENCE) || (self.run.len() as f64) < needed {
            return None;
        }
        let fraction = median(&mut self.run.clone());
        if fraction < scale.threshold * 0.8 || fraction < scale.floor {
            return None;
        }
        self.quiet = 0;
        self.took = u32::try_from(self.run.len()).unwrap_or(u32::MAX).max(3);
        let per = |ns: u64| (ns as f64 / self.run_iterations) as u64;
        Some(Lateness {
            fraction,
            // Not the mean: the first sample of the run has begun before the lateness did.
            per_iteration_ns: (fraction * per(self.run_ns) as f64) as u64,
            samples: self.took,
            iterations: self.run_iterations,
            elapsed_ns: self.run_ns,
            peers_wait_ns: per(self.run_total.peers_waited_ns),
            own_wait_ns: per(self.run_total.waited_ns),
            threshold: scale.threshold,
            noise: scale.noise,
            share: 1.0,
        })
    }

    /// Whether it has been on time for as long as it took to find it late.
    pub(super) fn has_recovered(&self) -> bool {
        self.quiet >= self.took
    }
}

impl NowAndThen {
    fn push(&mut self, x: f64, late: bool, rate: f64, iterations: f64, wall_ns: u64, total: &Sum) {
        let often = (rate * 4.0).clamp(OFTEN, 0.5);
        self.odds += if late { (often / rate).ln() } else { ((1.0 - often) / (1.0 - rate)).ln() };
        if self.odds <= 0.0 {
            *self = NowAndThen::default();
            return;
        }
        self.samples += 1;
        self.iterations += iterations;
        self.ns = self.ns.saturating_add(wall_ns);
        if late {
            self.late += 1;
            self.lateness += x;
            self.late_ns = self.late_ns.saturating_add(wall_ns);
            self.late_iterations += iterations;
            self.total.add(total);
        }
    }

    fn convict(&mut self, scale: &Scale) -> Lateness {
        self.found = true;
        let per = |ns: u64| (ns as f64 / self.late_iterations.max(1.0)) as u64;
        let fraction = self.lateness / f64::from(self.late.max(1));
        Lateness {
            fraction,
            per_iteration_ns: (fraction * per(self.late_ns) as f64) as u64,
            samples: self.samples,
            iterations: self.iterations,
            elapsed_ns: self.ns,
            peers_wait_ns: per(self.total.peers_waited_ns),
            own_wait_ns: per(self.total.waited_ns),
            threshold: scale.threshold,
            noise: scale.noise,
            share: f64::from(self.late) / f64::from(self.samples.max(1)),
        }
    }
}

/// The median; of an even number of values, the mean of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => 0.0,
        _ if n.is_multiple_of(2) => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        _ => values[n / 2],
    }
}
