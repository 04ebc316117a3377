//! Connections: all that a network step touches is one record.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{add, close, open};
use crate::clock::TickSource;
use crate::layout::{Connection, step_state};

/// Which step of which operation of a connection: 33 bits, the lowest three are its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepKey(u64);

impl StepKey {
    /// Bits of a key.
    pub const BITS: u32 = 33;

    /// From an operation's index and the number of the step; of both only the low bits count (16 and 17).
    #[inline(always)]
    pub fn new(operation: u64, step: u32) -> Self {
        Self((operation & 0xFFFF) << 17 | u64::from(step & 0x1_FFFF))
    }

    /// From its bits.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// Its bits.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl Connection {
    /// Fills the slot for a new connection.
    pub fn open(&self, comm: (u32, u32), peer: u32, channel: u16, is_send: bool) {
        let odd = open(&self.version);
        self.comm_slot.store(comm.0, Relaxed);
        self.comm_generation.store(comm.1, Relaxed);
        self.peer.store(peer, Relaxed);
        self.channel.store(channel, Relaxed);
        self.is_send.store(u8::from(is_send), Relaxed);
        self.used.store(1, Relaxed);
        self.generation.store(self.generation.load(Relaxed).wrapping_add(1), Relaxed);
        for word in [
            &self.operations_started,
            &self.operations_done,
            &self.steps_done,
            &self.bytes,
            &self.timed_bytes,
            &self.timed_steps,
        ]
        .into_iter()
        .chain(&self.waits)
        .chain(&self.steps)
        .chain(&self.since)
        {
            word.store(0, Relaxed);
        }
        close(&self.version, odd);
    }

    /// Empties the slot.
    pub fn release(&self) {
        let odd = open(&self.version);
        self.used.store(0, Relaxed);
        close(&self.version, odd);
    }

    /// A network operation started.
    #[inline]
    pub fn operation_started(&self) {
        let odd = open(&self.version);
        add(&self.operations_started, 1);
        close(&self.version, odd);
    }

    /// A network operation ended. False if none was open.
    #[inline]
    pub fn operation_done(&self) -> bool {
        let done = self.operations_done.load(Relaxed);
        if done >= self.operations_started.load(Relaxed) {
            return false;
        }
        let odd = open(&self.version);
        self.operations_done.store(done + 1, Relaxed);
        close(&self.version, odd);
        true
    }

    #[inline(always)]
    fn place(&self, key: StepKey) -> (&AtomicU64, &AtomicU64) {
        let place = (key.0 & 7) as usize;
        (&self.steps[place], &self.since[place])
    }

    /// A step begins. A receiver begins the same step again at every poll until its buffer is posted: only the first counts.
    #[inline]
    pub fn step_begin(&self, key: StepKey, timed: bool) {
        let (tag, since) = self.place(key);
        let old = tag.load(Relaxed);
        if old >> 8 == key.0 && old as u8 & !step_state::TIMED != step_state::NONE {
            return;
        }
        let timed = if timed { step_state::TIMED } else { 0 };
        let odd = open(&self.version);
        since.store(0, Relaxed);
        tag.store(key.0 << 8 | u64::from(timed | step_state::BEGUN), Relaxed);
        close(&self.version, odd);
    }

    /// A step changes its state. `bytes` is what it moves, where that is told now. A sender reports again and again that it
    /// waits for its peer: only the first time counts, and costs. Says whether the step was known.
    #[inline]
    pub fn step_state(&self, key: StepKey, state: u8, bytes: u64, clock: TickSource) -> bool {
        let (tag, since) = self.place(key);
        let old = tag.load(Relaxed);
        let (old_state, timed) = (old as u8 & !step_state::TIMED, old as u8 & step_state::TIMED);
        if old >> 8 != key.0 || old_state == step_state::NONE {
            return false;
        }
        if old_state == state {
            return true;
        }
        let now = if timed != 0 { clock.now() } else { 0 };
        let odd = open(&self.version);
        if timed != 0 {
            self.leave_state(old_state, since.load(Relaxed), now);
            since.store(now, Relaxed);
            if bytes != 0 {
                add(&self.timed_bytes, bytes);
            }
        }
        if bytes != 0 {
            add(&self.bytes, bytes);
        }
        tag.store(key.0 << 8 | u64::from(timed | state), Relaxed);
        close(&self.version, odd);
        true
    }

    /// A step ends. Says whether it was known.
    #[inline]
    pub fn step_end(&self, key: StepKey, clock: TickSource) -> bool {
        let (tag, since) = self.place(key);
        let old = tag.load(Relaxed);
        let (old_state, timed) = (old as u8 & !step_state::TIMED, old as u8 & step_state::TIMED);
        if old >> 8 != key.0 || old_state == step_state::NONE {
            return false;
        }
        let now = if timed != 0 { clock.now() } else { 0 };
        let odd = open(&self.version);
        if timed != 0 {
            self.leave_state(old_state, since.load(Relaxed), now);
            add(&self.timed_steps, 1);
        }
        add(&self.steps_done, 1);
        tag.store(key.0 << 8, Relaxed);
        close(&self.version, odd);
        true
    }

    #[inline(always)]
    fn leave_state(&self, state: u8, since: u64, now: u64) {
        if since != 0
            && let Some(spent) = self.waits.get(usize::from(state).wrapping_sub(1))
        {
            add(spent, now.wrapping_sub(since));
        }
    }
}
