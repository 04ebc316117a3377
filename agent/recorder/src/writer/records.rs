//! Stamping events into records. Every method here is wait-free: a handful of plain loads and stores, no read-modify-write,
//! no branch that waits. Each group of words has one writing thread; should a program break that rule, counts may be off and
//! the reader may call a record torn, but nothing is unsafe and the next write mends the version.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, fence};

use crate::clock::TickSource;
use crate::layout::{Communicator, Connection, Operation, communicator_state, operation_flag, step_state};

/// Opens a group of words: the version turns odd before anything else changes.
#[inline(always)]
fn open(version: &AtomicU32) -> u32 {
    let odd = version.load(Relaxed).wrapping_add(1) | 1;
    version.store(odd, Relaxed);
    fence(Release);
    odd
}

/// Closes it: the version turns even after everything else changed.
#[inline(always)]
fn close(version: &AtomicU32, odd: u32) {
    version.store(odd.wrapping_add(1), Release);
}

/// Adds to a word that only this thread writes.
#[inline(always)]
fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}

/// Adds one to a word that only this thread writes.
#[inline(always)]
fn add_one(word: &AtomicU32) -> u32 {
    let new = word.load(Relaxed).wrapping_add(1);
    word.store(new, Relaxed);
    new
}

/// What is known of a communicator when it is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommunicatorFacts<'a> {
    /// NCCL's id or hash.
    pub id: u64,
    /// Name; cut at 64 bytes.
    pub name: &'a str,
    /// Ranks.
    pub size: u32,
    /// Own rank.
    pub rank: u32,
    /// Nodes.
    pub nodes: u32,
}

impl Communicator {
    /// Fills the slot for a new communicator.
    pub fn open(&self, generation: u32, facts: &CommunicatorFacts<'_>, now: u64) {
        let odd = open(&self.version);
        for word in [
            &self.enqueued,
            &self.p2p_enqueued,
            &self.groups,
            &self.started,
            &self.completed,
            &self.p2p_started,
            &self.p2p_completed,
            &self.observed,
        ] {
            word.store(0, Relaxed);
        }
        self.generation.store(generation, Relaxed);
        self.created.store(now, Relaxed);
        self.state.store(communicator_state::LIVE, Relaxed);
        self.write_facts(facts);
        close(&self.version, odd);
    }

    /// Corrects the facts: old interfaces tell them with the first operation.
    pub fn describe(&self, facts: &CommunicatorFacts<'_>) {
        let odd = open(&self.version);
        self.write_facts(facts);
        close(&self.version, odd);
    }

    fn write_facts(&self, facts: &CommunicatorFacts<'_>) {
        self.id.store(facts.id, Relaxed);
        self.size.store(facts.size, Relaxed);
        self.rank.store(facts.rank, Relaxed);
        self.nodes.store(facts.nodes, Relaxed);
        let name = &facts.name.as_bytes()[..facts.name.floor_char_boundary(self.name.len())];
        let padded = name.iter().copied().chain(std::iter::repeat(0));
        for (kept, byte) in self.name.iter().zip(padded) {
            kept.store(byte, Relaxed);
        }
    }

    /// Marks the communicator as finalised; what it did stays until the slot is needed.
    pub fn finalize(&self) {
        let odd = open(&self.version);
        self.state.store(communicator_state::FINALIZED, Relaxed);
        close(&self.version, odd);
    }

    /// Takes the sequence number of a collective or point-to-point operation.
    #[inline]
    pub fn next_sequence(&self, is_collective: bool) -> u64 {
        let word = if is_collective { &self.enqueued } else { &self.p2p_enqueued };
        let sequence = word.load(Relaxed);
        word.store(sequence + 1, Release);
        sequence
    }

    /// Counts a group and says how many came before it.
    #[inline]
    pub fn next_group(&self) -> u64 {
        let before = self.groups.load(Relaxed);
        self.groups.store(before + 1, Relaxed);
        before
    }

    /// An operation started. Collectives of a communicator start in order, so the latest tells about all.
    #[inline]
    pub fn operation_started(&self, is_collective: bool, sequence: u64) {
        if is_collective {
            raise(&self.started, sequence + 1);
        } else {
            add(&self.p2p_started, 1);
        }
    }

    /// An operation completed. As for starts.
    #[inline]
    pub fn operation_completed(&self, is_collective: bool, sequence: u64) {
        if is_collective {
            raise(&self.completed, sequence + 1);
        } else {
            add(&self.p2p_completed, 1);
        }
    }
}

#[inline(always)]
fn raise(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) < value {
        word.store(value, Release);
    }
}

/// What is known of an operation when it is enqueued.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperationFacts {
    /// Communicator's slot.
    pub comm_slot: u32,
    /// Communicator's generation.
    pub comm_generation: u32,
    /// See [`crate::layout::operation_kind`].
    pub kind: u8,
    /// Number of the function's name.
    pub function: u8,
    /// Number of the element type's name.
    pub datatype: u8,
    /// Number of the algorithm's name.
    pub algorithm: u8,
    /// Number of the protocol's name.
    pub protocol: u8,
    /// See [`operation_flag`].
    pub flags: u8,
    /// Channels.
    pub channels: u16,
    /// Position on its communicator.
    pub sequence: u64,
    /// Elements.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
    /// Root or peer.
    pub root_or_peer: u32,
    /// When, in ticks.
    pub enqueued: u64,
}

impl Operation {
    /// Whether the slot holds this operation.
    #[inline(always)]
    pub fn holds(&self, index: u64) -> bool {
        self.number.load(Relaxed) == index + 1
    }

    /// Whether it was left in the middle: begun and, as far as it can be seen, not ended.
    #[inline]
    pub fn is_in_flight(&self) -> bool {
        let flags = self.flags.load(Relaxed);
        if self.number.load(Relaxed) == 0 || flags & operation_flag::UNOBSERVABLE != 0 {
            false
        } else if flags & operation_flag::KERNEL_EVENTS != 0 {
            self.host_stop.load(Relaxed) == 0
        } else {
            self.proxy_stopped.load(Relaxed) < self.proxy_started.load(Relaxed)
        }
    }

    /// Writes a new operation into the slot, whatever it held.
    #[inline]
    pub fn publish(&self, index: u64, facts: &OperationFacts) {
        self.number.store(0, Relaxed);
        fence(Release);
        self.comm_slot.store(facts.comm_slot, Relaxed);
        self.comm_generation.store(facts.comm_generation, Relaxed);
        self.kind.store(facts.kind, Relaxed);
        self.function.store(facts.function, Relaxed);
        self.datatype.store(facts.datatype, Relaxed);
        self.algorithm.store(facts.algorithm, Relaxed);
        self.protocol.store(facts.protocol, Relaxed);
        self.flags.store(facts.flags, Relaxed);
        self.channels.store(facts.channels, Relaxed);
        self.sequence.store(facts.sequence, Relaxed);
        self.count.store(facts.count, Relaxed);
        self.bytes.store(facts.bytes, Relaxed);
        self.root_or_peer.store(facts.root_or_peer, Relaxed);
        self.enqueued.store(facts.enqueued, Relaxed);
        for word in [&self.kernel_version, &self.proxy_version] {
            // A version that was left odd by a broken rule is mended; otherwise it stays.
            word.store(word.load(Relaxed).next_multiple_of(2), Relaxed);
        }
        for word in [
            &self.kernel_started,
            &self.kernel_stopped,
            &self.gpu_start,
            &self.gpu_stop,
            &self.host_start,
            &self.host_stop,
            &self.proxy_first,
            &self.proxy_last,
        ] {
            word.store(0, Relaxed);
        }
        for word in [&self.proxy_started, &self.proxy_active, &self.proxy_stopped, &self.proxy_told] {
            word.store(0, Relaxed);
        }
        self.number.store(index + 1, Release);
    }

    /// The kernel started on a channel; `gpu_ns` is 0 where the GPU's time is not told. Says whether it was the first.
    #[inline]
    pub fn kernel_started(&self, channel: u8, gpu_ns: u64, clock: TickSource) -> bool {
        let started = self.kernel_started.load(Relaxed);
        let now = if started == 0 { clock.now() } else { 0 };
        let odd = open(&self.kernel_version);
        self.kernel_started.store(started | 1 << (channel & 63), Relaxed);
        let earliest = self.gpu_start.load(Relaxed);
        if earliest == 0 || gpu_ns < earliest {
            self.gpu_start.store(gpu_ns, Relaxed);
        }
        if started == 0 {
            self.host_start.store(now, Relaxed);
        }
        close(&self.kernel_version, odd);
        started == 0
    }

    /// The GPU's time at which the kernel stopped on a channel, told just before [`Operation::kernel_stopped`].
    #[inline]
    pub fn kernel_stop_time(&self, channel: u8, gpu_ns: u64) {
        let bit = 1 << (channel & 63);
        let open_here = self.kernel_started.load(Relaxed) & !self.kernel_stopped.load(Relaxed) & bit != 0;
        if open_here && gpu_ns > self.gpu_stop.load(Relaxed) && self.host_stop.load(Relaxed) == 0 {
            let odd = open(&self.kernel_version);
            self.gpu_stop.store(gpu_ns, Relaxed);
            close(&self.kernel_version, odd);
        }
    }

    /// The kernel stopped on a channel. Says whether that completed the operation: `None` if the channel had stopped before
    /// or never started.
    #[inline]
    pub fn kernel_stopped(&self, channel: u8, clock: TickSource) -> Option<bool> {
        let bit = 1 << (channel & 63);
        let (started, stopped) = (self.kernel_started.load(Relaxed), self.kernel_stopped.load(Relaxed));
        if stopped & bit != 0 || started & bit == 0 {
            return None;
        }
        let stopped = stopped | bit;
        let wanted = if self.flags.load(Relaxed) & operation_flag::CHANNELS_UNKNOWN != 0 {
            started.count_ones()
        } else {
            u32::from(self.channels.load(Relaxed)).max(1)
        };
        let complete = stopped.count_ones() >= wanted && self.host_stop.load(Relaxed) == 0;
        let now = if complete { clock.now() } else { 0 };
        let odd = open(&self.kernel_version);
        self.kernel_stopped.store(stopped, Relaxed);
        if complete {
            self.host_stop.store(now, Relaxed);
        }
        close(&self.kernel_version, odd);
        Some(complete)
    }

    /// A network operation of it started. `began` where NCCL does not tell separately when it begins to progress.
    #[inline]
    pub fn proxy_started(&self, began: bool, clock: TickSource) -> bool {
        let first = began && self.proxy_first.load(Relaxed) == 0;
        let now = if first { clock.now() } else { 0 };
        let odd = open(&self.proxy_version);
        add_one(&self.proxy_started);
        if first {
            self.proxy_first.store(now, Relaxed);
        }
        close(&self.proxy_version, odd);
        first
    }

    /// A network operation of it began to progress. Says whether it was the first.
    #[inline]
    pub fn proxy_active(&self, clock: TickSource) -> bool {
        let first = self.proxy_first.load(Relaxed) == 0;
        let now = if first { clock.now() } else { 0 };
        let odd = open(&self.proxy_version);
        add_one(&self.proxy_active);
        if first {
            self.proxy_first.store(now, Relaxed);
        }
        close(&self.proxy_version, odd);
        first
    }

    /// A network operation of it ended. Says whether all that were started have, once.
    #[inline]
    pub fn proxy_stopped(&self, clock: TickSource) -> bool {
        let now = clock.now();
        let odd = open(&self.proxy_version);
        let stopped = add_one(&self.proxy_stopped);
        self.proxy_last.store(now, Relaxed);
        let complete = stopped == self.proxy_started.load(Relaxed) && self.proxy_told.load(Relaxed) == 0;
        if complete {
            self.proxy_told.store(1, Relaxed);
        }
        close(&self.proxy_version, odd);
        complete
    }
}

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

// The names of an operation are bytes.
const _: () = assert!(size_of::<AtomicU8>() == 1 && crate::layout::NAMES <= 256);
