//! The table of names: functions, element types, algorithms and protocols come from NCCL as C strings, and new versions
//! bring new ones, so they are kept as they are, once each, and operations refer to them by number.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32};

use crate::layout::{NAME_BYTES, NAMES};

/// The names of a recorder.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    slots: &'a [[AtomicU8; NAME_BYTES]; NAMES],
    used: &'a AtomicU32,
}

impl<'a> Names<'a> {
    pub(super) fn new(slots: &'a [[AtomicU8; NAME_BYTES]; NAMES], used: &'a AtomicU32) -> Self {
        Self { slots, used }
    }

    /// Whether a name has this number.
    #[inline]
    pub fn is(&self, number: u8, name: &[u8]) -> bool {
        let name = &name[..name.len().min(NAME_BYTES)];
        let Some(slot) = self.slots.get(usize::from(number)) else { return false };
        slot.iter().zip(name).all(|(kept, byte)| kept.load(Relaxed) == *byte)
            && slot.get(name.len()).is_none_or(|end| end.load(Relaxed) == 0)
    }

    /// The number of a name, if it has one.
    pub fn find(&self, name: &[u8]) -> Option<u8> {
        if name.is_empty() {
            return Some(0);
        }
        let used = self.used.load(Acquire).clamp(1, NAMES as u32);
        (1..used as u8).find(|&number| self.is(number, name))
    }

    /// Gives a name a number; `None` if the table is full. Only one thread at a time may add.
    pub fn add(&self, name: &[u8]) -> Option<u8> {
        if let Some(number) = self.find(name) {
            return Some(number);
        }
        let number = self.used.load(Relaxed).max(1);
        let slot = self.slots.get(number as usize)?;
        for (kept, byte) in slot.iter().zip(name) {
            kept.store(*byte, Relaxed);
        }
        self.used.store(number + 1, Release);
        Some(number as u8)
    }
}
