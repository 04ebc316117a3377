//! Files that are damaged or made to do harm: whatever comes, an answer or an error, never a panic.

use std::{fs, path::PathBuf, sync::Arc};

use c4ctl::analyze::{
    collect::{Collector, Place},
    diagnose, flight,
    problem::Problems,
    recording::Recording,
    timeline, trace,
};
use proptest::prelude::*;

#[path = "support/parallel.rs"]
mod parallel;

fn look_at(recording: Recording) {
    let diagnosis = diagnose(recording);
    let pictures: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|finding| (finding, timeline::lanes::lanes(&diagnosis, finding)))
        .collect();
    assert!(timeline::svg::svg(&pictures).ends_with("</svg>\n"));
}

fn dumps(name: &str) -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).expect("the case").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| !path.ends_with(".what"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a dump")).collect()
}

fn small_job() -> Vec<String> {
    let fault = Some((1, 3, parallel::Fault::Hang(1)));
    parallel::Job { iterations: 6, fault, computes: true, ..parallel::Job::default() }.lines()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn dumps_with_wrong_bytes(
        case in prop::sample::select(vec!["pipeline", "only-status", "cycle"]),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut read = Vec::new();
        for (rank, mut bytes) in (0..).zip(dumps(case)) {
            for (place, byte) in &patches {
                let at = place.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Ok(dump) = flight::parse(&bytes, Some(rank), &mut |_| {}) {
                read.push((PathBuf::from("dump"), dump));
            }
        }
        look_at(flight::recording(&read, &mut Problems::default()));
    }
}

proptest! {
    // Each is a whole job, replayed to its end.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn traces_with_lines_lost_doubled_and_wrong(
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        doubled in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[0-9]"), 0..20),
        room in 1..4_000_usize,
    ) {
        let mut lines = small_job();
        for index in lost {
            lines.swap_remove(index.index(lines.len()));
        }
        for index in doubled {
            let line = lines[index.index(lines.len())].clone();
            lines.push(line);
        }
        for (index, at, digit) in wrong {
            let number = lines.len();
            let line = &mut lines[index.index(number)];
            let at = at.index(line.len());
            line.replace_range(at..=at, &digit);
        }
        let (mut collector, mut problems) = (Collector::with_room_for(room), Problems::default());
        let file = Arc::new(PathBuf::from("trace"));
        for (number, line) in (1..).zip(&lines) {
            if let Ok(line) = trace::parse(line.as_bytes(), None) {
                collector.take(line, &Place { file: Arc::clone(&file), line: number }, &mut problems);
            }
        }
        look_at(collector.finish(&mut problems));
    }
}
