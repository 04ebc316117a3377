//! How often the detector is right: simulated jobs with known faults, and sound ones, judged by what it says first.
//!
//! Seeds say what was seen before. Those below [`TUNING_SEEDS_END`] are for choosing thresholds and looking at single
//! cases. Those from there to [`FIRST_TEST_SEED`] were held out of that, but have been looked at since: the figures of the README are
//! from these, each run before anybody had. Nothing was ever seen of those from [`FIRST_TEST_SEED`] on: figures of the next version are to
//! come from these.
//!
//! Jobs are a mix of sizes and of iterations from 0.3 to 6 seconds, most of them short for their size: a job that iterates
//! every second gives the detector more to be wrong about in a day than one that takes ten. Each sound job runs for two
//! hours, start-up included, so starts are more frequent than in a real cluster.

pub mod cases;
pub mod combined;
pub mod judge;
pub mod network;
pub mod shapes;
pub mod sound;
pub mod suite;
pub mod table;
pub mod targets;

/// Seeds below this are for tuning.
pub const TUNING_SEEDS_END: u64 = 1_000_000;
/// From here on, seeds are held out.
pub const FIRST_TEST_SEED: u64 = 25_000_000;
