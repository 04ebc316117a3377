use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Iterations of about a second whose level is `level(n)`, with normal noise and a heavy tail.
fn watch(seed: u64, noise: f64, iterations: u64, level: impl Fn(u64) -> f64) -> Vec<(u64, ChangePoint)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut watch = Watch::default();
    let (mut now, mut told) = (Timestamp(1_000_000_000), Vec::new());
    for n in 0..iterations {
        let (a, b): (f64, f64) = (rng.random(), rng.random());
        let normal = (-2.0 * a.max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let tail = if rng.random::<f64>() < 0.02 { rng.random::<f64>() * 2.0 } else { 0.0 };
        let duration_us = 1e6 * level(n) * (1.0 + noise * normal + tail).max(0.1);
        told.extend(watch.push(4, duration_us, now).map(|change| (n, change)));
        now = now.after(duration_us as u64);
    }
    told
}

#[test]
fn a_step_is_told_with_its_moment_and_both_levels() {
    for (seed, noise, factor) in
        [(1, 0.01, 1.05), (2, 0.01, 2.0), (3, 0.05, 1.3), (4, 0.05, 0.7), (5, 0.03, 1.06), (6, 0.1, 1.15)]
    {
        let told = watch(seed, noise, 1_000, |n| if n < 400 { 1.0 } else { factor });
        assert_eq!(told.len(), 1, "{noise} {factor}: {told:?}");
        let (n, change) = &told[0];
        assert!((400..560).contains(n), "{noise} {factor}: told at {n}");
        // Four hundred iterations of a second; the tail makes them a little longer.
        let at = (change.at.0 - 1_000_000_000) as f64 / 408e6;
        assert!((at - 1.0).abs() < 0.06, "{noise} {factor}: {at}");
        assert!(!change.gradual);
        assert!((change.before_us as f64 / 1e6 - 1.0).abs() < 0.03, "{change:?}");
        assert!((change.after_us as f64 / 1e6 / factor - 1.0).abs() < 0.04, "{change:?}");
    }
}

#[test]
fn noise_is_no_change_however_long() {
    for (seed, noise) in [(10, 0.003), (11, 0.02), (12, 0.1), (13, 0.3)] {
        let told = watch(seed, noise, 100_000, |_| 1.0);
        assert!(told.is_empty(), "{noise}: {told:?}");
    }
}

#[test]
fn habits_are_no_change() {
    // Warm-up, then: a checkpoint every 50; accumulation, with a long iteration every 4; an evaluation every 200.
    for (habit, what) in [
        ((|n| if n % 50 == 0 { 9.0 } else { 1.0 }) as fn(u64) -> f64, "checkpoints"),
        (|n| if n % 4 == 3 { 2.5 } else { 1.0 }, "accumulation"),
        (|n| if n % 2 == 1 { 1.6 } else { 1.0 }, "accumulation of two"),
        (|n| if n % 200 < 6 { 0.4 } else { 1.0 }, "evaluation"),
        (|n| if n < 8 { 20.0 / (n + 1) as f64 } else { 1.0 }, "warm-up"),
    ] {
        let told = watch(20, 0.02, 20_000, habit);
        assert!(told.is_empty(), "{what}: {told:?}");
    }
}

#[test]
fn steady_growth_is_gradual() {
    for (seed, per_iteration) in [(30, 0.0002), (31, 0.001), (32, 0.002)] {
        let told = watch(seed, 0.01, (1.5 / per_iteration) as u64, |n| 1.0 + per_iteration * n as f64);
        assert!((3..=10).contains(&told.len()), "{per_iteration}: {told:?}");
        assert!(told.iter().all(|(_, change)| change.gradual), "{per_iteration}: {told:?}");
    }
}

#[test]
fn there_and_back_are_two_changes() {
    let told = watch(40, 0.02, 1_500, |n| if (500..800).contains(&n) { 1.4 } else { 1.0 });
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].1.after_us > told[0].1.before_us && told[1].1.after_us < told[1].1.before_us);
}

#[test]
fn another_pattern_does_not_compare_and_nothing_odd_breaks_it() {
    let mut watch = Watch::default();
    for n in 0..2_000_u64 {
        let (operations, us) = if n < 500 { (4, 1e6) } else { (64, 16e6) };
        assert_eq!(watch.push(operations, us, Timestamp(n * 1_000_000)), None);
    }
    for us in [f64::NAN, f64::INFINITY, 0.0, -1.0, f64::MAX, f64::MIN_POSITIVE] {
        assert_eq!(watch.push(64, us, Timestamp(0)), None);
    }
}
