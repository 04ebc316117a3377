//! Follows the marker in which a job leaves the iteration of its newest checkpoint. Its age is taken from when the marker
//! was *seen* to change, by a monotonic clock: file times are wall-clock times, and those jump.

use std::{fs, io::Read, path::PathBuf};

use tokio::time::Instant;

use crate::report::Checkpoint;

/// A marker is a number; whatever is longer is none.
const MAX_MARKER: u64 = 256;

/// Parses a marker: the first word is the iteration.
#[must_use]
pub fn parse_marker(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// See the module.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    looked: bool,
    newest: Option<(u64, Option<Instant>)>,
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
        let Some(iteration) = self.read() else { return false };
        if self.newest.is_some_and(|(known, _)| known == iteration) {
            return false;
        }
        // One that was there before us may be of any age.
        self.newest = Some((iteration, (!first).then_some(now)));
        true
    }

    fn read(&self) -> Option<u64> {
        let mut text = String::new();
        fs::File::open(&self.path).ok()?.take(MAX_MARKER).read_to_string(&mut text).ok()?;
        parse_marker(&text)
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn newest(&self, now: Instant) -> Option<Checkpoint> {
        let (iteration, seen) = self.newest?;
        let age = seen.map(|seen| now.saturating_duration_since(seen));
        Some(Checkpoint { iteration, age_us: age.and_then(|age| u64::try_from(age.as_micros()).ok()) })
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
        fs::write(&path, "120\n").unwrap();
        assert!(marker.look(at(1)) && !marker.look(at(2)));
        assert_eq!(marker.newest(at(4)), Some(Checkpoint { iteration: 120, age_us: Some(3_000_000) }));
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
        assert_eq!(marker.newest(Instant::now()), Some(Checkpoint { iteration: 7, age_us: None }));
    }

    #[test]
    fn nonsense_is_no_checkpoint() {
        for text in ["", " ", "x", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(parse_marker(text), None, "{text:?}");
        }
    }
}
