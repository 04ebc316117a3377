//! Operations: described once by the launching thread, then their kernel and their network operations go on.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::fence;

use super::{add_one, close, open};
use crate::clock::TickSource;
use crate::layout::{NAMES, Operation, operation_flag};

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
    /// Which one of the sends to, or receives from, its peer, from 1; 0 if not counted.
    pub peer_number: u32,
    /// When, in ticks.
    pub enqueued: u64,
}

impl Operation {
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
        self.peer_number.store(facts.peer_number, Relaxed);
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

// The numbers of names are bytes.
const _: () = assert!(NAMES <= 256);
