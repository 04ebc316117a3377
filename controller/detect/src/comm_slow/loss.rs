//! What slow links cost the job.

use std::collections::{BTreeMap, VecDeque};

use super::{Key, cell};
use crate::{
    model::Job,
    observation::{CommId, Iteration, Timestamp},
    rhythm,
    stats::Histogram,
};

/// How many times as slow a link has to be, as a logarithm (threefold), for longer iterations to be laid to it where no
/// collective shows the loss.
const GROSS: f64 = 1.1;
/// A link that holds the job up as single samples tell it ([`cell::HELD`]), in so many of them, does so whoever else is late.
const ENOUGH_SAMPLES: u32 = 2;

/// How long the job's iterations take now, and took before: as one rank tells it of one communicator, which is as good as another.
#[derive(Debug)]
pub(super) struct Pace {
    /// The communicator, and the operations of its iteration.
    source: Option<(CommId, u32)>,
    /// Iterations in a row that were others there.
    odd: u32,
    recent: VecDeque<u64>,
    usual: Histogram,
    count: u64,
    ended: u64,
    /// When it became known what is usual.
    known: Option<Timestamp>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            source: None,
            odd: 0,
            recent: VecDeque::new(),
            usual: Histogram::new(512),
            count: 0,
            ended: 0,
            known: None,
        }
    }
}

/// Iterations whose median is "now".
const RECENT: usize = 5;
/// Iterations that make "usual" known.
const USUAL: u64 = 10;
/// Iterations in a row that have other operations or are only a part of the job's, after which what was known is none: times of
/// another pattern do not compare.
const ANOTHER: u32 = 4;

impl Pace {
    /// Iterations of a communicator have ended; `is_whole` says whether each was one of the job, and not a part of it.
    pub(super) fn take(
        &mut self,
        comm: CommId,
        iteration: &Iteration,
        is_whole: bool,
        disturbed: bool,
        now: Timestamp,
    ) {
        if self.source.is_none() && is_whole {
            self.source = Some((comm, iteration.operations));
        }
        let Some((_, operations)) = self.source.filter(|(source, _)| *source == comm) else { return };
        let alike = rhythm::are_alike(iteration.operations, operations);
        if is_whole && alike {
            self.odd = 0;
            self.ended = self.ended.saturating_add(iteration.count.into());
            self.push(iteration.duration_ns, disturbed, now);
            return;
        }
        self.odd += 1;
        if self.odd >= ANOTHER {
            *self = Self { ended: self.ended, ..Self::default() };
        }
    }

    /// An iteration has ended. It takes part in what is usual once it is no longer recent, unless something is wrong
    /// now.
    pub(super) fn push(&mut self, duration_ns: u64, disturbed: bool, now: Timestamp) {
        self.recent.push_back(duration_ns);
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
            && (!disturbed || self.count < USUAL)
        {
            self.usual.push(old as f64);
            self.count += 1;
            if self.count >= USUAL {
                self.known.get_or_insert(now);
            }
        }
    }

    /// Whether a change since then shows in it: what was usual was known before.
    fn tells_of(&self, since: Timestamp) -> bool {
        self.known.is_some_and(|known| known <= since)
    }

    /// Iterations that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// How long iterations take at present, 0 if that is not known.
    pub(super) fn now_us(&self) -> u64 {
        let mut recent: Vec<u64> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        recent.get(recent.len() / 2).copied().unwrap_or(0) / 1_000
    }

    /// Share of the present iteration that is more than usual; 0 where either is not known.
    pub(super) fn loss(&self) -> f64 {
        if self.count < USUAL || self.recent.len() < RECENT {
            return 0.0;
        }
        let now_ns = self.now_us() as f64 * 1e3;
        let usual_ns = self.usual.median().unwrap_or(now_ns);
        (1.0 - usual_ns / now_ns.max(1.0)).max(0.0)
    }
}

/// Share of the iteration that the job loses to these links: the time all ranks spend in the communicators' operations
/// beyond what it would be, or by how much iterations take longer than they did, if that is not for a late rank. Where a link was slow
/// before it was known how long they take, the time that data is under way on it, if it holds the job up.
pub(super) fn lost(job: &Job, keys: &[Key]) -> f64 {
    let mut by_kind: BTreeMap<(u32, &str), f64> = BTreeMap::new();
    for key in keys {
        let (Some(comm), Some(cell)) = (job.comms.get(&key.comm), job.network.cells.get(key)) else {
            continue;
        };
        let lost = comm.busy() * (1.0 - (-cell.numbers.excess).exp()).max(0.0);
        // A rank is in one communicator of each kind, and communicators of one kind wait at the same time.
        let most = by_kind.entry((comm.size, &comm.name)).or_default();
        *most = most.max(lost);
    }
    let numbers = || keys.iter().filter_map(|key| Some(&job.network.cells.get(key)?.numbers));
    let since = numbers().map(|numbers| numbers.since).min().unwrap_or_default();
    let slower = match job.network.pace.tells_of(since) {
        true if numbers().any(|numbers| numbers.excess >= GROSS) => job.network.pace.loss(),
        true => 0.0,
        // Not known by how much longer iterations take, but by how much longer data is under way.
        false => {
            keys.iter().filter(|key| holds_up_all(job, key)).map(|key| held(job, key)).fold(0.0, f64::max)
        }
    };
    by_kind.values().sum::<f64>().max(slower).min(0.99)
}

/// Whether data is on a link for so long, at both its ends, that it takes much of all the time there is. Who is late cannot
/// bring that about, and what had been late before the link became slow says nothing against it.
pub(super) fn holds_up_all(job: &Job, key: &Key) -> bool {
    let Some(cell) = job.network.cells.get(key) else { return false };
    let numbers = &cell.numbers;
    numbers.samples >= ENOUGH_SAMPLES && numbers.excess >= cell::GROSS && under_way(job, key) >= cell::HELD
}

/// Share of the time that data is on a link.
fn under_way(job: &Job, key: &Key) -> f64 {
    let (Some(comm), Some(cell)) = (job.comms.get(&key.comm), job.network.cells.get(key)) else { return 0.0 };
    let numbers = &cell.numbers;
    // What a link carries beside collectives (activations, from stage to stage) only its own steps tell: at least that much.
    let passed_ns = job.network.examined.micros_since(numbers.since) as f64 * 1e3;
    let carries = numbers.bytes as f64 / passed_ns.max(1e9);
    numbers.cost * comm.bytes_per_ns().max(carries)
}

/// Share of the time that data is on a link for longer than it usually was.
fn held(job: &Job, key: &Key) -> f64 {
    let excess = job.network.cells.get(key).map_or(0.0, |cell| cell.numbers.excess);
    under_way(job, key).min(1.0) * (1.0 - (-excess).exp()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pace: &mut Pace, times: usize, comm: u64, operations: u32, ms: u64, is_whole: bool) {
        let iteration = Iteration { first: 0, operations, duration_ns: ms * 1_000_000, count: 1 };
        (0..times).for_each(|_| pace.take(CommId(comm), &iteration, is_whole, false, Timestamp(1)));
    }

    #[test]
    fn what_was_wrongly_taken_for_an_iteration_is_not_what_one_usually_takes() {
        let mut pace = Pace::default();
        // At first, a layer is all that is known.
        take(&mut pace, 40, 1, 2, 100, true);
        take(&mut pace, 4, 1, 2, 100, false);
        take(&mut pace, 40, 2, 64, 5_000, true);
        assert_eq!(pace.now_us(), 5_000_000);
        assert!(pace.loss() < 0.05, "{}", pace.loss());
        // Others tell the same iterations.
        take(&mut pace, 40, 3, 16, 5_000, true);
        take(&mut pace, 4, 2, 64, 10_000, true);
        assert!((0.45..0.55).contains(&pace.loss()), "{}", pace.loss());
        assert_eq!(pace.ended(), 84);
    }
}
