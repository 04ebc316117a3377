//! Any bytes as the dumps of two ranks, a pickle or JSON, through to the findings. The dumps under `tests/dumps` are a good
//! corpus to begin with.

use std::path::PathBuf;

use c4ctl::analyze::{diagnose, flight, problem::Problems};

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let dumps: Vec<_> = [bytes, one, other]
        .into_iter()
        .zip(0..)
        .filter_map(|(bytes, rank)| flight::parse(bytes, Some(rank), &mut |_| {}).ok())
        .map(|dump| (PathBuf::from("fuzz"), dump))
        .collect();
    let mut problems = Problems::default();
    drop(diagnose(flight::recording(&dumps, &mut problems)));
}
