//! The command line of `c4-scale`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::simulator::fault::FaultKind;

/// What breaks after the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Broken {
    /// The host of one rank never launches anything more.
    Hang,
    /// One process is stopped by a signal.
    Stop,
    /// One process is killed.
    Death,
    /// One GPU computes 1.5 times slower from then on.
    Slow,
    /// Nothing.
    None,
}

impl Broken {
    /// The fault as the simulator knows it.
    #[must_use]
    pub fn kind(self) -> Option<FaultKind> {
        match self {
            Broken::Hang => Some(FaultKind::HostHang),
            Broken::Stop => Some(FaultKind::Stop),
            Broken::Death => Some(FaultKind::Death),
            Broken::Slow => Some(FaultKind::SlowCompute { factor: 1.5, every: 1 }),
            Broken::None => None,
        }
    }
}

/// Loads a real controller with simulated agents that speak the real protocol, one stream each and one window a second
/// for each rank, and prints what that costs and how soon a fault is named.
///
/// The controller is confined to two cores; the agents get the others, or the same two where there are no others. Then
/// its CPU time is as true as ever, but it waits for cores that the agents use, so its delays are upper bounds.
#[derive(Clone, Debug, Parser)]
#[command(name = "c4-scale", version)]
pub struct Args {
    /// Sizes of the job, one run each; multiples of 16.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    pub ranks: Vec<u32>,
    /// Seed of the job's noise.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What breaks after the measurement.
    #[arg(long, value_enum, default_value_t = Broken::Hang)]
    pub fault: Broken,
    /// Seconds before the measurement. The detector learns in this time; a slow rank takes some 50.
    #[arg(long, default_value_t = 30)]
    pub warm_up: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 20)]
    pub measure: u64,
    /// Ranks that are simulated by themselves; the others are replicas of these in data parallelism.
    #[arg(long, default_value_t = 1000)]
    pub distinct: u32,
    /// Measure the agent instead: eight ranks of the ring job on one node, with a controller connected.
    #[arg(long)]
    pub agent: bool,
    /// Cores of the controller. Default: the first two that this program may use.
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// The controller's program. Default: the one of this build.
    #[arg(long)]
    pub controller: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}
