//! When a rank was inside any communication, on whichever communicator and stream.
//!
//! A rank that waits for somebody does so inside an operation: a collective of another group, a receive from the stage
//! before it. Time outside of all of them is its own. That makes it possible to tell, on the node and without following anything
//! through the job, a rank that is late by itself from one that was made late: the latter has no more time of its
//! own than its peers.
//!
//! Sends are kept apart, since nobody can see whether the rank waited for one or computed beside it. Who is late by itself has
//! more time of its own either way.

use std::collections::VecDeque;

use crate::observation::OwnTime;

/// Spans kept; older ones are forgotten first.
const MAX_SPANS: usize = 8192;

/// When one process was in communication, by any one clock.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Collectives and receives.
    waiting: Spans,
    /// Sends too; absent until the first send, before which it would be the same.
    all: Option<Spans>,
}

impl Coverage {
    /// Adds the span of an operation. One that still goes on is added with the present as its end, and again later.
    pub fn add(&mut self, start_ns: u64, end_ns: u64, is_send: bool) {
        if is_send {
            self.all.get_or_insert_with(|| self.waiting.clone()).add(start_ns, end_ns);
            return;
        }
        self.waiting.add(start_ns, end_ns);
        if let Some(all) = &mut self.all {
            all.add(start_ns, end_ns);
        }
    }

    /// How much of the time between two moments was spent in collectives and receives, and in any communication.
    #[must_use]
    pub fn within(&self, from_ns: u64, to_ns: u64) -> (u64, u64) {
        let waiting = self.waiting.within(from_ns, to_ns);
        (waiting, self.all.as_ref().map_or(waiting, |all| all.within(from_ns, to_ns)))
    }

    /// How often between two moments it began to wait in collectives or receives, one within another counting once.
    #[must_use]
    pub fn begun(&self, from_ns: u64, to_ns: u64) -> usize {
        self.waiting.begun(from_ns, to_ns)
    }

    /// For how long the rank has been in no collective and has received nothing, and the longest such stretch that ended since
    /// `from_ns`. `None` before the first operation.
    #[must_use]
    pub fn own(&self, from_ns: u64, now_ns: u64) -> Option<OwnTime> {
        let spans = &self.waiting.spans;
        let now_us = now_ns.saturating_sub(spans.back()?.1) / 1_000;
        let pairs = spans.iter().rev().zip(spans.iter().rev().skip(1));
        let ended = pairs.take_while(|(after, _)| after.0 > from_ns);
        let longest_ns = ended.map(|(after, before)| after.0 - before.1).max();
        Some(OwnTime { now_us, longest_us: longest_ns.unwrap_or(0) / 1_000, gpu_spins_us: 0 })
    }

    /// Forgets everything that ended before `ns`.
    pub fn forget_before(&mut self, ns: u64) {
        self.waiting.forget_before(ns);
        if let Some(all) = &mut self.all {
            all.forget_before(ns);
        }
    }
}

/// A union of spans: disjoint, in order. What is added and asked for is nearly always recent, so it is looked for from the
/// end.
#[derive(Clone, Debug, Default)]
struct Spans {
    spans: VecDeque<(u64, u64)>,
}

impl Spans {
    fn add(&mut self, start_ns: u64, end_ns: u64) {
        if end_ns <= start_ns {
            return;
        }
        let from = self.first_not(|span| span.1 < start_ns);
        let to = self.first_not(|span| span.0 <= end_ns);
        if from >= to {
            self.spans.insert(from, (start_ns, end_ns));
        } else {
            let merged = (start_ns.min(self.spans[from].0), end_ns.max(self.spans[to - 1].1));
            self.spans[from] = merged;
            self.spans.drain(from + 1..to);
        }
        if self.spans.len() > MAX_SPANS {
            self.spans.pop_front();
        }
    }

    /// The first span that is not `before` something, where all before it are: a search that doubles its distance from the
    /// end.
    fn first_not(&self, before: impl Fn(&(u64, u64)) -> bool) -> usize {
        let (mut high, mut reach) = (self.spans.len(), 1);
        let mut low = loop {
            let Some(at) = self.spans.len().checked_sub(reach) else { break 0 };
            if before(&self.spans[at]) {
                break at + 1;
            }
            (high, reach) = (at, reach * 2);
        };
        while low < high {
            let middle = low.midpoint(high);
            if before(&self.spans[middle]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.first_not(|span| span.1 <= from_ns);
        self.spans
            .range(first..)
            .take_while(|span| span.0 < to_ns)
            .map(|span| span.1.min(to_ns).saturating_sub(span.0.max(from_ns)))
            .sum()
    }

    fn begun(&self, from_ns: u64, to_ns: u64) -> usize {
        let first = self.first_not(|span| span.0 <= from_ns);
        self.spans.range(first..).take_while(|span| span.0 < to_ns).count()
    }

    fn forget_before(&mut self, ns: u64) {
        while self.spans.front().is_some_and(|span| span.1 < ns) {
            self.spans.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_any_order_are_united() {
        let mut coverage = Spans::default();
        for (start, end) in [(50, 60), (10, 20), (18, 30), (60, 65), (5, 5), (40, 39)] {
            coverage.add(start, end);
        }
        assert_eq!(coverage.spans, [(10, 30), (50, 65)]);
        assert_eq!(coverage.within(0, 100), 35);
        assert_eq!(coverage.within(15, 55), 20);
        assert_eq!(coverage.within(30, 50), 0);
        assert_eq!((coverage.begun(0, 100), coverage.begun(10, 100), coverage.begun(10, 50)), (2, 1, 0));
        coverage.add(0, 100);
        assert_eq!(coverage.spans, [(0, 100)]);
        coverage.forget_before(101);
        assert_eq!(coverage.within(0, 100), 0);
    }

    #[test]
    fn sends_are_kept_apart() {
        let mut coverage = Coverage::default();
        coverage.add(10, 20, false);
        assert_eq!(coverage.within(0, 100), (10, 10));
        coverage.add(15, 40, true);
        assert_eq!(coverage.within(0, 100), (10, 30));
    }

    #[test]
    fn the_time_by_itself_is_told_as_it_ends_and_while_it_lasts() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.own(0, 5_000), None);
        for (start_us, end_us) in [(1, 2), (5, 6), (7, 9)] {
            coverage.add(start_us * 1_000, end_us * 1_000, false);
        }
        coverage.add(9_000, 20_000, true);
        let own = |now_us, longest_us| Some(OwnTime { now_us, longest_us, gpu_spins_us: 0 });
        assert_eq!(coverage.own(0, 12_000), own(3, 3));
        assert_eq!(coverage.own(5_500, 12_000), own(3, 1), "the longest had ended before");
        assert_eq!(coverage.own(8_000, 12_000), own(3, 0));
        coverage.add(11_000, 12_000, false);
        assert_eq!(coverage.own(8_000, 12_000), own(0, 2), "it is in an operation");
    }

    #[test]
    fn memory_is_bounded() {
        let mut coverage = Spans::default();
        (0..100_000).for_each(|i| coverage.add(i * 10, i * 10 + 5));
        assert_eq!(coverage.spans.len(), MAX_SPANS);
    }
}
