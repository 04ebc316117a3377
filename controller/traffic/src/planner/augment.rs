//! Making room through others, whoever they are.
//!
//! Where links are unequal or broken, exchanging pieces between two spines is not enough: the piece that has to go
//! finds one full link on every other path, whose pieces may have somewhere to go, or find one full link in turn. This
//! is a search, nearest first, for the shortest such row of moves, over all planes and switches.

use std::collections::HashSet;

use super::{
    cut::{self, Portion},
    fabric::{Path, Resource},
    repair::{Means, Preference, candidates, share},
    state::{PieceId, ROUNDING, State},
};

/// How many pieces of a link are looked at, and how many paths for each.
const PIECES: usize = 16;
const PATHS: usize = 96;
/// How many links are looked at.
const LINKS: usize = 200;
/// What is taken off a link at once, of what is too much: all, or at least some.
const STEPS: [f64; 3] = [1.0, 0.25, 0.05];

/// A link that would have to give something away, and what move would have it do so.
struct Node {
    resource: Resource,
    /// In Gbit/s.
    need: f64,
    cause: Option<(usize, Move)>,
}

#[derive(Clone, Copy)]
struct Move {
    piece: PieceId,
    portion: Portion,
    path: Path,
}

/// Takes something off a link by a row of moves, of which only the last finds room.
pub(super) fn augment(
    state: &mut State<'_>,
    resource: Resource,
    means: Means,
    prefer: &dyn Preference,
) -> bool {
    let excess = -state.room(resource, means.limits);
    let steps = if means.split { &STEPS[..] } else { &STEPS[..1] };
    steps.iter().any(|step| search(state, resource, excess * step, means, prefer))
}

fn search(
    state: &mut State<'_>,
    resource: Resource,
    need: f64,
    means: Means,
    prefer: &dyn Preference,
) -> bool {
    let mut nodes = vec![Node { resource, need, cause: None }];
    let mut seen = HashSet::from([resource]);
    let mut at = 0;
    while at < nodes.len() && nodes.len() < LINKS {
        let (resource, need) = (nodes[at].resource, nodes[at].need);
        for piece in candidates(state, resource, means, prefer).into_iter().take(PIECES) {
            if state.fuel() == 0 {
                return false;
            }
            if row(&nodes, at).iter().any(|earlier| earlier.piece == piece) {
                continue;
            }
            let part = *state.part(piece);
            let portion = match means.split {
                true => cut::at_least(state, piece, need / share(state, &part.path, resource)),
                false => Portion::whole(part.units),
            };
            let amount = portion.amount(state, part.flow);
            for path in paths(state, piece, amount) {
                let Some(full) = obstacle(state, &part.path, &path, resource, amount, means) else {
                    continue;
                };
                let step = Move { piece, portion, path };
                match full {
                    None => {
                        let mut moves = row(&nodes, at);
                        moves.push(step);
                        if go(state, &moves, nodes[0].resource, means) {
                            return true;
                        }
                    }
                    Some((other, over)) => {
                        if seen.insert(other) {
                            nodes.push(Node { resource: other, need: over, cause: Some((at, step)) });
                        }
                    }
                }
            }
        }
        at += 1;
    }
    false
}

/// The moves that lead to a node.
fn row(nodes: &[Node], mut at: usize) -> Vec<Move> {
    let mut moves = Vec::new();
    while let Some((before, step)) = &nodes[at].cause {
        moves.push(*step);
        at = *before;
    }
    moves.reverse();
    moves
}

/// Other paths of a piece: over every switch, between every pair of ports that it may use.
pub(super) fn paths(state: &mut State<'_>, piece: PieceId, amount: f64) -> Vec<Path> {
    let part = *state.part(piece);
    let routes = state.routes;
    let mut paths = Vec::new();
    for pair in routes.pairs(part.flow as usize) {
        let ports = &state.fabric.ports;
        let (a, b) = (ports[pair.0 as usize].leaf, ports[pair.1 as usize].leaf);
        if a == b {
            paths.push(Path::new(pair.0, pair.1, &[]));
            continue;
        }
        for top in super::repair::tops_of(state.fabric, a, b, routes.lenient(part.flow as usize)) {
            paths.extend(state.via(part.flow, *pair, amount, top));
            if paths.len() >= PATHS {
                return paths;
            }
        }
    }
    paths.retain(|path| *path != part.path);
    paths
}

/// The one full link of a path and how much it would be over; nothing when there are several.
#[expect(clippy::option_option, reason = "no answer, or an answer that there is none")]
fn obstacle(
    state: &State<'_>,
    old: &Path,
    new: &Path,
    from: Resource,
    amount: f64,
    means: Means,
) -> Option<Option<(Resource, f64)>> {
    let (mut full, mut count) = (None, 0);
    state.fabric.each(new, |resource, part| {
        if resource == from {
            count = 2;
        } else if share(state, old, resource) == 0.0 {
            let over = amount * part - state.room(resource, means.limits);
            if over > ROUNDING * state.fabric.capacity[resource as usize] {
                count += 1;
                full = Some((resource, over));
            }
        }
    });
    (count < 2).then_some(full)
}

/// Makes the moves if no link they touch gets worse than the limits or than it was.
fn go(state: &mut State<'_>, moves: &[Move], relieved: Resource, means: Means) -> bool {
    let mark = state.mark();
    let before = state.loads.load[relieved as usize];
    let mut touched = Vec::new();
    for step in moves {
        state
            .fabric
            .each(&step.path, |resource, _| touched.push((resource, state.loads.load[resource as usize])));
    }
    for step in moves {
        let flow = state.part(step.piece).flow;
        // Cut already, by an earlier move of another piece of the flow: what was counted is no longer true.
        let whole = state.part(step.piece).units;
        if step.portion.units > whole * step.portion.times {
            state.roll_back(mark);
            return false;
        }
        state.recut(flow, step.portion.times);
        state.relocate(step.piece, step.portion.units, step.path);
    }
    let fine = |(resource, load): &(Resource, f64)| {
        let allowed = state.allowed(*resource, means.limits).max(*load);
        state.loads.load[*resource as usize] <= allowed + ROUNDING * state.fabric.capacity[*resource as usize]
    };
    let capacity = state.fabric.capacity[relieved as usize];
    let pieces_kept = moves.iter().all(|step| {
        let flow = state.part(step.piece).flow as usize;
        state.cut[flow] <= state.max_pieces[flow]
    });
    let better = state.loads.load[relieved as usize] < before - ROUNDING * capacity;
    if better && pieces_kept && touched.iter().all(fine) {
        return true;
    }
    state.roll_back(mark);
    false
}
