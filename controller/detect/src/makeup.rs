//! What the time of an iteration is made of, on one communicator, so that a change of it can be explained.
//!
//! Between the starts of two collectives a rank is outside of the communicator, then waits in the operation for the
//! last to come, then takes part in the transfer. Ranks tell how long they are inside and outside; the one that was
//! inside for the shortest time came last and waited for nobody. Kept are sums over some iterations at a time, for long
//! enough to have some from before a change when it is told.

use std::collections::VecDeque;

use crate::{change::Part, observation::Timestamp};

/// A sum covers at least this time…
const LEAST_US: u64 = 5_000_000;
/// … and so many iterations.
const LEAST_ITERATIONS: u64 = 8;
/// Sums kept. Enough for a change that takes medians of eight iterations to be seen.
const KEPT: usize = 24;
/// Sums on either side that are compared.
const COMPARED: usize = 8;

/// Mean times of the members of a communicator in some operations, and before them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// In no operation of this communicator.
    pub(crate) outside_ns: f64,
    /// The part of it in no communication at all.
    pub(crate) own_ns: f64,
    /// In the operations.
    pub(crate) inside_ns: f64,
    /// The least that any member was inside.
    pub(crate) transfer_ns: f64,
}

/// Shares of the time, in the order of [`PARTS`].
pub(crate) type Shares = [f64; 4];

/// What the shares are of; what a rank does on other communicators is told there.
pub(crate) const PARTS: [Option<Part>; 4] =
    [Some(Part::Own), None, Some(Part::Waiting), Some(Part::Transfer)];

#[derive(Clone, Copy, Debug)]
struct Sum {
    began: Timestamp,
    /// There are two dozen of these on each of a hundred thousand communicators: seven digits will do.
    ns: [f32; 4],
}

/// What iterations are made of lately.
#[derive(Debug, Default)]
pub(crate) struct Makeup {
    closed: VecDeque<Sum>,
    open: Option<Sum>,
}

impl Makeup {
    /// Takes in operations that all ranks have told of.
    pub(crate) fn add(&mut self, times: Times, iteration_us: u64, now: Timestamp) {
        let open = self.open.get_or_insert(Sum { began: now, ns: [0.0; 4] });
        let waiting = (times.inside_ns - times.transfer_ns).max(0.0);
        let elsewhere = (times.outside_ns - times.own_ns).max(0.0);
        for (sum, ns) in open.ns.iter_mut().zip([times.own_ns, elsewhere, waiting, times.transfer_ns]) {
            *sum += ns as f32;
        }
        let length_us = LEAST_US.max(iteration_us.saturating_mul(LEAST_ITERATIONS));
        if now.micros_since(open.began) >= length_us
            && let Some(sum) = self.open.take()
        {
            if self.closed.len() >= KEPT {
                self.closed.pop_front();
            }
            self.closed.push_back(sum);
        }
    }

    /// The shares of the parts before and after a moment, once both are known.
    pub(crate) fn around(&self, at: Timestamp) -> Option<(Shares, Shares)> {
        let first_after = self.closed.partition_point(|sum| sum.began < at);
        // The sum that was open then has some of both.
        let before = first_after.checked_sub(1)?;
        let shares = |sums: &mut dyn Iterator<Item = &Sum>| {
            let mut total = [0.0; 4];
            for sum in sums {
                total.iter_mut().zip(sum.ns).for_each(|(total, ns)| *total += f64::from(ns));
            }
            let all: f64 = total.iter().sum();
            (all > 0.0).then(|| total.map(|ns| ns / all))
        };
        let before = shares(&mut self.closed.range(before.saturating_sub(COMPARED)..before))?;
        let after = shares(&mut self.closed.range(first_after..).take(COMPARED))?;
        Some((before, after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_seen_once_there_is_enough_after_it() {
        let mut makeup = Makeup::default();
        let at = |n: u64| Timestamp(1_000_000 * n);
        let times = |own_ns, inside_ns, transfer_ns| Times {
            outside_ns: own_ns + 1.0,
            own_ns,
            inside_ns,
            transfer_ns,
        };
        for n in 0..100 {
            makeup.add(times(5.0, 4.0, 3.0), 1_000_000, at(n));
        }
        assert_eq!(makeup.around(at(100)), None, "nothing came after");
        for n in 100..1_000 {
            makeup.add(times(5.0, 14.0, 13.0), 1_000_000, at(n));
            if n == 125 {
                let (before, after) = makeup.around(at(100)).expect("known");
                let close = |a: Shares, b: Shares| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
                assert!(close(before, [0.5, 0.1, 0.1, 0.3]), "{before:?}");
                assert!(close(after, [0.25, 0.05, 0.05, 0.65]), "{after:?}");
            }
        }
        assert_eq!(makeup.around(at(100)), None, "what was before is forgotten");
        assert!(makeup.closed.len() <= KEPT);
    }
}
