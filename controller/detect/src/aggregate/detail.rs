//! How much a rank tells in a second, by the size of its job.
//!
//! What a rank costs the controller goes with what it tells. In large jobs it tells less, the more ranks there are, as the square root of
//! that: their iterations take seconds, of which what is told is to be parts.

/// Blocks a second above which a rank makes its blocks longer.
const BLOCKS_PER_SECOND: f64 = 8.0;
/// Jobs of more ranks are large.
const LARGE_JOB: u32 = 4_096;
/// Least part that is told.
const LEAST: f64 = 0.1;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// So many times less is told than in a job that is not large, 1 to 10.
    less: f64,
}

impl Default for Detail {
    fn default() -> Self {
        Self { less: 1.0 }
    }
}

impl Detail {
    /// Of a job of so many ranks, where that is known.
    #[must_use]
    pub fn in_job_of(ranks: Option<u32>) -> Self {
        let times = f64::from(ranks.unwrap_or(0).max(LARGE_JOB)) / f64::from(LARGE_JOB);
        Self { less: times.sqrt().min(LEAST.recip()) }
    }

    /// Blocks a second of a communicator, at most.
    pub(super) fn blocks_per_second(self) -> f64 {
        BLOCKS_PER_SECOND / self.less
    }

    /// Iterations are told one by one if they take this long, so that there are about as many of them as of blocks.
    pub(super) fn told_ns(self) -> u64 {
        (1e9 / self.blocks_per_second()) as u64
    }

    /// Network links are told of once in so many windows.
    #[must_use]
    pub fn windows_of_links(self) -> u64 {
        self.less as u64
    }

    /// Whether they are in the window with this number.
    #[must_use]
    pub fn tells_of_links(self, window: u64) -> bool {
        window.is_multiple_of(self.windows_of_links())
    }
}
