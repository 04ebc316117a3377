//! What slow links cost the job.

use std::collections::{BTreeMap, VecDeque};

use super::{Key, cell};
use crate::{model::Job, stats::Histogram};

/// How many times as slow a link has to be, as a logarithm (threefold), for longer iterations to be laid to it where no
/// collective shows the loss.
const GROSS: f64 = 1.1;
/// A link that holds the job up as single samples tell it ([`cell::HELD`]), in so many of them, does so whoever else is late.
const ENOUGH_SAMPLES: u32 = 2;

/// How long the job's iterations take now, and took before: as one rank tells it, which is as good as another.
#[derive(Debug)]
pub(super) struct Pace {
    recent: VecDeque<u64>,
    usual: Histogram,
    count: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { recent: VecDeque::new(), usual: Histogram::new(512), count: 0 }
    }
}

/// Iterations whose median is "now".
const RECENT: usize = 9;
/// Iterations that make "usual" known.
const USUAL: u64 = 20;

impl Pace {
    /// An iteration has ended. It takes part in what is usual once it is no longer recent, unless something is wrong
    /// now.
    pub(super) fn push(&mut self, duration_ns: u64, disturbed: bool) {
        self.recent.push_back(duration_ns);
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
            && (!disturbed || self.count < USUAL)
        {
            self.usual.push(old as f64);
            self.count += 1;
        }
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
/// beyond what it would be, or by how much iterations take longer than they did, if that is not for a late rank.
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
    let gross = keys.iter().any(|key| job.network.cells.get(key).is_some_and(|c| c.numbers.excess >= GROSS));
    let slower = if gross { job.network.pace.loss() } else { 0.0 };
    by_kind.values().sum::<f64>().max(slower).min(0.99)
}

/// Whether data is on a link for so long, at both its ends, that it takes much of all the time there is. Who is late cannot
/// bring that about, and what had been late before the link became slow says nothing against it.
pub(super) fn holds_up_all(job: &Job, key: &Key) -> bool {
    let (Some(comm), Some(cell)) = (job.comms.get(&key.comm), job.network.cells.get(key)) else {
        return false;
    };
    let numbers = &cell.numbers;
    // What a link carries beside collectives (activations, from stage to stage) only its own steps tell: at least that much.
    let passed_ns = job.network.examined.micros_since(numbers.since) as f64 * 1e3;
    let carries = numbers.bytes as f64 / passed_ns.max(1e9);
    numbers.samples >= ENOUGH_SAMPLES
        && numbers.excess >= cell::GROSS
        && numbers.cost * comm.bytes_per_ns().max(carries) >= cell::HELD
}
