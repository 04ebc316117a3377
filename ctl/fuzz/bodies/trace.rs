//! Any bytes as the lines of an operation trace, through to the findings and the image.

use std::{path::PathBuf, sync::Arc};

use c4ctl::analyze::{
    collect::{Collector, Place},
    diagnose,
    problem::Problems,
    timeline, trace,
};

/// Plays one input.
pub fn run(bytes: &[u8]) {
    // A small room, so that long traces are tried as well.
    let (mut collector, mut problems) = (Collector::with_room_for(64), Problems::default());
    let file = Arc::new(PathBuf::from("fuzz"));
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let place = Place { file: Arc::clone(&file), line: number as u64 + 1 };
        if let Ok(line) = trace::parse(line, None) {
            collector.take(line, &place, &mut problems);
        }
    }
    let diagnosis = diagnose(collector.finish(&mut problems));
    let pictures: Vec<_> =
        diagnosis.findings.iter().map(|finding| (finding, timeline::lanes::lanes(&diagnosis, finding))).collect();
    drop(timeline::svg::svg(&pictures));
}
