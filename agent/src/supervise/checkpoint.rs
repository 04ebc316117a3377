//! Follows the marker in which a job leaves the iteration of its newest checkpoint and, after a blank, how many seconds that
//! checkpoint kept it from its work ("1200 3.5"). The checkpoint's age is taken from when the marker was *seen* to change, by a
//! monotonic clock: file times are wall-clock times, and those jump.

use std::{fs, io::Read, path::PathBuf, time::Duration};

use tokio::time::Instant;

use crate::report::Checkpoint;

/// A marker is a number; whatever is longer is none.
const MAX_MARKER: u64 = 256;

/// Parses a marker: the first word is the iteration, the second, if it is a number, what it took in seconds.
#[must_use]
pub fn parse_marker(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut words = text.split_ascii_whitespace();
    let iteration = words.next()?.parse().ok()?;
    let took = words.next().and_then(|word| word.parse().ok());
    Some((iteration, took.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())))
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    iteration: u64,
    took: Option<Duration>,
    at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    looked: bool,
    newest: Option<Seen>,
}

impl Marker {
    /// Follows `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, looked: false, newest: None }
    }

    /// Looks. True when there is a newer checkpoint than at the last look. A marker that is being rewritten, or is
    /// nonsense, changes nothing.
    pub fn look(&mut self, now: Instant) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let Some((iteration, took)) = self.read() else { return false };
        if self.newest.is_some_and(|known| known.iteration == iteration) {
            return false;
        }
        // One that was there before us may be of any age.
        self.newest = Some(Seen { iteration, took, at: (!first).then_some(now) });
        true
    }

    fn read(&self) -> Option<(u64, Option<Duration>)> {
        let mut text = String::new();
        fs::File::open(&self.path).ok()?.take(MAX_MARKER).read_to_string(&mut text).ok()?;
        parse_marker(&text)
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn newest(&self, now: Instant) -> Option<Checkpoint> {
        let Seen { iteration, took, at } = self.newest?;
        let us = |time: Duration| u64::try_from(time.as_micros()).ok();
        let age = at.map(|at| now.saturating_duration_since(at));
        Some(Checkpoint { iteration, age_us: age.and_then(us), took_us: took.and_then(us) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_marker_is_followed_by_the_monotonic_clock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marker");
        let mut marker = Marker::new(path.clone());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!marker.look(at(0)));
        assert_eq!(marker.newest(at(0)), None);
        fs::write(&path, "120 0.25\n").unwrap();
        assert!(marker.look(at(1)) && !marker.look(at(2)));
        assert_eq!(
            marker.newest(at(4)),
            Some(Checkpoint { iteration: 120, age_us: Some(3_000_000), took_us: Some(250_000) })
        );
        fs::write(&path, "").unwrap();
        assert!(!marker.look(at(5)));
        assert_eq!(marker.newest(at(5)).unwrap().iteration, 120);
        // After a restart the job may go back.
        fs::write(&path, "100 some words").unwrap();
        assert!(marker.look(at(6)));
    }

    #[test]
    fn the_age_of_an_older_marker_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marker");
        fs::write(&path, "7").unwrap();
        let mut marker = Marker::new(path);
        assert!(marker.look(Instant::now()));
        assert_eq!(
            marker.newest(Instant::now()),
            Some(Checkpoint { iteration: 7, age_us: None, took_us: None })
        );
    }

    #[test]
    fn nonsense_is_no_checkpoint() {
        for text in ["", " ", "x", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(parse_marker(text), None, "{text:?}");
        }
        for text in ["7", "7 soon", "7 -1", "7 NaN", "7 1e300"] {
            assert_eq!(parse_marker(text), Some((7, None)), "{text:?}");
        }
    }
}
