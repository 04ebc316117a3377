//! Stragglers: named within ten iterations (or three windows, whichever is longer), cleared when they recover, and
//! told from work that is unbalanced.

mod common;

use c4_detect::finding::Kind;
use common::{EPOCH_US, Fault, Shape, run};

const S: u64 = 1_000_000;

#[test]
fn a_straggler_is_named_within_ten_iterations() {
    for (ranks, iteration_us) in [(2, 20_000), (4, 100_000), (8, 300_000), (16, 500_000), (64, 1_000_000)] {
        for percent in [20, 50, 100] {
            for round in 0..2 {
                let seed = 2_000 + percent + round;
                let rank = (seed as usize * 13 + 5) % ranks;
                let at = (60 * iteration_us).max(20 * S) + seed * 7_919 % S;
                let us = iteration_us * percent / 100;
                let fault = Fault::Slow { rank, at, until: u64::MAX / 2, us };
                let shape = Shape::new(ranks, iteration_us);
                let outcome = run(seed, shape, vec![fault], at + 60 * iteration_us + 20 * S);
                let what = format!("{ranks} ranks, {iteration_us} us, {percent} %: {}", outcome.describe());
                assert_eq!(outcome.kinds(), vec![Kind::NonCommSlow], "{what}");
                assert_eq!(outcome.first_rank(), Some(rank as u32), "{what}");
                // Windows of one second, sent at different times by different nodes, bound it from below.
                let iterations_us = 10 * (iteration_us + us);
                let limit = (iterations_us as f64 * 1e-6).max(3.0);
                let delay = outcome.delay(at);
                assert!((0.0..=limit).contains(&delay), "{delay} s of {limit}: {what}");
                let since = outcome.opened[0].since.0 as f64 - (EPOCH_US + at) as f64;
                assert!(since.abs() < 2e6 + 2.0 * iteration_us as f64, "since is off by {since} us: {what}");
            }
        }
    }
}

#[test]
fn a_straggler_that_recovers_is_cleared() {
    let shape = Shape::new(8, 300_000);
    let fault = Fault::Slow { rank: 6, at: 30 * S, until: 60 * S, us: 100_000 };
    let outcome = run(2_300, shape, vec![fault], 90 * S);
    assert_eq!(outcome.kinds(), vec![Kind::NonCommSlow], "{}", outcome.describe());
    let finding = outcome.last.values().next().expect("one finding");
    let cleared = finding.cleared.expect("cleared").0 - EPOCH_US;
    assert!((60 * S..70 * S).contains(&cleared), "cleared at {cleared}");
    for key in ["lateness_ms_per_iteration", "lateness_percent", "samples", "noise_percent"] {
        assert!(finding.evidence.contains_key(key), "{key} is missing");
    }
    let ms = finding.evidence["lateness_ms_per_iteration"].as_f64().expect("a number");
    assert!((90.0..115.0).contains(&ms), "{ms} ms an iteration");
}

#[test]
fn a_straggler_from_the_start_is_named_too() {
    for ranks in [2, 8] {
        let fault = Fault::Slow { rank: 1, at: 0, until: u64::MAX / 2, us: 60_000 };
        let outcome = run(2_400 + ranks as u64, Shape::new(ranks, 200_000), vec![fault], 60 * S);
        assert_eq!(outcome.kinds(), vec![Kind::NonCommSlow], "{}", outcome.describe());
        assert_eq!(outcome.first_rank(), Some(1), "{}", outcome.describe());
    }
}

#[test]
fn ranks_that_take_turns_are_a_workload_not_a_rank() {
    for (i, ranks) in [4, 8, 16, 64].into_iter().enumerate() {
        for round in 0..3 {
            let seed = 2_500 + i as u64 * 10 + round;
            let mut shape = Shape::new(ranks, 500_000);
            // One operation an iteration: blocks do not blur what happens within them.
            shape.operations = vec![1 << 20];
            let outcome = run(seed, shape, vec![Fault::Turns { us: 250_000 }], 240 * S);
            assert!(
                outcome.kinds().iter().all(|kind| *kind == Kind::WorkloadImbalance),
                "{ranks} ranks, seed {seed}: {}",
                outcome.describe()
            );
            assert_eq!(outcome.kinds().len(), 1, "{ranks} ranks, seed {seed}: {}", outcome.describe());
        }
    }
}

#[test]
fn a_slow_class_of_nics_is_topology_and_a_slow_member_of_it_is_a_fault() {
    let mut shape = Shape::new(16, 400_000);
    shape.ranks_per_node = 4;
    shape.slow_class = Some((2, 100_000));
    let healthy = run(2_700, shape.clone(), Vec::new(), 120 * S);
    assert!(healthy.opened.is_empty(), "{}", healthy.describe());
    for rank in [3, 13] {
        // On top of what its class costs it.
        let us = if rank == 3 { 200_000 } else { 100_000 };
        let fault = Fault::Slow { rank, at: 40 * S, until: u64::MAX / 2, us };
        let outcome = run(2_701, shape.clone(), vec![fault], 120 * S);
        assert_eq!(outcome.kinds(), vec![Kind::NonCommSlow], "{}", outcome.describe());
        assert_eq!(outcome.first_rank(), Some(rank as u32), "{}", outcome.describe());
    }
}

#[test]
fn a_resized_collective_that_does_not_hang_is_a_disagreement() {
    let fault = Fault::Resize { rank: 2, at: 30 * S, hangs: false };
    let shape = Shape::new(8, 100_000);
    let outcome = run(2_600, shape.clone(), vec![fault.clone()], 60 * S);
    let open = outcome.last.values().all(|finding| finding.cleared.is_none());
    assert!(open, "there is time to decide what becomes of the job: {}", outcome.describe());
    let outcome = run(2_600, shape, vec![fault], 120 * S);
    assert_eq!(outcome.kinds(), vec![Kind::Desync], "{}", outcome.describe());
    assert_eq!(outcome.first_rank(), Some(2));
    assert!(
        outcome.last.values().all(|finding| finding.cleared.is_some()),
        "it clears when they agree again"
    );
}
