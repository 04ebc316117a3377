//! Replays recordings (`{now, observation}` lines, plain or gzip) through the detector and prints what it says, with
//! the seconds since the recording's first line: `cargo run -p c4-detect --example replay FILE…`.

use std::{
    error::Error,
    fs::File,
    io::{BufRead as _, BufReader, Read},
};

use c4_detect::{
    detector::{Config, Detector},
    observation::{Observation, Timestamp},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    now: Timestamp,
    observation: Observation,
}

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        println!("{path}");
        let file = File::open(&path)?;
        let input: Box<dyn Read> =
            if path.ends_with(".gz") { Box::new(flate2::read::GzDecoder::new(file)) } else { Box::new(file) };
        let mut detector = Detector::new(Config::default());
        let mut first = None;
        for line in BufReader::new(input).lines() {
            let line: Line = serde_json::from_str(&line?)?;
            let first = *first.get_or_insert(line.now);
            for finding in detector.observe(line.observation, line.now) {
                let what = if finding.cleared.is_some() { "cleared" } else { "told" };
                let at = line.now.micros_since(first) as f64 / 1e6;
                println!(
                    "{at:9.3} {what} {} {:.2}: {}",
                    finding.kind.name(),
                    finding.confidence,
                    finding.summary
                );
            }
        }
        for job in detector.jobs() {
            println!("          {} {:?}", job.job.0, job.verdict);
        }
    }
    Ok(())
}
