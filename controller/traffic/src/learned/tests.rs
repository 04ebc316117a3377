//! Fabrics are made up, probed as their switches would answer, and learned.

use std::net::Ipv4Addr;

use super::*;
use crate::document::topology_yaml;

/// How switches sign what they say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signs {
    /// By one address each.
    Loopback,
    /// By the address of the link that the probe came in by; links are so wide.
    Link(u32),
    /// By the address of whichever link the answer leaves by, as Linux does.
    Outgoing,
}

/// A port of a NIC: its host, its NIC, its leaf.
struct Cabled {
    host: &'static str,
    nic: &'static str,
    leaf: u32,
}

/// Leaves that are joined to spines, by numbers.
struct Fabric {
    ports: Vec<Cabled>,
    links: Vec<(u32, u32)>,
    signs: Signs,
}

const LEAF: u32 = 0;
const SPINE: u32 = 100;

impl Fabric {
    fn address(&self, port: usize) -> IpAddr {
        Ipv4Addr::from_bits(0x0A00_0001 + 256 * port as u32).into()
    }

    /// What the end of a link answers.
    fn on_link(&self, leaf: u32, spine: u32, at_leaf: bool, wide: u32) -> IpAddr {
        let number = self.links.iter().position(|link| *link == (leaf, spine)).expect("joined") as u32;
        let first = if wide == 4 { 1 } else { 0 };
        Ipv4Addr::from_bits(0xAC10_0000 + wide * number + first + u32::from(at_leaf)).into()
    }

    fn loopback(switch: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0AFF_0001 + switch).into()
    }

    /// The gateway of a port, or the leaf's only address.
    fn leaf(&self, port: usize) -> IpAddr {
        match self.signs {
            Signs::Loopback => Self::loopback(LEAF + self.ports[port].leaf),
            _ => Ipv4Addr::from_bits(0x0A00_0001 + 256 * port as u32 + 253).into(),
        }
    }

    /// Everything that probes between all ports see, if hashes spread evenly.
    fn traces(&self) -> Vec<Trace> {
        let mut traces = Vec::new();
        for from in 0..self.ports.len() {
            for to in 0..self.ports.len() {
                let (a, b) = (self.ports[from].leaf, self.ports[to].leaf);
                let trace = |hops| Trace { from: self.address(from), to: self.address(to), hops, ports: 16 };
                if from != to && a == b {
                    traces.push(trace(vec![self.leaf(from)]));
                }
                if a == b {
                    continue;
                }
                let spines: Vec<u32> =
                    self.links.iter().filter(|link| link.0 == a).map(|link| link.1).collect();
                let spines: Vec<u32> =
                    spines.into_iter().filter(|spine| self.links.contains(&(b, *spine))).collect();
                for (number, spine) in spines.iter().enumerate() {
                    let (up, down) = match self.signs {
                        Signs::Loopback => (Self::loopback(SPINE + spine), Self::loopback(LEAF + b)),
                        Signs::Link(wide) => {
                            (self.on_link(a, *spine, false, wide), self.on_link(b, *spine, true, wide))
                        }
                        Signs::Outgoing => {
                            let any = spines[(number + from + 1) % spines.len()];
                            (self.on_link(a, *spine, false, 2), self.on_link(b, any, true, 2))
                        }
                    };
                    traces.push(trace(vec![self.leaf(from), up, down]));
                }
            }
        }
        traces
    }

    fn host_ports(&self) -> Vec<HostPort> {
        let port = |(number, cabled): (usize, &Cabled)| HostPort {
            host: cabled.host.to_owned(),
            nic: cabled.nic.to_owned(),
            address: self.address(number),
            rate: Gbps::new(200.0),
        };
        self.ports.iter().enumerate().map(port).collect()
    }

    fn learn(&self) -> Result<Learned, Vec<String>> {
        learn(&self.host_ports(), &self.traces(), Assumed::default())
    }

    fn learned(&self) -> Topology {
        let learned = self.learn().unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        assert_eq!(learned.notes.len(), 1, "only what is assumed of links: {:?}", learned.notes);
        // It is what it was made of: every port under its leaf, as many switches and links.
        let topology = learned.topology;
        let leaf = |at: usize| {
            let number: usize = topology.nics()[..].iter().map(|nic| nic.ports.len()).sum();
            assert_eq!(number, self.ports.len());
            topology.nics().iter().flat_map(|nic| &nic.ports).nth(at).expect("there").switch
        };
        for a in 0..self.ports.len() {
            for b in 0..self.ports.len() {
                assert_eq!(leaf(a) == leaf(b), self.ports[a].leaf == self.ports[b].leaf, "{a} {b}");
            }
        }
        let count = |of: &mut dyn Iterator<Item = u32>| of.collect::<BTreeSet<u32>>().len();
        let of_tier = |tier| topology.switches().iter().filter(|switch| switch.tier == tier).count();
        assert_eq!(of_tier(Tier::Leaf), count(&mut self.links.iter().map(|link| link.0)));
        assert_eq!(of_tier(Tier::Spine), count(&mut self.links.iter().map(|link| link.1)));
        assert_eq!(topology.links().len(), self.links.len());
        topology
    }
}

fn all_to_all(leaves: u32, spines: u32) -> Vec<(u32, u32)> {
    (0..leaves).flat_map(|leaf| (0..spines).map(move |spine| (leaf, spine))).collect()
}

const HOSTS: [&str; 6] = ["h0", "h1", "h2", "h3", "h4", "h5"];

/// Three leaves with two hosts each, three spines.
fn leaf_spine(signs: Signs) -> Fabric {
    let port = |(number, host): (usize, &&'static str)| Cabled { host, nic: "n0", leaf: number as u32 / 2 };
    Fabric { ports: HOSTS.iter().enumerate().map(port).collect(), links: all_to_all(3, 3), signs }
}

#[test]
fn leaves_and_spines_are_learned_whatever_switches_sign_with() {
    for signs in [Signs::Loopback, Signs::Link(2), Signs::Link(4)] {
        let topology = leaf_spine(signs).learned();
        assert!(
            topology
                .switches()
                .iter()
                .all(|switch| switch.name.contains("-10.") || switch.name.contains("-172."))
        );
        let addresses = topology.switch_addresses(SwitchId(0)).len();
        assert_eq!(addresses, if signs == Signs::Loopback { 1 } else { 2 + 3 });
        let yaml = topology_yaml(&topology);
        assert!(crate::document::parse_topology(&yaml).is_ok(), "{yaml}");
    }
}

#[test]
fn spines_of_which_nobody_can_tell_whether_they_are_the_same_are_no_topology() {
    let mistakes = leaf_spine(Signs::Outgoing).learn().expect_err("two spines or one?");
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].contains("whether they are the same switches cannot be told"), "{mistakes:?}");
}

#[test]
fn rails_share_spines() {
    for signs in [Signs::Loopback, Signs::Link(2)] {
        // NIC r of each host is under the leaf of rail r; two pods of two rails.
        let mut ports = Vec::new();
        for (number, host) in HOSTS.into_iter().enumerate() {
            for (rail, nic) in ["n0", "n1"].into_iter().enumerate() {
                ports.push(Cabled { host, nic, leaf: (number as u32 / 3) * 2 + rail as u32 });
            }
        }
        let topology = Fabric { ports, links: all_to_all(4, 2), signs }.learned();
        assert_eq!(topology.nics().len(), 12);
        assert!(topology.nics().iter().all(|nic| nic.ports.len() == 1));
    }
}

#[test]
fn two_planes_share_nothing() {
    for signs in [Signs::Loopback, Signs::Link(2)] {
        // Both ports of the only NIC of each host: one in each plane.
        let mut ports = Vec::new();
        for (number, host) in HOSTS.into_iter().enumerate() {
            for plane in 0..2 {
                ports.push(Cabled { host, nic: "n0", leaf: 2 * (number as u32 / 3) + plane });
            }
        }
        let links = vec![(0, 0), (0, 1), (2, 0), (2, 1), (1, 2), (1, 3), (3, 2), (3, 3)];
        let topology = Fabric { ports, links, signs }.learned();
        assert_eq!(topology.nics().len(), 6);
        for nic in topology.nics() {
            assert_eq!(nic.ports.len(), 2);
            assert_ne!(nic.ports[0].switch, nic.ports[1].switch);
        }
    }
}

#[test]
fn cores_are_above_spines() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let port = |host: &str, own: &str| HostPort {
        host: host.into(),
        nic: "n".into(),
        address: address(own),
        rate: None,
    };
    let ports = [port("a", "10.0.0.1"), port("b", "10.0.1.1"), port("c", "10.0.2.1")];
    let trace = |from: &str, to: &str, hops: &[&str]| Trace {
        from: address(from),
        to: address(to),
        hops: hops.iter().map(|hop| address(hop)).collect(),
        ports: 40,
    };
    // a and b are in one pod, c is in another.
    let near = ["1.1.1.1", "1.2.1.1", "1.1.1.2"];
    let far = ["1.1.1.1", "1.2.1.1", "1.3.1.1", "1.2.2.1", "1.1.2.1"];
    let back: Vec<&str> = far.iter().rev().copied().collect();
    let traces = [
        trace("10.0.0.1", "10.0.1.1", &near),
        trace("10.0.0.1", "10.0.2.1", &far),
        trace("10.0.2.1", "10.0.0.1", &back),
        trace("10.0.0.1", "10.9.9.9", &near),
        trace("10.0.1.1", "10.0.0.1", &["1.1.1.2", "1.2.1.1", "1.1.1.1"]),
        trace("10.0.1.1", "10.0.0.1", &near[..2]),
    ];
    let assumed = Assumed { nic_rate: Gbps::new(400.0), link_rate: Gbps::new(800.0) };
    let learned = learn(&ports, &traces, assumed).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let names: Vec<&str> = learned.topology.switches().iter().map(|switch| switch.name.as_str()).collect();
    let expected =
        ["leaf-1.1.1.1", "leaf-1.1.1.2", "leaf-1.1.2.1", "spine-1.2.1.1", "spine-1.2.2.1", "core-1.3.1.1"];
    assert_eq!(names, expected);
    let rates: Vec<f64> = learned.topology.links().iter().map(|link| link.rate.get()).collect();
    assert_eq!(rates, [800.0; 5]);
    for note in [
        "10.9.9.9, which is no port's",
        "1 paths do not go up and down",
        "3 ports of NICs, 400 Gbit/s",
        "5 links",
    ] {
        assert!(learned.notes.iter().any(|told| told.contains(note)), "{note}: {:#?}", learned.notes);
    }
}

#[test]
fn what_cannot_be_is_told_and_what_is_not_known_not_made_up() {
    let fabric = leaf_spine(Signs::Loopback);
    let (ports, traces) = (fabric.host_ports(), fabric.traces());
    let told =
        |ports: &[HostPort], traces: &[Trace]| learn(ports, traces, Assumed::default()).expect_err("wrong");
    // A spine that answers by a leaf's address.
    let lies: Vec<Trace> = traces
        .iter()
        .map(|trace| {
            let lie = |hop: &IpAddr| if *hop == Fabric::loopback(SPINE) { Fabric::loopback(2) } else { *hop };
            Trace { hops: trace.hops.iter().map(lie).collect(), ..trace.clone() }
        })
        .collect();
    assert!(told(&ports, &lies).iter().any(|what| what.contains("as a leaf and as a spine")));
    let mut unrated = ports.clone();
    unrated[3].rate = None;
    assert!(told(&unrated, &traces).iter().any(|what| what.contains("the first: h3/n0")));
    let alone: Vec<Trace> = traces
        .iter()
        .filter(|trace| trace.from != ports[5].address && trace.to != ports[5].address)
        .cloned()
        .collect();
    assert_eq!(told(&ports, &alone), ["h5/n0 (10.0.5.1): no probe from or to it was answered all the way"]);
    let few: Vec<Trace> = traces.iter().map(|trace| Trace { ports: 1, ..trace.clone() }).collect();
    let learned = learn(&ports, &few, Assumed::default()).expect("as far as it goes");
    let missing = learned.notes.iter().filter(|note| note.contains("there may be links that none took"));
    assert_eq!(missing.count(), 3, "{:#?}", learned.notes);
}
