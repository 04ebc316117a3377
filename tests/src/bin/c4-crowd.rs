//! Lets a crowd connect to a controller, and measures; see `c4_tests::crowd`.

use std::process::ExitCode;

use c4_tests::{
    crowd::{self, Args},
    fabric::acquire_rights,
};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match acquire_rights().and_then(|()| crowd::run(&args)) {
        Ok(report) if args.json => println!("{:#}", serde_json::json!(report)),
        Ok(report) => print!("{}", report.text()),
        Err(error) => {
            eprintln!("c4-crowd: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
