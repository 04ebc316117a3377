//! Breaks C4 at random, and says what it told of.

use std::process::ExitCode;

use c4_tests::soak::{self, Args};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let report = match soak::run(&args).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("c4-soak: {error:#}");
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{:#}", serde_json::json!(report));
    } else {
        print!("{}", report.text());
    }
    if report.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
