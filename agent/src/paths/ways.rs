//! Which paths are measured for loss, and by which source ports: all paths to some of the destinations in the orders, also
//! those that no connection is to take, since a link that is avoided may have been mended. What was seen on the way tells which
//! links are there, as it does where ports for connections are learned. No I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::{
    discovery::{Discovery, Hops, Report, Settings},
    knowledge::{Seen, ttls},
    orders::Order,
    trains::Way,
};

/// Destinations that are measured: with all hosts together that is every link, many times over.
const MOST_DESTINATIONS: usize = 8;

/// Where probes begin and end, and how many switches above the first leaf they meet on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// The address they leave from.
    pub from: IpAddr,
    /// The address they lead to.
    pub to: IpAddr,
    /// Switches.
    pub switches: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ways {
    wanted: BTreeSet<Ends>,
    /// Of each path, a source port that takes it, and how many do.
    known: BTreeMap<Ends, BTreeMap<Hops, (u16, u32)>>,
    tried: BTreeSet<Ends>,
    figures: Report,
}

impl Ways {
    /// Takes new orders; what is known of destinations that stay, stays. Each host chooses others.
    pub fn order(&mut self, orders: &[Order]) {
        let ends = |order: &Order| {
            let switches = order.paths.first().map_or(1, |route| route.via.len());
            Ends { from: order.from, to: order.to, switches }
        };
        let mut all: Vec<Ends> = orders.iter().map(ends).collect();
        all.sort_by_cached_key(|ends| {
            let mut hasher = DefaultHasher::new();
            (ends.from, ends.to).hash(&mut hasher);
            hasher.finish()
        });
        self.wanted = all.into_iter().take(MOST_DESTINATIONS).collect();
        self.known.retain(|ends, _| self.wanted.contains(ends));
        self.tried.retain(|ends| self.wanted.contains(ends));
    }

    /// Destinations of which nothing is known yet.
    pub fn lacking(&self) -> impl Iterator<Item = Ends> {
        self.wanted.difference(&self.tried).copied()
    }

    /// How to learn about a destination: all its paths, one port for each.
    #[must_use]
    pub fn task(ends: &Ends, ports: Range<u16>) -> Settings {
        Settings { ports, ttls: ttls(ends.switches), depth: 1, ..Settings::default() }
    }

    /// Ports that were found for a destination.
    pub fn learned(&mut self, ends: Ends, discovery: &Discovery) {
        let first = |(hops, ports): (&Hops, &Vec<u16>)| {
            Some((hops.clone(), (*ports.first()?, u32::try_from(ports.len()).unwrap_or(u32::MAX))))
        };
        self.known.insert(ends, discovery.paths().iter().filter_map(first).collect());
        self.tried.insert(ends);
        self.figures.add(&discovery.report());
    }

    /// How learning went since the last change of the network.
    #[must_use]
    pub fn figures(&self) -> &Report {
        &self.figures
    }

    /// Every path that probes took, and by how many ports.
    pub fn seen(&self) -> impl Iterator<Item = (Seen, u32)> {
        let of = |(ends, paths): (&Ends, &BTreeMap<Hops, (u16, u32)>)| {
            let (from, to) = (ends.from, ends.to);
            let seen = move |(hops, (_, ports)): (&Hops, &(u16, u32))| {
                (Seen { from, to, hops: hops.clone() }, *ports)
            };
            paths.iter().map(seen).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(of)
    }

    /// The network has changed.
    pub fn forget(&mut self) {
        *self = Self { wanted: std::mem::take(&mut self.wanted), ..Self::default() };
    }

    /// Destinations to which no path was found may have some by now.
    pub fn look_again(&mut self) {
        self.tried.retain(|ends| self.known.get(ends).is_some_and(|paths| !paths.is_empty()));
    }

    /// All that can be measured.
    #[must_use]
    pub fn all(&self) -> Vec<Way> {
        let of = |(ends, paths): (&Ends, &BTreeMap<Hops, (u16, u32)>)| {
            let (from, to) = (ends.from, ends.to);
            let way = move |(hops, (port, _)): (&Hops, &(u16, u32))| Way {
                from,
                to,
                hops: hops.clone(),
                port: *port,
            };
            paths.iter().map(way).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(of).collect()
    }
}

impl Way {
    /// Where its probes go.
    #[must_use]
    pub fn target(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.to, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::{discovery::Answer, orders::Route};

    fn order(to: u8) -> Order {
        let paths = vec![Route { units: 1, bond: 0, via: vec![vec![[172, 16, 0, 1].into()]] }];
        Order { host: "a".into(), from: [10, 0, 0, 1].into(), to: [10, 0, 1, to].into(), paths }
    }

    /// Discovery by four ports to its end.
    fn discover(answer: impl Fn(u16) -> Answer) -> Discovery {
        let task = Settings { ports: 20_000..20_004, ..Settings::default() };
        Discovery::in_model(task, |probe| answer(probe.port))
    }

    fn hops(spine: u8) -> Hops {
        vec![[172, 16, 0, spine].into()]
    }

    #[test]
    fn all_paths_to_a_few_destinations_are_measured() {
        let mut ways = Ways::default();
        ways.order(&(0..100).map(order).collect::<Vec<_>>());
        let some: Vec<Ends> = ways.lacking().collect();
        assert_eq!(some.len(), MOST_DESTINATIONS);
        ways.order(&[order(1), order(2)]);
        let ends: Vec<Ends> = ways.lacking().collect();
        assert_eq!(ends.len(), 2);
        assert_eq!(Ways::task(&ends[0], 1..9).ttls, [2]);
        // Four ports, by the spine that answers for each.
        let spine = |port| [1, 2, 1, 2][usize::from(port - 20_000)];
        ways.learned(ends[0], &discover(|port| Answer::Hop([172, 16, 0, spine(port)].into())));
        ways.learned(ends[1], &discover(|_| Answer::Busy));
        assert_eq!(
            ways.seen().map(|(seen, ports)| (seen.hops, ports)).collect::<Vec<_>>(),
            [(hops(1), 2), (hops(2), 2)]
        );
        assert_eq!((ways.figures().ports, ways.figures().busy), (8, 4));
        assert_eq!(ways.lacking().count(), 0);
        assert_eq!(ways.all().iter().map(|way| way.port).collect::<Vec<_>>(), [20_000, 20_001]);
        ways.look_again();
        assert_eq!(ways.lacking().collect::<Vec<_>>(), [ends[1]]);
        ways.order(&[order(2)]);
        assert_eq!(ways.all(), []);
        ways.forget();
        assert_eq!(ways.lacking().count(), 1);
    }
}
