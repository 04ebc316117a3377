//! The one place that reads a clock.
//!
//! Wall clocks jump: NTP steps them, people set them. Everything the controller decides is a matter of durations, so
//! the wall clock is read once, at the start, and time moves on from there with the monotonic clock. A timestamp
//! is therefore comparable with every other of the same run and never goes back; it may be off from the wall by
//! what the wall has been corrected since, or by how long the machine was suspended. Where others compare what is told them with their own
//! clocks, they are told the time on the wall: [`Clock::wall`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use c4_detect::observation::Timestamp;
use tokio::time::Instant;

/// A monotonic clock anchored once to the wall. Copies share the anchor.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    anchor_unix_us: u64,
}

impl Clock {
    /// Reads the wall clock, once.
    #[must_use]
    pub fn anchored() -> Self {
        Self { anchor: Instant::now(), anchor_unix_us: Self::wall().0 }
    }

    /// The time on the wall, which may jump and go back.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the driver that reads the clock for everybody")]
    pub fn wall() -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX))
    }

    /// The time now; never less than any time returned before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.anchor.elapsed().as_micros()).unwrap_or(u64::MAX);
        Timestamp(self.anchor_unix_us.saturating_add(elapsed))
    }

    /// The instant to sleep until, so as to wake at `at`.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.anchor + Duration::from_micros(at.0.saturating_sub(self.anchor_unix_us))
    }
}
