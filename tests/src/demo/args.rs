//! Command line of the demo.

use std::path::PathBuf;

use clap::Parser;

use super::Fault;

/// C4 on this machine: controller, three agents, eight ranks, a fault, the diagnosis, the restart, the downtime ledger.
/// Needs no root, no GPU and no answers. Exits 0 if every fault was diagnosed rightly and the job came back.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo", version)]
pub struct Args {
    /// Fault to inject; may be given several times. Default: a tour of all.
    #[arg(long = "fault", value_enum, value_name = "FAULT")]
    pub chosen: Vec<Fault>,
    /// Rank to break; chosen by the seed if absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..8))]
    pub rank: Option<u32>,
    /// Seed of the choice of ranks and of the job's noise.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep everything the detector was told in this file (JSON lines), to be replayed.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Print one JSON document on standard output, with findings, ledger and whether they were right; progress goes
    /// to standard error.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// The faults to inject, in order.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        if self.chosen.is_empty() { Fault::TOUR.to_vec() } else { self.chosen.clone() }
    }
}
