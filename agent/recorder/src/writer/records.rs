//! Stamping events into records. Every method here is wait-free: a handful of plain loads and stores, no read-modify-write,
//! no branch that waits. Each group of words has one writing thread; should a program break that rule, counts may be off and
//! the reader may call a record torn, but nothing is unsafe and the next write mends the version.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

mod communicator;
mod connection;
mod operation;

pub use communicator::CommunicatorFacts;
pub use connection::StepKey;
pub use operation::OperationFacts;

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
