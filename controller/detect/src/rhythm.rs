//! What is normal for a communicator: how long an iteration takes, and how long ranks wait for each other anyway.
//!
//! Two pauses look alike from outside and differ only in length and habit. In one, all ranks are idle: nobody waits
//! in a collective, so nobody can be accused, however long it lasts. In the other, some ranks wait in a collective
//! for one that is still busy: rank 0 writing a checkpoint, say. That is legal until it exceeds what was seen to
//! resolve by itself before, with a margin, and until then at least a floor. Only waits that began after the rhythm
//! was learned count: everybody warms up for different times, and a long compilation would excuse every later hang.

use crate::{
    config::Config,
    observation::{Block, Iteration, Timestamp},
    stats::{Histogram, RecentMax},
};

/// Iterations over which the longest legal wait is remembered, at least: longer than checkpoints are apart.
const PAUSE_MEMORY: u64 = 2_000;
/// Iterations over which it is remembered that an operation which seemed to hang has ended after all.
const RESOLVED_MEMORY: u64 = 64;
/// Durations remembered.
const DURATIONS: u32 = 512;
/// Iterations in a row of another length, as all members tell them, after which that is the iteration.
const ANOTHER: u32 = 16;
/// Where no iteration can be recognised, this many operations…
const LEARN_OPERATIONS: u64 = 200;
/// … over this time make the rhythm known.
const LEARN_TIME_US: u64 = 30_000_000;
/// Iterations needed where the last incarnation has left a prior.
const LEARN_WITH_PRIOR: u64 = 2;
/// Operations after a disturbed one whose waits may still come from it.
const DISTURBANCE: u64 = 64;

/// Whether two iterations of so many operations may be of one pattern: they differ by a fifth at most. Times of others do not compare.
pub(crate) fn are_alike(operations: u32, usual: u32) -> bool {
    operations.abs_diff(usual) <= usual / 5
}

/// What one incarnation of a job leaves to the next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prior {
    pub(crate) iteration_us: u64,
    pub(crate) longest_wait_us: u64,
}

/// In which manner a rank is late that others wait for. What excuses one manner says nothing of those after it: a host
/// that writes a checkpoint for long does not make a GPU that is busy for as long a usual sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Manner {
    /// Its host is on a CPU or waits for a device.
    Busy,
    /// Its host sleeps.
    Asleep,
    /// Its host is done and its GPU is not, or its GPU spins; or nothing is known of it.
    OnGpu,
}

/// An iteration: operations in it and its usual duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) operations: u32,
    pub(crate) duration_us: u64,
}

#[derive(Debug)]
pub(crate) struct Rhythm {
    durations_us: Histogram,
    /// Their median: it is asked for several times with each window.
    duration_us: Option<f64>,
    operations: u32,
    /// For how long iterations had this number of operations, in all.
    lasted_ns: u64,
    /// What was told in a row of iterations with another number of operations: how often, and how long they lasted together.
    others: u32,
    others_ns: u64,
    iterations: u64,
    first_progress: Option<Timestamp>,
    /// From which position on waits count.
    learned_from: Option<u64>,
    /// By manner.
    longest_wait_us: [RecentMax; 3],
    /// The last operation in which members waited for others, and in which manner these were late, as far as was seen.
    late: Option<(u64, Manner)>,
    disturbed: Option<u64>,
    /// The longest that members were in an operation that was said to hang, and ended by itself.
    resolved_us: RecentMax,
    prior: Option<Prior>,
}

impl Rhythm {
    pub(crate) fn new(prior: Option<Prior>) -> Self {
        Self {
            durations_us: Histogram::new(DURATIONS),
            duration_us: None,
            operations: 0,
            lasted_ns: 0,
            others: 0,
            others_ns: 0,
            iterations: 0,
            first_progress: None,
            learned_from: None,
            longest_wait_us: std::array::from_fn(|_| RecentMax::new(PAUSE_MEMORY)),
            late: None,
            disturbed: None,
            resolved_us: RecentMax::new(RESOLVED_MEMORY),
            prior,
        }
    }

    /// Takes in what a member reports; `iterations` and `completed` are that member's totals.
    pub(crate) fn take(
        &mut self,
        ended: &[Iteration],
        blocks: &[Block],
        iterations: u64,
        completed: u64,
        config: &Config,
        now: Timestamp,
    ) {
        for iteration in ended {
            if iteration.operations == 0 {
                continue;
            }
            self.follow(iteration);
            if self.is_like(iteration.operations) {
                self.durations_us.push(iteration.duration_ns as f64 / 1_000.0);
            }
        }
        if !ended.is_empty() {
            self.duration_us = self.durations_us.median();
        }
        self.iterations = self.iterations.max(iterations);
        self.resolved_us.push(0, self.iterations);
        if completed > 0 {
            self.first_progress.get_or_insert(now);
        }
        if self.learned_from.is_none() && self.enough(completed, config, now) {
            self.learned_from = Some(completed);
        }
        let Some(from) = self.learned_from else { return };
        for block in blocks {
            let end = block.first.saturating_add(u64::from(block.length));
            let disturbed = self
                .disturbed
                .is_some_and(|operation| end > operation && block.first <= operation + DISTURBANCE);
            if block.first < from || disturbed {
                continue;
            }
            let wait_us = (block.max_wait_ns / 1_000).min(config.pause_limit_ms * 1_000);
            let of_late = |(operation, _): &(u64, Manner)| (block.first..end).contains(operation);
            let manner = self.late.filter(of_late).map_or(Manner::OnGpu, |(_, manner)| manner);
            self.longest_wait_us[manner as usize].push(wait_us, self.iterations.max(completed / 64));
        }
    }

    /// When iterations turn out to be something else, their durations so far were those of something else, too. That is so at once if
    /// some others have lasted longer than all before: a job may begin with a check, the same operation some times in a row.
    fn follow(&mut self, iteration: &Iteration) {
        let ns = iteration.duration_ns.saturating_mul(u64::from(iteration.count));
        if iteration.operations == self.operations {
            self.lasted_ns = self.lasted_ns.saturating_add(ns);
            (self.others, self.others_ns) = (0, 0);
            return;
        }
        (self.others, self.others_ns) = (self.others + 1, self.others_ns.saturating_add(ns));
        let longer = self.others > 1 && self.others_ns > self.lasted_ns;
        if self.others >= ANOTHER || longer || self.operations == 0 {
            (self.operations, self.lasted_ns) = (iteration.operations, self.others_ns);
            (self.others, self.others_ns) = (0, 0);
            self.durations_us = Histogram::new(DURATIONS);
        }
    }

    /// Whether so many operations may be the same iteration. Ranks recognise one at different moments, and until all have, some
    /// tell of whole ones and some of what they take for one: those durations have nothing in common.
    fn is_like(&self, operations: u32) -> bool {
        u64::from(operations.abs_diff(self.operations)) * 4 <= u64::from(self.operations)
    }

    fn enough(&self, completed: u64, config: &Config, now: Timestamp) -> bool {
        let needed = if self.prior.is_some() { LEARN_WITH_PRIOR } else { config.learn_iterations };
        let elapsed = self.first_progress.map_or(0, |first| now.micros_since(first));
        self.iterations >= needed || (completed >= LEARN_OPERATIONS && elapsed >= LEARN_TIME_US)
    }

    /// Members wait in this operation for others, who are late in this manner for all that is seen now.
    pub(crate) fn waits_at(&mut self, operation: u64, manner: Manner) {
        let before = self.late.filter(|(known, _)| *known == operation).map(|(_, manner)| manner);
        self.late = Some((operation, before.map_or(manner, |before| before.max(manner))));
    }

    /// Waits around this operation are the fault's, not the job's.
    pub(crate) fn disturbed_at(&mut self, operation: u64) {
        self.disturbed = Some(operation);
    }

    /// An operation that all were in, and that was said to hang, has ended after this time: it was slow.
    pub(crate) fn resolved(&mut self, us: u64) {
        self.resolved_us.push(us, self.iterations);
    }

    /// The longest such time of late.
    pub(crate) fn resolved_us(&self) -> u64 {
        self.resolved_us.get()
    }

    pub(crate) fn known(&self) -> bool {
        self.learned_from.is_some()
    }

    pub(crate) fn iterations(&self) -> u64 {
        self.iterations
    }

    pub(crate) fn iteration_us(&self) -> Option<u64> {
        let seen = self.duration_us.map(|us| us as u64);
        seen.or_else(|| self.prior.as_ref().map(|prior| prior.iteration_us))
    }

    /// The iteration, once one was recognised.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let duration_us = self.duration_us? as u64;
        (self.operations > 0).then_some(Shape { operations: self.operations, duration_us })
    }

    /// The longest wait that resolved by itself.
    pub(crate) fn longest_wait_us(&self) -> u64 {
        self.longest_pause_us(Manner::Busy)
    }

    /// The longest that resolved by itself and excuses ranks that are late in this manner.
    pub(crate) fn longest_pause_us(&self, manner: Manner) -> u64 {
        let prior = self.prior.as_ref().map_or(0, |prior| prior.longest_wait_us);
        let prior = if self.iterations < PAUSE_MEMORY { prior } else { 0 };
        self.longest_wait_us[manner as usize..].iter().map(RecentMax::get).fold(prior, u64::max)
    }

    /// From which wait on somebody hangs.
    pub(crate) fn hang_us(&self, config: &Config) -> u64 {
        if !self.known() {
            return config.learning_hang_ms.saturating_mul(1_000);
        }
        let iteration = self.iteration_us().unwrap_or(0) as f64 * config.hang_iterations;
        let pause = self.longest_wait_us() as f64 * config.pause_margin;
        (iteration.max(pause) as u64).max(config.hang_floor_ms.saturating_mul(1_000))
    }

    pub(crate) fn prior(&self) -> Option<Prior> {
        self.known().then_some(())?;
        Some(Prior { iteration_us: self.iteration_us()?, longest_wait_us: self.longest_wait_us() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_that_of_as_many_operations() {
        let mut rhythm = Rhythm::new(None);
        let mut tell = |operations, duration_ns| {
            let iteration = Iteration { first: 0, operations, duration_ns, count: 1 };
            rhythm.take(&[iteration], &[], 1, 1, &Config::default(), Timestamp(0));
            rhythm.shape().map(|shape| (shape.operations, shape.duration_us))
        };
        // One rank takes each operation for an iteration, the other one knows better.
        for _ in 0..20 {
            tell(1, 110_000_000);
            let known = tell(6, 676_000_000);
            assert!(known.is_some_and(|(n, us)| n == 1 && (100_000..120_000).contains(&us)), "{known:?}");
        }
        // The number of operations may vary a little, and one rank may change its mind.
        let known = (0..ANOTHER).map(|_| tell(6, 676_000_000)).last().flatten();
        assert!(known.is_some_and(|(n, us)| n == 6 && (620_000..730_000).contains(&us)), "{known:?}");
        assert_eq!(tell(7, 690_000_000).map(|(operations, _)| operations), Some(6));
    }

    #[test]
    fn a_check_at_the_beginning_is_no_iteration() {
        let mut rhythm = Rhythm::new(None);
        let iteration =
            |operations, duration_ns, count| Iteration { first: 0, operations, duration_ns, count };
        let check = iteration(1, 1_000_000, 8);
        let ended = [check.clone(), iteration(25, 45_000_000, 2), check, iteration(25, 45_000_000, 2)];
        rhythm.take(&ended, &[], 20, 200, &Config::default(), Timestamp(0));
        assert_eq!(rhythm.shape().map(|shape| shape.operations), Some(1), "not sure yet");
        rhythm.take(&[iteration(25, 46_000_000, 3)], &[], 23, 300, &Config::default(), Timestamp(0));
        assert_eq!(rhythm.shape().map(|shape| shape.operations), Some(25));
    }
}
