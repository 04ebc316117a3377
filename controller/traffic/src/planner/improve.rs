//! Lower and lower limits, until there is no way below.

use super::{
    bound::Bounds,
    level::level,
    repair::{Means, Preference, repair},
    state::{Limits, PieceId, ROUNDING, State},
    stay::Memory,
};

/// How often a limit between what is known to work and what is known not to is tried.
const ROUNDS: usize = 12;
/// Limits this close together, relative to each other, are one.
pub(super) const CLOSE: f64 = 1e-3;
/// How often a plan is levelled.
const LEVELLINGS: usize = 3;
/// How many links may be looked at to improve a plan: so many, and so many more for each flow. There is always one more
/// exchange to try, so something has to end it, and a clock would make plans differ.
const FUEL: u64 = 16_000_000;
const FUEL_PER_FLOW: u64 = 200;

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
    let count = state.demand.len() as u64;
    let total = match memory.is_empty() {
        true => FUEL + FUEL_PER_FLOW * count,
        // On a running fabric an answer in time is worth more than the last percent.
        false => (FUEL * 2048 / count.max(2048)).max(FUEL / 6) + FUEL_PER_FLOW / 8 * count,
    };
    let splittable = state.max_pieces.iter().any(|pieces| *pieces > 1);
    for (goal, floor) in [(Goal::All, bounds.all), (Goal::Fabric, bounds.fabric)] {
        for split in [false, true] {
            if splittable || !split {
                let whole = !split && state.cut.iter().all(|cut| *cut == 1);
                let floor = if whole { floor.max(bounds.whole) } else { floor };
                Descent { goal, floor, split, fuel: total / 4, prefer: memory }.run(state);
            }
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

/// One goal on its way down.
struct Descent<'p> {
    goal: Goal,
    floor: f64,
    split: bool,
    fuel: u64,
    prefer: &'p dyn Preference,
}

impl Descent<'_> {
    fn now(&self, state: &State<'_>) -> f64 {
        let (all, fabric) = state.fullest();
        if self.goal == Goal::All { all } else { fabric }
    }

    fn means(&self, state: &State<'_>, ports: f64, target: f64) -> Means {
        let limits = match self.goal {
            Goal::All => Limits { ports: target, fabric: target },
            Goal::Fabric => Limits { ports, fabric: target },
        };
        Means { limits, split: self.split && state.max_pieces.iter().any(|pieces| *pieces > 1) }
    }

    /// Finds the lowest limit that can be kept, between the floor and where we are.
    fn run(&mut self, state: &mut State<'_>) {
        let ports = state.fullest().0;
        self.bisect(state, ports);
        for _ in 0..LEVELLINGS {
            let high = self.now(state);
            if high <= self.floor * (1.0 + CLOSE) || !self.level(state, ports, high) {
                return;
            }
            self.bisect(state, ports);
        }
    }

    /// Levels; false, and nothing has changed, if that was no better.
    fn level(&mut self, state: &mut State<'_>, ports: f64, high: f64) -> bool {
        let mark = state.mark();
        let share = self.fuel / 2;
        state.refuel(share);
        let means = self.means(state, ports, high);
        level(state, means, (self.goal == Goal::Fabric).then_some(ports), self.prefer);
        let means = self.means(state, ports, self.now(state).min(high));
        let within = repair(state, means, self.prefer);
        self.fuel -= share - state.fuel();
        if within && self.now(state) < high * (1.0 - CLOSE) {
            return true;
        }
        state.roll_back(mark);
        false
    }

    fn bisect(&mut self, state: &mut State<'_>, ports: f64) {
        let mut high = self.now(state);
        if high <= self.floor * (1.0 + ROUNDING) {
            return;
        }
        let mut low = self.floor;
        let mut target = self.floor;
        for _ in 0..ROUNDS {
            let mark = state.mark();
            // The first try is the one most worth it; one that fails must not leave nothing for the others.
            let share = if target <= self.floor { self.fuel / 3 } else { self.fuel / 6 };
            state.refuel(share);
            let means = self.means(state, ports, target);
            let done = repair(state, means, self.prefer);
            self.fuel -= share - state.fuel();
            if done {
                high = self.now(state).min(target);
                if target <= self.floor {
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
}

/// Puts the pieces of a flow together again where one path has room for both.
fn join(state: &mut State<'_>, limits: Limits, prefer: &dyn Preference) {
    for flow in 0..state.demand.len() as u32 {
        let mut pieces: Vec<PieceId> = state.pieces_of(flow).collect();
        if pieces.len() < 2 || state.pinned[flow as usize] {
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
