//! Prints what a controller costs under simulated agents, and how soon it names a fault.

use std::{process::ExitCode, time::Duration};

use c4_tests::scale::{self, args::Args, report};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.agent {
        return agent(&args);
    }
    let rows = match scale::run(&args) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("c4-scale: {error:#}");
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{:#}", serde_json::json!({ "seed": args.seed, "rows": rows }));
    } else {
        print!("{}", report::text(&rows));
    }
    if rows.iter().all(report::Row::passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agent(args: &Args) -> ExitCode {
    let seconds = Duration::from_secs;
    let cost = match scale::agent::measure(seconds(args.warm_up), seconds(args.measure)) {
        Ok(cost) => cost,
        Err(error) => {
            eprintln!("c4-scale: {error:#}");
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{:#}", serde_json::json!({ "agent": cost }));
    } else {
        print!("{}", cost.text());
    }
    if cost.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
