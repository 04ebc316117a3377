//! Where iterations begin if all operations of a communicator are alike: after its long pauses, if these come evenly.
//!
//! A checkpoint comes evenly, too. But before an iteration lies the rest of it, so that a rank communicates elsewhere more than in short
//! pauses; in a checkpoint it stands still. A pause that is long while as little goes on elsewhere as in the short ones is no
//! boundary.

use std::collections::VecDeque;

/// Pauses looked at when all operations are alike.
const PAUSES: usize = 128;
/// A pause between iterations is at least this many times a pause within one.
const PAUSE_RATIO: f64 = 1.6;
/// Where a rank communicates elsewhere in short pauses, it does so this many times as often in those between iterations, in which
/// all the rest of an iteration lies.
const BUSIER: usize = 2;
/// Ways of splitting pauses into long and short ones that are tried.
const SPLITS: usize = 4;

/// What lies between an operation and the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    /// How long it is.
    pub(super) ns: u64,
    /// How often the rank began to wait elsewhere in it, where that is known.
    pub(super) elsewhere: Option<usize>,
}

/// The rhythm of pauses, for jobs whose operations are all alike.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    gaps: VecDeque<Gap>,
    /// Pauses of at least this separate iterations; absent while they do not tell.
    threshold_ns: Option<u64>,
    until_next_look: usize,
}

impl Pauses {
    /// Whether an iteration begins after this pause. Where pauses do not tell, each operation is an iteration, unless
    /// operations are alike in name only.
    pub(super) fn begins(&mut self, gap: Gap, in_name_only: bool) -> bool {
        self.gaps.push_back(gap);
        if self.gaps.len() > PAUSES {
            self.gaps.pop_front();
        }
        if self.until_next_look == 0 {
            self.threshold_ns = self.look();
            self.until_next_look = (self.gaps.len() / 2).max(4);
        }
        self.until_next_look -= 1;
        self.threshold_ns.map_or(!in_name_only, |threshold| gap.ns >= threshold)
    }

    /// Splits the pauses into long and short ones, if they do fall apart and the long ones come evenly.
    fn look(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.gaps.iter().map(|gap| gap.ns).collect();
        sorted.sort_unstable();
        let mut splits: Vec<(f64, u64)> = sorted
            .windows(2)
            .map(|pair| (pair[1] as f64 / pair[0].max(1_000) as f64, pair[1]))
            .filter(|(ratio, _)| *ratio >= PAUSE_RATIO)
            .collect();
        // The widest split may be between all pauses and one accident.
        splits.sort_by(|a, b| b.0.total_cmp(&a.0));
        splits
            .into_iter()
            .take(SPLITS)
            .map(|(_, threshold)| threshold)
            .find(|threshold| self.is_even(*threshold) && !self.stands_still(*threshold))
            .map(
                // A little below: the next one may be shorter.
                |threshold| (threshold as f64 / PAUSE_RATIO.sqrt()) as u64,
            )
    }

    fn is_even(&self, threshold: u64) -> bool {
        let places: Vec<usize> = (0..self.gaps.len())
            .filter(|i| self.gaps.get(*i).is_some_and(|gap| gap.ns >= threshold))
            .collect();
        let spacings: Vec<usize> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
        if spacings.len() < 3 {
            return false;
        }
        let mut ordered = spacings.clone();
        ordered.sort_unstable();
        let usual = ordered[ordered.len() / 2];
        let even = spacings.iter().filter(|spacing| **spacing == usual).count();
        usual > 1 && even * 4 >= spacings.len() * 3
    }

    /// Whether the rank communicates elsewhere in the short pauses, and hardly more in the long ones.
    fn stands_still(&self, threshold: u64) -> bool {
        let median = |is_long: bool| {
            let of = self.gaps.iter().filter(|gap| (gap.ns >= threshold) == is_long);
            let mut elsewhere: Vec<usize> = of.map(|gap| gap.elsewhere).collect::<Option<_>>()?;
            elsewhere.sort_unstable();
            elsewhere.get(elsewhere.len() / 2).copied()
        };
        let both = median(false).zip(median(true));
        both.is_some_and(|(short, long)| short > 0 && long < short * BUSIER)
    }
}
