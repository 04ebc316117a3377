//! The file that a topology was read from: who finds a mistake in it names the line.

use c4_traffic::{Topology, document::Lines, sightings::Pair};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file's name.
    pub file: String,
    /// Where in it things stand.
    pub lines: Lines,
}

impl Written {
    /// Where a link stands, as compilers say it: `topology.yaml:41`.
    fn link(&self, (a, b): Pair) -> Option<String> {
        self.lines.link(a, b).map(|line| format!("{}:{line}", self.file))
    }
}

/// That a link of the file is nowhere in the network, in one sentence.
#[must_use]
pub fn never_crossed(topology: &Topology, written: Option<&Written>, link: Pair, ports: u32) -> String {
    let name = |id| &topology.switch(id).name;
    let place = written.and_then(|written| written.link(link));
    let place = place.map_or(String::new(), |place| format!("{place}: "));
    let (a, b) = (name(link.0), name(link.1));
    format!("{place}{a}–{b} is in the file, no probe ever crosses it ({ports} source ports take other links)")
}
