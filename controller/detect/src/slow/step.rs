//! Ranks that come late by little, but since one moment.
//!
//! Healthy GPUs differ, and drift with their temperature: a rank that is behind by a few per cent is at no fault, and from its
//! lateness alone nobody could tell. But that comes by and by. What sets in between one sample and the next, stays, makes the
//! job take longer by about as much from that moment on, and is time that the rank spends by itself, is no drift. So ranks are also
//! compared with themselves, a short while before. In pipelines that matters most: bubbles and computation ahead hide
//! the larger part of what a rank is slower by, and half of a delay of 15 % may be left.
//!
//! A drift of some minutes may look like a step for a while, so this takes its time.

/// Values (medians of some samples) from which it is known how late a rank was before.
const KNOWN: usize = 3;
/// Values for which a step has to last: a GPU that gets warmer and cooler again within some minutes has come back by then.
pub(super) const LASTS: u32 = 6;

/// How late a rank was in the latest values before the one that is judged.
#[derive(Debug, Default)]
pub(super) struct Level {
    values: [f32; KNOWN],
    seen: u8,
}

impl Level {
    /// By how much a value is beyond what was usual just before; 0 while that is not known. While the rank may be late, `holds`,
    /// that is what it was before that.
    pub(super) fn beyond(&mut self, x: f64, holds: bool) -> f64 {
        let mut known = self.values;
        known.sort_by(f32::total_cmp);
        let before = (usize::from(self.seen) >= KNOWN).then_some(f64::from(known[KNOWN / 2]));
        if !holds {
            self.values.rotate_left(1);
            self.values[KNOWN - 1] = x as f32;
            self.seen = self.seen.saturating_add(1);
        }
        before.map_or(0.0, |before| x - before.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_what_was_before_and_holds_while_a_rank_may_be_late() {
        let mut level = Level::default();
        assert_eq!([0.02, 0.03, 0.02].map(|x| level.beyond(x, false)), [0.0; 3], "nothing is known yet");
        assert!((level.beyond(0.07, false) - 0.05).abs() < 1e-6);
        assert!((level.beyond(0.07, true) - 0.04).abs() < 1e-6);
        assert!((level.beyond(0.07, true) - 0.04).abs() < 1e-6, "it holds");
        (0..3).for_each(|_| _ = level.beyond(0.07, false));
        assert!(level.beyond(0.07, false).abs() < 1e-6, "it is usual now");
        let mut early = Level::default();
        (0..3).for_each(|_| _ = early.beyond(-0.1, false));
        assert!((early.beyond(0.0, false)).abs() < 1e-6, "who was early is not late when it is on time");
    }
}
