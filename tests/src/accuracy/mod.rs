//! How often the detector is right: simulated jobs with known faults, and healthy ones, judged by what it says first.
//!
//! Seeds below [`FIRST_TEST_SEED`] were used to choose thresholds; the figures that count come from seeds above it.

pub mod cases;
pub mod judge;
pub mod table;

/// Seeds below this were looked at while thresholds were chosen.
pub const FIRST_TEST_SEED: u64 = 1_000_000;
