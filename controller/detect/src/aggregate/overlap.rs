//! Whether a rank waits for its operations or computes beside them.
//!
//! How late a rank is can only be summed up over operations that are waited for: there everybody goes on together, and
//! whoever is late at the next one is so once more. Where gradients are reduced beside the backward pass, nobody stops, and
//! who is behind at one operation is still behind at all that follow; summed up, a small lateness looks large.
//!
//! Nobody says which it is, but iterations differ a little, and that shows it. After an operation that was waited for, the
//! next one starts a computation later, however long the operation took. Beside computation, the next one starts a
//! computation after the *start* of the one before; or it is queued behind that and starts when it ends. So it is looked which of both times changes less since the last iteration,
//! at the same place of it.

/// Places of an iteration that are looked at.
const PLACES: usize = 1024;
/// How many times as much one of both has to change to say something.
const CLEARLY: u64 = 2;
/// An operation that starts at once when the one before ends was queued behind it, and does not follow a computation.
const QUEUED: u64 = 50;
/// Changes below this are the clock's.
const LEAST_NS: u64 = 2_000;

/// What the time before an operation says of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seems {
    /// The rank computed while it ran.
    Beside,
    /// The rank waited for it.
    Awaited,
}

/// Times at each place of the last iteration.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    last_start_ns: Option<u64>,
    /// From the end of the operation before to the start of the one at this place, and from its start.
    places: Vec<Option<(u64, u64)>>,
}

impl Overlap {
    /// Takes in the start of the operation at a place of the iteration, and the time since the end of the one before.
    pub(super) fn see(&mut self, place: Option<usize>, start_ns: u64, gap_ns: u64) -> Option<Seems> {
        let last = self.last_start_ns.replace(start_ns);
        let place = place.filter(|place| *place < PLACES)?;
        let step_ns = start_ns.checked_sub(last?)?;
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        let (gap, step) = self.places[place].replace((gap_ns, step_ns))?;
        if gap_ns < step_ns / QUEUED {
            return Some(Seems::Beside);
        }
        let (gap, step) = (gap.abs_diff(gap_ns), step.abs_diff(step_ns));
        if gap.max(step) < LEAST_NS {
            None
        } else if step.saturating_mul(CLEARLY) < gap {
            Some(Seems::Beside)
        } else if gap.saturating_mul(CLEARLY) < step {
            Some(Seems::Awaited)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations of four places, computing about 1 ms before each; they take from 0.1 ms to 1 ms.
    fn count(beside: bool) -> (usize, usize) {
        let mut overlap = Overlap::default();
        let (mut seen, mut x) = (Vec::new(), 9_u64);
        let (mut start, mut end) = (0, 0);
        for n in 0..400 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (compute, takes) = (1_000_000 + (x >> 40) % 50_000, 100_000 + (x >> 20) % 900_000);
            let next = if beside { start + compute } else { end + compute };
            seen.extend(overlap.see(Some(n % 4), next, next.saturating_sub(end)));
            (start, end) = (next, next + takes);
        }
        let besides = seen.iter().filter(|seems| **seems == Seems::Beside).count();
        (besides, seen.len() - besides)
    }

    #[test]
    fn what_is_waited_for_is_told_from_what_runs_beside() {
        let (beside, awaited) = count(true);
        assert!(beside > 300 && awaited < 20, "{beside} {awaited}");
        let (beside, awaited) = count(false);
        assert!(awaited > 300 && beside < 20, "{beside} {awaited}");
    }

    #[test]
    fn without_places_nothing_is_said() {
        let mut overlap = Overlap::default();
        assert!((0..100_u64).all(|n| overlap.see(None, n * n, n).is_none()));
        assert!((0..100_u64).all(|n| overlap.see(Some(usize::MAX), n * n, n).is_none()));
    }
}
