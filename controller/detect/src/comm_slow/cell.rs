//! One directed link for steps of one size: what both ends told, what is usual for it, and how sure it is that it is slow.

use super::Kin;
use crate::observation::{LinkTime, Timestamp};

/// Samples that say whether a link is slow as others are.
const ENOUGH: usize = 3;
/// Steps that each end has to tell of for a sample.
const MIN_STEPS: u64 = 4;
/// How long what one end told waits for the other.
const WAIT_US: u64 = 120_000_000;
/// Samples that make known what is usual for a link; before, a few tell roughly, and twice the change is needed.
const LEARN: usize = 8;
const ROUGHLY: usize = 3;
/// Part of a new sample in what is usual, once that is known.
const ADAPT: f64 = 0.02;
/// Least change and least difference from its peers that count, as logarithms: a fifth and a half more.
pub(super) const LEAST_CHANGE: f64 = 0.182;
pub(super) const LEAST_DIFFERENCE: f64 = 0.405;
/// What a sample has to exceed, and may count at most, in thresholds (as in `slow`).
const REFERENCE: f64 = 0.6;
const CAP: f64 = 2.0;
/// So many times as slow, as a logarithm (eightfold), and a sample may count for this much: three of them are enough.
pub(super) const GROSS: f64 = 2.08;
const GROSS_CAP: f64 = 3.5;
/// Where data was on such a link for this part of the time, at both ends, a sample counts for this much: it holds the job up,
/// and two are enough.
pub(super) const HELD: f64 = 0.5;
const HELD_CAP: f64 = 4.0;
/// A slow link that becomes so much slower still (fourfold) has another cause than before.
const STEP: f64 = 1.39;
/// Of what made a link slow, so much (as logarithms) may remain when it is slow no longer.
const REMAINS: f64 = 0.25;
/// The sum at which a link is slow: five samples far above the threshold, or some ten just above it.
const LIMIT: f64 = 6.3;
/// The sum from which on it is worth a closer look: two such samples.
const SUSPICION: f64 = 2.5;
/// Samples in a row that clear a link, at least, and at most.
const QUIET: u32 = 5;
const LONG_QUIET: u32 = 10;
/// Standard deviation of normal noise over the median of the difference of two draws from it.
pub(super) const DIFFERENCE_TO_SIGMA: f64 = 1.048;

/// What is thought of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Suspicious,
    Slow,
}

/// What one end told since the last sample.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    steps: u64,
    bytes: u64,
    network_ns: u64,
    flush_ns: u64,
    gpu_ns: u64,
    since: Timestamp,
}

impl End {
    fn add(&mut self, link: &LinkTime, now: Timestamp) {
        if self.steps == 0 {
            self.since = now;
        }
        self.steps = self.steps.saturating_add(link.steps);
        self.bytes = self.bytes.saturating_add(link.bytes);
        self.network_ns = self.network_ns.saturating_add(link.network_ns);
        self.flush_ns = self.flush_ns.saturating_add(link.flush_ns);
        self.gpu_ns = self.gpu_ns.saturating_add(link.gpu_ns);
    }

    fn per_byte(&self, ns: u64) -> f64 {
        ns as f64 / self.bytes.max(1) as f64
    }
}

/// The kind that a link is compared with, at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// Threshold of a change.
    pub(super) changed: f64,
    /// Threshold of a difference; absent where those apart are not few.
    pub(super) differs: Option<f64>,
    /// Distance from the median of the kind.
    pub(super) from_middle: f64,
    /// Median of the kind, ns per byte.
    pub(super) peers_cost: f64,
    pub(super) peers: usize,
    pub(super) noise: f64,
}

/// The numbers behind a slow link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    /// ns per byte of the link and of the median of its kind, at the last bad sample.
    pub(super) cost: f64,
    pub(super) peers_cost: f64,
    pub(super) peers: usize,
    pub(super) noise: f64,
    /// Mean excess over the run, as a logarithm.
    pub(super) excess: f64,
    pub(super) samples: u32,
    pub(super) bytes: u64,
    /// Share of the flush in the cost.
    pub(super) flush: f64,
    pub(super) since: Timestamp,
    /// When the second bad sample began: the first may hold a part of the time before.
    pub(super) surely_since: Timestamp,
}

/// Logarithms of what a link costs: above the reference of its kind, and by itself, in ns per byte.
#[derive(Clone, Copy, Debug)]
struct Cost {
    relative: f64,
    alone: f64,
}

impl Cost {
    /// By how much it is more than `usual`, both ways: what others become faster by, who find their data there because
    /// they are late, makes no link slow.
    fn beyond(self, usual: Cost) -> f64 {
        (self.relative - usual.relative.max(0.0)).min(self.alone - usual.alone)
    }

    /// Of some, that at place `at` when they are sorted, each way.
    fn nth(costs: &[Cost], at: usize) -> Cost {
        let nth = |of: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(of).collect();
            *values.select_nth_unstable_by(at, f64::total_cmp).1
        };
        Cost { relative: nth(|cost| cost.relative), alone: nth(|cost| cost.alone) }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) kin: Kin,
    pub(super) heard: Timestamp,
    send: End,
    receive: End,
    ready: bool,
    /// When the bytes that are judged next were first told of.
    sample_since: Timestamp,
    sample_bytes: u64,
    sample_cost: f64,
    sample_flush: f64,
    learning: Vec<Cost>,
    /// When enough was learned to see a change.
    learned: Option<Timestamp>,
    usual: Option<Cost>,
    before: Option<f64>,
    /// When the last samples were judged, the oldest first.
    judged: [Timestamp; ENOUGH],
    /// When the first bytes of these were told of.
    begun: [Timestamp; ENOUGH],
    sum: f64,
    pub(super) numbers: Numbers,
    slow: bool,
    quiet: u32,
}

impl Cell {
    pub(super) fn new(kin: Kin, now: Timestamp) -> Self {
        Self {
            kin,
            heard: now,
            send: End::default(),
            receive: End::default(),
            ready: false,
            sample_since: now,
            sample_bytes: 0,
            sample_cost: 0.0,
            sample_flush: 0.0,
            learning: Vec::new(),
            learned: None,
            usual: None,
            before: None,
            judged: [Timestamp::default(); ENOUGH],
            begun: [Timestamp::default(); ENOUGH],
            sum: 0.0,
            numbers: Numbers::default(),
            slow: false,
            quiet: 0,
        }
    }

    /// Takes in what one end told. True when both ends have told enough, once for each sample.
    pub(super) fn take(&mut self, link: &LinkTime, now: Timestamp) -> bool {
        self.heard = now;
        let (own, other) = if link.is_send {
            (&mut self.send, &mut self.receive)
        } else {
            (&mut self.receive, &mut self.send)
        };
        // What the other end told long ago is of other operations.
        if other.steps > 0 && !self.ready && now.micros_since(other.since) > WAIT_US {
            *other = End::default();
        }
        own.add(link, now);
        let enough = self.send.steps >= MIN_STEPS && self.receive.steps >= MIN_STEPS;
        enough && !std::mem::replace(&mut self.ready, true)
    }

    /// Network time per byte since the last sample, in ns; begins the next one.
    pub(super) fn cost(&mut self) -> Option<f64> {
        let (send, receive) = (std::mem::take(&mut self.send), std::mem::take(&mut self.receive));
        self.ready = false;
        let network = send.per_byte(send.network_ns).min(receive.per_byte(receive.network_ns));
        // A GPU that is busy with something else flushes late, as it takes late what has come.
        self.sample_flush = receive.per_byte(receive.flush_ns.saturating_sub(receive.gpu_ns));
        self.sample_cost = network + self.sample_flush;
        self.sample_bytes = send.bytes;
        self.sample_since = send.since.min(receive.since);
        (self.sample_cost > 0.0).then_some(self.sample_cost)
    }

    /// Judges the sample whose logarithm is `relative` above the reference of its kind. Returns how far it is from the
    /// sample before.
    pub(super) fn judge(&mut self, relative: f64, setting: &Setting, now: Timestamp) -> Option<f64> {
        let passed_ns = now.micros_since(self.last_judged()) as f64 * 1e3;
        let under_way = self.sample_cost * self.sample_bytes as f64 / passed_ns.max(1e9);
        self.judged.rotate_left(1);
        self.judged[ENOUGH - 1] = now;
        self.begun.rotate_left(1);
        self.begun[ENOUGH - 1] = self.sample_since;
        let difference = self.before.replace(relative).map(|before| (relative - before).abs());
        let cost = Cost { relative, alone: self.sample_cost.ln() };
        let change = self.usual().map(|(usual, allowance)| (cost.beyond(usual), allowance));
        let by_change = change.map_or(f64::MIN, |(change, allowance)| change / (setting.changed * allowance));
        let change = change.map(|(change, _)| change);
        let by_peers = setting.differs.map_or(f64::MIN, |differs| setting.from_middle / differs);
        let excess = if by_change >= by_peers { change.unwrap_or(0.0) } else { setting.from_middle };
        let z = match by_change.max(by_peers) {
            _ if excess >= GROSS && under_way >= HELD => HELD_CAP,
            z if excess >= GROSS => z.clamp(-CAP, GROSS_CAP),
            z => z.clamp(-CAP, CAP),
        };
        self.learn(cost, setting.noise, z, now);
        if self.slow {
            let is_quiet = z < 0.5 || excess < self.numbers.excess * REMAINS;
            self.quiet = if is_quiet { self.quiet + 1 } else { self.quiet.saturating_sub(1) };
            if z >= REFERENCE && !is_quiet {
                if excess > self.numbers.excess + STEP {
                    self.numbers = Numbers { since: self.sample_since, ..Numbers::default() };
                }
                self.note(excess, setting);
            }
            if self.quiet >= QUIET.max(self.numbers.samples.min(LONG_QUIET)) {
                (self.slow, self.sum, self.numbers) = (false, 0.0, Numbers::default());
            }
            return difference;
        }
        self.sum = (self.sum + z - REFERENCE).max(0.0);
        if self.sum == 0.0 {
            self.numbers = Numbers { since: now, ..Numbers::default() };
            return difference;
        }
        if self.numbers.samples == 0 {
            self.numbers.since = self.sample_since;
        }
        if z >= REFERENCE {
            self.note(excess, setting);
        }
        if self.sum >= LIMIT {
            (self.slow, self.quiet) = (true, 0);
        }
        difference
    }

    fn note(&mut self, excess: f64, setting: &Setting) {
        let numbers = &mut self.numbers;
        numbers.samples = numbers.samples.saturating_add(1);
        if numbers.samples == 2 {
            numbers.surely_since = self.sample_since;
        }
        let weight = 1.0 / f64::from(numbers.samples.min(16));
        numbers.excess += (excess - numbers.excess) * weight;
        numbers.bytes = numbers.bytes.saturating_add(self.sample_bytes);
        numbers.cost = self.sample_cost;
        numbers.flush = self.sample_flush / self.sample_cost.max(f64::MIN_POSITIVE);
        numbers.peers_cost = setting.peers_cost;
        numbers.peers = setting.peers;
        numbers.noise = setting.noise;
    }

    /// What is usual for the link, and how much more than the usual threshold a change has to exceed.
    fn usual(&self) -> Option<(Cost, f64)> {
        match self.usual {
            Some(usual) => Some((usual, 1.0)),
            // Of so few, some may be of a time at which it was slow already, and none is less than what it takes.
            None if self.learning.len() >= ROUGHLY => Some((Cost::nth(&self.learning, 0), 2.0)),
            None => None,
        }
    }

    /// What is usual for the link, learned as long as nothing is wrong with it.
    fn learn(&mut self, cost: Cost, noise: f64, z: f64, now: Timestamp) {
        match &mut self.usual {
            Some(usual) if z < REFERENCE && !self.slow => {
                usual.relative += (cost.relative - usual.relative).clamp(-noise, noise) * ADAPT;
                // What others took when it was learned may have made it cost more than it does.
                usual.alone += (cost.alone - usual.alone).min(noise) * ADAPT;
            }
            Some(_) => {}
            None if z >= CAP => {}
            None => {
                self.learning.push(cost);
                if self.learning.len() == ROUGHLY {
                    self.learned = Some(now);
                }
                if self.learning.len() >= LEARN {
                    self.usual = Some(Cost::nth(&self.learning, LEARN / 2));
                    self.learning = Vec::new();
                }
            }
        }
    }

    /// How far the last sample was above the reference of its kind, as a logarithm.
    pub(super) fn relative(&self) -> Option<f64> {
        self.before
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.sum {
            _ if self.slow => Verdict::Slow,
            sum if sum >= SUSPICION => Verdict::Suspicious,
            _ => Verdict::Fine,
        }
    }

    /// Whether its last sample, not older than that, was bad.
    pub(super) fn is_bad(&self, since: Timestamp) -> bool {
        self.quiet == 0 && self.judged[ENOUGH - 1] >= since
    }

    /// When its last sample was judged.
    pub(super) fn last_judged(&self) -> Timestamp {
        self.judged[ENOUGH - 1]
    }

    /// Forgets that it is slow, if nothing was heard of it for so long: steps of its size are no longer sent.
    pub(super) fn expire(&mut self, after_us: u64, now: Timestamp) -> bool {
        let expires = now.micros_since(self.judged[ENOUGH - 1]) >= after_us;
        if expires {
            (self.slow, self.sum, self.numbers) = (false, 0.0, Numbers::default());
        }
        expires
    }

    /// Whether a change since then would show in it.
    pub(super) fn tells_of(&self, since: Timestamp) -> bool {
        self.learned.is_some_and(|learned| learned < since) && self.is_used_since(since)
    }

    /// Whether it was heard of since then, or little before.
    pub(super) fn is_used_since(&self, since: Timestamp) -> bool {
        self.heard >= since.before(WAIT_US)
    }

    /// Whether it costs more than it did by itself, but not more than the links it was compared with: if these were few, they may
    /// have become slower with it.
    pub(super) fn rose_with_others(&self, relative: f64, changed: f64) -> bool {
        self.usual().is_some_and(|(usual, _)| {
            self.sample_cost.ln() - usual.alone >= changed && relative - usual.relative.max(0.0) < changed
        })
    }

    /// Whether it costs far more than it did by itself.
    pub(super) fn has_risen_grossly(&self) -> bool {
        self.usual().is_some_and(|(usual, _)| self.sample_cost.ln() - usual.alone >= GROSS)
    }

    /// Whether its last sample was near what the faster ones of its kind take. Then it is not slow, whatever it was before.
    pub(super) fn is_as_fast_as_its_kind(&self) -> bool {
        self.before.is_some_and(|relative| relative < LEAST_CHANGE)
    }

    /// Whether enough samples say what it is like that hold nothing from before.
    pub(super) fn known_since(&self, since: Timestamp) -> bool {
        self.begun[0] >= since
    }
}
