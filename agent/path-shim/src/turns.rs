//! Whose turn it is: connections with one key take its slots in turn.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

const PLACES: usize = 1024;
const PROBES: usize = 16;

/// Hashes of keys, 0 for none, and how many connections each had. Places are claimed and never given back.
static KEYS: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
static TURNS: [AtomicU32; PLACES] = [const { AtomicU32::new(0) }; PLACES];

/// The counter of a key. When there are too many keys some share one: then their turns are less even, no more.
fn counter(hash: u64) -> &'static AtomicU32 {
    let hash = hash.max(1);
    for probe in 0..PROBES {
        let place = (hash as usize).wrapping_add(probe) % PLACES;
        match KEYS[place].compare_exchange(0, hash, Relaxed, Relaxed) {
            Ok(_) => return &TURNS[place],
            Err(other) if other == hash => return &TURNS[place],
            Err(_) => {}
        }
    }
    &TURNS[hash as usize % PLACES]
}

/// The next turn of a key.
pub(crate) fn next(hash: u64) -> u32 {
    counter(hash).fetch_add(1, Relaxed)
}

/// Gives a turn back: the connection failed, and will be tried again.
pub(crate) fn back(hash: u64) {
    counter(hash).fetch_sub(1, Relaxed);
}
