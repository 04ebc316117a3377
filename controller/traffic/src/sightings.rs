//! What probes say about the network, held against what is written about it.
//!
//! A probe that was answered on its way up tells which links it crossed. Links that nobody ever crosses, though enough
//! probes left their leaf that each of its links had to be seen, are dead, or not there. Nothing is concluded where switches
//! keep silent: a link behind a switch that does not answer looks just the same. Nor where one may answer by
//! another's address: whoever does so is met by nobody, and the other is met by twice its share of probes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use crate::topology::{NicId, SwitchId, Tier, Topology};

/// Two switches with links between them, the smaller number first.
pub type Pair = (SwitchId, SwitchId);

/// A path that probes took, as a host saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// Who answered on the way up, above the first leaf.
    pub hops: Vec<IpAddr>,
    /// Source ports that took it.
    pub ports: u32,
}

/// Something that probes saw and the topology does not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    /// No NIC has this address.
    Host(IpAddr),
    /// No switch has it.
    Switch(IpAddr),
    /// These are not joined.
    Link(Pair),
}

/// Who has which address.
#[derive(Clone, Debug, Default)]
pub struct Locator {
    ports: HashMap<IpAddr, (NicId, u32)>,
    switches: HashMap<IpAddr, SwitchId>,
    joined: BTreeSet<Pair>,
}

impl Locator {
    /// The addresses of a topology.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let mut locator = Self::default();
        for (number, nic) in topology.nics().iter().enumerate() {
            let id = NicId(number as u32);
            for port in 0..nic.ports.len() as u32 {
                locator.ports.extend(topology.port_address(id, port).map(|address| (address, (id, port))));
            }
        }
        for number in 0..topology.switches().len() {
            let id = SwitchId(number as u32);
            locator.switches.extend(topology.switch_addresses(id).iter().map(|address| (*address, id)));
        }
        locator.joined = topology.links().iter().map(|link| pair(link.a, link.b)).collect();
        locator
    }

    /// Which NIC, and which of its ports, has an address.
    #[must_use]
    pub fn port(&self, address: IpAddr) -> Option<(NicId, u32)> {
        self.ports.get(&address).copied()
    }

    /// Which switch has an address.
    #[must_use]
    pub fn switch(&self, address: IpAddr) -> Option<SwitchId> {
        self.switches.get(&address).copied()
    }

    /// The links that a path certainly crosses: those on the way up, and over one spine also the one down.
    ///
    /// # Errors
    /// When something on it is not known.
    pub fn cross(&self, topology: &Topology, seen: &Sighting) -> Result<Vec<Pair>, Stranger> {
        let leaf = |address: IpAddr| {
            let (nic, port) = self.port(address).ok_or(Stranger::Host(address))?;
            Ok(topology.nic(nic).ports[port as usize].switch)
        };
        let mut path = vec![leaf(seen.from)?];
        for hop in &seen.hops {
            path.push(*self.switches.get(hop).ok_or(Stranger::Switch(*hop))?);
        }
        let down = leaf(seen.to)?;
        if seen.hops.len() == 1 {
            path.push(down);
        }
        let crossed: Vec<Pair> = path.windows(2).map(|ends| pair(ends[0], ends[1])).collect();
        match crossed.iter().find(|link| !self.joined.contains(link)) {
            Some(link) => Err(Stranger::Link(*link)),
            None => Ok(crossed),
        }
    }
}

/// What one host reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths that its probes took.
    pub seen: Vec<Sighting>,
    /// Source ports that were tried.
    pub tried: u32,
    /// Of those, given up because nobody answered.
    pub silent: u32,
}

/// What all reports come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Links that probes crossed, and by how many source ports.
    pub crossed: BTreeMap<Pair, u32>,
    /// Links of leaves that no probe crosses, though enough left the leaf; with how many did.
    pub uncrossed: BTreeMap<Pair, u32>,
    /// Leaves of which nothing can be said, since too many probes get no answer.
    pub silent: BTreeSet<SwitchId>,
    /// Switches above leaves that no probe meets, though enough left a leaf: with how many did. They are down, keep
    /// silent or answer by somebody else's address: of their links nothing can be said.
    pub hidden: BTreeMap<SwitchId, u32>,
    /// Switches whose address so many probes have met that somebody who is hidden may answer by it, too.
    pub doubted: BTreeSet<SwitchId>,
    /// What the topology does not know.
    pub strangers: BTreeSet<Stranger>,
}

/// So many ports for each link of a leaf must have been seen before one without any counts as dead: at e⁻¹⁶ for each link,
/// chance is out.
const PORTS_A_LINK: u32 = 16;

/// Holds reports against the topology.
#[must_use]
pub fn picture<'r>(
    topology: &Topology,
    locator: &Locator,
    reports: impl IntoIterator<Item = &'r Report>,
) -> Picture {
    let mut picture = Picture::default();
    let mut uplinks: BTreeMap<SwitchId, BTreeSet<Pair>> = BTreeMap::new();
    for link in topology.links() {
        for (leaf, other) in [(link.a, link.b), (link.b, link.a)] {
            if topology.switch(leaf).tier == Tier::Leaf && topology.switch(other).tier != Tier::Leaf {
                uplinks.entry(leaf).or_default().insert(pair(leaf, other));
            }
        }
    }
    // Ports that left each leaf, tried and silent; and by which switch they left it.
    let mut left: BTreeMap<SwitchId, (u32, u32, u32)> = BTreeMap::new();
    let mut shares = Shares::default();
    for report in reports {
        let mut leaves = BTreeSet::new();
        for seen in &report.seen {
            match locator.cross(topology, seen) {
                Ok(crossed) => {
                    for link in &crossed {
                        let count = picture.crossed.entry(*link).or_insert(0);
                        *count = count.saturating_add(seen.ports);
                    }
                    if let Some((nic, port)) = locator.port(seen.from) {
                        let leaf = topology.nic(nic).ports[port as usize].switch;
                        let of = left.entry(leaf).or_default();
                        of.0 = of.0.saturating_add(seen.ports);
                        leaves.insert(leaf);
                        let first = seen.hops.first().and_then(|hop| locator.switch(*hop));
                        shares.met.extend(first.map(|switch| (leaf, switch, seen.ports)));
                    }
                }
                Err(stranger) => {
                    picture.strangers.insert(stranger);
                }
            }
        }
        for leaf in leaves {
            let of = left.entry(leaf).or_default();
            of.1 = of.1.saturating_add(report.tried);
            of.2 = of.2.saturating_add(report.silent);
        }
    }
    let met: BTreeSet<SwitchId> = picture.crossed.keys().flat_map(|link| [link.0, link.1]).collect();
    for (leaf, links) in uplinks {
        let Some((ports, tried, silent)) = left.get(&leaf).copied() else { continue };
        let count = links.len() as u32;
        if ports >= PORTS_A_LINK * count {
            let above = links.iter().map(|link| if link.0 == leaf { link.1 } else { link.0 });
            for switch in above.filter(|switch| !met.contains(switch)) {
                *picture.hidden.entry(switch).or_insert(0) += ports;
            }
        }
        // A switch that keeps silent would swallow its share of all ports.
        if u64::from(silent) * 2 * u64::from(count) > u64::from(tried) {
            picture.silent.insert(leaf);
        } else if ports >= PORTS_A_LINK * count {
            let unseen = links.into_iter().filter(|link| !picture.crossed.contains_key(link));
            picture.uncrossed.extend(unseen.map(|link| (link, ports)));
        }
    }
    if !picture.hidden.is_empty() {
        picture.doubted = shares.doubted(topology);
    }
    picture
}

/// By which switches probes left leaves.
#[derive(Default)]
struct Shares {
    /// Leaf, switch and ports.
    met: Vec<(SwitchId, SwitchId, u32)>,
}

impl Shares {
    /// Those that are more likely met by twice their share than by their own, all leaves together.
    fn doubted(&self, topology: &Topology) -> BTreeSet<SwitchId> {
        let mut by_leaf: BTreeMap<SwitchId, BTreeMap<SwitchId, f64>> = BTreeMap::new();
        for (leaf, switch, ports) in &self.met {
            *by_leaf.entry(*leaf).or_default().entry(*switch).or_default() += f64::from(*ports);
        }
        let links = |a: SwitchId, b: SwitchId| {
            let own = topology.links().iter().filter(|link| pair(link.a, link.b) == pair(a, b));
            own.count().max(1) as f64
        };
        let mut speaks: BTreeMap<SwitchId, f64> = BTreeMap::new();
        for (leaf, met) in &by_leaf {
            let all: f64 = met.values().sum();
            let links: BTreeMap<SwitchId, f64> =
                met.keys().map(|switch| (*switch, links(*leaf, *switch))).collect();
            let width: f64 = links.values().sum();
            for (switch, ports) in met {
                let own = links[switch];
                // As likely as its share is doubled, over as likely as it is not.
                let (double, rest) = (2.0 * width / (width + own), width / (width + own));
                *speaks.entry(*switch).or_default() += ports * double.ln() + (all - ports) * rest.ln();
            }
        }
        speaks.into_iter().filter(|(_, speaks)| *speaks >= 0.0).map(|(switch, _)| switch).collect()
    }
}

fn pair(a: SwitchId, b: SwitchId) -> Pair {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_topology;

    const TOPOLOGY: &str = r#"
hosts:
  - {name: h0, nics: [{name: n, ports: [{switch: l0, gbps: 1, address: 10.0.0.1}]}]}
  - {name: h1, nics: [{name: n, ports: [{switch: l1, gbps: 1, address: 10.0.1.1}]}]}
  - {name: h2, nics: [{name: n, ports: [{switch: l2, gbps: 1, address: 10.0.2.1}]}]}
switches:
  - {name: l0, tier: leaf}
  - {name: l1, tier: leaf}
  - {name: l2, tier: leaf}
  - {name: s0, tier: spine, addresses: [172.16.0.0]}
  - {name: s1, tier: spine, addresses: [172.16.0.1]}
links:
  - {a: l0, b: s0, gbps: 1}
  - {a: l0, b: s1, gbps: 1}
  - {a: l1, b: s0, gbps: 1}
  - {a: l1, b: s1, gbps: 1}
  - {a: l2, b: s0, gbps: 1}
  - {a: l2, b: s1, gbps: 1}
"#;

    fn seen(from: u8, to: u8, spine: u8, ports: u32) -> Sighting {
        let host = |n: u8| IpAddr::from([10, 0, n, 1]);
        Sighting { from: host(from), to: host(to), hops: vec![[172, 16, 0, spine].into()], ports }
    }

    fn report(seen: Vec<Sighting>) -> Report {
        Report { tried: seen.iter().map(|seen| seen.ports).sum(), seen, silent: 0 }
    }

    fn look(reports: &[Report]) -> (Picture, Vec<String>) {
        let topology = parse_topology(TOPOLOGY).expect("sound");
        let picture = picture(&topology, &Locator::new(&topology), reports);
        let name = |id: SwitchId| topology.switch(id).name.clone();
        let dead = picture.uncrossed.keys().map(|(a, b)| format!("{}–{}", name(*a), name(*b))).collect();
        (picture, dead)
    }

    #[test]
    fn a_link_that_nobody_crosses_is_named_and_only_that_one() {
        // l0–s1 is dead: l0 sends over s0 only, and the others reach l0 over s0 only.
        let reports = [
            report(vec![seen(0, 1, 0, 20), seen(0, 2, 0, 20)]),
            report(vec![seen(1, 0, 0, 20), seen(1, 2, 0, 8), seen(1, 2, 1, 9)]),
            report(vec![seen(2, 0, 0, 20), seen(2, 1, 1, 12)]),
        ];
        let (picture, dead) = look(&reports);
        assert_eq!(dead, ["l0–s1"]);
        assert_eq!(picture.uncrossed.values().collect::<Vec<_>>(), [&40]);
        assert_eq!((picture.silent.len(), picture.strangers.len()), (0, 0));
    }

    #[test]
    fn few_probes_and_silence_prove_nothing() {
        assert_eq!(look(&[report(vec![seen(0, 1, 0, 31)])]).1, Vec::<String>::new());
        let mut silent = report(vec![seen(0, 1, 0, 60)]);
        (silent.tried, silent.silent) = (120, 60);
        let (picture, dead) = look(&[silent]);
        assert_eq!((dead.len(), picture.silent.len()), (0, 1));
    }

    #[test]
    fn a_switch_that_nobody_meets_accuses_no_link_and_one_that_is_met_twice_as_often_is_doubted() {
        // Of three spines, s2 is met by nobody.
        let third = "  - {name: s2, tier: spine, addresses: [172.16.0.2]}\n";
        let text = TOPOLOGY.replace("links:", &format!("{third}links:"))
            + "  - {a: l0, b: s2, gbps: 1}\n  - {a: l1, b: s2, gbps: 1}\n  - {a: l2, b: s2, gbps: 1}\n";
        let topology = parse_topology(&text).expect("sound");
        let look = |first: u32, second: u32| {
            let one = |from, to| report(vec![seen(from, to, 0, first), seen(from, to, 1, second)]);
            let reports = [one(0, 1), one(1, 2), one(2, 0)];
            picture(&topology, &Locator::new(&topology), &reports)
        };
        let name = |id: &SwitchId| topology.switch(*id).name.clone();
        let dead = look(40, 38);
        assert_eq!(dead.hidden.keys().map(name).collect::<Vec<_>>(), ["s2"]);
        assert_eq!(
            dead.uncrossed.len(),
            3,
            "whether they count is for those to say who know what was before"
        );
        assert_eq!(dead.doubted.len(), 0);
        let liar = look(26, 52);
        assert_eq!(liar.doubted.iter().map(name).collect::<Vec<_>>(), ["s1"]);
    }

    #[test]
    fn what_the_topology_does_not_know_is_told() {
        let mut strange = seen(0, 1, 9, 5);
        let far = seen(0, 7, 0, 5);
        let (picture, _) = look(&[report(vec![strange.clone(), far])]);
        let expected = [Stranger::Host([10, 0, 7, 1].into()), Stranger::Switch([172, 16, 0, 9].into())];
        assert_eq!(picture.strangers, BTreeSet::from(expected));
        strange.hops = vec![[172, 16, 0, 0].into(), [172, 16, 0, 1].into()];
        let (picture, _) = look(&[report(vec![strange])]);
        assert!(matches!(picture.strangers.first(), Some(Stranger::Link(_))), "spines are not joined");
    }
}
