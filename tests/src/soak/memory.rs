//! What processes take, over time: memory and descriptors that only grow are a leak.

use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

use serde::Serialize;

use crate::scale::controller::usage;

/// A process's first seconds are not looked at: it takes in who is there.
const SETTLES: Duration = Duration::from_secs(20);

/// A process at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    at_seconds: f64,
    rss_bytes: u64,
    descriptors: usize,
}

/// All processes that there were, by what they are and their process id.
#[derive(Debug, Default)]
pub(super) struct Memory {
    samples: BTreeMap<(String, u32), Vec<Sample>>,
}

/// How one process did.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    /// What it is.
    pub process: String,
    /// Process id.
    pub pid: u32,
    /// How long it was watched.
    pub seconds: f64,
    /// Resident memory: at first (means over a tenth of its time), at most, at last.
    pub rss_bytes: [u64; 3],
    /// Open descriptors likewise.
    pub descriptors: [usize; 3],
    /// How fast memory grew in the second half of its time, in bytes an hour (least squares).
    pub growth_per_hour: f64,
}

impl Memory {
    /// Looks at a process, unless it is gone.
    pub(super) fn look(&mut self, name: &str, pid: u32, at: Duration) {
        let Ok(usage) = usage(pid) else { return };
        let descriptors = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
        let descriptors = descriptors.map_or(0, Iterator::count);
        let sample = Sample { at_seconds: at.as_secs_f64(), rss_bytes: usage.rss, descriptors };
        self.samples.entry((name.to_owned(), pid)).or_default().push(sample);
    }

    /// Those that lived long enough to be judged.
    pub(super) fn courses(&self) -> Vec<Course> {
        self.samples.iter().filter_map(|((name, pid), samples)| course(name, *pid, samples)).collect()
    }
}

fn course(process: &str, pid: u32, samples: &[Sample]) -> Option<Course> {
    let born = samples.first()?.at_seconds;
    let settled: Vec<Sample> =
        samples.iter().filter(|s| s.at_seconds - born >= SETTLES.as_secs_f64()).copied().collect();
    let (first, last) = (settled.first()?, settled.last()?);
    let part = settled.len().div_ceil(10);
    let mean = |samples: &[Sample], of: fn(&Sample) -> u64| {
        samples.iter().map(of).sum::<u64>() / samples.len().max(1) as u64
    };
    let three = |of: fn(&Sample) -> u64| {
        let most = settled.iter().map(of).max().unwrap_or(0);
        [mean(&settled[..part], of), most, mean(&settled[settled.len() - part..], of)]
    };
    Some(Course {
        process: process.to_owned(),
        pid,
        seconds: last.at_seconds - first.at_seconds,
        rss_bytes: three(|sample| sample.rss_bytes),
        descriptors: three(|sample| sample.descriptors as u64).map(|count| count as usize),
        growth_per_hour: slope(&settled[settled.len() / 2..]) * 3600.0,
    })
}

/// Bytes a second by which memory grew.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let (mean_x, mean_y) = (
        samples.iter().map(|s| s.at_seconds).sum::<f64>() / count,
        samples.iter().map(|s| s.rss_bytes as f64).sum::<f64>() / count,
    );
    let along = samples.iter().map(|s| (s.at_seconds - mean_x) * (s.rss_bytes as f64 - mean_y)).sum::<f64>();
    let spread = samples.iter().map(|s| (s.at_seconds - mean_x).powi(2)).sum::<f64>();
    if spread > 0.0 { along / spread } else { 0.0 }
}

/// A table of them.
pub(super) fn table(courses: &[Course]) -> String {
    let mut text = format!(
        "{:<24} {:>8} {:>22} {:>14} {:>20}\n",
        "process (at least 20 s)", "seconds", "MB first/most/last", "MB an hour", "files first/most/last"
    );
    for course in courses {
        let [first, most, last] = course.rss_bytes.map(|bytes| bytes as f64 / 1e6);
        let [few, many, now] = course.descriptors;
        // Of a short time, no growth can be told.
        let growth = if course.seconds < 120.0 {
            "-".to_owned()
        } else {
            format!("{:+.1}", course.growth_per_hour / 1e6)
        };
        let _ = writeln!(
            text,
            "{:<24} {:>8.0} {:>22} {:>14} {:>20}",
            format!("{} ({})", course.process, course.pid),
            course.seconds,
            format!("{first:.1}/{most:.1}/{last:.1}"),
            growth,
            format!("{few}/{many}/{now}"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_what_only_comes_and_goes() {
        let samples = |rss: fn(u64) -> u64| -> Vec<Sample> {
            (0..1000).map(|n| Sample { at_seconds: n as f64, rss_bytes: rss(n), descriptors: 7 }).collect()
        };
        let leaks = course("a", 1, &samples(|n| 50_000_000 + n * 1_000)).expect("long enough");
        assert!((leaks.growth_per_hour - 3_600_000.0).abs() < 1.0, "{leaks:?}");
        let flat = course("a", 1, &samples(|n| 50_000_000 + n % 20 * 100_000)).expect("long enough");
        assert!(flat.growth_per_hour.abs() < 500_000.0, "{flat:?}");
        assert_eq!(flat.descriptors, [7, 7, 7]);
        assert!(course("a", 1, &samples(|n| n)[..10]).is_none(), "too short");
    }
}
