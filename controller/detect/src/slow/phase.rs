//! Where iterations begin among the operations of a communicator.
//!
//! What makes a rank late for a moment (garbage collection, a kernel that takes long) makes it late in one iteration: at all
//! operations that follow until everybody has waited for it. A sample that began in the middle of an iteration would share it with
//! the next one, and what happened once would count twice, which is far less probable by chance. So samples begin where
//! ranks are in no operation for longest: behind the optimiser's step, or where the forward pass computes.

use super::cells::Cell;

/// Places of an iteration that are told apart.
const PLACES: u64 = 256;
/// Part of a new gap in what is known of the gap at its place.
const FOLLOWS: f64 = 0.1;
/// By how much the longest gap has to be longer than that at which iterations were taken to begin.
const CLEARLY: f64 = 1.2;

/// Usual gaps before the cells of an iteration.
#[derive(Debug, Default)]
pub(super) struct Phase {
    operations: u64,
    length: u64,
    gaps: Vec<f32>,
    /// Operations after which iterations begin.
    begins: Option<u64>,
}

impl Phase {
    /// Takes in the next cell, where an iteration is so many operations (0 where that is not known).
    pub(super) fn see(&mut self, cell: &Cell, operations: u32) {
        let (operations, length) = (u64::from(operations), cell.length);
        if (operations, length) != (self.operations, self.length) {
            *self = Self { operations, length, ..Self::default() };
        }
        let places = operations.checked_div(length).unwrap_or(0);
        if !(2..=PLACES).contains(&places) || !operations.is_multiple_of(length) {
            return;
        }
        self.gaps.resize(places as usize, f32::NAN);
        let at = cell.first % operations;
        let Some(known) = self.gaps.get_mut((at / length) as usize) else { return };
        let gap = cell.usual_gap_ns() as f64;
        *known =
            if known.is_nan() { gap } else { f64::from(*known) + (gap - f64::from(*known)) * FOLLOWS } as f32;
        if self.gaps.iter().any(|gap| gap.is_nan()) {
            return;
        }
        let longest = (0u64..).zip(&self.gaps).max_by(|(_, a), (_, b)| a.total_cmp(b));
        let before = self.begins.and_then(|begins| self.gaps.get((begins / length) as usize));
        if let Some((place, gap)) = longest
            && before.is_none_or(|before| f64::from(*gap) > f64::from(*before) * CLEARLY)
        {
            self.begins = Some(place * length);
        }
    }

    /// Whether samples can begin where iterations do.
    pub(super) fn is_known(&self) -> bool {
        self.begins.is_some() || (self.operations > 0 && self.length.is_multiple_of(self.operations))
    }

    /// Whether an iteration begins with this operation; nothing where that is not known.
    pub(super) fn begins_at(&self, operation: u64) -> Option<bool> {
        let begins = self.begins?;
        Some(operation % self.operations == begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Block, Timestamp},
        slow::cells::Cells,
    };

    /// Cells of two operations, before one of which in three ranks compute for longer.
    fn seen(cells: u64, gap_us: impl Fn(u64) -> u64) -> Phase {
        let (mut phase, mut open) = (Phase::default(), Cells::default());
        for n in 0..cells {
            for rank in 0..3 {
                let block = Block {
                    first: 2 * n,
                    length: 2,
                    signature: 1,
                    wait_ns: 10,
                    min_wait_ns: 1,
                    max_wait_ns: 9,
                    span_ns: gap_us(n) * 1_000,
                    gap_ns: gap_us(n) * 1_000 + u64::from(rank),
                    bytes: 8,
                    own_ns: None,
                    silent_ns: None,
                    longest_own_ns: None,
                    beside: 0,
                    awaited: 0,
                };
                open.add(rank, &block, Timestamp(0));
            }
            while let Some(cell) = open.next(3, Timestamp(0)) {
                phase.see(&cell, 6);
            }
        }
        phase
    }

    #[test]
    fn iterations_begin_behind_the_longest_gap() {
        let phase = seen(3, |n| if n % 3 == 1 { 90 } else { 40 });
        let begins: Vec<bool> = (0..12).filter_map(|operation| phase.begins_at(operation)).collect();
        let expected = [false, false, true, false, false, false, false, false, true, false, false, false];
        assert_eq!(begins, expected);
        assert!(phase.is_known() && !seen(2, |_| 40).is_known());
        assert_eq!(seen(2, |_| 40).begins_at(0), None, "not all places were seen");
    }

    #[test]
    fn a_moment_changes_nothing_and_another_rhythm_does() {
        let usual = |n: u64| if n % 3 == 1 { 90 } else { 60 };
        let phase = seen(60, |n| if n == 57 { 300 } else { usual(n) });
        assert_eq!(phase.begins_at(2), Some(true));
        let phase = seen(150, |n| usual(if n < 60 { n } else { n + 1 }));
        assert_eq!(phase.begins_at(0), Some(true));
    }
}
