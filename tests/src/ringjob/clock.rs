//! The only place where the ring job looks at a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the ring job is a driver: it is the program under observation"
)]
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A monotonic moment.
#[expect(
    clippy::disallowed_methods,
    reason = "the ring job is a driver: it is the program under observation"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Stands for a GPU's `globaltimer`: nanoseconds that tick evenly but start anywhere, so that whoever compares them
/// with the host's clock has to calibrate first, as with a real GPU.
#[derive(Clone, Copy, Debug)]
pub struct GlobalTimer {
    origin: Instant,
    offset: Duration,
}

impl GlobalTimer {
    /// A timer that shows `offset` now.
    #[must_use]
    pub fn starting_at(offset: Duration) -> Self {
        Self { origin: now(), offset }
    }

    /// The stamp a kernel would take now.
    #[must_use]
    pub fn stamp_ns(&self) -> u64 {
        (self.offset + now().duration_since(self.origin)).as_nanos() as u64
    }
}
