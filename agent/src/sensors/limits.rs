//! When a reading that comes again and again is a condition: how often it was bad, or how fast a counter grows.
//!
//! One bad look is nothing: clocks dip, links retrain, a packet is sent twice. Pure: readings and time in, yes or no out.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Parts into which the window of a [`Gain`] is divided: what is remembered is bounded, however long the window.
const PARTS: u32 = 60;

/// Bad is who was bad at more than `bad` of the last `of` looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimit {
    /// Looks that may be bad.
    pub bad: u32,
    /// Looks that are remembered.
    pub of: u32,
}

/// The last looks at something. It becomes bad beyond the limit, and good again when no look that is remembered was bad.
#[derive(Debug, Default)]
pub(super) struct Share {
    looks: VecDeque<bool>,
    holds: bool,
}

impl Share {
    pub(super) fn look(&mut self, bad: bool, limit: ShareLimit) -> bool {
        self.looks.push_back(bad);
        while self.looks.len() > limit.of as usize {
            self.looks.pop_front();
        }
        let bad = self.looks.iter().filter(|bad| **bad).count();
        self.holds = bad > limit.bad as usize || (self.holds && bad > 0);
        self.holds
    }
}

/// Bad is a counter that gains more than so much within so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GainLimit {
    /// What may be gained.
    pub more_than: u64,
    /// Within this time.
    pub within: Duration,
}

/// What a counter has gained lately.
#[derive(Debug, Default)]
pub(super) struct Gain {
    last: Option<u64>,
    gains: VecDeque<(Instant, u64)>,
}

impl Gain {
    /// Takes in the counter. Returns what it gained within the limit's time, if that is too much. What it had counted
    /// before the first look is no news, and a counter that was set back has gained nothing.
    pub(super) fn look(&mut self, value: u64, now: Instant, limit: GainLimit) -> Option<u64> {
        let gained = self.last.replace(value).map_or(0, |last| value.saturating_sub(last));
        if gained > 0 {
            let part = limit.within / PARTS;
            match self.gains.back_mut() {
                Some((since, sum)) if now.saturating_duration_since(*since) < part => {
                    *sum = sum.saturating_add(gained);
                }
                _ => self.gains.push_back((now, gained)),
            }
        }
        while self.gains.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= limit.within) {
            self.gains.pop_front();
        }
        let sum = self.gains.iter().fold(0_u64, |sum, (_, gained)| sum.saturating_add(*gained));
        (sum > limit.more_than).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_looks_are_nothing_and_a_good_window_ends_it() {
        let limit = ShareLimit { bad: 2, of: 5 };
        let mut share = Share::default();
        let looks = [true, true, false, true, false, false, false, false, false, true];
        let told: Vec<bool> = looks.into_iter().map(|bad| share.look(bad, limit)).collect();
        assert_eq!(told, [false, false, false, true, true, true, true, true, false, false]);
    }

    #[test]
    fn gains_are_counted_within_the_window() {
        let limit = GainLimit { more_than: 10, within: Duration::from_secs(60) };
        let start = Instant::now();
        let mut gain = Gain::default();
        let mut look = |second, value| gain.look(value, start + Duration::from_secs(second), limit);
        assert_eq!(look(0, 1_000_000), None, "what was counted before");
        assert_eq!(look(1, 1_000_010), None);
        assert_eq!(look(30, 1_000_011), Some(11));
        assert_eq!(look(61, 1_000_011), None, "the first ten are long ago");
        assert_eq!(look(62, 5), None, "set back");
        assert_eq!(look(63, 20), Some(16));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limit = GainLimit { more_than: 0, within: Duration::from_secs(3_600) };
        let start = Instant::now();
        let mut gain = Gain::default();
        for second in 0..20_000 {
            gain.look(second * 3, start + Duration::from_secs(second), limit);
        }
        assert!(gain.gains.len() <= PARTS as usize + 1, "{}", gain.gains.len());
    }
}
