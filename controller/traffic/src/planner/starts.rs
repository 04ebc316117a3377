//! Other places to start from.
//!
//! Making room is a search downhill: where links are unequal or broken it may end in a valley that is not the lowest,
//! and a lucky hash in a lower one. What helps against that is to start elsewhere, too: from flows spread evenly over all
//! their paths, as far as they may be cut (in the middle of everything possible, from where levelling leads to the lowest
//! valley but for what units are too coarse for), and from several hashes. The best end is kept. That takes time, so only
//! few flows, whose plan has not reached the bound, get it.

use super::{
    bound::Bounds,
    fabric::Path,
    hashed::{choose, hash as five_tuple, hashed},
    improve::{self, CLOSE},
    repair::tops_of,
    state::State,
    stay::Memory,
};
use crate::flows::Flows;

/// So many flows are few.
const FEW: usize = 256;
/// How many hashes are started from.
const HASHES: u64 = 8;
/// How many paths a flow is spread over at most, to begin with.
const PATHS: usize = 64;

/// Plans from other starts, and keeps the best.
pub(super) fn others<'a>(state: &mut State<'a>, flows: &Flows, bounds: &Bounds) {
    if flows.len() > FEW {
        return;
    }
    let splittable = state.max_pieces.iter().any(|pieces| *pieces > 1);
    let starts = splittable.then_some(None).into_iter().chain((0..HASHES).map(Some));
    for start in starts {
        let (all, fabric) = state.fullest();
        // A flow that stays whole may be what keeps a plan above the bounds; then this is for nothing, but bounded.
        if all <= bounds.all * (1.0 + CLOSE) && fabric <= bounds.fabric * (1.0 + CLOSE) {
            return;
        }
        let mut other = State::new(state.fabric, state.routes, flows);
        for flow in 0..flows.len() as u32 {
            match start {
                None => spread(&mut other, flow),
                Some(seed) => hash(&mut other, flow, seed),
            }
        }
        other.settle();
        improve::improve(&mut other, bounds, &Memory::default());
        let (other_all, other_fabric) = other.fullest();
        let lower = |a: f64, b: f64| a < b * (1.0 - CLOSE);
        if lower(other_all, all) || (!lower(all, other_all) && lower(other_fabric, fabric)) {
            *state = other;
        }
    }
}

/// Puts the queue pairs of a flow where a hash has them.
fn hash(state: &mut State<'_>, flow: u32, seed: u64) {
    let cut = state.max_pieces[flow as usize].min(PATHS as u32);
    let pairs = state.routes.pairs(flow as usize);
    let path = |number| {
        let ports = choose(pairs, five_tuple(seed, flow as usize, number, u32::MAX))?;
        hashed(state.fabric, state.routes, flow as usize, number, seed, ports)
    };
    let paths: Vec<Path> = (0..cut).filter_map(path).collect();
    put(state, flow, &paths, cut);
}

/// Spreads a flow over all its paths, as evenly as its pieces go.
fn spread(state: &mut State<'_>, flow: u32) {
    let routes = state.routes;
    let mut paths: Vec<Path> = Vec::new();
    for pair in routes.pairs(flow as usize) {
        let leaf = |port: u32| state.fabric.ports[port as usize].leaf;
        let (a, b) = (leaf(pair.0), leaf(pair.1));
        if a == b {
            paths.push(Path::new(pair.0, pair.1, &[]));
            continue;
        }
        let tops = tops_of(state.fabric, a, b, routes.lenient(flow as usize));
        paths.extend(tops.into_iter().filter_map(|top| state.over(flow, *pair, top)));
    }
    // Whoever has fewer pieces than paths begins somewhere else than its neighbour.
    let shift = flow as usize % paths.len().max(1);
    paths.rotate_left(shift);
    paths.truncate(PATHS);
    put(state, flow, &paths, state.max_pieces[flow as usize].min(PATHS as u32));
}

fn put(state: &mut State<'_>, flow: u32, paths: &[Path], cut: u32) {
    if paths.is_empty() {
        return;
    }
    state.recut(flow, cut);
    for unit in 0..cut as usize {
        state.add(flow, 1, paths[unit % paths.len()]);
    }
}
