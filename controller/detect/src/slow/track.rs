//! The sequential tests of one rank at one scale: whether it is late far more often than others are.

use super::{
    Lateness,
    own::{self, PerOperation},
    sample::Total,
    step::{self, Level},
};
use crate::{config::Config, stats::Histogram};

/// Scales at which lateness is judged. At the fourth and the fifth, single samples are judged by thresholds that are so far out that
/// fewer of them are needed. At the last one, ranks are compared with themselves before ([`step`](super::step)).
pub(super) const SCALES: usize = 6;
pub(super) const STEP: usize = SCALES - 1;
/// Samples whose median is one value of a scale. Medians, so that a checkpoint in every group accuses nobody.
const GROUPS: [u64; SCALES] = [1, 4, 16, 1, 1, 4];
/// Its threshold at each scale, as a multiple of the usual one.
const FACTORS: [f64; SCALES] = [1.0, 1.0, 1.0, 4.0, 2.0, 1.0];
/// The part of the least lateness that counts there: what comes at one moment is no difference between GPUs, nor their temperature.
const FLOORS: [f64; SCALES] = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5];
/// Values before anybody is judged: the noise has to be known, and at the larger scales also whether stragglers take
/// turns, which takes some sixty samples to see.
const LEARN: [u64; SCALES] = [10, 16, 10, 10, 10, 6];
/// Values before it is counted how often ranks are late.
const COUNT: u64 = 3;
/// How improbable what was seen has to be by chance: some ten samples a second and a hundred ranks for a month are
/// 2.6e9 chances.
const CHANCE: f64 = 2e-10;
/// Part of its weight that a value keeps with each later one, in how often ranks are late.
const FADE: f64 = 0.995;
/// What is assumed of how often ranks are late before it was seen: three values in a thousand, twice as late one in a thousand, by
/// far one in two thousand, with the weight of a hundred. Each late one makes that assumption worth less: where stragglers take turns, it is wrong.
const PRIOR_LATE: [f64; SCALES] = [0.3, 0.3, 0.3, 0.05, 0.1, 0.3];
const PRIOR_WEIGHT: f64 = 100.0;
/// Part of the threshold from which on a value counts in how often ranks are late by chance: where all are now and then late by
/// about as much, one whose values are just beyond the threshold is no different from others whose values are just below.
const NEARLY: f64 = 0.8;
/// From which part of the threshold on a rank is behind all along, and by which part of it values have to be apart from what is usual for
/// their rank to count for one that is: healthy ones that are behind are late by chance about as often as others are apart by that.
const BEHIND: f64 = 0.25;
const APART: f64 = 0.5;
/// Most that is assumed of how often a late value is followed by another where it is not known where iterations begin: what
/// made it late may lie in two samples then.
const SPILLS: f64 = 0.5;
/// Values in a row up to which it is told apart how often a late one follows: by chance, too, what makes a rank late may take more
/// than one sample, or end in the next, and then it is not to count twice.
const RUN: usize = 2;
/// Most that is assumed of how often a late value follows by chance.
const MOST_AFTER: f64 = 0.8;
/// Least and most that is assumed of how often ranks are late by chance.
const RATES: [f64; 2] = [5e-4, 0.5];
/// How often a rank is late that always is: a value that holds the beginning, or is just below the threshold, is not.
const NEARLY_ALWAYS: f64 = 0.9;
/// Standard deviation of normal noise over the median of the difference of two draws from it.
const DIFFERENCE_TO_SIGMA: f64 = 1.048;
/// How often a rank has to be late at least to be called late now and then.
const OFTEN: f64 = 0.08;
/// In thresholds, by how much later than usual at least: what is rarely and hardly late costs the job nothing, and who is always a
/// little behind is beyond the threshold more often than others are, for no fault of its own.
const CLEARLY: f64 = 1.5;
/// Values by which a late rank has to be on time more often than late, at least: one that is late three times in four is on time
/// a few times in a row every now and then.
const LEAST_QUIET: u32 = 8;
/// How improbable it is that a rank which is late now and then is on time for so long, once it is said to have recovered.
const RELAPSE: f64 = 0.007;
/// Who was found late is on time below this part of how late it was…
const HALFWAY: f64 = 0.5;
/// … but not above the threshold, and always below this part of that: who hovers about the threshold is found and cleared once.
const WELL_BELOW: f64 = 0.5;
/// Part of a value's distance from what is usual for a rank by which that follows, once it is known; the first values count for
/// more. The distance counts for no more than the noise, so what a rank does now and then does not become usual.
const FOLLOWS: f64 = 0.05;
/// Part of the threshold that the noise is taken for at least, in this.
const LEAST_STEP: f64 = 0.1;
/// Part of the threshold from which on a value leans late.
const LEANS: f64 = 0.6;

/// What all ranks have in common at one scale.
#[derive(Debug)]
pub(super) struct Scale {
    group: u64,
    factor: f64,
    floor: f64,
    /// Whether ranks are compared with themselves before.
    is_step: bool,
    prior_late: f64,
    learn: u64,
    /// Whether the current sample completes a group.
    closes: bool,
    values: u64,
    /// Differences from value to value, of all ranks: a rank that is always late has small ones too. Nothing where values are those
    /// of the first scale, and so is the noise.
    differences: Option<Histogram>,
    /// From which lateness on it is more than usual, and from which on a value counts as late here.
    usual: f64,
    threshold: f64,
    noise: f64,
    late_weight: f64,
    weight: f64,
    /// Weighted number of values that are apart from what is usual for their rank.
    apart_weight: f64,
    /// Weighted number of late values, and of all, after one late value of the same rank, and after more in a row.
    runs: [(f64, f64); RUN],
}

impl Scale {
    pub(super) fn new(index: usize) -> Self {
        Self {
            group: GROUPS[index],
            factor: FACTORS[index],
            floor: FLOORS[index],
            is_step: index == STEP,
            prior_late: PRIOR_LATE[index],
            learn: LEARN[index],
            closes: false,
            values: 0,
            differences: (index == 0 || GROUPS[index] != GROUPS[0]).then(|| Histogram::new(20_000)),
            usual: 1.0,
            threshold: 1.0,
            noise: 0.0,
            late_weight: 0.0,
            weight: 0.0,
            apart_weight: 0.0,
            runs: Default::default(),
        }
    }

    /// The `samples`th sample is about to be judged, of so many ranks. Returns the noise, which is passed on from scale to scale.
    pub(super) fn begin(
        &mut self,
        samples: u64,
        ranks: usize,
        of_first: Option<f64>,
        config: &Config,
    ) -> Option<f64> {
        self.closes = samples.is_multiple_of(self.group);
        if self.closes {
            self.values += 1;
            self.noise = match &self.differences {
                Some(differences) => differences.median().unwrap_or(0.0) * DIFFERENCE_TO_SIGMA,
                None => of_first.unwrap_or(0.0),
            };
            // What a rank is compared with differs from what is usual, too, the more the fewer peers there are.
            let few = (1.0 + 1.0 / (ranks.max(2) - 1) as f64).sqrt();
            self.usual = (config.slow_floor * few * self.floor).max(self.noise * config.slow_noise);
            self.threshold = self.usual * self.factor;
            (self.late_weight, self.weight) = (self.late_weight * FADE, self.weight * FADE);
            self.apart_weight *= FADE;
            self.runs = self.runs.map(|(late, of)| (late * FADE, of * FADE));
        }
        of_first.or(Some(self.noise))
    }

    pub(super) fn counts(&self) -> (f64, f64) {
        (self.late_weight, self.weight)
    }

    /// How often ranks other than this one are late: here, or in other communicators of the kind if that is more often; and after
    /// as many late values as this one now has in a row, if that is more often still. What is in one sample may be in the next
    /// one, too, if it `spills`.
    pub(super) fn rate(&self, track: &Track, ranks: usize, elsewhere: (f64, f64), spills: bool) -> f64 {
        let record = track.record();
        let others = (self.late_weight - record.late_weight).max(0.0);
        let weight = self.weight * (1.0 - 1.0 / ranks.max(1) as f64);
        let rate = |late: f64, of: f64| (late + self.prior_late) / (of + PRIOR_WEIGHT / (1.0 + late));
        let [least, most] = RATES;
        let after = record.run().map_or(0.0, |run| {
            let ((late, of), (own_late, own_of)) = (self.runs[run], record.runs[run]);
            let (late, of) = ((late - own_late).max(0.0), (of - own_of).max(0.0));
            let after = rate(late, of);
            // Less the standard error: what is no more often than usual is sometimes more often by chance.
            after - (after * (1.0 - after) / (of + 1.0)).max(0.0).sqrt()
        });
        let usually = rate(others, weight).max(rate(others + elsewhere.0, weight + elsewhere.1));
        let is_behind = track.usual > self.threshold * BEHIND;
        let apart =
            if is_behind { rate((self.apart_weight - record.apart_weight).max(0.0), weight) } else { 0.0 };
        let spills = spills && self.group == 1 && self.factor <= 1.0;
        let spilt = if spills && record.in_a_row == 1 { SPILLS } else { 0.0 };
        usually.max(apart).clamp(least, most).max(after.min(MOST_AFTER)).max(spilt)
    }
}

/// A sequential test (A. Wald, "Sequential tests of statistical hypotheses", 1945) of whether a rank is late as often as
/// some faulty one: the logarithm of how much likelier that makes what was seen, since it last was no likelier at all; no test
/// goes on while it is no likelier. Only whether a value is late counts, not by how much, so far tails weigh no more than others.
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
    total: Total,
    /// Time by itself that was usual when the test began.
    own_before: Option<PerOperation>,
}

/// A rank in a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    /// Lateness, as a share of the time.
    pub(super) x: f64,
    pub(super) iterations: f64,
    pub(super) wall_ns: u64,
    pub(super) total: &'a Total,
    /// Whether it may be slow in it now and then: not where it only pauses, as is its duty.
    pub(super) counts: bool,
    /// The time by itself that is usual for it, for each operation, where that is known.
    pub(super) own_before: Option<PerOperation>,
}

/// Samples of a group that is not complete.
#[derive(Debug, Default)]
struct Pending {
    values: Vec<f64>,
    iterations: f64,
    wall_ns: u64,
    total: Total,
}

impl Pending {
    fn add(&mut self, value: &Value<'_>) {
        self.values.push(value.x);
        self.iterations += value.iterations;
        self.wall_ns = self.wall_ns.saturating_add(value.wall_ns);
        self.total.add(value.total);
    }
}

/// One rank at one scale. There are a million and a half of these in a job of a hundred thousand ranks, so what most of them never
/// have is elsewhere.
#[derive(Debug, Default)]
pub(super) struct Track {
    pending: Option<Box<Pending>>,
    before: Option<f64>,
    /// How late it is usually, which may be a little: GPUs differ.
    usual: f64,
    always: Option<Box<Test>>,
    now_and_then: Option<Box<Test>>,
    /// How late it was before; only where it is compared with that.
    level: Option<Box<Level>>,
    /// Absent until it was late or apart from what is usual for the first time.
    record: Option<Box<Record>>,
}

/// How often a rank was late at one scale.
#[derive(Debug, Default)]
struct Record {
    /// Weighted values in which it was late, and in which it was apart from what is usual for it.
    late_weight: f64,
    apart_weight: f64,
    /// Late values in a row, and its part in what the scale counts of these.
    in_a_row: usize,
    runs: [(f64, f64); RUN],
    quiet: u32,
    took: u32,
    /// Up to which value it counts as on time again.
    on_time: f64,
    /// It was found late now and then only.
    is_seldom: bool,
}

/// Of a rank that never was.
const CLEAN: Record = Record {
    late_weight: 0.0,
    apart_weight: 0.0,
    in_a_row: 0,
    runs: [(0.0, 0.0); RUN],
    quiet: 0,
    took: 0,
    on_time: 0.0,
    is_seldom: false,
};

impl Track {
    fn record(&self) -> &Record {
        self.record.as_deref().unwrap_or(&CLEAN)
    }

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
        let total;
        let value = if scale.group == 1 {
            value
        } else {
            self.pending.get_or_insert_default().add(value);
            if !scale.closes {
                return;
            }
            let mut group = *self.pending.take().unwrap_or_default();
            let x = lower_median(&mut group.values);
            total = group.total;
            &Value { x, iterations: group.iterations, wall_ns: group.wall_ns, total: &total, ..*value }
        };
        let holds = late || self.always.is_some();
        let x =
            if scale.is_step { self.level.get_or_insert_default().beyond(value.x, holds) } else { value.x };
        let value = &Value { x, ..*value };
        if let Some(before) = self.before.replace(x) {
            scale.differences.iter_mut().for_each(|differences| differences.push((x - before).abs()));
        }
        let beyond_usual = x - self.usual.max(0.0);
        let step = scale.noise.max(scale.usual * LEAST_STEP);
        self.usual += (x - self.usual).clamp(-step, step) * FOLLOWS.max(1.0 / scale.values as f64);
        let is_late = x > scale.threshold;
        let is_nearly_late = x > scale.threshold * NEARLY;
        let counts = !found && scale.values > COUNT;
        let is_apart = counts && beyond_usual > scale.threshold * APART;
        if counts {
            scale.weight += 1.0;
        }
        if is_nearly_late || is_apart {
            self.record.get_or_insert_default();
        }
        if let Some(record) = self.record.as_deref_mut() {
            if counts {
                record.count(scale, is_nearly_late, is_apart);
            }
            record.in_a_row = if is_nearly_late { record.in_a_row + 1 } else { 0 };
        }
        if late {
            let record = self.record.get_or_insert_default();
            let on_time = record.on_time.clamp(scale.usual * WELL_BELOW, scale.usual);
            record.quiet = match record.quiet {
                quiet if x <= on_time => quiet + 1,
                // Who is late now and then is on time most of the time.
                _ if record.is_seldom => 0,
                quiet => quiet.saturating_sub(1),
            };
            return;
        }
        // What is seen while the noise becomes known counts, but convicts nobody before it is.
        if scale.values <= scale.learn / 2 {
            return;
        }
        Test::push(&mut self.always, value, is_late, rate, NEARLY_ALWAYS);
        if !pauses && scale.factor <= 1.0 && !scale.is_step {
            let clearly = value.counts && beyond_usual > scale.threshold * CLEARLY;
            Test::push(&mut self.now_and_then, value, clearly, rate, (rate * 4.0).clamp(OFTEN, 0.6));
        }
    }

    /// How late it is since it last was on time, if that is more than once.
    pub(super) fn lasting(&self) -> Option<f64> {
        self.always.as_ref().filter(|test| test.late > 1).map(|test| test.mean())
    }

    /// The same, or how late it is in those values in which it is, if it is so now and then.
    pub(super) fn repeated(&self) -> Option<f64> {
        let seldom = || self.now_and_then.as_ref().filter(|test| test.late > 2).map(|test| test.mean());
        self.lasting().or_else(seldom)
    }

    /// Whether a value is far from being late.
    pub(super) fn is_on_time(&self, x: f64, scale: &Scale) -> bool {
        self.always.is_none() && x < scale.usual * WELL_BELOW
    }

    /// Whether the latest value is more late than not.
    pub(super) fn leans(&self, scale: &Scale) -> bool {
        self.before.is_some_and(|x| x > scale.threshold * LEANS)
    }

    /// The rank was found late: that it was is no longer counted as chance.
    pub(super) fn explain(&mut self, scale: &mut Scale) {
        let Some(record) = self.record.as_deref_mut() else { return };
        scale.late_weight = (scale.late_weight - std::mem::take(&mut record.late_weight)).max(0.0);
        scale.apart_weight = (scale.apart_weight - std::mem::take(&mut record.apart_weight)).max(0.0);
        for (all, (late, of)) in scale.runs.iter_mut().zip(std::mem::take(&mut record.runs)) {
            *all = ((all.0 - late).max(0.0), (all.1 - of).max(0.0));
        }
    }

    /// The numbers of a lateness that chance does not explain.
    pub(super) fn convict(&mut self, scale: &Scale) -> Option<Lateness> {
        if !scale.closes || scale.values <= scale.learn {
            return None;
        }
        if scale.is_step {
            return self.convict_of_step(scale);
        }
        // What came of others is forgotten: if it goes on, that is no news.
        for test in [&mut self.always, &mut self.now_and_then] {
            test.take_if(|test| test.odds >= -CHANCE.ln() && !test.is_by_itself());
        }
        let certain = |test: &&Test| test.odds >= -CHANCE.ln();
        let (lateness, took, is_seldom) = if let Some(test) = self.always.as_deref().filter(certain) {
            (test.lateness(scale), test.samples, self.record().is_seldom)
        } else if let Some(test) = self.now_and_then.as_deref().filter(certain) {
            let lateness = test.lateness(scale);
            let on_time = (1.0 - lateness.share.clamp(OFTEN, 0.99)).ln();
            (lateness, (RELAPSE.ln() / on_time).ceil() as u32, true)
        } else {
            return None;
        };
        self.found(&lateness, took, is_seldom);
        Some(lateness)
    }

    /// The same, where it is compared with itself: once it has lasted, and only if the job has taken longer since then. What
    /// has other reasons is forgotten, and what is usual is learned anew.
    fn convict_of_step(&mut self, scale: &Scale) -> Option<Lateness> {
        let test = self.always.take_if(|test| test.late >= step::LASTS && test.odds >= -CHANCE.ln())?;
        let own_rise = test.own_rise().filter(|_| test.is_by_itself() && test.is_costly());
        if own_rise.is_none() {
            self.level = None;
            return None;
        }
        let lateness = test.lateness(scale);
        self.found(&lateness, test.samples, self.record().is_seldom);
        // For those who ask how much longer it works.
        self.always = Some(test);
        Some(lateness)
    }

    /// It was found late, which took so many values.
    fn found(&mut self, lateness: &Lateness, took: u32, is_seldom: bool) {
        let record = self.record.get_or_insert_default();
        (record.took, record.quiet, record.is_seldom) = (took.max(LEAST_QUIET), 0, is_seldom);
        record.on_time = lateness.fraction * HALFWAY;
    }

    /// By how much longer it works than before, as a share of the time, if it has become late of late.
    pub(super) fn own_rise(&self) -> Option<f64> {
        self.always.as_ref().filter(|test| test.late > 1)?.own_rise()
    }

    /// Whether it has been on time for as long as it took to find it late.
    pub(super) fn has_recovered(&self) -> bool {
        self.record().quiet >= self.record().took
    }
}

impl Record {
    /// Counts a value, for the rank and for its scale.
    fn count(&mut self, scale: &mut Scale, is_late: bool, is_apart: bool) {
        let [late, apart] = [is_late, is_apart].map(|is| if is { 1.0 } else { 0.0 });
        self.late_weight = self.late_weight * FADE + late;
        scale.late_weight += late;
        self.apart_weight = self.apart_weight * FADE + apart;
        scale.apart_weight += apart;
        self.runs = self.runs.map(|(late, of)| (late * FADE, of * FADE));
        if let Some(run) = self.run() {
            for (sum, of) in [&mut self.runs[run], &mut scale.runs[run]] {
                *sum += late;
                *of += 1.0;
            }
        }
    }

    /// After which run of late values its next one comes, if after any.
    fn run(&self) -> Option<usize> {
        self.in_a_row.checked_sub(1).map(|run| run.min(RUN - 1))
    }
}

impl Test {
    /// Takes in a value; `often` is how often a faulty rank is late, and `rate` any other.
    fn push(test: &mut Option<Box<Self>>, value: &Value<'_>, late: bool, rate: f64, often: f64) {
        let often = often.max(rate);
        let step = if late { (often / rate).ln() } else { ((1.0 - often) / (1.0 - rate)).ln() };
        let odds = test.as_ref().map_or(0.0, |test| test.odds) + step;
        if odds <= 0.0 {
            *test = None;
            return;
        }
        let test =
            test.get_or_insert_with(|| Box::new(Self { own_before: value.own_before, ..Self::default() }));
        test.odds = odds;
        test.samples += 1;
        test.iterations += value.iterations;
        test.ns = test.ns.saturating_add(value.wall_ns);
        if !late {
            return;
        }
        match test.late {
            0 => test.first = value.x,
            _ => test.lateness += value.x,
        }
        test.late += 1;
        test.late_ns = test.late_ns.saturating_add(value.wall_ns);
        test.late_iterations += value.iterations;
        test.total.add(value.total);
    }

    /// Whether the rank worked longer in late values than it did before.
    fn is_by_itself(&self) -> bool {
        let (own_ns, operations) = (self.total.own_ns, self.total.operations);
        let before = self.own_before.filter(|_| self.total.tells_own());
        own::is_longer(before, own_ns, operations, self.late_ns, self.mean(), self.total.stretches())
    }

    /// Whether the job takes longer than before by about as much as the rank is late; not if that is not known.
    fn is_costly(&self) -> bool {
        let before = self.own_before.filter(|_| self.total.tells_own());
        before.is_some_and(|before| own::is_costly(before, self.total.operations, self.late_ns, self.mean()))
    }

    /// By how much longer the rank worked in late values than before, as a share of the time, where that is known.
    fn own_rise(&self) -> Option<f64> {
        let before = self.own_before.filter(|_| self.total.tells_own())?;
        Some(own::rise(before, self.total.own_ns, self.total.operations) / self.late_ns.max(1) as f64)
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
            threshold: scale.usual,
            noise: scale.noise,
            share: f64::from(self.late) / f64::from(self.samples.max(1)),
            by_itself: self.total.tells_own(),
            own_rise: self.own_rise(),
            is_step: scale.is_step,
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

    /// Judges samples of four ranks at one scale, with what `lateness` says of each; returns when ranks were convicted and when
    /// they had recovered.
    fn judged(scale: usize, samples: u64, lateness: impl Fn(u64, usize) -> f64) -> Vec<(u64, usize, bool)> {
        judged_where(scale, samples, false, lateness)
    }

    /// The same; `spills` says that nobody knows where iterations begin.
    fn judged_where(
        scale: usize,
        samples: u64,
        spills: bool,
        lateness: impl Fn(u64, usize) -> f64,
    ) -> Vec<(u64, usize, bool)> {
        let (mut scale, total, config) = (Scale::new(scale), Total::default(), Config::default());
        let mut tracks: [Track; 4] = std::array::from_fn(|_| Track::default());
        let (mut late, mut told) = ([false; 4], Vec::new());
        for n in 1..=samples {
            scale.begin(n, tracks.len(), None, &config);
            for (rank, track) in tracks.iter_mut().enumerate() {
                let x = lateness(n, rank);
                let value = Value {
                    x,
                    iterations: 1.0,
                    wall_ns: 1_000_000,
                    total: &total,
                    counts: true,
                    own_before: None,
                };
                let rate = scale.rate(track, 4, (0.0, 0.0), spills);
                track.push(&value, &mut scale, late[rank], late[rank], rate, false);
            }
            for (rank, track) in tracks.iter_mut().enumerate() {
                let changes =
                    if late[rank] { track.has_recovered() } else { track.convict(&scale).is_some() };
                if changes {
                    late[rank] = !late[rank];
                    told.push((n, rank, late[rank]));
                    if !late[rank] {
                        *track = Track::default();
                    }
                }
            }
        }
        told
    }

    /// The first that is convicted of being late by 0.2 when `late` says so, and in which sample.
    fn first_convicted(samples: u64, late: impl Fn(u64) -> Option<usize>) -> Option<(u64, usize)> {
        let told = judged(0, samples, |n, rank| if late(n) == Some(rank) { 0.2 } else { 0.0 });
        told.first().map(|(n, rank, _)| (*n, *rank))
    }

    /// One of four, by a generator whose numbers do not depend on each other (SplitMix64).
    fn random(n: u64) -> usize {
        let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % 4
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

    #[test]
    fn who_is_late_by_far_is_found_sooner_than_who_is_late() {
        let found = |scale| judged(scale, 304, |n, rank| if n > 300 && rank == 2 { 0.5 } else { 0.0 });
        assert_eq!(found(0), [(304, 2, true)]);
        assert_eq!(found(3), [(303, 2, true)]);
    }

    #[test]
    fn who_is_well_again_is_cleared_though_it_is_noisy() {
        // On time it is late by two to seven parts in a hundred, which is less than the threshold, but not by much.
        let noise = |n: u64, rank: usize| {
            if rank == 2 { 0.02 + 0.05 * random(n ^ n.rotate_left(17)) as f64 / 3.0 } else { 0.0 }
        };
        let always = judged(
            0,
            400,
            |n, rank| if (301..=330).contains(&n) && rank == 2 { 0.5 } else { noise(n, rank) },
        );
        let [(_, 2, true), (cleared, 2, false)] = always[..] else { panic!("{always:?}") };
        assert!(cleared < 340, "{always:?}");
        let seldom = |n: u64| (301..=400).contains(&n) && random(n) == 0;
        let seldom = judged(0, 600, |n, rank| if seldom(n) && rank == 2 { 0.5 } else { noise(n, rank) });
        let [(_, 2, true), (cleared, 2, false)] = seldom[..] else { panic!("{seldom:?}") };
        assert!((401..450).contains(&cleared), "{seldom:?}");
    }

    #[test]
    fn who_stays_late_is_not_cleared() {
        let told = judged(0, 2_000, |n, rank| if n > 300 && rank == 2 && random(n) > 0 { 0.12 } else { 0.0 });
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn who_is_late_by_little_more_than_others_as_often_as_they_is_not_late_by_far() {
        // Ranks take turns; one of them is a little later in its turn, and twice the usual threshold lies between.
        let turns = |n: u64, rank: usize| match random(n ^ n.rotate_left(17)) {
            turn if turn != rank => 0.0,
            2 => 0.155,
            _ => 0.14,
        };
        assert_eq!(judged(4, 20_000, turns), []);
        let found =
            judged(4, 1_000, |n, rank| if n > 900 && rank == 2 { 0.155 } else { turns(n, rank) / 2.0 });
        assert!(matches!(found[..], [(901..930, 2, true)]), "{found:?}");
    }

    #[test]
    fn what_lies_in_two_samples_counts_once_where_nobody_knows_where_iterations_begin() {
        // Three times within a short while a pause makes one rank late, in two samples each time, before it is known how often
        // that comes.
        let pauses =
            |n: u64, rank: usize| if rank == 2 && [12, 13, 15, 16, 18, 19].contains(&n) { 0.2 } else { 0.0 };
        assert!(!judged_where(0, 40, false, pauses).is_empty(), "by chance, that is rarer than it is here");
        assert_eq!(judged_where(0, 40, true, pauses), []);
        let late = |n: u64, rank: usize| if rank == 2 && n > 300 { 0.2 } else { 0.0 };
        assert!(matches!(judged_where(0, 400, true, late)[..], [(304..307, 2, true)]), "one more than else");
    }

    #[test]
    fn who_is_a_little_behind_all_along_is_not_late_now_and_then() {
        // One GPU is slower by less than the threshold, and noise takes it beyond one time and a half that now and then.
        let noise =
            |n: u64, rank: usize| 0.02 * (random(n.wrapping_mul(7) ^ (rank as u64) << 9) as f64 - 1.5);
        let behind = |n: u64| if n.is_multiple_of(12) { 0.11 } else { 0.06 };
        let told = judged(0, 3_000, |n, rank| if rank == 2 { behind(n) } else { noise(n, rank) });
        assert_eq!(told, []);
    }

    #[test]
    fn who_is_behind_all_along_is_beyond_the_threshold_by_chance_more_often_than_others() {
        // Uneven work, nearly normal, by which others never are; one rank's GPU is slower by less than the threshold.
        let uneven = |n: u64, rank: usize| {
            let sum: usize = (0..4).map(|draw| random(n * 16 + rank as u64 * 4 + draw)).sum();
            0.011 * (sum as f64 - 6.0)
        };
        let behind = |n, rank| uneven(n, rank) + if rank == 2 { 0.05 } else { 0.0 };
        assert_eq!(judged(0, 20_000, behind), []);
        let late = |n, rank| behind(n, rank) + if rank == 2 && n > 900 { 0.15 } else { 0.0 };
        let told = judged(0, 1_000, late);
        assert!(matches!(told[..], [(903..912, 2, true)]), "{told:?}");
    }

    #[test]
    fn what_makes_ranks_late_twice_in_a_row_counts_once() {
        // Every now and then some rank is late in two values; then one of them is so five times, soon after each other.
        let chance = |n: u64, rank: usize| random((n / 2).wrapping_mul(41)) == rank && (n / 2) % 8 == 3;
        let again = |n: u64, rank: usize| rank == 2 && (2_001..2_015).contains(&n) && n % 3 < 2;
        let told = judged(0, 3_000, |n, rank| if chance(n, rank) || again(n, rank) { 0.2 } else { 0.0 });
        assert_eq!(told, []);
        // Who goes on being late is found all the same.
        let told =
            judged(0, 2_050, |n, rank| if chance(n, rank) || (n > 2_000 && rank == 2) { 0.2 } else { 0.0 });
        assert!(matches!(told[..], [(2_003..2_025, 2, true)]), "{told:?}");
    }

    /// Judges samples of four ranks against themselves: how late they are, by how much longer than a millisecond each works and
    /// the job takes (in parts). Returns who was found late, and in which sample.
    fn stepped(samples: u64, of: impl Fn(u64, usize) -> (f64, f64, f64)) -> Option<(u64, usize)> {
        let (mut scale, config) = (Scale::new(STEP), Config::default());
        let mut tracks: [Track; 4] = std::array::from_fn(|_| Track::default());
        let mut usual = own::OwnUsual::default();
        (0..20).for_each(|_| usual.push([500_000; 2], 1_000_000, 1));
        for n in 1..=samples {
            scale.begin(n, tracks.len(), None, &config);
            for (rank, track) in tracks.iter_mut().enumerate() {
                let (x, works, takes) = of(n, rank);
                let own_ns = (500_000.0 + 1e6 * works) as u64;
                let wall_ns = (1e6 * (1.0 + takes)) as u64;
                let total = Total::that_worked(own_ns);
                let own_before = usual.get();
                let value = Value { x, iterations: 1.0, wall_ns, total: &total, counts: true, own_before };
                let rate = scale.rate(track, 4, (0.0, 0.0), false);
                track.push(&value, &mut scale, false, false, rate, false);
            }
            for (rank, track) in tracks.iter_mut().enumerate() {
                if let Some(lateness) = track.convict(&scale) {
                    assert!(lateness.is_step && lateness.own_rise.is_some(), "{lateness:?}");
                    return Some((n, rank));
                }
            }
        }
        None
    }

    #[test]
    fn who_comes_late_by_little_since_one_moment_is_found_once_it_lasts() {
        // Less than what healthy GPUs differ by, and so is another one all along.
        let late = |n: u64, rank: usize| match rank {
            1 => (0.05, 0.0, 0.0),
            2 if n > 100 => (0.05, 0.06, 0.05),
            _ => (0.0, 0.0, if n > 100 { 0.05 } else { 0.0 }),
        };
        let found = stepped(400, late);
        assert!(found.is_some_and(|(n, rank)| rank == 2 && (124..140).contains(&n)), "{found:?}");
        assert_eq!(judged(0, 400, |n, rank| late(n, rank).0), [], "from its lateness alone nobody can tell");
    }

    #[test]
    fn what_comes_by_and_by_or_does_not_stay_or_costs_nothing_is_no_step() {
        let step = |n: u64, rank: usize| if rank == 2 && n > 100 { 0.05 } else { 0.0 };
        // A GPU whose speed drifts by five per cent, up and down, within some minutes of iterations of some seconds.
        for period in [40.0, 60.0, 100.0, 200.0, 400.0] {
            let drift = |n: u64, rank: usize| {
                let drift = 0.025 * (n as f64 / period * std::f64::consts::TAU).sin();
                if rank == 2 { (drift, drift, drift) } else { (0.0, 0.0, drift) }
            };
            assert_eq!(stepped(3_000, drift), None, "a period of {period}");
        }
        assert_eq!(
            stepped(400, |n, rank| (step(n, rank), step(n, rank), 0.0)),
            None,
            "the job takes no longer"
        );
        let longer = |n: u64| if n > 100 { 0.05 } else { 0.0 };
        assert_eq!(stepped(400, |n, rank| (step(n, rank), 0.0, longer(n))), None, "it works no longer");
        let passing = |n: u64| if n % 100 < 20 { n } else { 0 };
        let short =
            |n: u64, rank: usize| (step(passing(n), rank), step(passing(n), rank), longer(passing(n)));
        assert_eq!(stepped(3_000, short), None, "it does not stay");
        // What the job takes longer for another reason later on is no fault of who was behind before.
        let later = |n: u64, rank: usize| (step(n, rank), step(n, rank), if n > 200 { 0.05 } else { 0.0 });
        assert_eq!(stepped(600, later), None);
    }
}
