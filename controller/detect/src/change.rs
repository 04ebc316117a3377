//! When the iteration time of a job changed.
//!
//! Iteration times have no distribution that a formula would fit: they are a narrow bulk with checkpoints, garbage
//! collections and every k-th iteration that also does an optimizer step. So nothing here looks at how far a value is
//! off, only at whether it lies outside of what nearly all values before were: that is a coin with a known bias
//! while nothing changes, whatever the distribution, and a cumulative sum test (E. S. Page, "Continuous inspection
//! schemes", Biometrika 41, 1954) of that coin tells the change. The sum leaves zero for the last time where the change
//! most likely happened (D. V. Hinkley, "Inference about the change-point from cumulative sum tests", Biometrika 58,
//! 1971), which is the moment that is told.
//!
//! This is done for single iterations and for medians of eight, since a change that is small against the noise
//! shows in the latter only. What grows slowly and steadily, as with growing sequences, has no moment: it is told as
//! *gradual*, in steps of a tenth, with the time it took.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{observation::Timestamp, rhythm};

/// Iterations whose median is one value of a scale.
const GROUPS: [usize; 2] = [1, 8];
/// Values that make the baseline.
const BASE: usize = 64;
/// Values before anything is told.
const LEARN: usize = 32;
/// Values outside of the middle of the baseline, at each side, as a share.
const TAIL: f64 = 0.1;
/// Values beyond the limits. Where a limit lies is known from few values only: it is set at what should be exceeded far more
/// seldom than `CHANCE`.
const BEYOND: f64 = 0.04;
/// Standard deviations between the first and the last tenth of a normal distribution.
const DECILES: f64 = 2.563;
/// The limits are at least this far from the median.
const MARGIN: f64 = 1.015;
/// How often a value may lie beyond a limit by chance, and how often it does after a change.
const CHANCE: f64 = 0.15;
const CHANGED: f64 = 0.8;
/// The logarithm of how much likelier a change has to be: with 2 x 10^6 iterations a month, some thousandth of a change
/// a month is told that is none.
const CERTAIN: f64 = 18.0;
/// Values after which an undecided run is normal.
const LONGEST_RUN: usize = 64;
/// Changes below this share are not worth telling.
const FLOOR: f64 = 0.03;
/// Steady growth is told in steps of this share.
const GRADUAL: f64 = 0.1;
/// Of a change, the share that had already happened within the baseline if it is gradual.
const STEADY: f64 = 0.3;

/// The iteration time was one thing and became another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangePoint {
    /// When; of a gradual change, when it began.
    pub at: Timestamp,
    /// Usual iteration before.
    pub before_us: u64,
    /// Usual iteration after.
    pub after_us: u64,
    /// It came about slowly, so the moment says little.
    #[serde(default)]
    pub gradual: bool,
    /// Where the time went (or came from), the most first.
    #[serde(default)]
    pub grew: Vec<Grown>,
}

/// Time of an iteration that became more (or less) with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grown {
    /// The communicators, by name.
    pub communicator: String,
    /// How many communicators of that name and size were looked at.
    pub communicators: u32,
    /// What on them.
    pub part: Part,
    /// Functions called there: "AllReduce", …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// Time of an iteration before.
    pub before_us: u64,
    /// Time of an iteration after.
    pub after_us: u64,
}

/// What a rank does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Outside of all communication: computing, loading data.
    Own,
    /// Waiting in an operation for the last rank to come.
    Waiting,
    /// In an operation that everybody has come to.
    Transfer,
}

impl Part {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Own => "own",
            Part::Waiting => "waiting",
            Part::Transfer => "transfer",
        }
    }
}

/// Watches the iteration times of one job.
#[derive(Debug)]
pub(crate) struct Watch {
    scales: [Scale; GROUPS.len()],
    operations: u32,
    odd: u32,
    /// What was told last, or learned first, and when.
    anchor: Option<(f64, Timestamp)>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { scales: std::array::from_fn(|i| Scale::new(GROUPS[i])), operations: 0, odd: 0, anchor: None }
    }
}

impl Watch {
    /// Takes in an iteration that began at `began`.
    pub(crate) fn push(
        &mut self,
        operations: u32,
        duration_us: f64,
        began: Timestamp,
    ) -> Option<ChangePoint> {
        if !duration_us.is_finite() || duration_us <= 0.0 {
            return None;
        }
        if self.another_pattern(operations) {
            *self = Self { operations, ..Self::default() };
        }
        let mut change = None;
        for scale in &mut self.scales {
            change = change.or(scale.push(duration_us, began));
        }
        match change {
            Some(change) => {
                // Both scales begin anew, or the other would tell the same once more.
                for scale in &mut self.scales {
                    scale.restart(change.after);
                }
                self.anchor = None;
                Some(change.told(false))
            }
            None => self.gradual(began),
        }
    }

    /// How much iterations usually differ from each other: the standard deviation that their deciles would have if they
    /// were normal, as a share.
    pub(crate) fn noise(&self) -> Option<f64> {
        let scale = &self.scales[0];
        if scale.base.len() < LEARN {
            return None;
        }
        let mut sorted: Vec<f64> = scale.base.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let tail = tail(sorted.len());
        Some((sorted[sorted.len() - 1 - tail] - sorted[tail]) / DECILES / scale.level)
    }

    /// Whether iterations are now something else: the pattern was learned anew, and times do not compare.
    fn another_pattern(&mut self, operations: u32) -> bool {
        let alike = rhythm::are_alike(operations, self.operations);
        self.odd = if alike { 0 } else { self.odd + 1 };
        self.odd >= 4 || self.operations == 0
    }

    fn gradual(&mut self, now: Timestamp) -> Option<ChangePoint> {
        let [single, medians] = &self.scales;
        // Only what was seen after the first iterations is a level.
        if single.seen < 2 * BASE || medians.base.len() < LEARN || !single.is_quiet() {
            return None;
        }
        let Some((before, at)) = self.anchor else {
            self.anchor = Some((single.level, now));
            return None;
        };
        let after = single.level;
        // Levels of few noisy values differ by chance: by a sixth of a standard deviation each.
        if (after / before - 1.0).abs() < GRADUAL.max(self.noise().unwrap_or(0.0) * 2.0) {
            return None;
        }
        // A step that is small against the noise is still being weighed by the medians.
        if !medians.is_quiet() && !medians.moves(after - before) {
            return None;
        }
        self.anchor = Some((after, now));
        Some(Step { at, before, after }.told(true))
    }
}

/// A change from one level to another.
#[derive(Clone, Copy, Debug)]
struct Step {
    at: Timestamp,
    before: f64,
    after: f64,
}

impl Step {
    fn told(self, gradual: bool) -> ChangePoint {
        let (before_us, after_us) = (self.before.round() as u64, self.after.round() as u64);
        ChangePoint { at: self.at, before_us, after_us, gradual, grew: Vec::new() }
    }
}

/// Iteration times, or medians of some, with what is normal for them.
#[derive(Debug)]
struct Scale {
    group: usize,
    pending: Vec<f64>,
    pending_began: Timestamp,
    base: VecDeque<f64>,
    /// Values that ever were in it.
    seen: usize,
    level: f64,
    /// Below, and above.
    limits: [f64; 2],
    /// Values since it was last certain that nothing changes.
    held: Vec<f64>,
    /// Towards shorter and towards longer iterations.
    runs: [Option<Run>; 2],
}

/// A sum that is not zero.
#[derive(Clone, Copy, Debug)]
struct Run {
    odds: f64,
    began: Timestamp,
    /// Its first value among those held.
    from: usize,
}

impl Scale {
    fn new(group: usize) -> Self {
        Self {
            group,
            pending: Vec::with_capacity(group),
            pending_began: Timestamp(0),
            base: VecDeque::new(),
            seen: 0,
            level: 0.0,
            limits: [0.0; 2],
            held: Vec::new(),
            runs: [None; 2],
        }
    }

    fn push(&mut self, value: f64, began: Timestamp) -> Option<Step> {
        if self.pending.is_empty() {
            self.pending_began = began;
        }
        self.pending.push(value);
        if self.pending.len() < self.group {
            return None;
        }
        let value = median(&mut self.pending);
        self.pending.clear();
        let began = self.pending_began;
        if self.base.len() < LEARN {
            self.normal(value);
            return None;
        }
        self.held.push(value);
        for (side, run) in self.runs.iter_mut().enumerate() {
            let beyond = if side == 0 { value < self.limits[0] } else { value > self.limits[1] };
            let more = if beyond { (CHANGED / CHANCE).ln() } else { ((1.0 - CHANGED) / (1.0 - CHANCE)).ln() };
            let mut next = run.unwrap_or(Run { odds: 0.0, began, from: self.held.len() - 1 });
            next.odds += more;
            *run = (next.odds > 0.0).then_some(next);
        }
        if self.is_quiet() {
            self.release();
            return None;
        }
        self.decide()
    }

    fn is_quiet(&self) -> bool {
        self.runs.iter().all(Option::is_none)
    }

    /// What was held is normal.
    fn release(&mut self) {
        self.runs = [None; 2];
        for value in std::mem::take(&mut self.held) {
            self.normal(value);
        }
    }

    /// The change, if it is certain and neither small nor gradual.
    fn decide(&mut self) -> Option<Step> {
        let certain = self.runs.iter().flatten().find(|run| run.odds >= CERTAIN).copied();
        if let Some(run) = certain {
            let (before, at) = (self.level, run.began);
            let after = level(&mut self.held[run.from..].to_vec());
            // What was already under way within the baseline has no moment.
            if !self.moves(after - before) && (after / before - 1.0).abs() >= FLOOR {
                return Some(Step { at, before, after });
            }
        }
        if certain.is_some() || self.held.len() >= LONGEST_RUN {
            self.release();
        }
        None
    }

    /// Whether a good part of a change had already happened within the baseline.
    fn moves(&self, by: f64) -> bool {
        let half = self.base.len() / 2;
        let mut older: Vec<f64> = self.base.iter().take(half).copied().collect();
        let mut newer: Vec<f64> = self.base.iter().skip(half).copied().collect();
        (level(&mut newer) - level(&mut older)) / by > STEADY
    }

    fn normal(&mut self, value: f64) {
        self.seen += 1;
        if self.base.len() >= BASE {
            self.base.pop_front();
        }
        self.base.push_back(value);
        let mut sorted: Vec<f64> = self.base.iter().copied().collect();
        self.level = level(&mut sorted);
        let (beyond, middle) = ((sorted.len() as f64 * BEYOND) as usize, sorted[sorted.len() / 2]);
        self.limits =
            [sorted[beyond].min(middle / MARGIN), sorted[sorted.len() - 1 - beyond].max(middle * MARGIN)];
    }

    /// What is normal is learned anew; `level` stands in for it until then.
    fn restart(&mut self, level: f64) {
        *self = Self { level, ..Self::new(self.group) };
    }
}

/// Values at each side that are not in the middle.
fn tail(values: usize) -> usize {
    (values as f64 * TAIL) as usize
}

/// The mean of what is in the middle; sorts the values. The median would jump where two kinds of iterations alternate.
fn level(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let tail = tail(values.len());
    let middle = &values[tail..values.len() - tail];
    middle.iter().sum::<f64>() / middle.len().max(1) as f64
}

/// The median; sorts the values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
