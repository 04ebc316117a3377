//! Entries that hold both plugins' handles, in rings that give up the oldest first.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use crate::abi::event;
use crate::handle::{Handle, PAYLOAD_BITS};

/// What one handle stands for.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// Our handle, NULL if we gave none.
    pub ours: Handle,
    /// The second plugin's.
    pub theirs: *mut c_void,
    /// Whether the second plugin was called.
    pub heard: bool,
}

impl Pair {
    pub(super) const NONE: Self = Self { ours: Handle::NULL, theirs: ptr::null_mut(), heard: false };
}

struct Entry {
    /// The number it was given, plus one; 0 while it is being rewritten.
    number: AtomicU64,
    ours: AtomicU64,
    theirs: AtomicPtr<c_void>,
    heard: AtomicBool,
}

/// Entries of one kind.
pub(super) struct Ring {
    class: u64,
    next: AtomicU64,
    entries: Box<[Entry]>,
}

/// Bits of a number, below those of the class.
const NUMBER_BITS: u32 = PAYLOAD_BITS - 2;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;

impl Ring {
    fn new(class: u64, entries: usize) -> Self {
        let entry = || Entry {
            number: AtomicU64::new(0),
            ours: AtomicU64::new(0),
            theirs: AtomicPtr::new(ptr::null_mut()),
            heard: AtomicBool::new(false),
        };
        Self { class, next: AtomicU64::new(0), entries: (0..entries).map(|_| entry()).collect() }
    }

    fn entry(&self, number: u64) -> &Entry {
        &self.entries[number as usize % self.entries.len()]
    }

    /// Keeps a pair; the payload of its handle.
    pub(super) fn enter(&self, pair: Pair) -> u64 {
        let number = self.next.fetch_add(1, Relaxed) & NUMBER;
        let entry = self.entry(number);
        entry.number.store(0, Release);
        entry.ours.store(pair.ours.0, Release);
        entry.theirs.store(pair.theirs, Release);
        entry.heard.store(pair.heard, Release);
        entry.number.store(number + 1, Release);
        self.class << NUMBER_BITS | number
    }

    fn find(&self, number: u64) -> Option<Pair> {
        let entry = self.entry(number);
        let holds = || entry.number.load(Acquire) == number + 1;
        if !holds() {
            return None;
        }
        let pair = Pair {
            ours: Handle(entry.ours.load(Acquire)),
            theirs: entry.theirs.load(Acquire),
            heard: entry.heard.load(Acquire),
        };
        holds().then_some(pair)
    }
}

/// All entries: by how long their handles are in use.
pub(super) struct Rings {
    pub contexts: Ring,
    /// Groups, calls and operations: parents of what comes much later.
    parents: Ring,
    /// Network operations and kernels.
    children: Ring,
    /// Steps and the rest.
    steps: Ring,
}

impl Rings {
    pub(super) fn new() -> Self {
        Self {
            contexts: Ring::new(0, 4096),
            parents: Ring::new(1, 1 << 16),
            children: Ring::new(2, 1 << 16),
            steps: Ring::new(3, 1 << 14),
        }
    }

    pub(super) fn of(&self, kind: u64) -> &Ring {
        match kind {
            event::PROXY_OP | event::KERNEL_CH => &self.children,
            event::PROXY_STEP | event::PROXY_CTRL | event::NET_PLUGIN | event::KERNEL_PHASE => &self.steps,
            _ => &self.parents,
        }
    }

    pub(super) fn find(&self, payload: u64) -> Option<Pair> {
        let rings = [&self.contexts, &self.parents, &self.children, &self.steps];
        rings.get((payload >> NUMBER_BITS) as usize)?.find(payload & NUMBER)
    }

    /// The second plugin is done with a context: no more calls with it.
    pub(super) fn forget(&self, payload: u64) {
        if payload >> NUMBER_BITS == self.contexts.class {
            self.contexts.entry(payload & NUMBER).heard.store(false, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_are_known_to_be_gone() {
        let rings = Rings::new();
        let pair = |number: u64| Pair { ours: Handle(number), theirs: ptr::null_mut(), heard: true };
        let ring = rings.of(event::PROXY_STEP);
        let first = ring.enter(pair(7));
        assert_eq!(rings.find(first).map(|pair| pair.ours), Some(Handle(7)));
        let payloads: Vec<_> = (0..1 << 14).map(|number| ring.enter(pair(number))).collect();
        assert!(rings.find(first).is_none(), "overwritten");
        assert_eq!(rings.find(payloads[0]).map(|pair| pair.ours), Some(Handle(0)));
        let context = rings.contexts.enter(pair(1));
        rings.forget(context);
        assert!(rings.find(context).is_some_and(|pair| !pair.heard));
    }
}
