//! Learning the topology from probes: which nodes are to explore the way to whom, and what it comes to. No I/O; handed the time.
//!
//! Agents that are configured to tell which ports their NICs have. Once no new ones have come for a while, each port is to explore the
//! ways to a few others of its rail: the next one, the second, the fourth and so on, so that neighbours under one leaf meet and everybody
//! meets somebody far away. When all have done that, or no more is to be expected, [`c4_traffic::learned`] makes a topology of it. What
//! links carry or whether they live is not this module's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use c4_detect::observation::{NodeName, Timestamp};
use c4_traffic::{
    Topology,
    document::topology_yaml,
    learned::{Assumed, HostPort, Trace, learn},
    topology::Gbps,
};

use crate::convert::Explored;

/// A round begins when no port has come or gone for so long: nodes of a cluster that starts come together.
const QUIET_US: u64 = 10_000_000;
/// Nodes that have not answered are asked again after this time…
const AGAIN_US: u64 = 30_000_000;
/// …and waited for no longer than this.
const PATIENCE_US: u64 = 180_000_000;
/// Others that each port explores the way to, at most.
const MOST_PEERS: usize = 12;

/// What was learned.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The topology, if it makes one.
    pub topology: Option<Topology>,
    /// The same as a document.
    pub yaml: String,
    /// What was assumed, and what may be missing.
    pub notes: Vec<String>,
    /// Why there is none.
    pub mistakes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    ports: Vec<(String, IpAddr, Option<Gbps>)>,
    /// The round that it has done.
    done: u64,
    traces: Vec<Trace>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Learning {
    nodes: BTreeMap<NodeName, Node>,
    assumed: Assumed,
    round: u64,
    /// Ports have come or gone, since when.
    changed: Option<Timestamp>,
    /// A round is going on, since when, and when nodes were asked last.
    going: Option<(Timestamp, Timestamp)>,
    outcome: Option<Outcome>,
}

impl Learning {
    /// Nothing is known; rates that nobody tells are these.
    #[must_use]
    pub fn new(assumed: Assumed) -> Self {
        Self { assumed, ..Self::default() }
    }

    /// A node tells where it is.
    pub fn explored(&mut self, name: &NodeName, explored: Explored, now: Timestamp) {
        let node = self.nodes.entry(name.clone()).or_default();
        if node.ports != explored.ports {
            node.ports = explored.ports;
            self.changed = Some(now);
        }
        if explored.done && explored.round == self.round && self.round > 0 {
            (node.done, node.traces) = (self.round, explored.traces);
        }
    }

    /// Time has passed. Returns the nodes that are to explore now; and whether there is a new outcome.
    pub fn tick(&mut self, now: Timestamp) -> (Vec<NodeName>, bool) {
        if self.changed.is_some_and(|changed| now.micros_since(changed) >= QUIET_US) {
            self.changed = None;
            self.round += 1;
            self.going = Some((now, now));
            return (self.missing(), false);
        }
        let Some((began, asked)) = self.going else { return (Vec::new(), false) };
        let missing = self.missing();
        if missing.is_empty() || now.micros_since(began) >= PATIENCE_US {
            self.going = None;
            self.conclude(&missing);
            return (Vec::new(), true);
        }
        if now.micros_since(asked) >= AGAIN_US {
            self.going = Some((began, now));
            return (missing, false);
        }
        (Vec::new(), false)
    }

    /// Nodes that have not done the present round.
    fn missing(&self) -> Vec<NodeName> {
        let open = self.nodes.iter().filter(|(_, node)| !node.ports.is_empty() && node.done != self.round);
        open.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a node is to explore, and has not said that it has: it may have been started anew.
    #[must_use]
    pub fn waits_for(&self, name: &NodeName) -> bool {
        self.going.is_some() && self.nodes.get(name).is_some_and(|node| node.done != self.round)
    }

    /// What a node is to explore: from which of its addresses to which others.
    #[must_use]
    pub fn to_explore(&self, name: &NodeName) -> Option<(u64, Vec<(IpAddr, IpAddr)>)> {
        let own = self.nodes.get(name).filter(|_| self.round > 0)?;
        let mut ends = Vec::new();
        for (rail, (_, from, _)) in own.ports.iter().enumerate() {
            let others: Vec<IpAddr> =
                self.nodes.values().filter_map(|node| Some(node.ports.get(rail)?.1)).collect();
            let Some(at) = others.iter().position(|address| address == from) else { continue };
            let steps = (0..MOST_PEERS).map(|n| 1usize << n).take_while(|step| *step < others.len());
            ends.extend(steps.map(|step| (*from, others[(at + step) % others.len()])));
            // Rails may share spines: somebody far away on the next one tells.
            let next = (rail + 1) % own.ports.len();
            let across: Vec<IpAddr> =
                self.nodes.values().filter_map(|node| Some(node.ports.get(next)?.1)).collect();
            let far = across.get((at + across.len() / 2) % across.len().max(1));
            ends.extend(far.filter(|_| next != rail).map(|to| (*from, *to)));
        }
        let own: BTreeSet<IpAddr> = own.ports.iter().map(|port| port.1).collect();
        ends.retain(|(_, to)| !own.contains(to));
        Some((self.round, ends))
    }

    fn conclude(&mut self, missing: &[NodeName]) {
        let mut ports = Vec::new();
        for (name, node) in &self.nodes {
            ports.extend(node.ports.iter().map(|(nic, address, rate)| HostPort {
                host: name.0.clone(),
                nic: nic.clone(),
                address: *address,
                rate: *rate,
            }));
        }
        let traces: Vec<Trace> = self.nodes.values().flat_map(|node| node.traces.iter().cloned()).collect();
        let mut outcome = match learn(&ports, &traces, self.assumed) {
            Ok(learned) => Outcome {
                yaml: topology_yaml(&learned.topology),
                topology: Some(learned.topology),
                notes: learned.notes,
                mistakes: Vec::new(),
            },
            Err(mistakes) => Outcome { mistakes, ..Outcome::default() },
        };
        if !missing.is_empty() {
            let few: Vec<&str> = missing.iter().take(5).map(|name| name.0.as_str()).collect();
            let more = if missing.len() > few.len() { ", …" } else { "" };
            outcome.notes.push(format!("{}{more} did not say what they see in time", few.join(", ")));
        }
        self.outcome = Some(outcome);
    }

    /// What was learned last.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// All nodes that have told of ports.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// How many nodes have told of ports, and how many of them are waited for.
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        let waiting = if self.going.is_some() { self.missing().len() } else { 0 };
        let waiting = if self.changed.is_some() { self.nodes.len() } else { waiting };
        (self.nodes.len() as u32, waiting as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn node(number: u8) -> NodeName {
        NodeName(format!("h{number}"))
    }

    fn own(number: u8, rail: u8) -> IpAddr {
        [10, rail, number, 1].into()
    }

    /// A host with a NIC on each of two rails.
    fn told(number: u8, round: u64, traces: Vec<Trace>) -> Explored {
        let port = |rail| (format!("n{rail}"), own(number, rail), Gbps::new(400.0));
        Explored { round, done: round > 0, ports: vec![port(0), port(1)], traces }
    }

    /// What a host sees whose rails have a leaf each for every two hosts, and two spines that all share.
    fn sees(learning: &Learning, number: u8) -> Vec<Trace> {
        let leaf = |end: IpAddr| {
            let IpAddr::V4(end) = end else { unreachable!("all are") };
            let [_, rail, host, _] = end.octets();
            IpAddr::from([10, 255, rail, host / 2])
        };
        let (_, ends) = learning.to_explore(&node(number)).expect("a round");
        let mut traces = Vec::new();
        for (from, to) in ends {
            let trace = |hops| Trace { from, to, hops, ports: 40 };
            if leaf(from) == leaf(to) {
                traces.push(trace(vec![leaf(from)]));
            } else {
                let spines = ["172.16.0.1", "172.16.0.2"];
                traces.extend(spines.map(|spine| trace(vec![leaf(from), address(spine), leaf(to)])));
            }
        }
        traces
    }

    #[test]
    fn nodes_that_have_come_explore_and_what_they_see_is_a_topology() {
        let mut learning = Learning::default();
        let mut now = Timestamp(SECOND);
        for number in 0..8 {
            learning.explored(&node(number), told(number, 0, Vec::new()), now);
        }
        assert_eq!(learning.tick(now), (Vec::new(), false), "more may come");
        assert_eq!(learning.progress(), (8, 8));
        now = now.after(QUIET_US);
        let (asked, _) = learning.tick(now);
        assert_eq!(asked.len(), 8);
        for number in 0..8 {
            let (round, ends) = learning.to_explore(&node(number)).expect("a round");
            assert_eq!((round, ends.len()), (1, 2 * 4), "1, 2 and 4 further on, and one across: {ends:?}");
            assert!(ends.iter().all(|(from, to)| from != to && *from != own(number, 9)));
        }
        for number in 0..8 {
            assert!(learning.waits_for(&node(number)));
            let seen = sees(&learning, number);
            learning.explored(&node(number), told(number, 1, seen), now);
            assert!(!learning.waits_for(&node(number)));
        }
        assert_eq!(learning.tick(now), (Vec::new(), true));
        let outcome = learning.outcome().expect("something");
        assert_eq!(outcome.mistakes, [""; 0]);
        let topology = outcome.topology.as_ref().expect("a topology");
        assert_eq!((topology.hosts().len(), topology.nics().len()), (8, 16));
        assert_eq!((topology.switches().len(), topology.links().len()), (8 + 2, 16));
        assert_eq!(learning.progress(), (8, 0));
        // The same again is no news; a node more is.
        learning.explored(&node(3), told(3, 1, sees(&learning, 3)), now);
        assert_eq!(learning.tick(now.after(QUIET_US)), (Vec::new(), false));
        learning.explored(&node(8), told(8, 0, Vec::new()), now);
        assert_eq!(learning.tick(now.after(QUIET_US)).0.len(), 9);
    }

    #[test]
    fn who_does_not_answer_is_asked_again_and_then_done_without() {
        let mut learning = Learning::default();
        let mut now = Timestamp(SECOND);
        for number in 0..4 {
            learning.explored(&node(number), told(number, 0, Vec::new()), now);
        }
        now = now.after(QUIET_US);
        assert_eq!(learning.tick(now).0.len(), 4);
        for number in 0..3 {
            let seen = sees(&learning, number);
            learning.explored(&node(number), told(number, 1, seen), now);
        }
        // An answer to another question is none.
        learning.explored(&node(3), told(3, 7, Vec::new()), now);
        assert_eq!(learning.tick(now.after(AGAIN_US - 1)), (Vec::new(), false));
        assert_eq!(learning.tick(now.after(AGAIN_US)), (vec![node(3)], false));
        assert_eq!(learning.tick(now.after(AGAIN_US + 1)), (Vec::new(), false));
        assert_eq!(learning.tick(now.after(PATIENCE_US)), (Vec::new(), true));
        let outcome = learning.outcome().expect("something");
        // Others have seen where it is.
        assert!(outcome.topology.is_some(), "{:?}", outcome.mistakes);
        assert!(outcome.notes.iter().any(|note| note.starts_with("h3 did not say")), "{:?}", outcome.notes);
    }

    #[test]
    fn what_makes_no_topology_says_why() {
        let mut learning = Learning::default();
        let now = Timestamp(SECOND);
        learning.explored(&node(0), told(0, 0, Vec::new()), now);
        learning.tick(now.after(QUIET_US));
        learning.explored(&node(0), told(0, 1, Vec::new()), now);
        assert!(learning.tick(now.after(2 * QUIET_US)).1);
        let outcome = learning.outcome().expect("something");
        assert!(outcome.topology.is_none() && outcome.yaml.is_empty());
        assert!(
            outcome.mistakes[0].contains("no probe from or to it was answered"),
            "{:?}",
            outcome.mistakes
        );
    }
}
