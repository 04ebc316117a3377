//! Ticks: the cheapest clock there is, and its way to CLOCK_MONOTONIC.
//!
//! The writer stamps events with raw ticks (the invariant time stamp counter where there is one: about 10 ns a reading
//! instead of 24) and never converts. The reader converts, and since it runs on the same host it sees the same counter, so
//! it calibrates by itself over the whole age of the recorder. The writer's own rate, measured over a few milliseconds
//! at first and over longer at each init, serves readers elsewhere.

use crate::layout::clock_kind;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic_now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Where ticks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickSource(u32);

impl TickSource {
    /// The best source of this machine.
    pub fn detect() -> Self {
        if counter_is_invariant() { Self(NATIVE) } else { Self(clock_kind::MONOTONIC) }
    }

    /// The source of this kind, if this machine has it.
    pub fn of_kind(kind: u32) -> Option<Self> {
        (kind == clock_kind::MONOTONIC || (kind == NATIVE && counter_is_invariant())).then_some(Self(kind))
    }

    /// See [`clock_kind`].
    pub fn kind(self) -> u32 {
        self.0
    }

    /// The ticks now.
    #[inline(always)]
    pub fn now(self) -> u64 {
        if self.0 == NATIVE && NATIVE != clock_kind::MONOTONIC { counter() } else { monotonic_now_ns() }
    }

    /// The same moment on both clocks: the closest of a few tries, against being interrupted between the readings.
    pub fn pair(self) -> (u64, u64) {
        if self.0 == clock_kind::MONOTONIC {
            let now = monotonic_now_ns();
            return (now, now);
        }
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..8 {
            let before = self.now();
            let ns = monotonic_now_ns();
            let after = self.now();
            let width = after.wrapping_sub(before);
            if width < best.0 {
                best = (width, before.wrapping_add(width / 2), ns);
            }
        }
        (best.1, best.2)
    }
}

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = clock_kind::TSC;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = clock_kind::CNTVCT;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: u32 = clock_kind::MONOTONIC;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter() -> u64 {
    // SAFETY: reads a counter; every x86-64 processor has it, and Linux lets programs read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    // Leaf 0x80000007, bit 8 of edx: the counter runs at one rate in all power states.
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn counter() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter that Linux lets programs read.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(target_arch = "aarch64")]
fn counter_is_invariant() -> bool {
    true
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> u64 {
    monotonic_now_ns()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_is_invariant() -> bool {
    false
}

/// From ticks to nanoseconds: a moment on both clocks and a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// The moment in ticks.
    pub base_ticks: u64,
    /// The moment in ns.
    pub base_ns: u64,
    /// Nanoseconds per tick times 2^32.
    pub ns_per_tick: u64,
}

impl Calibration {
    /// A rate of one nanosecond per tick.
    pub const ONE: u64 = 1 << 32;
    /// Rates outside of 10 MHz to 20 GHz are nobody's.
    pub const RATES: std::ops::RangeInclusive<u64> = (Self::ONE / 20)..=(Self::ONE * 100);

    /// The rate between two moments, each (ticks, ns); `None` if it is not one.
    pub fn rate((ticks0, ns0): (u64, u64), (ticks1, ns1): (u64, u64)) -> Option<u64> {
        let (ticks, ns) = (ticks1.checked_sub(ticks0)?, ns1.checked_sub(ns0)?);
        let rate = ((u128::from(ns) << 32) / u128::from(ticks.max(1))).try_into().ok()?;
        (ticks > 0 && Self::RATES.contains(&rate)).then_some(rate)
    }

    /// Ticks as ns of CLOCK_MONOTONIC; 0 stays 0, which means "never" in all records.
    pub fn ns(&self, ticks: u64) -> u64 {
        if ticks == 0 {
            return 0;
        }
        let ahead = i128::from(ticks) - i128::from(self.base_ticks);
        let ns = i128::from(self.base_ns) + ((ahead * i128::from(self.ns_per_tick)) >> 32);
        ns.clamp(0, i128::from(i64::MAX)) as u64
    }

    /// A number of ticks as ns.
    pub fn span_ns(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.ns_per_tick)) >> 32).min(u128::from(u64::MAX)) as u64
    }
}
