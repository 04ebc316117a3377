//! Command line of the ring job.

use std::{net::IpAddr, path::PathBuf};

use clap::Parser;

/// A training stand-in without GPUs, and a TEST DOUBLE FOR NCCL: real processes do a real ring all-reduce over TCP
/// and call the profiler plugin named by NCCL_PROFILER_PLUGIN as NCCL would call it.
///
/// One process is one rank. The ranks meet in a directory; a peer's death ends the process with exit code 1.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringjob", version)]
pub struct Args {
    /// This process's rank.
    #[arg(long, env = "RANK")]
    pub rank: u32,
    /// Number of ranks.
    #[arg(long, env = "WORLD_SIZE")]
    pub world_size: u32,
    /// This process's rank on its node; the one with 0 rewrites C4_CHECKPOINT_MARKER.
    #[arg(long, env = "LOCAL_RANK", default_value_t = 0)]
    pub local_rank: u32,
    /// Nodes of the job, as told to the plugin; one a rank if absent.
    #[arg(long)]
    pub nodes: Option<u32>,
    /// How often the job was restarted; part of the names in the rendezvous directory.
    #[arg(long, env = "C4_INCARNATION", default_value_t = 0)]
    pub incarnation: u32,
    /// Directory where ranks meet; stands for a file system that all nodes share.
    #[arg(long)]
    pub rendezvous: PathBuf,
    /// Address to listen on for the previous rank.
    #[arg(long, default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Seconds to wait for the other ranks at the start.
    #[arg(long, default_value_t = 60)]
    pub rendezvous_timeout: u64,
    /// Iterations, counted from the very first start of the job; 0: until stopped.
    #[arg(long, default_value_t = 0)]
    pub iterations: u64,
    /// Bytes of each all-reduce of an iteration, in order.
    #[arg(long, value_delimiter = ',', default_value = "4096,1048576,262144")]
    pub bytes: Vec<usize>,
    /// Channels: connections to the next rank.
    #[arg(long, default_value_t = 2)]
    pub channels: usize,
    /// Mean time of an iteration outside of collectives, in microseconds.
    #[arg(long, default_value_t = 100_000)]
    pub compute_us: u64,
    /// Spread of that time, as a fraction of it.
    #[arg(long, default_value_t = 0.05)]
    pub noise: f64,
    /// Share of the compute time that keeps a CPU busy; the rest sleeps.
    #[arg(long, default_value_t = 0.0)]
    pub spin: f64,
    /// Seed of data and noise.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory of checkpoints, shared by all ranks; none are written without it.
    #[arg(long)]
    pub checkpoint_dir: Option<PathBuf>,
    /// Iterations between checkpoints.
    #[arg(long, default_value_t = 10)]
    pub checkpoint_every: u64,
    /// Wait for ever when a peer is lost, as a job without any watchdog does.
    #[arg(long)]
    pub hang_on_peer_loss: bool,
    /// Version of the profiler interface to play: 1 to 7.
    #[arg(long, default_value_t = 5)]
    pub profiler_api: u32,
    /// File that the job rewrites with the iteration after each checkpoint.
    #[arg(long, env = "C4_CHECKPOINT_MARKER")]
    pub checkpoint_marker: Option<PathBuf>,
    /// Directory of fault control files; see c4-fault.
    #[arg(long, env = "C4_FAULT_DIR")]
    pub fault_dir: Option<PathBuf>,
}

/// Most channels: as many as NCCL has.
const MAX_CHANNELS: usize = 64;

impl Args {
    /// What is wrong with the arguments, if anything.
    ///
    /// # Errors
    /// A sentence for each mistake, all at once.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut mistakes = Vec::new();
        if self.world_size == 0 || self.rank >= self.world_size {
            mistakes.push(format!("rank {} is not below world size {}", self.rank, self.world_size));
        }
        if self.channels == 0 || self.channels > MAX_CHANNELS {
            mistakes.push(format!("--channels {} is not in 1..={MAX_CHANNELS}", self.channels));
        }
        if let Some(bytes) = self.bytes.iter().find(|bytes| *bytes % 4 != 0) {
            mistakes.push(format!("--bytes {bytes} is not a multiple of 4 (elements are 32-bit floats)"));
        }
        for (name, value) in [("noise", self.noise), ("spin", self.spin)] {
            if !(0.0..=1.0).contains(&value) {
                mistakes.push(format!("--{name} {value} is not between 0 and 1"));
            }
        }
        if self.checkpoint_every == 0 {
            mistakes.push("--checkpoint-every must be at least 1".to_owned());
        }
        if !(1..=7).contains(&self.profiler_api) {
            mistakes.push(format!("--profiler-api {} is not in 1..=7", self.profiler_api));
        }
        anyhow::ensure!(mistakes.is_empty(), mistakes.join("; "));
        Ok(())
    }
}
