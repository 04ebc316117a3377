//! One rank of the ring job; see `c4_tests::ringjob`.

use std::process::ExitCode;

use c4_tests::ringjob::{args::Args, training};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match training::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringjob rank {}: {error:#}", args.rank);
            ExitCode::FAILURE
        }
    }
}
