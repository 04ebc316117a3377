//! Has the controller of thousands of agents come back, and measures.

use std::process::ExitCode;

use c4_tests::herd::{self, Args};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let report = match herd::run(&args).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("c4-herd: {error:#}");
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
