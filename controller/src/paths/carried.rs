//! What links carry, as agents count the bytes of connections whose paths are known: beside what is planned, what is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use c4_detect::observation::{NodeName, Timestamp};
use c4_traffic::{
    Topology,
    losses::{Part, crossed},
    sightings::{Locator, Pair},
    topology::{State, SwitchId},
};

use crate::convert::CarriedPath;

/// A node that tells nothing for so long carries nothing, as far as is known.
const SILENT_US: u64 = 10_000_000;
/// Rates over less time are too rough.
const LEAST_US: u64 = 500_000;
/// A link that carries such a share of its rate over seconds may never be without a queue.
const BUSY: f64 = 0.5;
/// Paths that one node is believed to use.
const MOST_PATHS: usize = 16_384;

/// A path: where it begins and ends, and who answered on the way up.
type Key = (IpAddr, IpAddr, Vec<IpAddr>);

#[derive(Debug)]
struct Flow {
    bytes: u64,
    at: Timestamp,
    bytes_per_second: f64,
    parts: Vec<Part>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Carried {
    flows: HashMap<NodeName, HashMap<Key, Flow>>,
}

impl Carried {
    /// A node tells what went over its paths, as of this moment.
    pub fn told(
        &mut self,
        topology: &Topology,
        locator: &Locator,
        node: &NodeName,
        told: &[CarriedPath],
        at: Timestamp,
    ) {
        let flows = self.flows.entry(node.clone()).or_default();
        for path in told {
            let key = (path.from, path.to, path.hops.clone());
            if let Some(flow) = flows.get_mut(&key) {
                let us = at.micros_since(flow.at);
                if path.bytes < flow.bytes {
                    (flow.bytes, flow.at) = (path.bytes, at);
                } else if us >= LEAST_US {
                    flow.bytes_per_second = (path.bytes - flow.bytes) as f64 / (us as f64 * 1e-6);
                    (flow.bytes, flow.at) = (path.bytes, at);
                }
            } else if flows.len() < MOST_PATHS
                && let Ok(parts) = crossed(topology, locator, path.from, path.to, &path.hops)
            {
                flows.insert(key, Flow { bytes: path.bytes, at, bytes_per_second: 0.0, parts });
            }
        }
    }

    /// Forgets who is silent.
    pub fn prune(&mut self, now: Timestamp) {
        for flows in self.flows.values_mut() {
            flows.retain(|_, flow| now.micros_since(flow.at) < SILENT_US);
        }
        self.flows.retain(|_, flows| !flows.is_empty());
    }

    /// The network has changed.
    pub fn forget(&mut self) {
        self.flows.clear();
    }

    /// Who sends to whom so much that there may always be a queue.
    #[must_use]
    pub fn busy(&self, topology: &Topology) -> BTreeSet<(SwitchId, SwitchId)> {
        self.shares(topology).into_iter().filter(|(_, share)| *share >= BUSY).map(|(ends, _)| ends).collect()
    }

    /// What goes from each switch to each other, as a share of what all links between them that are up can carry.
    #[must_use]
    pub fn shares(&self, topology: &Topology) -> BTreeMap<(SwitchId, SwitchId), f64> {
        let between = self.between();
        if between.is_empty() {
            return BTreeMap::new();
        }
        let mut rates: BTreeMap<Pair, f64> = BTreeMap::new();
        for link in topology.links().iter().filter(|link| link.state == State::Up) {
            *rates.entry((link.a.min(link.b), link.a.max(link.b))).or_insert(0.0) +=
                link.rate.get() * 1e9 / 8.0;
        }
        let share = |(ends, bytes): ((SwitchId, SwitchId), f64)| {
            Some((ends, bytes / rates.get(&(ends.0.min(ends.1), ends.0.max(ends.1)))?))
        };
        between.into_iter().filter_map(share).collect()
    }

    /// What goes from each switch to each other, in bytes in a second, over all links between the two. Below the core of a
    /// network of three tiers it is not known which links are crossed.
    #[must_use]
    pub fn between(&self) -> BTreeMap<(SwitchId, SwitchId), f64> {
        let mut sums = BTreeMap::new();
        for flow in self.flows.values().flat_map(HashMap::values) {
            for part in &flow.parts {
                if let Part::Hop(from, to) = part {
                    *sums.entry((*from, *to)).or_insert(0.0) += flow.bytes_per_second;
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use c4_traffic::document::parse_topology;

    use super::*;

    #[test]
    fn bytes_of_connections_add_up_to_what_links_carry() {
        let text = "hosts:
  - {name: a, nics: [{name: n, ports: [{switch: l0, gbps: 1, address: 10.0.0.1}]}]}
  - {name: b, nics: [{name: n, ports: [{switch: l1, gbps: 1, address: 10.0.1.1}]}]}
  - {name: c, nics: [{name: n, ports: [{switch: l1, gbps: 1, address: 10.0.1.2}]}]}
switches: [{name: l0, tier: leaf}, {name: l1, tier: leaf}, {name: s0, tier: spine, addresses: [172.16.0.1]}]
links: [{a: l0, b: s0, gbps: 1}, {a: l1, b: s0, gbps: 1}]
";
        let topology = parse_topology(text).expect("sound");
        let locator = Locator::new(&topology);
        let (mut carried, node) = (Carried::default(), NodeName("a".into()));
        let path = |host: u8, bytes| CarriedPath {
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 1, host].into(),
            hops: vec![[172, 16, 0, 1].into()],
            bytes,
        };
        let second = |seconds: u64| Timestamp(seconds * 1_000_000);
        let mut tell = |paths: &[CarriedPath], at| carried.told(&topology, &locator, &node, paths, at);
        tell(&[path(1, 5_000), path(2, 0)], second(1));
        tell(&[path(1, 9_000), path(2, 1_000)], second(3));
        let strange = CarriedPath { hops: vec![[9, 9, 9, 9].into()], ..path(1, 7) };
        tell(&[strange], second(3));
        assert_eq!(carried.between().values().copied().collect::<Vec<_>>(), [2_500.0, 2_500.0]);
        let shares: Vec<f64> = carried.shares(&topology).into_values().collect();
        assert_eq!((shares.as_slice(), carried.busy(&topology).len()), ([2e-5, 2e-5].as_slice(), 0));
        // One was counted anew; the rate of before stands until there is another.
        carried.told(&topology, &locator, &node, &[path(1, 10), path(2, 1_000)], second(5));
        assert_eq!(carried.between().values().copied().collect::<Vec<_>>(), [2_000.0, 2_000.0]);
        carried.prune(second(20));
        assert!(carried.between().is_empty());
    }
}
