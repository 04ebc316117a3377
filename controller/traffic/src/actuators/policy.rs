//! Policy routes: switches that are Linux routers are told, for each pair of addresses, the next hop on the way up. On the way
//! down there is but one way, which their own routes know.
//!
//! A rule for a pair points to a table with one default route over the planned next hops. Where a flow is cut, or several flows
//! have the same two addresses, that route has several, weighted as the plan has them, and the kernel hashes among these:
//! with few connections that is no more than near to the plan. When the link to a next hop goes down, the route is gone with it
//! and the rule finds nothing: the pair is routed as if there were no plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use super::{Actuator, Deeds, Document, Failed, Planned, Reach};
use crate::{
    orders::Unknown,
    topology::{State, SwitchId, Topology},
};

/// Marks what is ours (rules and routes), so that it can be taken away again without a list.
const PROTOCOL: u32 = 204;
/// Priority of the rules: before that of the main table (32766).
const PRIORITY: u32 = 20_400;
/// The first of our tables.
const TABLE: u32 = 20_400;
/// The largest weight of a next hop, in the kernel and in FRR.
const MOST_WEIGHT: u32 = 255;
/// Rules of a map that FRR numbers (1 to 700).
const MOST_SEQUENCE: usize = 700;

/// In whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// `ip -4 -batch FILE`, and `ip -6 -batch FILE` for IPv6.
    Iproute,
    /// FRR's `pbrd`, for `vtysh -f FILE`.
    Frr,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRoutes(pub Words);

/// Next hops with their weights.
type Hops = BTreeMap<IpAddr, u32>;
/// The next hops for each pair of addresses.
type Pairs = BTreeMap<(IpAddr, IpAddr), Hops>;

impl Actuator for PolicyRoutes {
    fn reach(&self) -> Reach {
        Reach::Running
    }

    fn carry_out(&self, planned: &Planned<'_>) -> Result<Deeds, Failed> {
        let mut documents = Vec::new();
        for (switch, pairs) in pairs(planned)? {
            let name = &planned.topology.switch(switch).name;
            match self.0 {
                Words::Iproute => {
                    for (suffix, is_v6) in [("ip4", false), ("ip6", true)] {
                        let own = pairs.iter().filter(|((from, _), _)| from.is_ipv6() == is_v6);
                        let own: Pairs = own.map(|(pair, hops)| (*pair, hops.clone())).collect();
                        // One without rules, too: it takes those of before away.
                        if !own.is_empty() || !is_v6 {
                            documents
                                .push(Document { name: format!("{name}.{suffix}"), text: iproute(&own) });
                        }
                    }
                }
                Words::Frr => {
                    if pairs.len() > MOST_SEQUENCE {
                        let (switch, needed) = (name.clone(), pairs.len());
                        return Err(Failed::TooMany { switch, needed, most: MOST_SEQUENCE });
                    }
                    documents.push(Document { name: format!("{name}.frr"), text: frr(&pairs) });
                }
            }
        }
        Ok(Deeds { orders: Vec::new(), documents })
    }
}

/// Of each leaf and of other switches that flows climb over: where pairs of addresses go next.
fn pairs(planned: &Planned<'_>) -> Result<BTreeMap<SwitchId, Pairs>, Unknown> {
    let Planned { topology, flows, plan } = *planned;
    let mut unknown = BTreeSet::new();
    // Leaves that nothing crosses any more have to hear that.
    let leaves = topology.nics().iter().flat_map(|nic| &nic.ports).map(|port| port.switch);
    let mut all: BTreeMap<SwitchId, Pairs> = leaves.map(|leaf| (leaf, Pairs::new())).collect();
    for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
        for piece in planned.pieces.iter().filter(|piece| piece.path.len() > 1) {
            let mut port = |nic, port: u32| {
                let address = topology.port_address(nic, port);
                if address.is_none() {
                    let at = topology.nic(nic);
                    unknown.insert(format!("{}/{}:{port}", topology.host_name(at.host), at.name));
                }
                address
            };
            let ends = port(flow.src, piece.src_port).zip(port(flow.dst, piece.dst_port));
            for (hop, between) in piece.path.windows(2).enumerate().take(piece.path.len() / 2) {
                let (here, next) = (between[0], between[1]);
                let index = piece.link.as_ref().and_then(|link| link.get(hop).copied()).flatten();
                for index in links(topology, here, next, index) {
                    match (ends, topology.link_address(next, here, index)) {
                        (Some(ends), Some(address)) => {
                            let hops = all.entry(here).or_default().entry(ends).or_default();
                            *hops.entry(address).or_default() += piece.units;
                        }
                        (_, None) => {
                            let name = |id| &topology.switch(id).name;
                            unknown.insert(format!("{} on its link {index} to {}", name(next), name(here)));
                        }
                        (None, _) => {}
                    }
                }
            }
        }
    }
    if unknown.is_empty() { Ok(all) } else { Err(Unknown { of: unknown.into_iter().collect() }) }
}

/// The links that a piece takes from one switch to the next: one by its index, or all that may be used.
fn links(topology: &Topology, a: SwitchId, b: SwitchId, index: Option<u32>) -> Vec<u32> {
    if let Some(index) = index {
        return vec![index];
    }
    let ends = (a.min(b), a.max(b));
    let between = topology.links().iter().filter(|link| (link.a, link.b) == ends);
    let usable =
        |state: State| between.clone().filter(move |link| link.state == state).map(|link| link.index);
    let up: Vec<u32> = usable(State::Up).collect();
    if up.is_empty() { usable(State::Avoid).collect() } else { up }
}

/// Weights in their lowest terms, and no larger than they may be.
fn weighted(hops: &Hops) -> Vec<(IpAddr, u32)> {
    let common = hops.values().copied().fold(0, gcd).max(1);
    let most = hops.values().copied().max().unwrap_or(1) / common;
    let scaled = |units: &u32| {
        let units = units / common;
        if most <= MOST_WEIGHT { units } else { (units * MOST_WEIGHT / most).max(1) }
    };
    hops.iter().map(|(hop, units)| (*hop, scaled(units))).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Numbers of the different sets of next hops.
fn sets(pairs: &Pairs) -> BTreeMap<Vec<(IpAddr, u32)>, usize> {
    let sets: BTreeSet<Vec<(IpAddr, u32)>> = pairs.values().map(weighted).collect();
    sets.into_iter().enumerate().map(|(number, set)| (set, number)).collect()
}

/// As `ip -batch` takes it. Between the two the switch hashes, for some milliseconds.
fn iproute(pairs: &Pairs) -> String {
    let mut text = format!("rule flush protocol {PROTOCOL}\n");
    let sets = sets(pairs);
    for (hops, number) in &sets {
        let table = TABLE as usize + number;
        let _ = write!(text, "route replace default table {table} protocol {PROTOCOL}");
        match hops.as_slice() {
            [(hop, _)] => {
                let _ = write!(text, " via {hop}");
            }
            several => {
                for (hop, weight) in several {
                    let _ = write!(text, " nexthop via {hop} weight {weight}");
                }
            }
        }
        text.push('\n');
    }
    for ((from, to), hops) in pairs {
        let table = TABLE as usize + sets[&weighted(hops)];
        let _ = writeln!(
            text,
            "rule add priority {PRIORITY} from {from} to {to} lookup {table} protocol {PROTOCOL}"
        );
    }
    text
}

/// As FRR takes it.
fn frr(pairs: &Pairs) -> String {
    let mut text = "! Give every port to a host: pbr-policy c4\n".to_owned();
    let sets = sets(pairs);
    for (hops, number) in &sets {
        let _ = writeln!(text, "nexthop-group c4-{number}");
        for (hop, weight) in hops {
            let _ = writeln!(text, " nexthop {hop} weight {weight}");
        }
        text.push_str("exit\n");
    }
    text.push_str("no pbr-map c4\n");
    for (number, ((from, to), hops)) in pairs.iter().enumerate() {
        let set = sets[&weighted(hops)];
        let (sequence, bits) = (number + 1, if from.is_ipv6() { 128 } else { 32 });
        let _ = writeln!(
            text,
            "pbr-map c4 seq {sequence}\n match src-ip {from}/{bits}\n match dst-ip {to}/{bits}\n set nexthop-group \
             c4-{set}\nexit"
        );
    }
    text
}
