//! Recorded runs in which somebody falsified some of what was told. Stories that are made up at random (`robust`) hardly get to
//! where a rhythm is known, links are compared and hangs are followed; these do. What is found then is anybody's guess, but nothing
//! panics, and findings hold together.
//!
//! `C4_SEEDS=100 cargo test -p c4-detect --test spoiled` plays a hundred versions of each recording instead of six.

mod common;

use c4_detect::{
    detector::{Config, Detector},
    observation::{HealthEvent, Observation, ProcessInfo, Severity},
};
use common::{Line, assert_sound, cases, read_input, recordings, seeds};
use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 9] =
    [0, 1, 2, i32::MAX as u64, u32::MAX as u64 - 1, u32::MAX as u64, i64::MAX as u64, u64::MAX - 1, u64::MAX];

/// All numbers in a document.
fn numbers<'a>(value: &'a mut Value, into: &mut Vec<&'a mut Value>) {
    match value {
        Value::Number(_) => into.push(value),
        Value::Array(list) => list.iter_mut().for_each(|value| numbers(value, into)),
        Value::Object(map) => map.values_mut().for_each(|value| numbers(value, into)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The same with another number somewhere, if there is one that can be something else.
fn spoil(observation: &Observation, rng: &mut impl Rng) -> Option<Observation> {
    let mut value = serde_json::to_value(observation).expect("serialises");
    let mut found = Vec::new();
    numbers(&mut value, &mut found);
    let known: Vec<u64> = found.iter().filter_map(|number| number.as_u64()).collect();
    let at = rng.random_range(0..found.len().max(1));
    let (is, other) = (*known.get(at)?, *known.choose(rng)?);
    let becomes = match rng.random_range(0..6) {
        0 => is.wrapping_add(1),
        1 => is.wrapping_sub(1),
        2 => is.wrapping_mul(1_000),
        // Somebody else's.
        3 => other,
        _ => *EDGES.choose(rng)?,
    };
    **found.get_mut(at)? = becomes.into();
    // It may be too large for its type.
    serde_json::from_value(value).ok()
}

/// A sensor says something of where one of these runs.
fn health(processes: &[&ProcessInfo], rng: &mut impl Rng) -> Option<Observation> {
    let process = processes.choose(rng)?;
    let code =
        *["xid-79", "xid-31", "xid-48", "nvlink-down", "mlx5-link-down", "memory-pressure"].choose(rng)?;
    Some(Observation::Health(HealthEvent {
        node: process.node.clone(),
        gpu: process.gpu.filter(|_| rng.random_bool(0.8)),
        nic: rng.random_bool(0.2).then(|| "mlx5_0".to_owned()),
        code: code.to_owned(),
        detail: format!("{code}, pid={}", process.pid),
        severity: *[Severity::Info, Severity::Warning, Severity::Fatal].choose(rng)?,
        cleared: rng.random_bool(0.1),
        ago_us: rng.random_range(0..10_000_000),
    }))
}

fn play<'a>(lines: &'a [Line], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let often = [0.5, 0.05, 0.005][rng.random_range(0..3)];
    let started = |line: &'a Line| match &line.observation {
        Observation::ProcessStarted(process) => Some(process),
        _ => None,
    };
    let processes: Vec<&ProcessInfo> = lines.iter().filter_map(started).collect();
    let mut detector = Detector::new(Config::default());
    for Line { now, observation } in lines {
        let mut told = vec![observation.clone()];
        if rng.random_bool(often) {
            match rng.random_range(0..8) {
                0 => told.clear(),
                1 => told.push(observation.clone()),
                // As by a process that says so beside the one that is there.
                2 => told.extend(spoil(observation, &mut rng)),
                3 => told.extend(health(&processes, &mut rng)),
                _ => {
                    told.iter_mut().for_each(|one| *one = spoil(one, &mut rng).unwrap_or_else(|| one.clone()))
                }
            }
        }
        for observation in told {
            detector.observe(observation, *now).iter().for_each(|finding| assert_sound(finding, *now));
        }
    }
}

#[test]
fn nothing_panics_when_recorded_runs_are_falsified() {
    let cases = cases(&recordings());
    assert!(!cases.is_empty(), "recordings are there");
    for case in cases {
        let parse = |text| serde_json::from_str(text).expect("a line of a recording");
        let lines: Vec<Line> = read_input(&case).lines().map(parse).collect();
        for seed in 0..seeds(6) {
            // Shown where it fails.
            println!("{} with seed {seed}", case.display());
            play(&lines, seed);
        }
    }
}
