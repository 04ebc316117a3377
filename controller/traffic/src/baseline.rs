//! What networks do without a planner, to compare with: ECMP hashing, Ethereal's local splitting, packet spraying.
//!
//! They follow the same rules as plans (planes, links that are up) and come as plans, so that the same code says what
//! they load and what flows get.

use std::collections::BTreeMap;

use crate::{
    flows::Flows,
    plan::{Piece, Plan, PlannedFlow},
    planner::{
        fabric::{Fabric, Path},
        hashed::{choose, hash, hashed},
        repair::tops_of,
        routes::Routes,
        state::State,
    },
    rates::{Stream, max_min},
    topology::{NicId, Topology},
    wires::Wires,
};

/// ECMP: each of a flow's queue pairs takes, at every switch, one of the next hops towards its destination by a hash. The flows
/// of a NIC take its ports by turns, as NCCL's channels do, and the queue pairs of one that has too few flows for that, as those of a
/// bond do on mlx5: it is switches that hash.
#[must_use]
pub fn ecmp(topology: &Topology, flows: &Flows, queue_pairs: u32, seed: u64) -> Plan {
    let fabric = Fabric::new(topology, None);
    let routes = Routes::new(&fabric, flows);
    let mut counts: BTreeMap<NicId, usize> = BTreeMap::new();
    flows.as_slice().iter().for_each(|flow| *counts.entry(flow.src).or_default() += 1);
    let mut turns: BTreeMap<NicId, u32> = BTreeMap::new();
    let paths = flows.as_slice().iter().enumerate().map(|(number, flow)| {
        let turn = turns.entry(flow.src).or_default();
        let (first, pairs) = (*turn, routes.pairs(number));
        *turn += 1;
        let path = |pair| {
            let turn = if counts[&flow.src] < pairs.len() { first + pair } else { first };
            hashed(&fabric, &routes, number, pair, seed, choose(pairs, turn.into())?)
        };
        (0..queue_pairs).filter_map(path).map(|path| (path, 1)).collect()
    });
    let paths = paths.collect();
    written(topology, flows, &fabric, &routes, queue_pairs, paths)
}

/// A flow, by number, with the ports it leaves and enters by.
type Sender = (usize, (u32, u32));

/// Ethereal: each leaf spreads its n equal flows over its s spines by itself. As many as go evenly stay whole; each of the
/// r left over is cut into s / gcd(r, s) pieces. What meets at the receivers' leaves is left to chance (the seed).
#[must_use]
pub fn ethereal(topology: &Topology, flows: &Flows, seed: u64) -> Plan {
    let fabric = Fabric::new(topology, None);
    let routes = Routes::new(&fabric, flows);
    let state = State::new(&fabric, &routes, flows);
    // Planes by turns, as a bond would.
    let mut turn: BTreeMap<usize, usize> = BTreeMap::new();
    let mut by_leaf: BTreeMap<u32, Vec<Sender>> = BTreeMap::new();
    let mut paths: Vec<Vec<(Path, u32)>> = vec![Vec::new(); flows.len()];
    let mut cuts = vec![1u32; flows.len()];
    for (number, flow) in flows.as_slice().iter().enumerate() {
        let turn = turn.entry(flow.src.index()).or_default();
        let Some(pair) = choose(routes.pairs(number), *turn as u64) else { continue };
        *turn += 1;
        let leaf = |port: u32| fabric.ports[port as usize].leaf;
        if leaf(pair.0) == leaf(pair.1) {
            paths[number].push((Path::new(pair.0, pair.1, &[]), 1));
        } else {
            by_leaf.entry(leaf(pair.0)).or_default().push((number, pair));
        }
    }
    for (leaf, mut senders) in by_leaf {
        senders.sort_by_key(|(number, _)| (hash(seed, *number, 0, leaf), *number));
        let total = senders.len();
        for (place, (number, pair)) in senders.into_iter().enumerate() {
            let to = fabric.ports[pair.1 as usize].leaf;
            let tops = tops_of(&fabric, leaf, to, routes.lenient(number));
            let s = tops.len();
            let left = total % s;
            let mut over = |top: usize, units: u32| {
                let top = tops[top % s];
                paths[number].extend(state.over(number as u32, pair, top).map(|path| (path, units)));
            };
            if place < total - left {
                over(place, 1);
                continue;
            }
            let pieces = s / gcd(left, s);
            cuts[number] = pieces as u32;
            for piece in 0..pieces {
                over((place - (total - left)) * pieces + piece, 1);
            }
        }
    }
    let mut plan = written(topology, flows, &fabric, &routes, 1, paths);
    for (planned, cut) in plan.flows.iter_mut().zip(cuts) {
        planned.pieces.iter_mut().for_each(|piece| piece.of = cut);
    }
    rate(topology, flows, &mut plan);
    plan
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Ideal packet spraying: every flow spread evenly over all its paths, in Gbit/s for each flow. Only for fabrics of two
/// tiers, where all spines that join two leaves are alike to a switch.
#[must_use]
pub fn spraying(topology: &Topology, flows: &Flows) -> Vec<f64> {
    let fabric = Fabric::new(topology, None);
    let routes = Routes::new(&fabric, flows);
    let state = State::new(&fabric, &routes, flows);
    let streams = flows.as_slice().iter().enumerate().map(|(number, flow)| {
        let pairs = routes.pairs(number);
        let mut wires: BTreeMap<u32, f64> = BTreeMap::new();
        for pair in pairs {
            let leaf = |port: u32| fabric.ports[port as usize].leaf;
            let (from, to) = (leaf(pair.0), leaf(pair.1));
            let tops = tops_of(&fabric, from, to, routes.lenient(number));
            let paths: Vec<Path> = match from == to {
                true => vec![Path::new(pair.0, pair.1, &[])],
                false => tops.iter().filter_map(|top| state.over(number as u32, *pair, *top)).collect(),
            };
            let share = 1.0 / (pairs.len() * paths.len().max(1)) as f64;
            for path in &paths {
                fabric.each(path, |resource, part| *wires.entry(resource).or_default() += part * share);
            }
        }
        let wires = wires.into_iter().map(|(resource, part)| (resource as usize, part)).collect();
        let demand = if pairs.is_empty() { 0.0 } else { flow.demand.get() };
        Stream { wires, demand, weight: 1.0 }
    });
    max_min(&fabric.capacity, &streams.collect::<Vec<_>>())
}

/// Paths as a plan.
fn written(
    topology: &Topology,
    flows: &Flows,
    fabric: &Fabric,
    routes: &Routes,
    cut: u32,
    paths: Vec<Vec<(Path, u32)>>,
) -> Plan {
    let planned = paths.into_iter().enumerate().map(|(flow, paths)| {
        let mut pieces: Vec<Piece> = Vec::new();
        for (path, units) in paths {
            let link: Vec<_> = path.hops().iter().map(|hop| fabric.lanes[hop.lane()].label).collect();
            let piece = Piece {
                units,
                of: cut,
                src_port: fabric.ports[path.src as usize].plane,
                dst_port: fabric.ports[path.dst as usize].plane,
                path: fabric.switches(&path),
                link: Some(link),
            };
            let same = |other: &&mut Piece| {
                (other.src_port, other.dst_port, &other.path, &other.link)
                    == (piece.src_port, piece.dst_port, &piece.path, &piece.link)
            };
            match pieces.iter_mut().find(same) {
                Some(other) => other.units += piece.units,
                None => pieces.push(piece),
            }
        }
        PlannedFlow { pieces, unplaced: routes.why(flow) }
    });
    let mut plan = Plan {
        max_link_utilisation: 0.0,
        max_fabric_utilisation: 0.0,
        lower_bound: 0.0,
        fabric_lower_bound: 0.0,
        moves: 0,
        flows: planned.collect(),
    };
    rate(topology, flows, &mut plan);
    plan
}

/// Fills in how full the fullest links are.
fn rate(topology: &Topology, flows: &Flows, plan: &mut Plan) {
    let wires = Wires::new(topology);
    let used = |fabric: bool, loads: &[f64]| {
        let wires = loads.iter().zip(wires.capacity()).zip(wires.places());
        let wires = wires.filter(|(_, place)| !fabric || matches!(place, crate::wires::Place::Between(..)));
        wires.map(|((load, capacity), _)| load / capacity).fold(0.0, f64::max)
    };
    let loads = wires.loads(flows, plan);
    plan.max_link_utilisation = used(false, &loads);
    plan.max_fabric_utilisation = used(true, &loads);
}
