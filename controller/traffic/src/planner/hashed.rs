//! Where hashing would put a flow: what plans are compared with, and somewhere else to start planning from.

use super::{
    fabric::{Fabric, Hop, Path},
    repair::tops_of,
    routes::Routes,
};

/// The finalizer of SplitMix64: every input bit changes half of the output's.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes a queue pair's five-tuple (here: flow and number) at a switch. Each switch has a seed of its own.
pub(crate) fn hash(seed: u64, flow: usize, queue_pair: u32, switch: u32) -> u64 {
    mix(mix(mix(seed ^ (flow as u64) << 20) ^ u64::from(queue_pair)) ^ u64::from(switch) << 32)
}

/// One of a list by a hash.
pub(crate) fn choose<T: Copy>(list: &[T], hash: u64) -> Option<T> {
    let length = list.len() as u64;
    // Below the length of a list.
    (length > 0).then(|| list[(hash % length) as usize])
}

/// The path that ECMP gives a queue pair that leaves and enters by these ports: at every switch one of the next hops towards
/// the destination.
pub(crate) fn hashed(
    fabric: &Fabric,
    routes: &Routes,
    flow: usize,
    number: u32,
    seed: u64,
    (src, dst): (u32, u32),
) -> Option<Path> {
    let hash = |switch| hash(seed, flow, number, switch);
    let (from, to) = (fabric.ports[src as usize].leaf, fabric.ports[dst as usize].leaf);
    if from == to {
        return Some(Path::new(src, dst, &[]));
    }
    let ups = fabric.ups(routes.lenient(flow));
    let tops = tops_of(fabric, from, to, routes.lenient(flow));
    // The shortest way: over spines where they join the leaves.
    let spines: Vec<u32> = tops.iter().copied().filter(|top| fabric.is_spine[*top as usize]).collect();
    let tops = if spines.is_empty() { tops } else { spines };
    let climb = |leaf: u32, top: Option<u32>| {
        let mut ways = Vec::new();
        for first in ups.of(leaf) {
            if top.map_or(tops.contains(&first.high), |top| top == first.high) {
                ways.push((first.high, [first.lane, u32::MAX], 1));
            }
            for second in ups.of(first.high) {
                if top.map_or(tops.contains(&second.high), |top| top == second.high) {
                    ways.push((second.high, [first.lane, second.lane], 2));
                }
            }
        }
        ways
    };
    let (top, up, rises) = choose(&climb(from, None), hash(from))?;
    let mid = |lanes: [u32; 2], length: usize| (length == 2).then(|| fabric.lanes[lanes[0] as usize].high);
    let mut ways = climb(to, Some(top));
    ways.retain(|(_, down, falls)| mid(*down, *falls).is_none() || mid(*down, *falls) != mid(up, rises));
    let (_, down, falls) = choose(&ways, hash(top))?;
    let mut hops: Vec<Hop> = up[..rises].iter().map(|lane| Hop::up(*lane)).collect();
    hops.extend(down[..falls].iter().rev().map(|lane| Hop::down(*lane)));
    Some(Path::new(src, dst, &hops))
}
