//! What is no anomaly, and what a change of the iteration time is: the job's own rhythm, learned without any marker.

mod common;

use c4_detect::{
    change::{ChangePoint, Part},
    finding::{Kind, Verdict},
};
use common::{EPOCH_US, Fault, Outcome, Shape, run};

const S: u64 = 1_000_000;

/// Runs a job in which nothing is wrong; returns what its iteration time did.
#[track_caller]
fn sound(seed: u64, shape: Shape, duration_us: u64) -> (Outcome, Vec<ChangePoint>) {
    let outcome = run(seed, shape, Vec::new(), duration_us);
    assert!(outcome.opened.is_empty(), "{}", outcome.describe());
    let changes = outcome.detector.jobs()[0].changes.clone();
    (outcome, changes)
}

/// Seconds after the start of the job.
fn seconds(change: &ChangePoint) -> f64 {
    (change.at.0 as f64 - EPOCH_US as f64) / 1e6
}

#[test]
fn warm_up_and_compilation_are_no_anomalies() {
    for seed in 6_000..6_004 {
        let mut shape = Shape::new(8, 400_000);
        shape.warm_up_us = 50 * S;
        shape.recompile = Some((200, 10 * S));
        // Who compiles enqueues nothing.
        shape.run_ahead = false;
        let (_, changes) = sound(seed, shape, 300 * S);
        assert_eq!(changes, [], "compiling once is no change of the iteration time");
    }
}

#[test]
fn evaluations_and_checkpoints_are_no_anomalies() {
    for seed in 6_010..6_013 {
        let mut shape = Shape::new(8, 300_000);
        shape.evaluation = Some(60);
        let (_, changes) = sound(seed, shape, 400 * S);
        assert_eq!(changes, []);
        let mut shape = Shape::new(8, 300_000);
        shape.checkpoint = Some((25, 2 * S));
        shape.all_pause = Some((40, 9 * S));
        let (_, changes) = sound(seed, shape, 600 * S);
        assert_eq!(changes, []);
    }
}

#[test]
fn accumulated_gradients_are_one_iteration() {
    for (seed, every) in [(6_020, 2), (6_021, 4), (6_022, 16)] {
        let mut shape = Shape::new(8, 200_000);
        shape.accumulate = Some(every);
        let (outcome, changes) = sound(seed, shape, 600 * S);
        assert_eq!(changes, []);
        let learned = outcome.detector.jobs()[0].iteration_ns.expect("learned") as f64 / 1e9;
        // A step of 0.2 s, and an operation more at the end with its share of the compute.
        let expected = 0.2 * every as f64 + 0.05;
        assert!((learned / expected - 1.0).abs() < 0.1, "every {every}: {learned} s, expected {expected}");
    }
}

#[test]
fn sequences_that_grow_are_gradual() {
    let mut shape = Shape::new(8, 300_000);
    shape.growth = 1.0;
    let (_, changes) = sound(6_030, shape, 500 * S);
    assert!(!changes.is_empty() && changes.iter().all(|change| change.gradual), "{changes:?}");
    assert_eq!(changes.len(), 1, "what goes on is one change: {changes:?}");
    assert!(changes[0].after_us as f64 > changes[0].before_us as f64 * 1.5, "{changes:?}");
}

#[test]
fn a_job_that_simply_ends_is_no_anomaly() {
    let end = Fault::End { at: 90 * S, spread: S, finalized: true, exit_code: Some(0), signal: None };
    let outcome = run(6_040, Shape::new(8, 300_000), vec![end], 120 * S);
    assert!(outcome.opened.is_empty(), "{}", outcome.describe());
    let view = &outcome.detector.jobs()[0];
    assert_eq!((&view.verdict, view.changes.len()), (&Verdict::Ended, 0));
}

#[test]
fn a_job_that_becomes_slower_as_a_whole_accuses_nobody_but_is_told() {
    for (seed, factor) in [(6_050, 1.1), (6_051, 1.5), (6_052, 0.8)] {
        let mut shape = Shape::new(8, 300_000);
        shape.slower = Some((120 * S, factor));
        let (mut outcome, changes) = sound(seed, shape, 300 * S);
        assert_eq!(changes.len(), 1, "{factor}: {changes:?}");
        let change = &changes[0];
        assert!((seconds(change) - 120.0).abs() < 3.0, "{factor}: {change:?}");
        let ratio = change.after_us as f64 / change.before_us as f64;
        assert!((ratio / factor - 1.0).abs() < 0.05, "{factor}: {change:?}");
        assert_eq!(change.grew.first().map(|grown| grown.part), Some(Part::Own), "{factor}: {change:?}");
        let told = outcome.detector.take_changes();
        assert_eq!(told.iter().map(|(_, change)| change).collect::<Vec<_>>(), [change], "as an event, once");
        assert_eq!(outcome.detector.take_changes(), []);
    }
}

#[test]
fn what_grew_is_told_by_communicator_and_part() {
    let mut shape = Shape::new(8, 300_000);
    shape.slower_transfers = Some((100 * S, 12.0));
    let (_, changes) = sound(6_060, shape, 260 * S);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let grown = &changes[0].grew[0];
    assert_eq!((grown.communicator.as_str(), grown.part, grown.communicators), ("dp", Part::Transfer, 1));
    assert_eq!(grown.operations, ["AllReduce"]);
    let factor = grown.after_us as f64 / grown.before_us as f64;
    assert!((9.0..14.0).contains(&factor), "{grown:?}");
}

#[test]
fn a_straggler_explains_the_change_that_came_with_it() {
    let fault = Fault::Slow { rank: 3, at: 100 * S, until: u64::MAX / 2, us: 90_000 };
    let outcome = run(6_070, Shape::new(8, 300_000), vec![fault], 220 * S);
    assert_eq!(outcome.kinds(), [Kind::NonCommSlow], "{}", outcome.describe());
    let changes = &outcome.detector.jobs()[0].changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!((seconds(&changes[0]) - 100.0).abs() < 3.0, "{changes:?}");
    let finding = outcome.last.values().next().expect("one");
    let evidence = &finding.evidence["iteration_time_changed"];
    assert!(evidence["after_ms"].as_f64() > evidence["before_ms"].as_f64(), "{evidence}");
    let waits = changes[0].grew.iter().any(|grown| grown.part == Part::Waiting);
    assert!(waits, "the others wait for it: {changes:?}");
}
