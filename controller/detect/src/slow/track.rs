//! The sequential tests of one rank at one scale: whether it is late far more often than others are.

use super::{Lateness, sample::Sum};
use crate::{config::Config, stats::Histogram};

/// Scales at which lateness is judged.
pub(super) const SCALES: usize = 3;
/// Samples whose median is one value of a scale. Medians, so that a checkpoint in every group accuses nobody.
const GROUPS: [u64; SCALES] = [1, 4, 16];
/// Values before anybody is judged: the noise has to be known, and at the larger scales also whether stragglers take
/// turns, which takes some sixty samples to see.
const LEARN: [u64; SCALES] = [10, 16, 10];
/// Values before it is counted how often ranks are late.
const COUNT: u64 = 3;
/// How improbable what was seen has to be by chance: some ten samples a second and a hundred ranks for a month are
/// 2.6e9 chances.
const CHANCE: f64 = 2e-10;
/// Part of its weight that a value keeps with each later one, in how often ranks are late.
const FADE: f64 = 0.995;
/// What is assumed of how often ranks are late before it was seen: three values in a thousand, with the weight of a
/// hundred. Each late one makes that assumption worth less: where stragglers take turns, it is wrong.
const PRIOR_LATE: f64 = 0.3;
const PRIOR_WEIGHT: f64 = 100.0;
/// Least and most that is assumed of how often ranks are late by chance.
const RATES: [f64; 2] = [5e-4, 0.5];
/// How often a rank is late that always is: a value that holds the beginning, or is just below the threshold, is not.
const NEARLY_ALWAYS: f64 = 0.9;
/// Standard deviation of normal noise over the median of the difference of two draws from it.
const DIFFERENCE_TO_SIGMA: f64 = 1.048;
/// How often a rank has to be late at least to be called late now and then.
const OFTEN: f64 = 0.08;
/// In thresholds, by how much at least: what is rarely and hardly late costs the job nothing.
const CLEARLY: f64 = 1.5;
/// Values on time after which a rank that was late now and then no longer is.
const LONG_QUIET: u32 = 60;
/// Part of the threshold from which on a value leans late.
const LEANS: f64 = 0.6;

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
            noise: 0.0,
            late_weight: 0.0,
            weight: 0.0,
        }
    }

    /// The `samples`th sample is about to be judged, of so many ranks.
    pub(super) fn begin(&mut self, samples: u64, ranks: usize, config: &Config) {
        self.closes = samples.is_multiple_of(self.group);
        if self.closes {
            self.values += 1;
            self.noise = self.differences.median().unwrap_or(0.0) * DIFFERENCE_TO_SIGMA;
            // What a rank is compared with differs from what is usual, too, the more the fewer peers there are.
            let few = (1.0 + 1.0 / (ranks.max(2) - 1) as f64).sqrt();
            self.threshold = (config.slow_floor * few).max(self.noise * config.slow_noise);
            (self.late_weight, self.weight) = (self.late_weight * FADE, self.weight * FADE);
        }
    }

    pub(super) fn counts(&self) -> (f64, f64) {
        (self.late_weight, self.weight)
    }

    /// How often ranks other than this one are late: here, or in other communicators of the kind if that is more often.
    pub(super) fn rate(&self, track: &Track, ranks: usize, elsewhere: (f64, f64)) -> f64 {
        let others = (self.late_weight - track.late_weight).max(0.0);
        let weight = self.weight * (1.0 - 1.0 / ranks.max(1) as f64);
        let rate = |late: f64, of: f64| (late + PRIOR_LATE) / (of + PRIOR_WEIGHT / (1.0 + late));
        let [least, most] = RATES;
        rate(others, weight).max(rate(others + elsewhere.0, weight + elsewhere.1)).clamp(least, most)
    }
}

/// A sequential test (A. Wald, "Sequential tests of statistical hypotheses", 1945) of whether a rank is late as often as
/// some faulty one: the logarithm of how much likelier that makes what was seen, since it last was no likelier at all. Only
/// whether a value is late counts, not by how much, so far tails weigh no more than others.
#[derive(Debug, Default)]
struct Test {
    odds: f64,
    samples: u32,
    late: u32,
    /// The first late value, which may hold a part of the time before, and the sum over the others.
    first: f64,
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
    /// Weighted values in which it was late.
    late_weight: f64,
    quiet: u32,
    took: u32,
    always: Test,
    now_and_then: Test,
    /// It was found late now and then only.
    is_seldom: bool,
}

impl Track {
    /// Takes in a sample; `late` says whether the rank was found late at this scale, `found` whether at any, `rate` how often
    /// others are late, and `pauses` whether the sample may hold a pause, which is not told from being late now and then.
    pub(super) fn push(
        &mut self,
        value: &Value<'_>,
        scale: &mut Scale,
        late: bool,
        found: bool,
        rate: f64,
        pauses: bool,
    ) {
        self.pending.push(value.x);
        self.pending_iterations += value.iterations;
        self.pending_ns = self.pending_ns.saturating_add(value.wall_ns);
        self.pending_total.add(value.sum);
        if !scale.closes {
            return;
        }
        let x = lower_median(&mut self.pending);
        let iterations = std::mem::take(&mut self.pending_iterations);
        let wall_ns = std::mem::take(&mut self.pending_ns);
        let total = std::mem::take(&mut self.pending_total);
        self.pending.clear();
        if let Some(before) = self.before.replace(x) {
            scale.differences.push((x - before).abs());
        }
        let is_late = x > scale.threshold;
        if !found && scale.values > COUNT {
            let late = if is_late { 1.0 } else { 0.0 };
            self.late_weight = self.late_weight * FADE + late;
            scale.late_weight += late;
            scale.weight += 1.0;
        }
        if late {
            self.quiet = match x / scale.threshold {
                z if z < 0.5 => self.quiet + 1,
                // Who is late now and then is on time most of the time.
                _ if self.is_seldom => 0,
                _ => self.quiet.saturating_sub(1),
            };
            return;
        }
        if scale.values <= scale.learn {
            return;
        }
        let value = Value { x, iterations, wall_ns, sum: &total, counts: value.counts };
        self.always.push(&value, is_late, rate, NEARLY_ALWAYS);
        if !pauses {
            let clearly = value.counts && x > scale.threshold * CLEARLY;
            self.now_and_then.push(&value, clearly, rate, (rate * 4.0).clamp(OFTEN, 0.6));
        }
    }

    /// How late it is since it last was on time, if that is more than once.
    pub(super) fn lasting(&self) -> Option<f64> {
        (self.always.late > 1).then(|| self.always.mean())
    }

    /// The same, or how late it is in those values in which it is, if it is so now and then.
    pub(super) fn repeated(&self) -> Option<f64> {
        self.lasting().or_else(|| (self.now_and_then.late > 2).then(|| self.now_and_then.mean()))
    }

    /// Whether the latest value is more late than not.
    pub(super) fn leans(&self, scale: &Scale) -> bool {
        self.before.is_some_and(|x| x > scale.threshold * LEANS)
    }

    /// The rank was found late: that it was is no longer counted as chance.
    pub(super) fn explain(&mut self, scale: &mut Scale) {
        scale.late_weight = (scale.late_weight - std::mem::take(&mut self.late_weight)).max(0.0);
    }

    /// The numbers of a lateness that chance does not explain.
    pub(super) fn convict(&mut self, scale: &Scale) -> Option<Lateness> {
        if !scale.closes {
            return None;
        }
        let certain = -CHANCE.ln();
        if self.always.odds >= certain {
            self.took = self.always.samples.max(3);
        } else if self.now_and_then.odds >= certain {
            (self.is_seldom, self.took) = (true, LONG_QUIET);
        } else {
            return None;
        }
        self.quiet = 0;
        Some(if self.is_seldom { &self.now_and_then } else { &self.always }.lateness(scale))
    }

    /// Whether it has been on time for as long as it took to find it late.
    pub(super) fn has_recovered(&self) -> bool {
        self.quiet >= self.took
    }
}

impl Test {
    /// Takes in a value; `often` is how often a faulty rank is late, and `rate` any other.
    fn push(&mut self, value: &Value<'_>, late: bool, rate: f64, often: f64) {
        let often = often.max(rate);
        self.odds += if late { (often / rate).ln() } else { ((1.0 - often) / (1.0 - rate)).ln() };
        if self.odds <= 0.0 {
            *self = Test::default();
            return;
        }
        self.samples += 1;
        self.iterations += value.iterations;
        self.ns = self.ns.saturating_add(value.wall_ns);
        if !late {
            return;
        }
        match self.late {
            0 => self.first = value.x,
            _ => self.lateness += value.x,
        }
        self.late += 1;
        self.late_ns = self.late_ns.saturating_add(value.wall_ns);
        self.late_iterations += value.iterations;
        self.total.add(value.sum);
    }

    /// Of late values.
    fn mean(&self) -> f64 {
        if self.late > 1 { self.lateness / f64::from(self.late - 1) } else { self.first }
    }

    fn lateness(&self, scale: &Scale) -> Lateness {
        let per = |ns: u64| (ns as f64 / self.late_iterations.max(1e-3)) as u64;
        let fraction = self.mean();
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

/// The median; of an even number of values, the lower of the two in the middle: half of them late is not late.
fn lower_median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges samples of four ranks at the first scale, of which `late` says who is late; returns the first that is convicted
    /// and in which sample.
    fn first_convicted(samples: u64, late: impl Fn(u64) -> Option<usize>) -> Option<(u64, usize)> {
        let (mut scale, sum, config) = (Scale::new(0), Sum::default(), Config::default());
        let mut tracks: [Track; 4] = std::array::from_fn(|_| Track::default());
        for n in 1..=samples {
            scale.begin(n, tracks.len(), &config);
            for (rank, track) in tracks.iter_mut().enumerate() {
                let x = if late(n) == Some(rank) { 0.4 } else { 0.0 };
                let value = Value { x, iterations: 1.0, wall_ns: 1_000_000, sum: &sum, counts: true };
                let rate = scale.rate(track, 4, (0.0, 0.0));
                track.push(&value, &mut scale, false, false, rate, false);
            }
            let found = tracks.iter_mut().position(|track| track.convict(&scale).is_some());
            if let Some(rank) = found {
                return Some((n, rank));
            }
        }
        None
    }

    fn random(n: u64) -> usize {
        (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % 4
    }

    #[test]
    fn who_is_always_late_is_found_within_some_samples() {
        let found = first_convicted(400, |n| (n > 300).then_some(2));
        assert!(found.is_some_and(|(n, rank)| n <= 304 && rank == 2), "{found:?}");
    }

    #[test]
    fn taking_turns_accuses_nobody_and_hides_nobody() {
        let turns = |n: u64| Some(random(n ^ n.rotate_left(17)));
        assert_eq!(first_convicted(50_000, turns), None);
        let found = first_convicted(1_000, |n| if n > 900 { Some(1) } else { turns(n) });
        assert!(found.is_some_and(|(n, rank)| n <= 930 && rank == 1), "{found:?}");
    }

    #[test]
    fn who_is_late_now_and_then_takes_longer() {
        let found = first_convicted(1_000, |n| (n > 300 && random(n) == 0).then_some(3));
        assert!(found.is_some_and(|(n, rank)| (304..400).contains(&n) && rank == 3), "{found:?}");
    }
}
