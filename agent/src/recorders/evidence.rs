//! Recorders of dead processes are evidence: kept for a while, so that somebody can look, then removed, so that the
//! shared memory does not fill.

use std::{collections::VecDeque, time::Duration};

/// How long, and how many, recorders of dead processes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Each for this long after its process was found dead.
    pub keep: Duration,
    /// And no more than this many, newest first.
    pub files: usize,
}

/// The dead, oldest first.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    dead: VecDeque<(u64, String)>,
}

impl Evidence {
    /// Notes that the writer of `name` was found dead.
    pub(super) fn add(&mut self, name: String, now_ns: u64) {
        self.dead.push_back((now_ns, name));
    }

    /// Whether `name` belongs to the dead.
    #[must_use]
    pub(super) fn contains(&self, name: &str) -> bool {
        self.dead.iter().any(|(_, dead)| dead == name)
    }

    /// Forgets what is no longer in the directory.
    pub(super) fn retain(&mut self, listed: &[String]) {
        self.dead.retain(|(_, name)| listed.contains(name));
    }

    /// Names whose time has come.
    pub(super) fn expired(&mut self, retention: Retention, now_ns: u64) -> Vec<String> {
        let keep_ns = u64::try_from(retention.keep.as_nanos()).unwrap_or(u64::MAX);
        let mut names = Vec::new();
        while let Some((since, _)) = self.dead.front()
            && (self.dead.len() > retention.files || now_ns.saturating_sub(*since) > keep_ns)
        {
            names.extend(self.dead.pop_front().map(|(_, name)| name));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_by_count_and_all_go_by_age() {
        let retention = Retention { keep: Duration::from_nanos(100), files: 2 };
        let mut evidence = Evidence::default();
        for (name, at) in [("a", 0), ("b", 10), ("c", 20)] {
            evidence.add(name.to_owned(), at);
        }
        assert_eq!(evidence.expired(retention, 20), ["a"]);
        assert!(evidence.contains("b") && !evidence.contains("a"));
        assert_eq!(evidence.expired(retention, 110), Vec::<String>::new());
        assert_eq!(evidence.expired(retention, 111), ["b"]);
        assert_eq!(evidence.expired(retention, 1000), ["c"]);
    }
}
