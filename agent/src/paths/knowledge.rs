//! What is wanted, what is known of it, and what is still to be learned. No I/O, no clock.
//!
//! New orders keep what is known: ports that connections have cannot be probed again, and a path is where it was. What
//! was looked for in vain is not looked for again at once, but is after some time, or when orders want something else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use c4_path_table::Table;

use super::{
    discovery::{Discovery, Hops, Report, Settings},
    orders::{self, Known, Listening, Order, Route},
};

/// A port and the path that it took when it was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The destination.
    pub to: SocketAddr,
    /// The source port.
    pub port: u16,
    /// What it crossed.
    pub hops: Hops,
}

/// A path that probes have taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// The address it leaves from.
    pub from: IpAddr,
    /// The address it leads to.
    pub to: IpAddr,
    /// The switches that answered.
    pub hops: Hops,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Knowledge {
    orders: Vec<Order>,
    known: Known,
    /// Ports of paths that were not wanted when they were met, by one answer each.
    glimpsed: Known,
    /// What was looked for to the end, found or not.
    tried: BTreeMap<SocketAddr, BTreeSet<Route>>,
    figures: Report,
    checks: usize,
}

impl Knowledge {
    /// Takes new orders.
    pub fn order(&mut self, orders: Vec<Order>, listen: &Listening) {
        self.orders = orders;
        let wanted: BTreeSet<SocketAddr> = self.targets(listen).collect();
        self.known.retain(|to, _| wanted.contains(to));
        self.glimpsed.retain(|to, _| wanted.contains(to));
        self.tried.retain(|to, _| wanted.contains(to));
    }

    /// The orders.
    #[must_use]
    pub fn orders(&self) -> &[Order] {
        &self.orders
    }

    /// Destinations of which too little is known.
    #[must_use]
    pub fn lacking(&self, listen: &Listening, depth: usize) -> Vec<SocketAddr> {
        let lacks = |to: &SocketAddr| {
            let wanted = self.wanted(to.ip());
            let found = |route: &Route| -> usize {
                let own = self.known.get(to).into_iter().flatten().filter(|(hops, _)| route.matches(hops));
                own.map(|(_, ports)| ports.len()).sum()
            };
            self.tried.get(to).is_none_or(|tried| !tried.is_superset(&wanted))
                && wanted.iter().any(|route| found(route) < depth)
        };
        self.targets(listen).filter(lacks).collect()
    }

    /// How to learn about a destination.
    #[must_use]
    pub fn task(&self, to: SocketAddr, ports: Range<u16>, depth: usize) -> Settings {
        let wanted: Vec<Route> = self.wanted(to.ip()).into_iter().collect();
        let ttls = ttls(wanted.first().map_or(1, |route| route.via.len()));
        let glimpsed = self.glimpsed.get(&to).into_iter().flatten();
        let likely = glimpsed.filter(|(hops, _)| wanted.iter().any(|route| route.matches(hops)));
        let likely = likely.flat_map(|(_, own)| own).copied().filter(|port| ports.contains(port)).collect();
        Settings { ports, likely, ttls, depth, wanted, ..Settings::default() }
    }

    /// What was learned about a destination. `complete` when nobody cut it short.
    pub fn learned(&mut self, to: SocketAddr, discovery: &Discovery, complete: bool) {
        let (known, glimpsed) = (self.known.entry(to).or_default(), self.glimpsed.entry(to).or_default());
        // A port takes one path: the newer knowledge counts, and what was asked twice more than what was asked once.
        for (hops, ports) in discovery.paths() {
            for own in known.values_mut().chain(glimpsed.values_mut()) {
                own.retain(|port| !ports.contains(port));
            }
            known.entry(hops.clone()).or_default().extend(ports);
        }
        for (hops, ports) in discovery.glimpsed() {
            for own in glimpsed.values_mut() {
                own.retain(|port| !ports.contains(port));
            }
            let is_new = |port: &&u16| !known.values().any(|own| own.contains(port));
            glimpsed.entry(hops.clone()).or_default().extend(ports.iter().filter(is_new));
        }
        known.retain(|_, ports| !ports.is_empty());
        glimpsed.retain(|_, ports| !ports.is_empty());
        if complete {
            let wanted = self.wanted(to.ip());
            self.tried.insert(to, wanted);
        }
        self.figures.add(&discovery.report());
    }

    /// Something in the network has changed: nothing that is known can be relied on.
    pub fn forget(&mut self) {
        (self.known, self.glimpsed, self.tried) = (Known::new(), Known::new(), BTreeMap::new());
        self.figures = Report::default();
    }

    /// What was not found may be there by now.
    pub fn look_again(&mut self) {
        self.tried.clear();
    }

    /// Some ports to ask about again; other ones each time.
    pub fn checks(&mut self, most: usize) -> Vec<Check> {
        let all: Vec<Check> = self
            .known
            .iter()
            .flat_map(|(to, paths)| {
                // The last port of a path is the least likely to be in use.
                let check = |(hops, ports): (&Hops, &Vec<u16>)| {
                    ports.last().map(|port| Check { to: *to, port: *port, hops: hops.clone() })
                };
                paths.iter().filter_map(check)
            })
            .collect();
        let start = self.checks;
        self.checks = self.checks.wrapping_add(most);
        // Neighbours lead to the same host: strides spread a round over hosts and paths.
        let stride = (all.len() / most.max(1)).max(1);
        let at = |n: usize| all.get((start / most.max(1) + n * stride) % all.len().max(1)).cloned();
        (0..most.min(all.len())).filter_map(at).collect()
    }

    /// The table for `libc4-path.so`, and how many planned paths have no port in it.
    #[must_use]
    pub fn table(&self, listen: &Listening, generation: u64) -> (Table, usize) {
        orders::table(&self.orders, &self.known, listen, generation)
    }

    /// How learning went since the last change of the network.
    #[must_use]
    pub fn figures(&self) -> &Report {
        &self.figures
    }

    /// The path that a source port takes to a destination.
    #[must_use]
    pub fn path(&self, to: SocketAddr, port: u16) -> Option<&Hops> {
        let paths = self.known.get(&to)?;
        paths.iter().find(|(_, ports)| ports.contains(&port)).map(|(hops, _)| hops)
    }

    /// Every path that probes took, and by how many ports.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<Seen, u32> {
        let mut seen = BTreeMap::new();
        for order in &self.orders {
            let all = self.known.iter().chain(&self.glimpsed);
            for (to, paths) in all.filter(|(to, _)| to.ip() == order.to) {
                for (hops, ports) in paths {
                    let path = Seen { from: order.from, to: to.ip(), hops: hops.clone() };
                    *seen.entry(path).or_insert(0) += ports.len() as u32;
                }
            }
        }
        seen
    }

    fn targets(&self, listen: &Listening) -> impl Iterator<Item = SocketAddr> {
        let addresses: BTreeSet<IpAddr> = self.orders.iter().map(|order| order.to).collect();
        let listen = listen.clone();
        addresses.into_iter().flat_map(move |to| listen.ports().map(move |port| SocketAddr::new(to, port)))
    }

    fn wanted(&self, to: IpAddr) -> BTreeSet<Route> {
        let routes = self.orders.iter().filter(|order| order.to == to).flat_map(|order| &order.paths);
        // How many connections take it makes it no other path.
        routes.map(|route| Route { units: 1, ..route.clone() }).collect()
    }
}

/// The TTLs that end at the switches above the first leaf.
#[must_use]
pub fn ttls(switches: usize) -> Vec<u8> {
    (2..).take(switches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::discovery::Answer;

    const LISTEN: Listening = Listening { tcp: 30_000..30_002, roce: false };

    fn hop(last: u8) -> IpAddr {
        [172, 16, 0, last].into()
    }

    fn order(to: u8, spines: &[u8]) -> Order {
        let paths =
            spines.iter().map(|spine| Route { units: 3, bond: 0, via: vec![vec![hop(*spine)]] }).collect();
        Order { host: "a".into(), from: [10, 0, 0, 1].into(), to: [10, 0, 1, to].into(), paths }
    }

    fn to(host: u8, port: u16) -> SocketAddr {
        SocketAddr::new([10, 0, 1, host].into(), port)
    }

    /// Has a destination asked about these ports, which take these spines.
    fn learn(knowledge: &mut Knowledge, to: SocketAddr, found: &[(u8, &[u16])], complete: bool) {
        let spine =
            |port| found.iter().find(|(_, ports)| ports.contains(&port)).map(|(spine, _)| hop(*spine));
        let likely = found.iter().flat_map(|(_, ports)| *ports).copied().collect();
        let wanted = knowledge.wanted(to.ip()).into_iter().collect();
        let task = Settings { ports: 0..0, likely, wanted, depth: 99, ..Settings::default() };
        let discovery = Discovery::in_model(task, |probe| Answer::Hop(spine(probe.port).expect("asked")));
        knowledge.learned(to, &discovery, complete);
    }

    #[test]
    fn new_orders_for_a_known_destination_are_learned_at_once() {
        let mut knowledge = Knowledge::default();
        knowledge.order(vec![order(1, &[1])], &LISTEN);
        assert_eq!(knowledge.lacking(&LISTEN, 2), [to(1, 30_000), to(1, 30_001)]);
        for port in LISTEN.ports() {
            learn(&mut knowledge, to(1, port), &[(1, &[20_000, 20_001])], true);
        }
        assert_eq!(knowledge.lacking(&LISTEN, 2), []);
        knowledge.order(vec![order(1, &[2]), order(2, &[1])], &LISTEN);
        assert_eq!(knowledge.lacking(&LISTEN, 2).len(), 4);
        // Connections have the old ports: they are not found again, and not lost.
        learn(&mut knowledge, to(1, 30_000), &[(2, &[20_005, 20_006])], true);
        knowledge.order(vec![order(1, &[1])], &LISTEN);
        assert_eq!(knowledge.lacking(&LISTEN, 2), []);
        assert_eq!(knowledge.table(&LISTEN, 1).1, 0);
        knowledge.forget();
        assert_eq!(knowledge.lacking(&LISTEN, 2).len(), 2);
    }

    #[test]
    fn roce_has_a_port_of_its_own() {
        let mut knowledge = Knowledge::default();
        let listen = Listening { roce: true, ..LISTEN };
        knowledge.order(vec![order(1, &[1])], &listen);
        assert_eq!(knowledge.lacking(&listen, 1).last(), Some(&to(1, orders::ROCE)));
        learn(&mut knowledge, to(1, orders::ROCE), &[(1, &[0xC001])], true);
        let (table, missing) = knowledge.table(&listen, 1);
        assert_eq!((table.entries.len(), table.entries[0].key.port, missing), (1, orders::ROCE, 2));
    }

    #[test]
    fn what_is_not_found_is_looked_for_again_when_told_to() {
        let mut knowledge = Knowledge::default();
        knowledge.order(vec![order(1, &[1, 2])], &LISTEN);
        for port in LISTEN.ports() {
            learn(&mut knowledge, to(1, port), &[(1, &[20_000])], port == 30_000);
        }
        assert_eq!(knowledge.lacking(&LISTEN, 1), [to(1, 30_001)], "the other one was cut short");
        let (table, missing) = knowledge.table(&LISTEN, 1);
        assert_eq!((table.entries.len(), missing), (0, 2));
        learn(&mut knowledge, to(1, 30_001), &[], true);
        assert_eq!(knowledge.lacking(&LISTEN, 1), []);
        knowledge.look_again();
        assert_eq!(knowledge.lacking(&LISTEN, 1).len(), 2);
    }

    #[test]
    fn a_port_counts_for_the_path_it_took_last() {
        let mut knowledge = Knowledge::default();
        knowledge.order(vec![order(1, &[1, 2])], &LISTEN);
        learn(&mut knowledge, to(1, 30_000), &[(1, &[20_000, 20_001])], true);
        learn(&mut knowledge, to(1, 30_000), &[(2, &[20_000])], true);
        let from = [10, 0, 0, 1].into();
        let seen = |spine| Seen { from, to: to(1, 0).ip(), hops: vec![hop(spine)] };
        assert_eq!(knowledge.seen(), BTreeMap::from([(seen(1), 1), (seen(2), 1)]));
        assert_eq!(knowledge.figures().probes, 2 * 3);
    }

    #[test]
    fn ports_of_paths_that_are_not_wanted_are_seen_and_tried_first_once_they_are() {
        let mut knowledge = Knowledge::default();
        knowledge.order(vec![order(1, &[1])], &LISTEN);
        learn(&mut knowledge, to(1, 30_000), &[(1, &[20_000]), (2, &[20_001, 20_002])], true);
        let from = [10, 0, 0, 1].into();
        let seen = |spine| Seen { from, to: to(1, 0).ip(), hops: vec![hop(spine)] };
        assert_eq!(knowledge.seen(), BTreeMap::from([(seen(1), 1), (seen(2), 2)]));
        assert_eq!(knowledge.path(to(1, 30_000), 20_001), None, "one answer is not enough to go by");
        knowledge.order(vec![order(1, &[2])], &LISTEN);
        let task = knowledge.task(to(1, 30_000), 20_000..30_000, 2);
        assert_eq!(task.likely, BTreeSet::from([20_001, 20_002]));
        learn(&mut knowledge, to(1, 30_000), &[(2, &[20_001])], true);
        assert!(knowledge.path(to(1, 30_000), 20_001).is_some());
        assert_eq!(knowledge.seen(), BTreeMap::from([(seen(1), 1), (seen(2), 2)]), "no port counts twice");
    }

    #[test]
    fn rounds_of_checks_reach_every_path() {
        let mut knowledge = Knowledge::default();
        knowledge.order((1..=5).map(|host| order(host, &[1, 2, 3])).collect(), &LISTEN);
        for target in knowledge.lacking(&LISTEN, 1) {
            learn(&mut knowledge, target, &[(1, &[20_000]), (2, &[20_001]), (3, &[20_002])], true);
        }
        let mut checked = BTreeSet::new();
        for _ in 0..30 {
            let round = knowledge.checks(4);
            assert_eq!(round.len(), 4);
            let hosts: BTreeSet<_> = round.iter().map(|check| check.to.ip()).collect();
            assert!(hosts.len() > 2, "{round:?}");
            checked.extend(round.into_iter().map(|check| (check.to, check.port)));
        }
        assert_eq!(checked.len(), 30);
    }
}
