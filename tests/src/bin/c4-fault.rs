//! Breaks a test job on purpose; see `c4_tests::faults`.

use std::path::PathBuf;

use c4_tests::faults::{FaultDir, NetMode, WorkerFault, inject};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::Signal;

/// Breaks a test job on purpose: its workers must share a fault directory with this program.
#[derive(Parser)]
#[command(name = "c4-fault", version)]
struct Args {
    /// The job's fault directory.
    #[arg(long, env = "C4_FAULT_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    fault: Fault,
}

#[derive(Subcommand)]
enum Fault {
    /// Kill a rank's process (SIGKILL).
    Kill(Rank),
    /// Stop a rank's process (SIGSTOP).
    Stop(Rank),
    /// Let a stopped process go on (SIGCONT).
    Cont(Rank),
    /// Sleep before the collectives of every iteration.
    Sleep(Lasting),
    /// Leave out one collective.
    Skip(Once),
    /// Do one collective with another size.
    Resize(Once),
    /// Keep the GPU's stream busy before the collectives of every iteration.
    Busy(Lasting),
    /// Take back sleep, busy, and what has not happened yet.
    Clear(Rank),
    /// Block or slow what one rank sends to another (needs libc4_netfault.so preloaded).
    Link {
        /// Rank that sends.
        #[arg(long)]
        src: u32,
        /// Rank that receives.
        #[arg(long)]
        dst: u32,
        /// What to do to the connections between them.
        #[arg(long)]
        mode: Mode,
        /// Rate of all the connections together, for `slow`.
        #[arg(long, default_value_t = 1_000_000)]
        bytes_per_second: u64,
        /// Hinder receiving on them, too.
        #[arg(long)]
        receive: bool,
    },
}

#[derive(clap::Args)]
struct Rank {
    /// The rank.
    #[arg(long)]
    rank: u32,
}

#[derive(clap::Args)]
struct Lasting {
    /// The rank.
    #[arg(long)]
    rank: u32,
    /// How long each time, in microseconds.
    #[arg(long)]
    us: u64,
    /// The last iteration to do so.
    #[arg(long)]
    until_iteration: Option<u64>,
}

#[derive(clap::Args)]
struct Once {
    /// The rank.
    #[arg(long)]
    rank: u32,
    /// In every iteration, not once.
    #[arg(long)]
    always: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Block,
    Slow,
    Clear,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dir = FaultDir(args.dir);
    match args.fault {
        Fault::Kill(Rank { rank }) => inject::signal(&dir, rank, Signal::KILL),
        Fault::Stop(Rank { rank }) => inject::signal(&dir, rank, Signal::STOP),
        Fault::Cont(Rank { rank }) => inject::signal(&dir, rank, Signal::CONT),
        Fault::Sleep(Lasting { rank, us, until_iteration }) => {
            inject::misbehave(&dir, rank, &WorkerFault::Sleep { us, until_iteration })
        }
        Fault::Busy(Lasting { rank, us, until_iteration }) => {
            inject::misbehave(&dir, rank, &WorkerFault::Busy { us, until_iteration })
        }
        Fault::Skip(Once { rank, always }) => {
            inject::misbehave(&dir, rank, &WorkerFault::Skip { once: !always })
        }
        Fault::Resize(Once { rank, always }) => {
            inject::misbehave(&dir, rank, &WorkerFault::Resize { once: !always })
        }
        Fault::Clear(Rank { rank }) => inject::behave(&dir, rank),
        Fault::Link { src, mode: Mode::Clear, .. } => inject::mend_links(&dir, src),
        Fault::Link { src, dst, mode, bytes_per_second, receive } => {
            let mode = if matches!(mode, Mode::Slow) { NetMode::Slow } else { NetMode::Block };
            inject::break_link(&dir, src, dst, mode, bytes_per_second, receive)
        }
    }
}
