//! Which operations have kernel events.
//!
//! NCCL pays for them: on the host 0.2 to 0.3 µs a channel of each operation, which over NVLink are 4 to 9 µs. Operations of
//! milliseconds do not feel that, those of some ten microseconds do. So while thousands come in a second, which is more than jobs that
//! train call, only those of some *runs* have them: 256 calls in a row, so that what happens between operations is seen too, and blocks
//! of operations fit in. Which runs follows from the number of the call on its communicator, so that all ranks pick the same; a rank that
//! finds itself twice as fast as another picks every second one of the other's runs, not others.
//!
//! The mask is one for all communicators and is read before it is known which one an operation is for. So the communicator with the most
//! collectives decides, and the others go along with it.
//!
//! An operation without kernel events has no end that could be seen unless it uses the network. So nothing of this is done where any
//! communicator of the process does: there the operations inside the node are few, or short against those between nodes, and
//! what is learned of these is worth more.
//! What is captured into a graph always has them, since it keeps for all replays what it had when it was captured.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use c4_recorder::layout;

/// All have kernel events while at most so many come in a second: that is about a hundredth of the time.
const ALL_PER_SECOND: u64 = 2_500;
/// Else so many a second have them, at most.
const PER_SECOND: u64 = 500;
/// Calls in a run, as a power of two.
const RUN_BITS: u32 = 8;
/// One run in so many at least, as a power of two.
const RAREST: u32 = 8;
/// The pace is taken over this time at least: bursts inside an iteration are no pace.
const PACE_NS: u64 = 1_000_000_000;
/// It is looked at after so many calls.
const PACE_CALLS: u32 = 64;

/// What is known of the pace. Zeroes mean: nothing, and all operations have kernel events.
#[repr(C)]
pub struct Runs {
    /// Whether kernel events follow the pace.
    pub follow: AtomicBool,
    /// One run in two to the power of this.
    rarity: AtomicU32,
    /// The slot of the communicator that decides.
    leader: AtomicU32,
    /// Calls since the pace was last taken, in all and by communicator, and when that was.
    all: AtomicU32,
    since_ns: AtomicU64,
    comms: [Calls; layout::COMMUNICATORS],
}

/// Collectives called on a communicator.
#[repr(C)]
struct Calls {
    /// The number of the next.
    next: AtomicU64,
    /// How many since the pace was last taken.
    calls: AtomicU32,
}

impl Runs {
    /// A slot has a new communicator.
    pub fn forget(&self, slot: usize) {
        if let Some(comm) = self.comms.get(slot) {
            comm.next.store(0, Relaxed);
        }
    }

    /// An operation is called on a communicator: says whether the one after it has kernel events, `None` if that stays as it is.
    /// `now_ns` and `uses_network` are asked for once in a while.
    #[inline]
    pub fn call(
        &self,
        slot: usize,
        is_collective: bool,
        now_ns: impl FnOnce() -> u64,
        uses_network: impl FnOnce() -> bool,
    ) -> Option<bool> {
        // Threads that call at once may lose a count: the pace is no exact number.
        let all = self.all.load(Relaxed).wrapping_add(1);
        self.all.store(all, Relaxed);
        if all.is_multiple_of(PACE_CALLS) {
            self.take_pace(now_ns(), uses_network);
        }
        let rarity = self.rarity.load(Relaxed);
        // Ranks send and receive differently often, but call the same collectives.
        if is_collective {
            let Calls { next, calls } = self.comms.get(slot)?;
            calls.store(calls.load(Relaxed).wrapping_add(1), Relaxed);
            let number = next.load(Relaxed) + 1;
            next.store(number, Relaxed);
            if rarity != 0 && self.leader.load(Relaxed) as usize == slot {
                return Some(is_picked(number, rarity));
            }
        }
        (rarity == 0).then_some(true)
    }

    #[cold]
    fn take_pace(&self, now_ns: u64, uses_network: impl FnOnce() -> bool) {
        let elapsed_ns = now_ns.saturating_sub(self.since_ns.load(Relaxed));
        if elapsed_ns < PACE_NS {
            return;
        }
        self.since_ns.store(now_ns, Relaxed);
        let all = u64::from(self.all.swap(0, Relaxed));
        let counts = || self.comms.iter().map(|comm| comm.calls.load(Relaxed));
        let led = counts().nth(self.leader.load(Relaxed) as usize).unwrap_or(0);
        // Two that are as busy as each other are not to take turns.
        let most = counts().zip(0_u32..).max_by_key(|(count, slot)| (*count, u32::MAX - slot));
        let (most, busiest) = most.unwrap_or_default();
        if most > led.saturating_add(led / 4) {
            self.leader.store(busiest, Relaxed);
        }
        self.comms.iter().for_each(|comm| comm.calls.store(0, Relaxed));
        let per_second = all.saturating_mul(1_000_000_000) / elapsed_ns;
        let now = self.rarity.load(Relaxed);
        let rarity = if most == 0 || uses_network() {
            0
        } else if rarity_of(per_second) > now {
            rarity_of(per_second)
        } else {
            // Not at once back where the pace is near a limit.
            now.min(rarity_of(per_second + per_second / 3))
        };
        self.rarity.store(rarity, Relaxed);
    }
}

fn rarity_of(per_second: u64) -> u32 {
    if per_second <= ALL_PER_SECOND {
        return 0;
    }
    per_second.div_ceil(PER_SECOND).next_power_of_two().ilog2().min(RAREST)
}

/// Whether a call is in a run that has kernel events. What is picked at one rarity is part of what is picked at the one below.
#[inline]
fn is_picked(number: u64, rarity: u32) -> bool {
    // Scattered: every n-th would lock on to a job whose iteration has a multiple of n runs.
    let scattered = (number >> RUN_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    scattered.leading_zeros() >= rarity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Box<Runs> {
        Box::new(Runs {
            follow: AtomicBool::new(true),
            rarity: AtomicU32::new(0),
            leader: AtomicU32::new(0),
            all: AtomicU32::new(0),
            since_ns: AtomicU64::new(0),
            comms: [const { Calls { next: AtomicU64::new(0), calls: AtomicU32::new(0) } };
                layout::COMMUNICATORS],
        })
    }

    fn are_rare(runs: &Runs) -> bool {
        runs.rarity.load(Relaxed) != 0
    }

    /// Calls at a pace for some seconds; returns the time after.
    fn go(runs: &Runs, slot: usize, per_second: u64, seconds: u64, from_ns: u64) -> u64 {
        let step = 1_000_000_000 / per_second;
        let calls = per_second * seconds;
        (0..calls).for_each(|call| {
            runs.call(slot, true, || from_ns + call * step, || false);
        });
        from_ns + calls * step
    }

    #[test]
    fn runs_are_nested_and_as_rare_as_they_should_be() {
        let calls = 4_000_000_u64;
        for rarity in 1..=RAREST {
            let picked = (0..calls).filter(|number| is_picked(*number, rarity)).count() as u64;
            assert!(picked.abs_diff(calls >> rarity) < calls / 1_000, "{picked} at {rarity}");
        }
        assert!((0..calls).all(|n| is_picked(n, 0) && (!is_picked(n, 5) || is_picked(n, 4))));
        assert!((0..calls).all(|n| is_picked(n, 3) == is_picked(n >> RUN_BITS << RUN_BITS, 3)));
    }

    #[test]
    fn no_period_of_a_job_is_locked_on() {
        for period in [256_u64, 1_024, 4_096, 5_120, 65_536] {
            let picked = (0..10_000).filter(|iteration| is_picked(iteration * period, 3)).count();
            assert!((900..1_600).contains(&picked), "{picked} of 10000 at period {period}");
        }
    }

    #[test]
    fn it_follows_the_pace_and_does_not_swing() {
        let runs = runs();
        let now = go(&runs, 3, 2_400, 3, 5_000_000_000);
        assert!(!are_rare(&runs));
        let now = go(&runs, 3, 3_500, 3, now);
        assert_eq!(runs.rarity.load(Relaxed), 3, "an eighth of them");
        let now = go(&runs, 3, 2_400, 3, now);
        assert_eq!(runs.rarity.load(Relaxed), 3, "near the limit it stays");
        let now = go(&runs, 3, 30_000, 3, now);
        assert_eq!(runs.rarity.load(Relaxed), 6);
        let now = go(&runs, 3, 5_000_000, 2, now);
        assert_eq!(runs.rarity.load(Relaxed), RAREST);
        go(&runs, 3, 500, 3, now);
        assert!(!are_rare(&runs), "all of them again");
    }

    #[test]
    fn a_burst_is_no_pace() {
        let runs = runs();
        for second in 1..20_u64 {
            (0..1_000_u64).for_each(|call| {
                runs.call(0, true, || second * 1_000_000_000 + call * 10_000, || false);
            });
            assert!(!are_rare(&runs));
        }
    }

    #[test]
    fn the_busiest_communicator_decides() {
        let runs = runs();
        let mut now = go(&runs, 0, 100, 2, 1_000_000_000);
        for call in 0..30_000_u64 {
            now += 100_000;
            runs.call(if call % 4 == 0 { 0 } else { 7 }, true, || now, || false);
        }
        assert_eq!(runs.leader.load(Relaxed), 7);
        assert!(runs.call(0, true, || now, || false).is_none(), "the other goes along");
        assert!(runs.call(7, true, || now, || false).is_some());
    }

    #[test]
    fn where_no_collective_decides_nothing_is_left_out() {
        let runs = runs();
        let now = go(&runs, 0, 10_000, 3, 1_000_000_000);
        assert!(are_rare(&runs));
        for call in 0..30_000_u64 {
            runs.call(0, false, || now + call * 100_000, || false);
        }
        assert_eq!(runs.call(0, false, || now, || false), Some(true));
    }

    #[test]
    fn nothing_is_left_out_where_the_network_is_used() {
        let runs = runs();
        for call in 0..100_000_u64 {
            assert_eq!(runs.call(0, true, || call * 10_000, || true), Some(true));
        }
    }
}
