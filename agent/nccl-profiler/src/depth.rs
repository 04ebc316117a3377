//! How much is recorded: the event mask, and which operations have their network steps timed.
//!
//! NCCL reads the mask anew for every operation (2.23 to 2.27 when its task is made, from 2.28 at the call), so the plugin asks
//! for steps by setting one bit for the next operation and taking it back with the one after. Which operations that are
//! follows from the number of the group on its communicator alone, so all ranks pick the same ones and their steps can
//! be compared. One is picked from each N, but at a scattered place: every N-th would lock on to a job whose iteration
//! has a multiple of N operations.
//!
//! The steps of the other operations are recorded too, without times, so that a link that blocks can be named whenever it
//! does. That costs a call for each step, which operations of microseconds feel and operations of milliseconds do not. So it
//! follows the pace: while operations come thick and fast on communicators that use the network, only the picked ones have steps, and
//! where kernel events tell the progress of the others, only the picked ones have network operations at all. While they come slowly, more are
//! picked: else a pipeline that hands on something eight times a second would tell of each of its links once in some seconds.
//! Communicators without network have no steps, so their pace says nothing: a tensor-parallel group over NVLink must not take
//! the steps away from the data-parallel group beside it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

use c4_recorder::layout::{Communicator, Request};
use c4_recorder::writer::Recorder;

use crate::abi::event;

/// The bits that come and go.
const STEP: i32 = event::PROXY_STEP as i32;
const NETWORK: i32 = STEP | event::PROXY_OP as i32;
/// The bit of kernel events.
pub const KERNEL: i32 = event::KERNEL_CH as i32;

/// So many times as many operations are picked while they come slowly.
const MORE: u64 = 4;
/// Groups of operations over which the pace is taken.
const PACE_GROUPS: u32 = 64;
/// Thick and fast: so many groups in less than this time, which is one in a millisecond. A call for each step then costs
/// more than half a percent.
const PACE_NS: u64 = 64_000_000;

/// How much is recorded. Zeroes mean: nothing.
#[repr(C)]
pub struct Depth {
    /// Bits that are always set.
    pub mask: AtomicI32,
    /// Bits that the chained plugin wants.
    pub chained_mask: AtomicI32,
    /// Steps are timed for one operation in so many, and for more where they come slowly; 0 for none.
    pub one_in: AtomicU32,
    /// Whether steps of the other operations are recorded too, without times.
    pub untimed_steps: AtomicBool,
    /// Whether that follows the pace.
    pub follows_pace: AtomicBool,
    /// Groups on communicators with network since the pace was last taken, and when that was.
    groups: AtomicU32,
    paced_ns: AtomicU64,
    /// Until when the agent has all steps timed, as it was last found valid; and as it was asked.
    all_until_ns: AtomicU64,
}

impl Depth {
    /// Whether the steps of the operation or group with this number are timed.
    #[inline]
    fn picks(&self, number: u64) -> bool {
        let slowly = self.follows_pace.load(Relaxed) && self.untimed_steps.load(Relaxed);
        let one_in = u64::from(self.one_in.load(Relaxed)).div_ceil(if slowly { MORE } else { 1 });
        let (Some(block), Some(place)) = (number.checked_div(one_in), number.checked_rem(one_in)) else {
            return false;
        };
        let scattered = block.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        place == (scattered * one_in) >> 32
    }

    /// Whether a network operation's steps are timed. Where steps come only for picked operations, all of them are.
    #[inline]
    pub fn times(&self, sequence: u64) -> bool {
        !self.steps_are_constant() || self.picks(sequence) || self.wants_all()
    }

    /// The bits that an operation goes without unless it is picked.
    fn spared(&self) -> i32 {
        let fast = self.follows_pace.load(Relaxed) && !self.untimed_steps.load(Relaxed);
        if fast && self.mask.load(Relaxed) & KERNEL != 0 { NETWORK } else { STEP }
    }

    /// Whether something is recorded, and bits of the mask are wanted by nobody but us, so that an operation may go without.
    #[inline]
    pub fn has_for_itself(&self, mask: i32, bits: i32) -> bool {
        records(mask) && self.mask.load(Relaxed) & bits == bits && self.chained_mask.load(Relaxed) & bits == 0
    }

    /// Whether the agent has all steps timed at present.
    #[inline]
    pub fn wants_all(&self) -> bool {
        self.all_until_ns.load(Relaxed) != 0
    }

    fn steps_are_constant(&self) -> bool {
        self.untimed_steps.load(Relaxed) || self.chained_mask.load(Relaxed) & STEP != 0
    }

    /// The mask for a new communicator.
    pub fn first_mask(&self) -> i32 {
        let steps = if self.steps_are_constant() || self.picks(0) { STEP } else { 0 };
        self.mask.load(Relaxed)
            | self.chained_mask.load(Relaxed)
            | if self.mask.load(Relaxed) != 0 { steps } else { 0 }
    }

    /// A group of operations begins on a communicator: NCCL has read the mask for it and will next read it for the one
    /// after. Only the network's bits are touched; the rest may have been changed by others (RAS does that from NCCL 2.31).
    #[inline(always)]
    pub fn group_begins(
        &self,
        recorder: &Recorder,
        communicator: &Communicator,
        mask: Option<&AtomicI32>,
        uses_network: bool,
    ) {
        let next = communicator.next_group() + 1;
        let asked = recorder.request().all_steps_until_ns.load(Relaxed);
        if asked != 0 || self.wants_all() {
            self.heed(recorder, asked);
        }
        let follows_pace = self.follows_pace.load(Relaxed);
        if follows_pace && uses_network {
            self.count_group(recorder);
        }
        let Some(mask) = mask else { return };
        let now = mask.load(Relaxed);
        let constant = self.steps_are_constant();
        if (constant && !follows_pace) || !records(now) {
            self.show(recorder, now);
            return;
        }
        let wants = constant || self.picks(next) || self.wants_all();
        let wanted = if wants {
            now | NETWORK
        } else {
            now & !self.spared() | self.chained_mask.load(Relaxed) & NETWORK
        };
        if wanted != now {
            mask.store(wanted, Relaxed);
        }
        self.show(recorder, wanted);
    }

    /// Threads that count at once may lose a group: the pace is no exact number.
    #[inline]
    fn count_group(&self, recorder: &Recorder) {
        let groups = self.groups.load(Relaxed) + 1;
        if groups < PACE_GROUPS {
            self.groups.store(groups, Relaxed);
        } else {
            self.take_pace(recorder.now_ns());
        }
    }

    #[cold]
    fn take_pace(&self, now_ns: u64) {
        self.groups.store(0, Relaxed);
        let before = self.paced_ns.swap(now_ns, Relaxed);
        self.untimed_steps.store(now_ns.saturating_sub(before) >= PACE_NS, Relaxed);
    }

    /// Shows the mask. Kernel events belong to it even while some operations go without.
    #[inline]
    fn show(&self, recorder: &Recorder, mask: i32) {
        let records = records(mask);
        let mask = if records { mask | self.mask.load(Relaxed) & KERNEL } else { mask };
        let shown = &recorder.live().event_mask;
        if shown.load(Relaxed) != mask.cast_unsigned() {
            recorder.set_mask(mask.cast_unsigned(), records);
        }
    }

    /// Looks at what the agent asks. It is another program's word: a time that is past or too far ahead counts as none.
    #[cold]
    fn heed(&self, recorder: &Recorder, asked: u64) {
        let now = recorder.now_ns();
        let valid = asked > now && asked - now <= Request::LONGEST_NS;
        self.all_until_ns.store(if valid { asked } else { 0 }, Relaxed);
    }
}

/// Whether anything is recorded under a mask.
#[inline]
fn records(mask: i32) -> bool {
    mask & event::COLL as i32 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(one_in: u32) -> Depth {
        Depth {
            mask: AtomicI32::new(0x4e),
            chained_mask: AtomicI32::new(0),
            one_in: AtomicU32::new(one_in),
            untimed_steps: AtomicBool::new(false),
            follows_pace: AtomicBool::new(false),
            groups: AtomicU32::new(0),
            paced_ns: AtomicU64::new(0),
            all_until_ns: AtomicU64::new(0),
        }
    }

    #[test]
    fn one_in_n_is_picked_and_no_period_is_locked_on() {
        for one_in in [2_u32, 16, 100] {
            let depth = depth(one_in);
            for period in 1..=64_u64 {
                let picked = (0..20_000).filter(|number| depth.picks(number * period)).count();
                let wanted = 20_000 / one_in as usize;
                assert!(
                    picked.abs_diff(wanted) < wanted / 2 + 10,
                    "{picked} of 20000, 1 in {one_in}, period {period}"
                );
            }
        }
        assert!((0..1000).all(|number| depth(1).picks(number)));
        assert!(!(0..1000).any(|number| depth(0).picks(number)));
    }

    #[test]
    fn more_are_picked_while_they_come_slowly() {
        let depth = depth(16);
        depth.follows_pace.store(true, Relaxed);
        let picked = || (0..4_096).filter(|number| depth.picks(*number)).count();
        assert_eq!(picked(), 256);
        depth.untimed_steps.store(true, Relaxed);
        assert_eq!(picked(), 1_024);
        depth.follows_pace.store(false, Relaxed);
        assert_eq!(picked(), 256, "as the user wants it");
    }

    #[test]
    fn untimed_steps_follow_the_pace() {
        let depth = depth(16);
        depth.take_pace(1_000_000_000);
        assert!(depth.untimed_steps.load(Relaxed), "the first operations had all the time before them");
        depth.take_pace(1_000_000_000 + PACE_NS / 2);
        assert!(!depth.untimed_steps.load(Relaxed), "thick and fast");
        depth.take_pace(1_000_000_000 + PACE_NS * 2);
        assert!(depth.untimed_steps.load(Relaxed), "slower again");
    }
}
