//! What a detector was told in real runs, replayed: the verdicts must stay what they were.
//!
//! A case is a folder under `tests/recordings`: `input.jsonl.zst` is what `record:` in the controller's configuration
//! writes, `expected.json` which findings there were (kinds, suspects, whether they were cleared; not their wording,
//! which may improve), `README` says what was done to the job. `C4_BLESS=1` rewrites what is expected: read the
//! difference before you commit it. `./tests/demo --record FILE` makes such an input.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use c4_detect::{
    detector::{Config, Detector},
    finding::Finding,
    observation::{Observation, Timestamp},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A line of the controller's record.
#[derive(Deserialize)]
struct Line {
    now: Timestamp,
    observation: Observation,
}

fn replay(input: &Path) -> Vec<Finding> {
    let file = File::open(input).expect("input.jsonl.zst can be opened");
    let text = ruzstd::decoding::StreamingDecoder::new(file).expect("a zstd stream");
    let mut detector = Detector::new(Config::default());
    let mut findings: Vec<Finding> = Vec::new();
    for (number, line) in BufReader::new(text).lines().enumerate() {
        let line = line.expect("a line");
        let line: Line = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{}, line {}: {error}", input.display(), number + 1));
        for finding in detector.observe(line.observation, line.now) {
            match findings.iter_mut().find(|known| known.id == finding.id) {
                Some(known) => *known = finding,
                None => findings.push(finding),
            }
        }
    }
    findings
}

fn summary(findings: &[Finding]) -> Value {
    let suspect = |finding: &Finding| {
        let suspect = finding.suspects.first()?;
        let link = suspect.link.as_ref().map(|link| format!("{} to {}", link.src, link.dst));
        Some(json!({"rank": suspect.rank, "node": suspect.node, "link": link}))
    };
    let entries = findings.iter().map(|finding| {
        json!({
            "kind": finding.kind.name(),
            "incarnation": finding.incarnation,
            "first_suspect": suspect(finding),
            "cleared": finding.cleared.is_some(),
        })
    });
    json!({"findings": entries.collect::<Vec<_>>()})
}

#[test]
fn recorded_runs_are_judged_as_they_were() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)
        .expect("tests/recordings")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "there are recordings");
    let mut wrong = Vec::new();
    for case in &cases {
        assert!(case.join("README").exists(), "{} says what it shows", case.display());
        let got = format!("{:#}\n", summary(&replay(&case.join("input.jsonl.zst"))));
        let expected = case.join("expected.json");
        if std::env::var_os("C4_BLESS").is_some() {
            fs::write(&expected, &got).expect("expected.json can be written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != got {
            wrong.push(format!("{} says otherwise; it now is:\n{got}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
