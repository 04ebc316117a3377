//! What people are shown of a job that is healthy, hangs, or has a slow link.

mod common;

use std::path::Path;

use c4_detect::{
    detector::{Config, Detector},
    observation::{JobId, Observation, Timestamp},
    scene::{Scene, Standing, WaitRoot},
    view::RankState,
};
use common::{Fault, Shape, run};
use serde::Deserialize;

const S: u64 = 1_000_000;

#[test]
fn of_a_healthy_job_nobody_waits_and_every_iteration_counts() {
    let outcome = run(11, Shape::new(8, 250_000), Vec::new(), 60 * S);
    let scene = outcome.detector.scene(&JobId("llm".into())).expect("the job is known");
    assert_eq!((scene.spots.len(), scene.spots_left_out), (8, 0));
    assert!(scene.roots.is_empty() && scene.standstills.is_empty() && scene.peer_waits.is_empty());
    let iterations: u64 = scene.iterations.iter().map(|point| point.iterations).sum();
    assert!((150..=250).contains(&iterations), "{iterations} iterations of 250 ms in 60 s");
    assert!(scene.iterations.iter().all(|point| point.least_us <= point.mean_us));
    assert!(outcome.detector.scene(&JobId("another".into())).is_none());
}

#[test]
fn in_a_hang_all_waits_end_at_the_rank_that_does_not_come() {
    let outcome =
        run(12, Shape::new(8, 250_000), vec![Fault::Stop { rank: 5, at: 20 * S, until: None }], 40 * S);
    let scene = outcome.detector.scene(&JobId("llm".into())).expect("the job is known");
    assert_eq!(scene.roots, [WaitRoot::Ranks { ranks: vec![5] }]);
    assert_eq!(scene.spots[5].state, RankState::Stopped);
    let [standstill] = &scene.standstills[..] else { panic!("one standstill: {:?}", scene.standstills) };
    assert!(standstill.is_root);
    for entry in &standstill.members {
        let expected = if entry.spot == 5 { Standing::Stopped } else { Standing::Waiting };
        assert_eq!(entry.standing, expected, "rank {}", entry.spot);
        // Who waits has entered when the wait began or later; who is waited for has not.
        assert_eq!(entry.enqueued.is_some(), entry.spot != 5);
        assert!(entry.started.is_none_or(|started| started >= standstill.since));
    }
}

#[derive(Deserialize)]
struct Line {
    now: Timestamp,
    observation: Observation,
}

/// The last scene of a recorded run.
fn recorded(case: &str) -> Scene {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(case).join("input.jsonl");
    let text = std::fs::read_to_string(path).expect("a recording");
    let mut detector = Detector::new(Config::default());
    let mut found = None;
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).expect("a line");
        if let Some(finding) = detector.observe(line.observation, line.now).into_iter().next() {
            found = found.or(detector.scene(&finding.job));
        }
    }
    found.expect("a finding, and the job it is about")
}

#[test]
fn a_dead_link_is_where_the_waits_of_its_job_end() {
    let scene = recorded("dead-link");
    assert!(
        scene.roots.iter().any(|root| matches!(root, WaitRoot::Inside { .. } | WaitRoot::Transfer { .. })),
        "{:?}",
        scene.roots
    );
    assert!(scene.standstills.iter().any(|standstill| {
        standstill.is_root && standstill.members.iter().all(|entry| entry.standing == Standing::Waiting)
    }));
}
