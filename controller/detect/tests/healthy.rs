//! Silence: jobs in which nothing is wrong, however odd they look.

mod common;

use c4_detect::finding::Verdict;
use common::{Shape, run};

const S: u64 = 1_000_000;

#[track_caller]
fn silent(seed: u64, shape: Shape, duration_us: u64) {
    let what = format!("seed {seed}, {shape:?}");
    let outcome = run(seed, shape, Vec::new(), duration_us);
    assert!(outcome.opened.is_empty(), "{what}:\n{}", outcome.describe());
    assert_eq!(outcome.detector.jobs()[0].verdict, Verdict::Healthy, "{what}");
}

#[test]
fn plain_jobs_of_many_shapes_and_seeds() {
    let shapes = [
        (2, 20_000),
        (2, 500_000),
        (4, 50_000),
        (8, 200_000),
        (16, 1_000_000),
        (64, 2_000_000),
        (8, 30_000_000),
    ];
    for (i, (ranks, iteration_us)) in shapes.into_iter().enumerate() {
        for round in 0..6 {
            let duration = (300 * iteration_us).clamp(60 * S, 3_000 * S);
            silent(3_000 + i as u64 * 100 + round, Shape::new(ranks, iteration_us), duration);
        }
    }
}

#[test]
fn noisy_jobs() {
    for (seed, noise) in [(3_700, 0.05), (3_701, 0.1), (3_702, 0.2)] {
        for ranks in [2, 8, 32] {
            let mut shape = Shape::new(ranks, 400_000);
            shape.noise = noise;
            silent(seed + ranks as u64, shape, 300 * S);
        }
    }
}

#[test]
fn checkpoints_of_one_rank() {
    for (i, (every, us)) in [(20, 2 * S), (50, 8 * S), (100, 5 * S), (10, S)].into_iter().enumerate() {
        for iteration_us in [100_000, 1_000_000] {
            let mut shape = Shape::new(8, iteration_us);
            shape.checkpoint = Some((every, us));
            silent(3_800 + i as u64, shape, 400 * S);
        }
    }
}

#[test]
fn pauses_of_everybody() {
    for us in [S, 20 * S, 120 * S] {
        let mut shape = Shape::new(8, 300_000);
        shape.all_pause = Some((100, us));
        silent(3_900, shape, 600 * S);
    }
}

#[test]
fn warm_up_evaluation_and_growing_sequences() {
    let mut shape = Shape::new(8, 300_000);
    shape.warm_up_us = 50 * S;
    silent(3_950, shape, 200 * S);
    let mut shape = Shape::new(8, 300_000);
    shape.evaluation = Some(100);
    silent(3_951, shape, 300 * S);
    let mut shape = Shape::new(8, 300_000);
    shape.growth = 2.0;
    silent(3_952, shape, 600 * S);
    let mut shape = Shape::new(8, 300_000);
    shape.kernel_events = false;
    silent(3_953, shape, 300 * S);
}
