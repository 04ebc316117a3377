//! Recorded runs on disk.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use c4_detect::observation::{Observation, Timestamp};
use serde::{Deserialize, Serialize};

/// A line of a recording.
#[derive(Clone, Serialize, Deserialize)]
pub struct Line {
    pub now: Timestamp,
    pub observation: Observation,
}

/// Where the cases are that replay compares.
pub fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// The cases in a directory, by name.
pub fn cases(directory: &Path) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    cases.sort();
    cases
}

/// The input of a case, plain or compressed.
pub fn read_input(case: &Path) -> String {
    let compressed = case.join("input.jsonl.gz");
    if !compressed.exists() {
        return fs::read_to_string(case.join("input.jsonl")).expect("input.jsonl can be read");
    }
    let file = fs::File::open(compressed).expect("input.jsonl.gz can be opened");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("input.jsonl.gz is gzip of text");
    text
}
