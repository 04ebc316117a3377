//! What holds for every fabric and every set of flows, broken ones included.

#[path = "common/checker.rs"]
mod checker;
mod common;

use std::num::NonZeroU32;

use c4_traffic::{
    Flow, Flows, Topology, baseline, plan,
    plan::Piece,
    rates,
    topology::{Builder, Port, State, Tier},
    wires::Wires,
};
use checker::{check, moves};
use common::{Dice, gbps};
use proptest::prelude::*;

/// A fabric drawn from a seed: any of two or three tiers, one or two planes, unequal and parallel links, some of them
/// down or to be avoided, and links that no path may use.
fn fabric(seed: u64) -> Topology {
    let mut dice = Dice(seed);
    let mut builder = Builder::new();
    let tiers = 2 + dice.roll(2);
    let planes = 1 + dice.roll(2);
    let healthy = dice.roll(3) == 0;
    let even = dice.roll(2) == 0;
    let pods = if tiers == 3 { 1 + dice.roll(3) } else { 1 };
    let state = |dice: &mut Dice| match if healthy { 9 } else { dice.roll(10) } {
        0 => State::Down,
        1 => State::Avoid,
        _ => State::Up,
    };
    let rate = |dice: &mut Dice| gbps(if even { 100.0 } else { [50.0, 100.0, 100.0, 400.0][dice.roll(4)] });
    let cores: Vec<_> = (0..if tiers == 3 { 1 + dice.roll(4) } else { 0 })
        .map(|n| builder.switch(&format!("core{n}"), Tier::Core).expect("new"))
        .collect();
    let mut leaves = Vec::new();
    for pod in 0..pods {
        let spines: Vec<_> = (0..1 + dice.roll(4))
            .map(|n| builder.switch(&format!("spine{pod}-{n}"), Tier::Spine).expect("new"))
            .collect();
        for spine in &spines {
            for core in &cores {
                if dice.roll(4) > 0 {
                    builder
                        .links(*spine, *core, rate(&mut dice), 1 + dice.roll(2) as u32, state(&mut dice))
                        .expect("fine");
                }
            }
        }
        for l in 0..1 + dice.roll(4) {
            let leaf = builder.switch(&format!("leaf{pod}-{l}"), Tier::Leaf).expect("new");
            for spine in &spines {
                for _ in 0..1 + dice.roll(2) {
                    builder
                        .links(leaf, *spine, rate(&mut dice), 1 + dice.roll(2) as u32, state(&mut dice))
                        .expect("fine");
                }
            }
            if let Some(last) = leaves.last() {
                builder.links(leaf, *last, rate(&mut dice), 1, State::Up).expect("fine");
            }
            leaves.push(leaf);
        }
    }
    for h in 0..leaves.len() * 2 {
        let host = builder.host(&format!("h{h}")).expect("new");
        let ports = (0..planes)
            .map(|plane| Port {
                switch: leaves[(h + plane) % leaves.len()],
                rate: rate(&mut dice),
                state: state(&mut dice),
            })
            .collect();
        builder.nic(host, "nic0", ports).expect("new");
    }
    builder.build()
}

fn some_flows(topology: &Topology, seed: u64, count: usize, prefix: &str, into: &mut Flows) {
    let mut dice = Dice(seed);
    let even = dice.roll(2) == 0;
    let total = topology.nics().len();
    for n in 0..count {
        let (src, dst) = (dice.roll(total), dice.roll(total));
        if src == dst {
            continue;
        }
        let id = |n: usize| topology.find_nic(topology.nics()[n].host, "nic0").expect("there");
        let demand = gbps(if even { 25.0 } else { [5.0, 12.5, 33.0, 100.0][dice.roll(4)] });
        let max_pieces = NonZeroU32::new([1, 1, 2, 3, 4, 16][dice.roll(6)]).expect("some");
        let flow = Flow {
            id: format!("{prefix}{n}"),
            job: prefix.into(),
            src: id(src),
            dst: id(dst),
            demand,
            max_pieces,
        };
        into.push(flow).expect("new");
    }
}

fn drawn(seed: u64, count: usize) -> (Topology, Flows) {
    let topology = fabric(seed);
    let mut flows = Flows::new();
    some_flows(&topology, seed ^ 1, count, "a", &mut flows);
    (topology, flows)
}

/// The same topology with one more link down.
fn broken(topology: &Topology, seed: u64) -> Topology {
    let mut topology = topology.clone();
    if !topology.links().is_empty() {
        let link = topology.links()[Dice(seed).roll(topology.links().len())];
        topology.set_link_state(link.a, link.b, Some(link.index), State::Down);
    }
    topology
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_valid_and_say_the_truth(seed: u64, count in 0usize..60) {
        let (topology, flows) = drawn(seed, count);
        let plan = plan(&topology, &flows, None);
        check(&topology, &flows, &plan);
        prop_assert_eq!(plan.moves, 0);
    }

    #[test]
    fn the_same_input_gives_the_same_plan(seed: u64, count in 0usize..60) {
        let (topology, flows) = drawn(seed, count);
        let first = plan(&topology, &flows, None);
        prop_assert_eq!(&first, &plan(&topology, &flows, None));
        let again = (topology.clone(), flows.clone());
        prop_assert_eq!(&first, &plan(&again.0, &again.1, None));
    }

    #[test]
    fn nothing_moves_when_nothing_changes(seed: u64, count in 0usize..60) {
        let (topology, flows) = drawn(seed, count);
        let first = plan(&topology, &flows, None);
        let second = plan(&topology, &flows, Some(&first.as_previous(&flows)));
        check(&topology, &flows, &second);
        let better = second.max_link_utilisation < first.max_link_utilisation * (1.0 - 1e-6)
            || second.max_fabric_utilisation < first.max_fabric_utilisation * (1.0 - 1e-6);
        prop_assert!(second.moves == 0 || better, "{} moves", second.moves);
        prop_assert!(second.max_link_utilisation <= first.max_link_utilisation * (1.0 + 1e-6));
    }

    #[test]
    fn moves_are_counted_right(seed: u64, count in 0usize..60, more in 0usize..20) {
        let (topology, flows) = drawn(seed, count);
        let first = plan(&topology, &flows, None);
        let mut all = flows.clone();
        some_flows(&topology, seed ^ 2, more, "b", &mut all);
        let topology = broken(&topology, seed ^ 3);
        let second = plan(&topology, &all, Some(&first.as_previous(&flows)));
        check(&topology, &all, &second);
        prop_assert_eq!(second.moves, moves((&flows, &first), (&all, &second)));
    }

    /// Connections that are made stay where they are, whoever comes.
    #[test]
    fn pinned_flows_stay_while_their_path_is_there(seed: u64, count in 0usize..60, more in 0usize..40) {
        let (topology, flows) = drawn(seed, count);
        let first = plan(&topology, &flows, None);
        let mut previous = first.as_previous(&flows);
        let pinned = |number: usize| !number.is_multiple_of(3);
        for (_, flow) in flows.as_slice().iter().enumerate().filter(|(number, _)| pinned(*number)) {
            previous.pin(&flow.id);
        }
        let mut all = flows.clone();
        some_flows(&topology, seed ^ 2, more, "b", &mut all);
        let second = plan(&topology, &all, Some(&previous));
        check(&topology, &all, &second);
        for (number, (before, after)) in first.flows.iter().zip(&second.flows).enumerate() {
            prop_assert!(!pinned(number) || before.pieces == after.pieces, "flow {number} moved");
        }
    }

    /// What is on a dead link has to move, and if nothing else is fuller than before, only that has.
    #[test]
    fn what_a_dead_link_does_not_concern_stays(seed: u64, count in 0usize..60) {
        let (topology, flows) = drawn(seed, count);
        let first = plan(&topology, &flows, None);
        let after = broken(&topology, seed ^ 3);
        let second = plan(&after, &flows, Some(&first.as_previous(&flows)));
        check(&after, &flows, &second);
        let down: Vec<_> = after.links().iter().zip(topology.links()).filter(|(a, b)| a.state != b.state).collect();
        let concerned = |piece: &Piece| {
            piece.path.windows(2).any(|ends| {
                down.iter().any(|(link, _)| [link.a, link.b].contains(&ends[0]) && [link.a, link.b].contains(&ends[1]))
            })
        };
        // A dead link that nothing crossed concerns nobody: whoever moves does so for a better plan.
        let lower = |a: f64, b: f64| a < b * (1.0 - 1e-9);
        if !first.flows.iter().flat_map(|flow| &flow.pieces).any(concerned) {
            prop_assert!(
                second.moves == 0
                    || lower(second.max_link_utilisation, first.max_link_utilisation)
                    || lower(second.max_fabric_utilisation, first.max_fabric_utilisation),
                "{} moves for nothing", second.moves
            );
        }
    }

    #[test]
    fn no_plan_is_worse_than_hashing(seed: u64, count in 0usize..60, queue_pairs in 1u32..4, luck: u64) {
        let (topology, mut flows) = drawn(seed, 0);
        some_flows(&topology, seed ^ 1, count, "a", &mut flows);
        // Hashing may cut as finely as the planner: by as many queue pairs as all flows may have.
        let mut cut = Flows::new();
        for flow in flows.as_slice() {
            cut.push(Flow { max_pieces: NonZeroU32::new(queue_pairs).expect("some"), ..flow.clone() }).expect("new");
        }
        let planned = plan(&topology, &cut, None);
        // Other hashes than those that the planner itself may start from.
        for hash in (0..4).map(|n| luck.wrapping_add(n) | 1 << 60) {
            let hashed = baseline::ecmp(&topology, &cut, queue_pairs, hash);
            prop_assert!(planned.lower_bound <= hashed.max_link_utilisation * (1.0 + 1e-9));
            prop_assert!(
                planned.max_link_utilisation <= hashed.max_link_utilisation * (1.0 + 1e-6),
                "planned {} hashed {}", planned.max_link_utilisation, hashed.max_link_utilisation
            );
        }
    }

    /// Flows that may be cut get a plan that is no worse than that for whole ones, however finely each may be cut: not for the fullest
    /// link, and where all want the same, not for the slowest flow. So it is, too, when a link dies.
    #[test]
    fn splitting_is_never_worse_than_not_splitting(seed: u64, count in 1usize..60, gbps_each in 1u32..100) {
        let (topology, drawn) = drawn(seed, count);
        let even = seed % 2 == 0;
        let (mut whole, mut cut) = (Flows::new(), Flows::new());
        for flow in drawn.as_slice() {
            let demand = if even { gbps(gbps_each.into()) } else { flow.demand };
            cut.push(Flow { demand, ..flow.clone() }).expect("new");
            whole.push(Flow { demand, max_pieces: NonZeroU32::MIN, ..flow.clone() }).expect("new");
        }
        let before = plan(&topology, &whole, None);
        let after = broken(&topology, seed ^ 3);
        for (topology, previous) in [(&topology, None), (&after, Some(before.as_previous(&whole)))] {
            let [whole, cut] = [&whole, &cut].map(|flows| {
                let plan = plan(topology, flows, previous.as_ref());
                let rates = rates::planned(&Wires::new(topology), flows, &plan);
                let placed = rates.iter().zip(&plan.flows).filter(|(_, flow)| flow.unplaced.is_none());
                let slowest = placed.map(|(rate, _)| *rate).fold(f64::INFINITY, f64::min);
                (plan.max_link_utilisation, slowest)
            });
            prop_assert!(cut.0 <= whole.0 * (1.0 + 1e-6), "fullest link {} cut, {} whole", cut.0, whole.0);
            prop_assert!(!even || cut.1 >= whole.1 * (1.0 - 1e-6), "slowest {} cut, {} whole", cut.1, whole.1);
        }
    }

    /// A fabric that heals and flows that end leave a plan as good as one made anew, or nearly.
    #[test]
    fn planning_on_is_as_good_as_planning_anew(seed: u64, count in 1usize..60) {
        let (topology, flows) = drawn(seed, count);
        let after = broken(&topology, seed ^ 3);
        let first = plan(&topology, &flows, None);
        let on = plan(&after, &flows, Some(&first.as_previous(&flows)));
        let anew = plan(&after, &flows, None);
        if flows.as_slice().iter().all(|flow| flow.max_pieces.get() == 1) {
            prop_assert!(on.max_link_utilisation <= anew.max_link_utilisation * 1.25);
        }
        check(&after, &flows, &on);
    }
}
