//! Who sends which piece when: the arithmetic of a ring all-reduce (reduce-scatter, then all-gather), without any I/O.
//!
//! The buffer is cut into one part a channel, every part into one slice a rank. In each of the `2 (n - 1)` steps a rank
//! sends one slice to the next rank and receives one from the previous; what it received in a step is what it sends
//! in the following one.

use std::ops::Range;

/// The schedule of one rank for one all-reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// This rank.
    pub rank: usize,
    /// Ranks in the ring, at least one.
    pub size: usize,
    /// Channels, at least one.
    pub channels: usize,
    /// Elements in the whole buffer.
    pub count: usize,
}

impl Schedule {
    /// Number of steps on each channel, in each direction.
    #[must_use]
    pub fn steps(&self) -> usize {
        2 * (self.size - 1)
    }

    /// Whether what is received in `step` is added to the own slice (else it replaces it).
    #[must_use]
    pub fn reduces(&self, step: usize) -> bool {
        step < self.size - 1
    }

    /// Elements that are sent in `step` on `channel`.
    #[must_use]
    pub fn sends(&self, channel: usize, step: usize) -> Range<usize> {
        // One formula serves both halves: the slice index moves back by one a step, all the way round.
        let slice = (self.rank + 2 * self.size - step) % self.size;
        self.slice(channel, slice)
    }

    /// Elements that are received in `step` on `channel`.
    #[must_use]
    pub fn receives(&self, channel: usize, step: usize) -> Range<usize> {
        let slice = (self.rank + 2 * self.size - step - 1) % self.size;
        self.slice(channel, slice)
    }

    fn slice(&self, channel: usize, slice: usize) -> Range<usize> {
        let part = cut(0..self.count, self.channels, channel);
        cut(part, self.size, slice)
    }
}

/// The `index`-th of `pieces` nearly equal pieces of `range`.
fn cut(range: Range<usize>, pieces: usize, index: usize) -> Range<usize> {
    let length = range.len();
    let start = range.start + length * index / pieces;
    let end = range.start + length * (index + 1) / pieces;
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs all ranks in lockstep and returns what each ends with.
    fn all_reduce(size: usize, channels: usize, count: usize) -> Vec<Vec<f32>> {
        let schedule = |rank| Schedule { rank, size, channels, count };
        let mut buffers: Vec<Vec<f32>> =
            (0..size).map(|rank| (0..count).map(|i| (i + rank * 100) as f32).collect()).collect();
        for step in 0..schedule(0).steps() {
            for channel in 0..channels {
                let sent: Vec<Vec<f32>> = (0..size)
                    .map(|rank| buffers[rank][schedule(rank).sends(channel, step)].to_vec())
                    .collect();
                for (rank, buffer) in buffers.iter_mut().enumerate() {
                    let data = &sent[(rank + size - 1) % size];
                    let target = &mut buffer[schedule(rank).receives(channel, step)];
                    assert_eq!(target.len(), data.len(), "step {step}: neighbours agree on the slice");
                    for (own, other) in target.iter_mut().zip(data) {
                        *own = if schedule(rank).reduces(step) { *own + other } else { *other };
                    }
                }
            }
        }
        buffers
    }

    #[test]
    fn every_rank_ends_with_the_sum() {
        for (size, channels, count) in [(2, 1, 8), (3, 2, 17), (8, 2, 1000), (5, 3, 2), (4, 1, 0)] {
            let expected: Vec<f32> =
                (0..count).map(|i| (0..size).map(|rank| (i + rank * 100) as f32).sum()).collect();
            for (rank, buffer) in all_reduce(size, channels, count).into_iter().enumerate() {
                assert_eq!(buffer, expected, "rank {rank} of {size}, {channels} channels, {count} elements");
            }
        }
    }

    #[test]
    fn what_was_received_is_sent_next() {
        let schedule = Schedule { rank: 2, size: 5, channels: 2, count: 103 };
        for step in 0..schedule.steps() - 1 {
            assert_eq!(schedule.receives(1, step), schedule.sends(1, step + 1));
        }
    }
}
