//! What probes say about the network, held against what is written about it.
//!
//! A probe that was answered on its way up tells which links it crossed. Links that nobody ever crosses, though enough
//! probes went from leaf to leaf that each way between them had to be seen, are dead, or not there. A way has two halves, up to
//! a spine and down from it: that nobody takes it speaks against the half that nobody crosses elsewhere either, be it at
//! the leaf the probes left or at the one they went to. Nothing is concluded where switches
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
    /// Links of leaves that no probe crosses, though enough went where it leads; with how many did.
    pub uncrossed: BTreeMap<Pair, u32>,
    /// Of these, those that nobody else can be blamed for, whatever else will be seen.
    pub sure: BTreeSet<Pair>,
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

/// So many ports would have to have taken a link, by its share, before one that none took counts as dead: at e⁻¹⁶ for each
/// link, chance is out. That probing stops once it has found what it looks for changes nothing in that.
const PORTS_A_LINK: u32 = 16;

/// Holds reports against the topology.
#[must_use]
pub fn picture<'r>(
    topology: &Topology,
    locator: &Locator,
    reports: impl IntoIterator<Item = &'r Report>,
) -> Picture {
    let mut picture = Picture::default();
    let mut uplinks: BTreeMap<SwitchId, BTreeSet<SwitchId>> = BTreeMap::new();
    for link in topology.links() {
        for (leaf, other) in [(link.a, link.b), (link.b, link.a)] {
            if topology.switch(leaf).tier == Tier::Leaf && topology.switch(other).tier != Tier::Leaf {
                uplinks.entry(leaf).or_default().insert(other);
            }
        }
    }
    // Ports that left each leaf, tried and silent; and by which switch they left it.
    let mut left: BTreeMap<SwitchId, (u32, u32, u32)> = BTreeMap::new();
    let mut shares = Shares::default();
    let mut between: BTreeMap<Between, u32> = BTreeMap::new();
    for report in reports {
        let mut leaves = BTreeSet::new();
        for seen in &report.seen {
            match locator.cross(topology, seen) {
                Ok(crossed) => {
                    for link in &crossed {
                        let count = picture.crossed.entry(*link).or_insert(0);
                        *count = count.saturating_add(seen.ports);
                    }
                    let leaf = |address| {
                        let (nic, port) = locator.port(address)?;
                        Some(topology.nic(nic).ports[port as usize].switch)
                    };
                    if let Some(from) = leaf(seen.from) {
                        let of = left.entry(from).or_default();
                        of.0 = of.0.saturating_add(seen.ports);
                        leaves.insert(from);
                        let first = seen.hops.first().and_then(|hop| locator.switch(*hop));
                        shares.met.extend(first.map(|switch| (from, switch, seen.ports)));
                        let to = leaf(seen.to).filter(|_| seen.hops.len() == 1);
                        let count = between.entry((from, to)).or_insert(0);
                        *count = count.saturating_add(seen.ports);
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
    for (leaf, above) in &uplinks {
        let Some((ports, tried, silent)) = left.get(leaf).copied() else { continue };
        let count = above.len() as u32;
        if ports >= PORTS_A_LINK * count {
            for switch in above.iter().filter(|switch| !met.contains(switch)) {
                *picture.hidden.entry(*switch).or_insert(0) += ports;
            }
        }
        // A switch that keeps silent would swallow its share of all ports.
        if u64::from(silent) * 2 * u64::from(count) > u64::from(tried) {
            picture.silent.insert(*leaf);
        }
    }
    between.retain(|(from, _), _| !picture.silent.contains(from));
    (picture.uncrossed, picture.sure) = uncrossed(&uplinks, &picture.crossed, &between);
    picture.sure.retain(|(a, b)| met.contains(a) && met.contains(b));
    if !picture.hidden.is_empty() {
        picture.doubted = shares.doubted(topology);
    }
    picture
}

/// Leaves that probes went from and to; only the first where what they crossed on the way down is not known.
type Between = (SwitchId, Option<SwitchId>);

/// Links that no probe crosses and that would have been crossed, given how many ports went between leaves; and those of them that are
/// the only ones to blame.
fn uncrossed(
    uplinks: &BTreeMap<SwitchId, BTreeSet<SwitchId>>,
    crossed: &BTreeMap<Pair, u32>,
    between: &BTreeMap<Between, u32>,
) -> (BTreeMap<Pair, u32>, BTreeSet<Pair>) {
    // Ways that nobody took: which halves of them nobody crosses, how many ports would have taken it, and how many there were.
    let mut ways: Vec<(Vec<Pair>, f64, u32)> = Vec::new();
    for ((from, to), ports) in between {
        let above =
            |leaf: &SwitchId| uplinks.get(leaf).into_iter().flatten().copied().collect::<BTreeSet<_>>();
        let mut tops = above(from);
        if let Some(to) = to {
            let others = above(to);
            tops.retain(|top| others.contains(top));
        }
        let expected = f64::from(*ports) / tops.len() as f64;
        for top in tops {
            let halves = std::iter::once(from).chain(to).map(|leaf| pair(*leaf, top));
            let halves: Vec<Pair> = halves.filter(|half| !crossed.contains_key(half)).collect();
            if !halves.is_empty() {
                ways.push((halves, expected, *ports));
            }
        }
    }
    let judge = |ways: &mut dyn Iterator<Item = &(Vec<Pair>, f64, u32)>| {
        let mut sums: BTreeMap<Pair, (f64, u32)> = BTreeMap::new();
        for (halves, expected, ports) in ways {
            for half in halves {
                let sum = sums.entry(*half).or_default();
                *sum = (sum.0 + expected, sum.1.saturating_add(*ports));
            }
        }
        let enough = sums.into_iter().filter(|(_, sum)| sum.0 >= f64::from(PORTS_A_LINK));
        enough.map(|(link, (_, ports))| (link, ports)).collect::<BTreeMap<Pair, u32>>()
    };
    // First those that nobody else can be blamed for. What they explain speaks against nobody else.
    let mut dead = judge(&mut ways.iter().filter(|(halves, ..)| halves.len() == 1));
    let sure = dead.keys().copied().collect();
    ways.retain(|(halves, ..)| halves.len() == 1 || !halves.iter().any(|half| dead.contains_key(half)));
    for (link, ports) in judge(&mut ways.iter()) {
        dead.entry(link).or_insert(ports);
    }
    (dead, sure)
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
        // Those that left l0, and those that went there from where s1 is met.
        assert_eq!(picture.uncrossed.values().collect::<Vec<_>>(), [&80]);
        assert_eq!((picture.silent.len(), picture.strangers.len()), (0, 0));
    }

    #[test]
    fn a_link_is_named_by_those_who_send_where_it_leads_and_the_other_half_of_the_way_is_not() {
        // s1–l1 is dead. Few probes leave l1; those that go there from l0 know s1 otherwise.
        let reports = [report(vec![seen(0, 1, 0, 32), seen(0, 2, 0, 1), seen(0, 2, 1, 1)])];
        assert_eq!(look(&reports).1, ["l1–s1"]);
        // Nobody has met s1 from l0: either half may be dead, unless one is known by others.
        let reports = [report(vec![seen(0, 1, 0, 32)])];
        assert_eq!(look(&reports).1, ["l0–s1", "l1–s1"]);
        let reports = [report(vec![seen(0, 1, 0, 40)]), report(vec![seen(2, 1, 0, 20), seen(2, 1, 1, 20)])];
        assert_eq!(look(&reports).1, ["l0–s1"]);
        // What the dead one explains does not speak against who has sent nothing elsewhere.
        let reports = [report(vec![seen(0, 1, 0, 40), seen(0, 2, 0, 40)]), report(vec![seen(2, 1, 1, 1)])];
        assert_eq!(look(&reports).1, ["l0–s1"]);
        // Of four leaves, l2 is met by none but l0, whose link is known to be the dead one.
        let host = "  - {name: h3, nics: [{name: n, ports: [{switch: l3, gbps: 1, address: 10.0.3.1}]}]}\nswitches:\n";
        let text = TOPOLOGY.replace("switches:\n", &format!("{host}  - {{name: l3, tier: leaf}}\n"))
            + "  - {a: l3, b: s0, gbps: 1}\n  - {a: l3, b: s1, gbps: 1}\n";
        let topology = parse_topology(&text).expect("sound");
        let reports = [
            report(vec![seen(0, 1, 0, 40), seen(0, 2, 0, 40)]),
            report(vec![seen(1, 3, 1, 1), seen(1, 3, 0, 1)]),
        ];
        let dead = picture(&topology, &Locator::new(&topology), &reports).uncrossed;
        let name = |id: SwitchId| topology.switch(id).name.clone();
        assert_eq!(
            dead.keys().map(|(a, b)| (name(*a), name(*b))).collect::<Vec<_>>(),
            [("l0".into(), "s1".into())]
        );
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
