//! Fabrics as clusters of GPUs have them: a leaf for each rail, and NICs with a port in each of two planes. What is the
//! optimum there is known without computing it.

#[path = "common/checker.rs"]
mod checker;
mod common;

use c4_traffic::{
    Topology, plan,
    topology::{Builder, Port, State, SwitchId, Tier},
};
use checker::check;
use common::{Dice, flows, gbps};

const RATE: f64 = 100.0;

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

fn switches(builder: &mut Builder, kind: &str, tier: Tier, count: usize) -> Vec<SwitchId> {
    (0..count).map(|n| builder.switch(&format!("{kind}{n}"), tier).expect("new")).collect()
}

fn join(builder: &mut Builder, leaves: &[SwitchId], spines: &[SwitchId]) {
    for leaf in leaves {
        for spine in spines {
            builder.links(*leaf, *spine, gbps(RATE), 1, State::Up).expect("fine");
        }
    }
}

fn port(switch: SwitchId) -> Port {
    Port { switch, rate: gbps(RATE), state: State::Up }
}

/// In each pod a leaf for each rail, with as many spines above as hosts below; NIC `r` of each host is under the leaf of rail `r`.
fn rails(pods: usize, rails: usize, hosts: usize) -> Topology {
    let mut builder = Builder::new();
    let leaves = switches(&mut builder, "leaf", Tier::Leaf, pods * rails);
    let spines = switches(&mut builder, "spine", Tier::Spine, hosts);
    join(&mut builder, &leaves, &spines);
    for pod in 0..pods {
        for n in 0..hosts {
            let host = builder.host(&format!("h{pod}-{n}")).expect("new");
            for rail in 0..rails {
                let ports = vec![port(leaves[pod * rails + rail])];
                builder.nic(host, &format!("nic{rail}"), ports).expect("new");
            }
        }
    }
    builder.build()
}

/// Pairs of leaves, one in each plane with spines of its own; NICs have a port in both.
fn planes(racks: usize, spines: usize, nics: usize) -> Topology {
    let mut builder = Builder::new();
    let leaves = switches(&mut builder, "leaf", Tier::Leaf, 2 * racks);
    let spines = switches(&mut builder, "spine", Tier::Spine, 2 * spines);
    for plane in 0..2 {
        let of = |all: &[SwitchId]| all.iter().copied().skip(plane).step_by(2).collect::<Vec<_>>();
        join(&mut builder, &of(&leaves), &of(&spines));
    }
    for (rack, pair) in leaves.chunks(2).enumerate() {
        for n in 0..nics {
            let host = builder.host(&format!("h{rack}-{n}")).expect("new");
            builder.nic(host, "nic0", pair.iter().copied().map(port).collect()).expect("new");
        }
    }
    builder.build()
}

/// Each of so many sends to another, and hears from one.
fn permutation(count: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..count).collect();
    Dice(seed).shuffle(&mut order);
    order.into_iter().enumerate().filter(|(from, to)| from != to).collect()
}

#[test]
fn rings_of_every_rail_fill_its_links_exactly_and_never_leave_it() {
    for (pods, count, hosts) in [(2, 4, 8), (4, 8, 4), (3, 2, 6)] {
        for seed in 0..4 {
            let topology = rails(pods, count, hosts);
            // NICs are numbered host by host.
            let of_rail = |rail: usize| {
                let pairs = permutation(pods * hosts, seed * 100 + rail as u64).into_iter();
                pairs.map(move |(from, to)| (from * count + rail, to * count + rail, RATE, 1))
            };
            let flows = flows(&topology, &(0..count).flat_map(of_rail).collect::<Vec<_>>());
            let plan = plan(&topology, &flows, None);
            check(&topology, &flows, &plan);
            assert!(
                near(plan.max_link_utilisation, 1.0),
                "{pods} {count} {seed}: {}",
                plan.max_link_utilisation
            );
            assert!(plan.max_fabric_utilisation <= 1.0 + 1e-9, "{}", plan.max_fabric_utilisation);
            let rail = |switch: &SwitchId| switch.index() % count;
            for piece in plan.flows.iter().flat_map(|flow| &flow.pieces) {
                let (first, last) = (piece.path.first().expect("a leaf"), piece.path.last().expect("a leaf"));
                assert_eq!(rail(first), rail(last), "{piece:?}");
                assert_eq!(piece.path.len(), if first == last { 1 } else { 3 }, "{piece:?}");
            }
        }
    }
}

#[test]
fn flows_as_fast_as_both_ports_of_a_nic_use_both_planes_evenly() {
    for (racks, spines, nics) in [(4, 4, 4), (6, 3, 3)] {
        for seed in 0..4 {
            let topology = planes(racks, spines, nics);
            let pairs = permutation(racks * nics, seed).into_iter();
            let flows =
                flows(&topology, &pairs.map(|(from, to)| (from, to, 2.0 * RATE, 2)).collect::<Vec<_>>());
            let plan = plan(&topology, &flows, None);
            check(&topology, &flows, &plan);
            assert!(near(plan.max_link_utilisation, 1.0), "{racks} {seed}: {}", plan.max_link_utilisation);
            for flow in &plan.flows {
                let ports: Vec<_> =
                    flow.pieces.iter().map(|piece| (piece.src_port, piece.dst_port)).collect();
                assert_eq!(ports, [(0, 0), (1, 1)], "left stays left, right stays right");
            }
        }
    }
}
