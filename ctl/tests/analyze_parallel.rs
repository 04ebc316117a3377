//! `c4ctl analyze` on traces of jobs with several communicators, sends and receives, through the real binary.

use std::fs;

use serde_json::{Value, json};

#[path = "support/parallel.rs"]
mod parallel;
mod support;

use parallel::{Fault, Job};
use support::{command, json};

fn analyze(lines: &[String]) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace.jsonl");
    fs::write(&path, lines.join("\n") + "\n").expect("written");
    let output = command(&["analyze", "--json"]).arg(&path).output().expect("runs");
    let document = json(&output);
    assert_eq!(document["problems"], json!([]), "{document:#}");
    document
}

/// Kind and first suspect of the only finding.
fn verdict(job: &Job) -> (String, Value) {
    let document = analyze(&job.lines());
    let findings = document["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 1, "{document:#}");
    let kind = findings[0]["kind"].as_str().expect("a kind").to_owned();
    (kind, findings[0]["suspects"][0]["rank"].clone())
}

/// With coordinates and without, with computations and without.
fn variants(job: impl Fn() -> Job) -> impl Iterator<Item = (Job, String)> {
    [(true, false), (false, false), (true, true), (false, true)].into_iter().map(move |(coords, computes)| {
        (Job { coords, computes, ..job() }, format!("coords {coords}, computes {computes}"))
    })
}

#[test]
fn healthy_jobs_have_no_findings() {
    for (tp, dp, pp) in [(2, 2, 2), (1, 4, 2), (4, 1, 2), (1, 2, 4), (2, 4, 1)] {
        for (job, variant) in variants(|| Job { tp, dp, pp, ..Job::default() }) {
            let document = analyze(&job.lines());
            assert_eq!(document["findings"], json!([]), "{tp} {dp} {pp}, {variant}: {document:#}");
        }
    }
}

#[test]
fn a_hang_of_one_tensor_rank_is_not_blamed_on_those_who_wait() {
    for rank in [0, 3, 5] {
        for (job, variant) in variants(|| Job { fault: Some((rank, 40, Fault::Hang(3))), ..Job::default() }) {
            assert_eq!(verdict(&job), ("non_comm_hang".to_owned(), json!(rank)), "{variant}");
        }
    }
}

#[test]
fn a_stage_that_does_not_send_is_followed_over_receives() {
    for (job, variant) in variants(|| Job {
        tp: 1,
        dp: 2,
        pp: 4,
        fault: Some((3, 30, Fault::HangBeforeSend)),
        ..Job::default()
    }) {
        assert_eq!(verdict(&job), ("non_comm_hang".to_owned(), json!(3)), "{variant}");
    }
}

#[test]
fn a_rank_that_skips_an_operation_is_named() {
    let job = Job { fault: Some((6, 30, Fault::SkipsGradients)), ..Job::default() };
    let (_, suspect) = verdict(&job);
    assert_eq!(suspect, json!(6));
}

#[test]
fn a_rank_that_computes_longer_is_named_in_any_layout() {
    for (tp, dp, pp) in [(2, 2, 2), (1, 4, 2), (2, 4, 1), (4, 2, 2), (1, 2, 4)] {
        for (job, variant) in variants(|| Job {
            tp,
            dp,
            pp,
            factor: |rank, iteration| if rank == 5 && iteration > 15 { 1.3 } else { 1.0 },
            ..Job::default()
        }) {
            let expected = ("non_comm_slow".to_owned(), json!(5));
            assert_eq!(verdict(&job), expected, "{tp} {dp} {pp}, {variant}");
        }
    }
}

#[test]
fn a_stage_with_more_work_is_no_rank_at_fault() {
    for (job, variant) in
        variants(|| Job { factor: |rank, _| if rank >= 4 { 1.5 } else { 1.0 }, ..Job::default() })
    {
        let document = analyze(&job.lines());
        assert_eq!(document["findings"][0]["kind"], "workload_imbalance", "{variant}: {document:#}");
        assert_eq!(document["findings"].as_array().map(Vec::len), Some(1), "{variant}: {document:#}");
    }
}

#[test]
fn stragglers_that_take_turns_are_uneven_data() {
    let turns = |rank: u32, iteration: u64| {
        if (iteration * 7 + iteration / 5) % 8 == u64::from(rank) { 2.0 } else { 1.0 }
    };
    for (job, variant) in variants(|| Job { factor: turns, iterations: 120, ..Job::default() }) {
        assert_eq!(verdict(&job).0, "workload_imbalance", "{variant}");
    }
}

#[test]
fn sampled_iterations_and_overlap_change_nothing() {
    let slow = |rank: u32, iteration: u64| if rank == 2 && iteration > 50 { 1.3 } else { 1.0 };
    for recorded in [|i: u64| i.is_multiple_of(5), |i: u64| i % 40 < 20] {
        for (job, variant) in variants(|| Job { recorded, iterations: 300, overlap: true, ..Job::default() })
        {
            assert_eq!(analyze(&job.lines())["findings"], json!([]), "{variant}");
        }
        for (job, variant) in
            variants(|| Job { recorded, factor: slow, iterations: 300, overlap: true, ..Job::default() })
        {
            assert_eq!(verdict(&job), ("non_comm_slow".to_owned(), json!(2)), "{variant}");
        }
    }
}

/// A number from 0 to 1 that is the same every time.
fn chance(seed: u64, rank: u32, number: u64) -> f64 {
    let mut state = (u64::from(rank) << 40 | number).wrapping_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ state >> 31) % 100_000) as f64 / 1e5
}

/// Some per cent of noise, and now and then a pause of up to several iterations.
fn heavy_tails<const SEED: u64>(rank: u32, iteration: u64) -> f64 {
    let noise = (0..6).map(|k| chance(SEED, rank * 16 + k, iteration)).sum::<f64>() / 6.0 - 0.5;
    let pauses = chance(SEED, rank + 7_777, iteration) < 0.02;
    let pause = if pauses { 0.3 / chance(SEED, rank + 999, iteration).max(0.05) } else { 0.0 };
    1.0 + noise * 0.3 + pause
}

fn and_slow<const SEED: u64>(rank: u32, iteration: u64) -> f64 {
    heavy_tails::<SEED>(rank, iteration) * if rank == 5 && iteration > 50 { 1.15 } else { 1.0 }
}

#[test]
fn heavy_tails_accuse_nobody_and_hide_nobody() {
    let healthy = [heavy_tails::<1>, heavy_tails::<2>, heavy_tails::<3>];
    let slow = [and_slow::<1>, and_slow::<2>, and_slow::<3>];
    for (tp, dp, pp, overlap, computes) in
        [(2, 2, 2, true, false), (1, 4, 2, true, true), (1, 8, 1, false, false)]
    {
        for (healthy, slow) in healthy.into_iter().zip(slow) {
            let job =
                |factor| Job { tp, dp, pp, overlap, computes, iterations: 150, factor, ..Job::default() };
            let document = analyze(&job(healthy).lines());
            assert_eq!(document["findings"], json!([]), "{tp} {dp} {pp}: {document:#}");
            assert_eq!(verdict(&job(slow)), ("non_comm_slow".to_owned(), json!(5)), "{tp} {dp} {pp}");
        }
    }
}
