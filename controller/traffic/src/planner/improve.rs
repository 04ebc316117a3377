//! Lower and lower limits, until there is no way below.

use super::{
    bound::Bounds,
    repair::{Means, Preference, repair},
    state::{Limits, PieceId, ROUNDING, State},
    stay::Memory,
};

/// How often a limit between what is known to work and what is known not to is tried.
const ROUNDS: usize = 12;
/// Limits this close together, relative to each other, are one.
const CLOSE: f64 = 1e-3;
/// How many links may be looked at to improve a plan: so many, and so many more for each flow. There is always one more
/// exchange to try, so something has to end it, and a clock would make plans differ.
const FUEL: u64 = 4_000_000;
const FUEL_PER_FLOW: u64 = 400;

/// What is to become less full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// The fullest of all links.
    All,
    /// The fullest link between switches, the ports no fuller than so far.
    Fabric,
}

/// Improves the plan as far as it goes, then takes back what was not needed for that.
pub(crate) fn improve(state: &mut State<'_>, bounds: &Bounds, memory: &Memory<'_>) {
    let total = FUEL + FUEL_PER_FLOW * state.demand.len() as u64;
    let splittable = state.max_pieces.iter().any(|pieces| *pieces > 1);
    for (goal, floor) in [(Goal::All, bounds.all), (Goal::Fabric, bounds.fabric)] {
        lower(state, goal, floor, false, total / 4, memory);
        if splittable {
            lower(state, goal, floor, true, total / 4, memory);
        }
    }
    state.settle();
    let (all, fabric) = state.fullest();
    let limits = Limits { ports: all, fabric };
    memory.back(state, limits);
    if splittable {
        join(state, limits, memory);
    }
}

/// Finds the lowest limit that can be kept, between the floor and where we are.
fn lower(state: &mut State<'_>, goal: Goal, floor: f64, split: bool, mut fuel: u64, prefer: &dyn Preference) {
    let now = |state: &State<'_>| {
        let (all, fabric) = state.fullest();
        if goal == Goal::All { all } else { fabric }
    };
    let mut high = now(state);
    if high <= floor * (1.0 + ROUNDING) {
        return;
    }
    let ports = state.fullest().0;
    let mut low = floor;
    let mut target = floor;
    for _ in 0..ROUNDS {
        let limits = match goal {
            Goal::All => Limits { ports: target, fabric: target },
            Goal::Fabric => Limits { ports, fabric: target },
        };
        let mark = state.mark();
        // The first try is the one most worth it; one that fails must not leave nothing for the others.
        let share = if target <= floor { fuel / 2 } else { fuel / 4 };
        state.refuel(share);
        let done = repair(state, Means { limits, split }, prefer);
        fuel -= share - state.fuel();
        if done {
            high = now(state).min(target);
            if target <= floor {
                return;
            }
        } else {
            state.roll_back(mark);
            low = target;
        }
        if high <= low * (1.0 + CLOSE) {
            return;
        }
        target = (low + high) / 2.0;
    }
}

/// Puts the pieces of a flow together again where one path has room for both.
fn join(state: &mut State<'_>, limits: Limits, prefer: &dyn Preference) {
    for flow in 0..state.demand.len() as u32 {
        let mut pieces: Vec<PieceId> = state.pieces_of(flow).collect();
        if pieces.len() < 2 {
            continue;
        }
        // The small ones go, to where nothing counts as a move.
        pieces.sort_by_key(|piece| (state.part(*piece).units, *piece));
        for piece in pieces.clone() {
            let mut others: Vec<PieceId> = state.pieces_of(flow).filter(|other| *other != piece).collect();
            others.sort_by_key(|other| (std::cmp::Reverse(prefer.cost(state, *other)), *other));
            for other in others {
                let (part, path) = (*state.part(piece), state.part(other).path);
                if part.units == 0 {
                    break;
                }
                let mark = state.mark();
                state.relocate(piece, part.units, path);
                if state.fits_beyond(&path, &part.path, limits) {
                    break;
                }
                state.roll_back(mark);
            }
        }
    }
}
