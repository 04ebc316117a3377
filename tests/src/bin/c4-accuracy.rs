//! Prints how often the detector is right, over simulated jobs with known faults.

use std::{
    io::IsTerminal as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use c4_tests::{
    accuracy::{
        FIRST_TEST_SEED,
        cases::{Case, case, faults, shapes, sound},
        judge::judge,
        table::Table,
    },
    simulator::fault::FaultKind,
};
use clap::Parser;

/// Simulates jobs with known faults, and healthy ones, and prints what the detector says of them: how many faults it
/// found, whether its first suspect and kind were right, how long it took, and how many innocents it accused.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// First seed; below 1000000 are the seeds that thresholds were chosen on.
    #[arg(long, default_value_t = FIRST_TEST_SEED)]
    seed: u64,
    /// Jobs for each fault, severity and shape.
    #[arg(long, default_value_t = 5)]
    jobs: u64,
    /// Simulated seconds of each sound job.
    #[arg(long, default_value_t = 3600)]
    sound_seconds: u64,
    /// Only faults whose name contains this.
    #[arg(long)]
    fault: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Print every accusation of an innocent and every fault that was missed or blamed on somebody else.
    #[arg(long)]
    explain: bool,
}

fn main() {
    let args = Args::parse();
    let cases = suite(&args);
    let table = Mutex::new(Table::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = judge(case);
                    if args.explain {
                        explain(case, &outcome);
                    }
                    if let Ok(mut table) = table.lock() {
                        table.add(case, outcome);
                    }
                    progress(next.load(Ordering::Relaxed).min(cases.len()), cases.len());
                }
            });
        }
    });
    let table = table.into_inner().unwrap_or_default();
    if args.json {
        let document = serde_json::json!({ "seed": args.seed, "jobs": args.jobs, "rows": table.lines() });
        println!("{document:#}");
    } else {
        print!("{}", table.text());
    }
}

fn suite(args: &Args) -> Vec<Case> {
    let wanted = |name: &str| args.fault.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let mut cases = Vec::new();
    let mut seed = args.seed;
    for shape in shapes() {
        for fault in faults().iter().filter(|fault| wanted(fault.0)) {
            for _ in 0..args.jobs {
                cases.push(case(&shape, fault, seed));
                seed += 1;
            }
        }
        let unbalanced =
            [None, Some(FaultKind::HeavyStage { factor: 1.5 }), Some(FaultKind::TakingTurns { factor: 1.5 })];
        for kind in unbalanced {
            let case = sound(&shape, kind, args.sound_seconds, seed);
            if wanted(&case.row.fault) {
                cases.push(case);
            }
            seed += 1;
        }
    }
    cases
}

fn explain(case: &Case, outcome: &c4_tests::accuracy::judge::Outcome) {
    let what = format!(
        "{} {} on {} ranks, seed {}",
        case.row.fault, case.row.severity, case.row.ranks, case.spec.seed
    );
    for alarm in &outcome.false_alarms {
        eprintln!("false alarm: {what}: {alarm}");
    }
    if let Some(truth) = &case.truth
        && !(outcome.right_kind && outcome.right_suspect)
    {
        eprintln!("wrong: {what}: expected {:?} of rank {:?}, got {outcome:?}", truth.kinds, truth.ranks);
    }
}

fn progress(done: usize, of: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{done}/{of} jobs");
        if done == of {
            eprintln!();
        }
    }
}
