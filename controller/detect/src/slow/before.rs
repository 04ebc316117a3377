//! What a slow rank costs where the others compute ahead of it.
//!
//! Ranks that fetch ahead what they need, or reduce gradients beside the backward pass, get ahead of a slow one until they
//! have done all that may be done ahead. From then on they wait at every operation, and from their waits it can no longer be
//! told by how much that rank is slower: a seventh or a half look alike. But then the iteration takes longer than before. So
//! the rank is slower by as much as the iteration became longer, as far as it came to be behind within the same time:
//! whoever was as far behind all along is not why.

use std::collections::VecDeque;

/// Samples whose pace is remembered, and how many make it known.
const PACES: usize = 64;
const ENOUGH: usize = 16;
/// Of these, the part that is faster than what is taken for usual: a fault may be in three quarters before it is found.
const USUAL: f64 = 0.25;
/// From which sum on those ahead are as far ahead as they can be.
const SATURATED: f64 = 0.5;
/// Part of a new sample in how far behind a rank is usually, once that is known.
const FOLLOWS: f32 = 0.05;
/// Samples that make it known.
const KNOWN: u8 = 10;

/// How long operations took before.
#[derive(Debug, Default)]
pub(super) struct Before {
    paces: VecDeque<f32>,
}

impl Before {
    pub(super) fn push(&mut self, pace: f64) {
        if self.paces.len() >= PACES {
            self.paces.pop_front();
        }
        self.paces.push_back(pace as f32);
    }

    /// The part of the time that is more than before; 0 where that is not known.
    pub(super) fn longer(&self, pace: f64) -> f64 {
        if self.paces.len() < ENOUGH {
            return 0.0;
        }
        let mut paces: Vec<f32> = self.paces.iter().copied().collect();
        let at = (paces.len() as f64 * USUAL) as usize;
        let usual = f64::from(*paces.select_nth_unstable_by(at, f32::total_cmp).1);
        (1.0 - usual / pace.max(f64::MIN_POSITIVE)).max(0.0)
    }
}

/// How far behind a rank usually is, summed up over an iteration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual {
    behind: f32,
    samples: u8,
}

impl Usual {
    pub(super) fn push(&mut self, x: f64) {
        self.samples = self.samples.saturating_add(1);
        self.behind += (x as f32 - self.behind) * FOLLOWS.max(1.0 / f32::from(self.samples));
    }

    /// By how much it is farther behind than usual, if the others are as far ahead as they can be.
    pub(super) fn rise(&self, x: f64) -> Option<f64> {
        (x >= SATURATED && self.samples >= KNOWN).then(|| x - f64::from(self.behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_iteration_is_told_by_the_faster_ones_before() {
        let mut before = Before::default();
        assert_eq!(before.longer(9.0), 0.0);
        // Half of them were slow already.
        (0..40).for_each(|n| before.push(if n < 20 { 1.0 } else { 1.5 }));
        assert!((before.longer(1.5) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(before.longer(0.9), 0.0);
        (0..PACES).for_each(|_| before.push(1.5));
        assert_eq!(before.longer(1.5), 0.0);
    }

    #[test]
    fn who_was_as_far_behind_before_is_not_why() {
        let mut usual = Usual::default();
        (0..30).for_each(|_| usual.push(0.6));
        assert!(usual.rise(0.65).is_some_and(|rise| rise < 0.06));
        let mut usual = Usual::default();
        (0..30).for_each(|_| usual.push(-0.05));
        assert!(usual.rise(0.7).is_some_and(|rise| rise > 0.7));
        assert_eq!(usual.rise(0.4), None, "they are not as far ahead as they can be");
    }
}
