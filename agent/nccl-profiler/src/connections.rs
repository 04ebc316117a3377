//! Finds the connection of a network operation: communicator, peer, channel and direction to a slot of the recorder.
//!
//! Looked up once for each network operation, by the proxy thread of the communicator; added to once for each connection, when it
//! is first used. Several proxy threads may add at once, for different communicators, so places and slots are claimed with one
//! compare-and-swap each, in a bounded number of tries. What does not fit is counted and does without a connection.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use c4_recorder::layout::CONNECTIONS;
use c4_recorder::writer::Recorder;

use crate::handle::{NO_CONNECTION, PROXY_INDEX};

/// Places of the index: twice the connections, so that runs stay short.
const PLACES: usize = 4096;
/// Places looked at before giving up.
const TRIES: usize = 256;
/// A place whose connection is gone; searches go on past it.
const GONE: u64 = u64::MAX;

/// What a connection connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Communicator's slot.
    pub comm_slot: u32,
    /// Communicator's generation.
    pub comm_generation: u32,
    /// Peer's rank.
    pub peer: u32,
    /// Channel.
    pub channel: u8,
    /// Whether this process sends.
    pub is_send: bool,
}

impl Key {
    /// In 53 bits: slot 8, generation 12, peer 24, channel 8, direction 1. Peers beyond 16 million share.
    fn bits(self) -> u64 {
        u64::from(self.comm_slot & 0xFF) << 45
            | u64::from(self.comm_generation & 0xFFF) << 33
            | u64::from(self.peer & 0xFF_FFFF) << 9
            | u64::from(self.channel) << 1
            | u64::from(self.is_send)
    }
}

/// The index, and what only the writer needs to know of connections. Zeroes are valid but for the free slots.
#[repr(C)]
pub struct Connections {
    /// `key << 11 | slot`, 0 for a place never used. A key is never 0: generations begin at 1.
    places: [AtomicU64; PLACES],
    /// Free slots as bits.
    free: [AtomicU64; CONNECTIONS.div_ceil(64)],
    /// Latest operation whose network operation ended, collective and point-to-point, to know a second stop.
    last_done: [[AtomicU64; 2]; CONNECTIONS],
    /// Whether anything ever moved, by operations begun without it: see [`Connections::is_silent`].
    silence: [AtomicU64; CONNECTIONS],
}

impl Connections {
    /// Frees all slots.
    pub fn clear(&self) {
        for (number, word) in self.free.iter().enumerate() {
            let slots = CONNECTIONS - (number * 64).min(CONNECTIONS);
            word.store(if slots >= 64 { u64::MAX } else { (1 << slots) - 1 }, Relaxed);
        }
    }

    /// The slot of a connection; a new one if it has none; [`NO_CONNECTION`] if there is no room.
    #[inline]
    pub fn find(&self, recorder: &Recorder, key: Key) -> usize {
        let bits = key.bits();
        let start = start_of(bits);
        for place in (0..8).filter_map(|step| self.places.get((start + step) % PLACES)) {
            let found = place.load(Acquire);
            if found >> 11 == bits {
                return (found & 0x7FF) as usize;
            }
            if found == 0 {
                break;
            }
        }
        self.add(recorder, key, bits, start)
    }

    #[cold]
    fn add(&self, recorder: &Recorder, key: Key, bits: u64, start: usize) -> usize {
        let places = || (0..TRIES).filter_map(|step| self.places.get((start + step) % PLACES));
        for place in places() {
            let found = place.load(Acquire);
            if found >> 11 == bits && found != GONE {
                return (found & 0x7FF) as usize;
            }
            if found == 0 {
                break;
            }
        }
        let Some(slot) = self.claim_slot() else {
            recorder.live().lost_connections.0.fetch_add(1, Relaxed);
            return NO_CONNECTION;
        };
        if let Some(connection) = recorder.connection(slot) {
            connection.open(
                (key.comm_slot, key.comm_generation),
                key.peer,
                u16::from(key.channel),
                key.is_send,
            );
            recorder.live().connections.fetch_max(slot as u32 + 1, Relaxed);
        }
        if let Some(silence) = self.silence.get(slot) {
            silence.store(0, Relaxed);
        }
        for last in self.last_done.get(slot).into_iter().flatten() {
            last.store(0, Relaxed);
        }
        for place in places() {
            let found = place.load(Relaxed);
            let is_free = found == 0 || found == GONE;
            if is_free && place.compare_exchange(found, bits << 11 | slot as u64, AcqRel, Relaxed).is_ok() {
                return slot;
            }
        }
        self.give_back(recorder, slot);
        recorder.live().lost_connections.0.fetch_add(1, Relaxed);
        NO_CONNECTION
    }

    fn claim_slot(&self) -> Option<usize> {
        for (number, word) in self.free.iter().enumerate() {
            // A lost race costs one more try; there are at most as many as there are threads adding.
            for _ in 0..64 {
                let free = word.load(Relaxed);
                if free == 0 {
                    break;
                }
                let bit = free.trailing_zeros();
                if word.compare_exchange(free, free & !(1 << bit), AcqRel, Relaxed).is_ok() {
                    return Some(number * 64 + bit as usize);
                }
            }
        }
        None
    }

    fn give_back(&self, recorder: &Recorder, slot: usize) {
        if let Some(connection) = recorder.connection(slot) {
            connection.release();
        }
        if let Some(word) = self.free.get(slot / 64) {
            word.fetch_or(1 << (slot % 64), Release);
        }
    }

    /// Forgets the connections of a communicator that was finalised (its proxy thread is done with it then).
    pub fn release(&self, recorder: &Recorder, comm_slot: u32, comm_generation: u32) {
        let communicator =
            Key { comm_slot, comm_generation, peer: 0, channel: 0, is_send: false }.bits() >> 33;
        for place in &self.places {
            let found = place.load(Acquire);
            if found != 0 && found != GONE && found >> 44 == communicator {
                place.store(GONE, Release);
                self.give_back(recorder, (found & 0x7FF) as usize);
            }
        }
    }

    /// Notes that the network operation of `operation` (low bits of its index) ended. False if that was known: network
    /// operations of a connection end in order, so one that is not newer than the last has been stopped before.
    #[inline]
    pub fn ends(&self, slot: usize, operation: u64, is_p2p: bool) -> bool {
        let Some(last) = self.last_done.get(slot).and_then(|both| both.get(usize::from(is_p2p))) else {
            return true;
        };
        const KNOWN: u64 = 1 << 63;
        let before = last.load(Relaxed);
        let ahead = operation.wrapping_sub(before) & PROXY_INDEX;
        if before & KNOWN != 0 && (ahead == 0 || ahead > PROXY_INDEX / 2) {
            return false;
        }
        last.store(operation | KNOWN, Relaxed);
        true
    }

    /// Something moved on a connection: it is of a transport that tells.
    #[inline]
    pub fn moved(&self, slot: usize) {
        if let Some(silence) = self.silence.get(slot)
            && silence.load(Relaxed) != u64::MAX
        {
            silence.store(u64::MAX, Relaxed);
        }
    }

    /// Whether a connection has begun many operations and never moved. From NCCL 2.27 network operations start for all
    /// transports with a proxy, but only the network's progress and stop; waiting for the others would read as a hang.
    #[inline]
    pub fn is_silent(&self, slot: usize) -> bool {
        const MANY: u64 = 64;
        let Some(silence) = self.silence.get(slot) else { return false };
        let begun = silence.load(Relaxed);
        if begun == u64::MAX {
            return false;
        }
        silence.store((begun + 1).min(MANY), Relaxed);
        begun >= MANY
    }
}

fn start_of(bits: u64) -> usize {
    (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as usize % PLACES
}
