//! The writing side: creates the file (slow, may fail) and stamps events into it (wait-free, cannot fail).
//!
//! Everything that can go wrong goes wrong in [`Recorder::create`]: the blocks of the file are allocated before it is
//! mapped, so a full /dev/shm is an error there and never a SIGBUS in the middle of a training step; all pages are touched, so no
//! event waits for a page. The file gets its name when it is complete, so a reader never sees half a header.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::clock::{Calibration, TickSource};
use crate::layout::{self, Communicator, Connection, Live, Operation, Request};

mod create;
mod names;
mod records;

pub(crate) use create::boot_id;
pub use create::{CreateError, NewRecorder, prefix};
pub use names::Names;
pub use records::{CommunicatorFacts, OperationFacts, StepKey};

/// Bytes that a processor fetches at a time.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A recorder that this process writes.
pub struct Recorder {
    base: NonNull<u8>,
    ticks: TickSource,
    created: (u64, u64),
    cookie: u64,
    path: std::path::PathBuf,
    /// Kept open: closing it would drop the lock.
    _file: File,
}

// SAFETY: the mapping lives as long as the value and is reached only through atomics (the header is written before the value
// exists), so any thread may use it.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: `base` is a mapping of FILE_BYTES made by `create`, and nobody can hold a reference into it any more:
        // all of them borrow `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), layout::FILE_BYTES) };
    }
}

impl Recorder {
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> &T {
        debug_assert!(
            offset + size_of::<T>() <= layout::FILE_BYTES && offset.is_multiple_of(align_of::<T>())
        );
        // SAFETY: callers pass offsets of the layout, inside the page-aligned mapping and aligned for `T`, which consists of
        // atomics only; zeroes, with which the file begins, are valid for them.
        unsafe { self.base.add(offset).cast::<T>().as_ref() }
    }

    /// Where the file is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The number in the file's name, never 0.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The clock of all tick fields.
    #[inline(always)]
    pub fn tick_source(&self) -> TickSource {
        self.ticks
    }

    /// Words about the process.
    #[inline(always)]
    pub fn live(&self) -> &Live {
        self.at(layout::LIVE_AT)
    }

    /// What the agent asks for. Not validated.
    #[inline(always)]
    pub fn request(&self) -> &Request {
        self.at(layout::REQUEST_AT)
    }

    /// The communicator in a slot; slots beyond the table wrap round.
    #[inline(always)]
    pub fn communicator(&self, slot: usize) -> &Communicator {
        self.at(layout::COMMUNICATORS_AT + (slot % layout::COMMUNICATORS) * size_of::<Communicator>())
    }

    /// The slot of an operation.
    #[inline(always)]
    pub fn operation(&self, index: u64) -> &Operation {
        let slot = (index % layout::OPERATIONS as u64) as usize;
        self.at(layout::OPERATIONS_AT + slot * size_of::<Operation>())
    }

    /// The connection in a slot, `None` beyond the table.
    #[inline(always)]
    pub fn connection(&self, slot: usize) -> Option<&Connection> {
        (slot < layout::CONNECTIONS).then(|| self.at(layout::CONNECTIONS_AT + slot * size_of::<Connection>()))
    }

    /// The names, for one that looks after them.
    pub fn names(&self) -> Names<'_> {
        Names::new(self.at(layout::NAMES_AT), &self.live().names)
    }

    /// Takes the position of a new operation.
    #[inline(always)]
    pub fn next_operation(&self) -> u64 {
        self.live().operations.0.fetch_add(1, Relaxed)
    }

    /// Has the processor fetch the slot of an operation that is yet to come. It was last touched a lap ago, and the agent may have read
    /// it since, so whoever launches the operation would wait for it.
    #[inline(always)]
    pub fn expect_operation(&self, index: u64) {
        let slot: *const Operation = self.operation(index);
        #[cfg(target_arch = "x86_64")]
        for line in 0..size_of::<Operation>() / LINE {
            let line = slot.wrapping_byte_add(line * LINE);
            // SAFETY: changes nothing, whatever the address; processors that do not know it do nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly))
            };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = slot;
    }

    /// Measures the clock again; the older the recorder, the better the rate. Cheap, but not for the hot path.
    pub fn recalibrate(&self) {
        if let Some(rate) = Calibration::rate(self.created, self.ticks.pair()) {
            self.live().ns_per_tick.store(rate, Relaxed);
        }
    }

    /// Nanoseconds of CLOCK_MONOTONIC now, through the ticks' own clock reading.
    pub fn now_ns(&self) -> u64 {
        crate::clock::monotonic_now_ns()
    }

    /// Says whether events are being recorded, and which.
    #[inline]
    pub fn set_mask(&self, mask: u32, profiling: bool) {
        self.live().event_mask.store(mask, Relaxed);
        self.live().profiling.store(u32::from(profiling), Release);
    }

    /// Says who loaded the plugin.
    pub fn set_interface(&self, api: u32, nccl_version: u32) {
        self.live().nccl_version.store(nccl_version, Relaxed);
        self.live().api.store(api, Release);
    }
}
