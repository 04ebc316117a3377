//! A wide sweep; prints what it counted. Run by hand:
//! `cargo test --release -p c4-detect --test sweep -- --ignored --nocapture`. `C4_SEEDS=N` sets how many seeds, `C4_FIRST_SEED`
//! where they begin. Thresholds were chosen with seeds below 1000000 in sight; the default begins above. Whoever tunes
//! anything after looking at those must move the beginning on.

mod common;

use std::collections::BTreeMap;

use c4_detect::{finding::Kind, observation::ProcessState};
use common::{Fault, Shape, run, seeds};

const S: u64 = 1_000_000;
const SHAPES: [(usize, u64); 8] = [
    (2, 20_000),
    (3, 500_000),
    (4, 5_000),
    (8, 100_000),
    (8, 5_000_000),
    (16, 250_000),
    (32, 1_000_000),
    (64, 500_000),
];

fn first_seed() -> u64 {
    std::env::var("C4_FIRST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

fn shape(seed: u64) -> Shape {
    let (ranks, iteration_us) = SHAPES[seed as usize % SHAPES.len()];
    let mut shape = Shape::new(ranks, iteration_us);
    shape.noise = [0.005, 0.01, 0.03, 0.08][(seed / 8) as usize % 4];
    if seed % 3 == 1 {
        shape.checkpoint = Some((40 + seed % 50, (iteration_us * 2).clamp(S, 9 * S)));
    }
    if seed % 5 == 2 {
        shape.all_pause = Some((70, 10 * S));
    }
    if seed % 7 == 3 {
        shape.operations = vec![1 << 20];
    }
    shape.kernel_events = seed % 11 != 5;
    shape
}

#[test]
#[ignore = "takes minutes"]
fn healthy() {
    let (mut alarms, mut seconds) = (0, 0.0);
    for seed in first_seed()..first_seed() + seeds(4) * 8 {
        let shape = shape(seed);
        let duration = (shape.iteration_us() * 2_000).clamp(600 * S, 4_000 * S);
        seconds += duration as f64 * 1e-6;
        let outcome = run(seed, shape.clone(), Vec::new(), duration);
        if !outcome.opened.is_empty() {
            alarms += outcome.opened.len();
            println!(
                "seed {seed} {} ranks {} us:\n{}",
                shape.ranks,
                shape.iteration_us(),
                outcome.describe()
            );
        }
    }
    println!("{alarms} false alarms in {:.2} job-days", seconds / 86_400.0);
}

#[test]
#[ignore = "takes minutes"]
fn faulty() {
    let mut table: BTreeMap<String, (u32, u32, u32, Vec<f64>)> = BTreeMap::new();
    for seed in first_seed() + 100_000..first_seed() + 100_000 + seeds(4) * 8 {
        let shape = shape(seed);
        let rank = (seed as usize * 31 + 7) % shape.ranks;
        let iteration_us = shape.iteration_us();
        let at = (40 * iteration_us).max(20 * S) + seed * 77_377 % (iteration_us.max(S));
        let state = ProcessState::Sleeping;
        let until = u64::MAX / 2;
        let mut faults = vec![
            ("kill supervised", Fault::Kill { rank, at, supervised: true }, Kind::ProcessDeath),
            ("kill", Fault::Kill { rank, at, supervised: false }, Kind::ProcessDeath),
            ("stop", Fault::Stop { rank, at, until: None }, Kind::NonCommHang),
            ("stuck", Fault::Stuck { rank, at, until: None, state }, Kind::NonCommHang),
            ("link", Fault::Link { src: rank, at }, Kind::CommHang),
        ];
        if shape.kernel_events {
            faults.push(("busy gpu", Fault::Busy { rank, at }, Kind::NonCommHang));
        }
        for percent in [10, 15, 20, 30, 50, 100] {
            let us = iteration_us * percent / 100;
            let name: &'static str = match percent {
                10 => "slow 010 %",
                15 => "slow 015 %",
                20 => "slow 020 %",
                30 => "slow 030 %",
                50 => "slow 050 %",
                _ => "slow 100 %",
            };
            faults.push((name, Fault::Slow { rank, at, until, us }, Kind::NonCommSlow));
        }
        for (name, fault, kind) in faults {
            let late_us = if let Fault::Slow { us, .. } = fault { us } else { 0 };
            let outcome = run(seed, shape.clone(), vec![fault], at + (60 * iteration_us).max(40 * S));
            let row = table.entry(name.to_owned()).or_default();
            row.0 += 1;
            let right = outcome.kinds().first() == Some(&kind)
                && outcome.first_rank() == Some(rank as u32)
                && outcome.delay(at) >= 0.0;
            if right {
                row.1 += 1;
                // In iterations as they are with the fault.
                let unit =
                    if kind == Kind::NonCommSlow { (iteration_us + late_us) as f64 * 1e-6 } else { 1.0 };
                // Windows of a second bound what can be seen of fast iterations.
                if kind != Kind::NonCommSlow || iteration_us >= 250_000 {
                    row.3.push(outcome.delay(at) / unit);
                }
            } else {
                println!(
                    "seed {seed} {name} rank {rank} of {} {iteration_us} us noise {}, at {}:\n{}",
                    shape.ranks,
                    shape.noise,
                    at as f64 * 1e-6,
                    outcome.describe()
                );
            }
            row.2 += u32::from(outcome.opened.len() > 1);
        }
    }
    for (name, (runs, right, several, mut delays)) in table {
        delays.sort_by(f64::total_cmp);
        let at = |q: f64| delays.get((delays.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN);
        println!(
            "{name:<16} {right}/{runs} right, {several} with several findings, s (slow: iterations) to verdict: median {:.1}, worst {:.1}",
            at(0.5),
            delays.last().copied().unwrap_or(f64::NAN)
        );
    }
}
