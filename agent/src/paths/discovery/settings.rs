//! How to ask, and by which source ports.

use std::{collections::BTreeSet, ops::Range};

use super::{Hops, Route};

/// How to ask.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Source ports to try, in this order.
    pub ports: Range<u16>,
    /// Those that are to be tried before.
    pub likely: BTreeSet<u16>,
    /// TTLs at which the switches answer that tell paths apart: 2 is the spine of a leaf–spine fabric, 2 and 3 are spine
    /// and core.
    pub ttls: Vec<u8>,
    /// Least time between two probes.
    pub pace_us: u64,
    /// The pace is never slower than this.
    pub slowest_us: u64,
    /// How long an answer may take.
    pub timeout_us: u64,
    /// How often a probe that got no answer is repeated.
    pub tries: u32,
    /// How many paths there are, where the topology says so.
    pub paths: Option<usize>,
    /// Only these are wanted, if there are any: others need no ports.
    pub wanted: Vec<Route>,
    /// How many ports are wanted for each path.
    pub depth: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Below the kernel's ephemeral ports, so that nobody else has them by chance.
            ports: 20_000..30_000,
            likely: BTreeSet::new(),
            ttls: vec![2],
            pace_us: 2_000,
            slowest_us: 200_000,
            timeout_us: 250_000,
            tries: 6,
            paths: None,
            wanted: Vec::new(),
            depth: 4,
        }
    }
}

impl Settings {
    /// Whether ports of this path are of use.
    pub(super) fn wants(&self, hops: &Hops) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|route| route.matches(hops))
    }
}

/// Ports that were not tried yet.
#[derive(Debug)]
pub(super) struct Untried {
    likely: BTreeSet<u16>,
    others: Range<u16>,
    skip: BTreeSet<u16>,
}

impl Untried {
    pub(super) fn new(settings: &Settings) -> Self {
        let likely = settings.likely.clone();
        Self { skip: likely.clone(), likely, others: settings.ports.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.likely.is_empty() && self.others.is_empty()
    }
}

impl Iterator for Untried {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.likely.pop_first().or_else(|| self.others.find(|port| !self.skip.contains(port)))
    }
}
