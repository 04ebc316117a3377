//! How finely a flow has to be cut to move a certain amount of it.
//!
//! A flow is cut into equal units, its queue pairs, of which each piece has some; NCCL cannot weigh them otherwise. A
//! flow that is cut can only be cut finer by a whole factor, since its pieces stay what they are.

use std::collections::BTreeMap;

use super::{
    fabric::Resource,
    repair::{Means, Preference, candidates},
    state::{PieceId, ROUNDING, State},
};

/// How many flows of a link are cut anew, and in how many ways.
const FLOWS: usize = 8;
const CUTS: u32 = 16;

/// How many factors are looked at. With as many spines the last flow still divides evenly over them.
const FACTORS: u32 = 1024;

/// Some of a piece: each unit of its flow is cut into `times`, then so many `units` are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portion {
    pub(crate) times: u32,
    pub(crate) units: u32,
}

impl Portion {
    /// All units of a piece.
    pub(crate) fn whole(units: u32) -> Self {
        Self { times: 1, units }
    }

    /// How much it is of a flow that has not been cut yet, in Gbit/s.
    pub(crate) fn amount(self, state: &State<'_>, flow: u32) -> f64 {
        if self.times == 1 {
            return state.amount(flow, self.units);
        }
        let cut = f64::from(state.cut[flow as usize]) * f64::from(self.times);
        state.demand[flow as usize] * f64::from(self.units) / cut
    }
}

/// The smallest portion of a piece that is at least so much, from the coarsest cut that has it; the whole piece if it
/// is less.
pub(crate) fn at_least(state: &State<'_>, piece: PieceId, amount: f64) -> Portion {
    search(state, piece, |unit, most| {
        let units = (amount / unit - ROUNDING).ceil().max(1.0).min(most);
        (units, (units * unit - amount).max(0.0))
    })
    .unwrap_or(Portion::whole(state.part(piece).units))
}

/// The largest portion of a piece that is at most so much, from the coarsest cut that has it; none if even the finest
/// cut is more.
pub(crate) fn at_most(state: &State<'_>, piece: PieceId, amount: f64) -> Option<Portion> {
    search(state, piece, |unit, most| {
        let units = (amount / unit + ROUNDING).floor().max(0.0).min(most);
        (units, if units < 1.0 { f64::INFINITY } else { (amount - units * unit).max(0.0) })
    })
}

/// The first cut for which `choose` misses nothing, or that for which it misses least.
fn search(state: &State<'_>, piece: PieceId, choose: impl Fn(f64, f64) -> (f64, f64)) -> Option<Portion> {
    let part = state.part(piece);
    let flow = part.flow as usize;
    let (cut, demand) = (state.cut[flow], state.demand[flow]);
    let finest = (state.max_pieces[flow] / cut).clamp(1, FACTORS);
    let mut best: Option<(f64, Portion)> = None;
    for times in 1..=finest {
        let unit = demand / (f64::from(cut) * f64::from(times));
        let most = f64::from(part.units) * f64::from(times);
        let (units, missed) = choose(unit, most);
        if missed.is_finite() && best.as_ref().is_none_or(|(least, _)| missed < *least) {
            // Whole and no more than the piece has.
            best = Some((missed, Portion { times, units: units as u32 }));
        }
        if missed <= demand * ROUNDING {
            break;
        }
    }
    best.map(|(_, portion)| portion)
}

/// Cuts a flow of a link anew and spreads it, queue pair by queue pair, so that less of it is on that link. A flow cut in
/// halves can only become quarters bit by bit; this finds the thirds.
pub(super) fn spread(
    state: &mut State<'_>,
    resource: Resource,
    means: Means,
    prefer: &dyn Preference,
) -> bool {
    let before = state.loads.load[resource as usize];
    for piece in candidates(state, resource, means, prefer).into_iter().take(FLOWS) {
        let flow = state.part(piece).flow;
        let most = state.max_pieces[flow as usize];
        let cuts = (2..=most.min(CUTS)).chain((most > CUTS).then_some(most.min(FACTORS)));
        for cut in cuts {
            if state.fuel() == 0 {
                return false;
            }
            let mark = state.mark();
            let old = share_of_links(state, flow);
            state.lift(flow, cut);
            let unit = state.demand[flow as usize] / f64::from(cut);
            for _ in 0..cut {
                if let Some(path) = state.best(flow, unit, means.limits, true) {
                    state.add(flow, 1, path);
                }
            }
            let fine = share_of_links(state, flow).iter().all(|(link, new)| {
                let load = state.loads.load[*link as usize];
                let before = load - new + old.get(link).unwrap_or(&0.0);
                load <= state.allowed(*link, means.limits).max(before) + slack(state, *link)
            });
            if fine && state.loads.load[resource as usize] < before - slack(state, resource) {
                return true;
            }
            state.roll_back(mark);
        }
    }
    false
}

fn slack(state: &State<'_>, resource: Resource) -> f64 {
    ROUNDING * state.fabric.capacity[resource as usize]
}

/// What a flow has on each link, in Gbit/s.
fn share_of_links(state: &State<'_>, flow: u32) -> BTreeMap<Resource, f64> {
    let mut links = BTreeMap::new();
    for piece in state.pieces_of(flow) {
        let part = state.part(piece);
        let amount = state.amount(flow, part.units);
        state
            .fabric
            .each(&part.path, |resource, share| *links.entry(resource).or_default() += amount * share);
    }
    links
}
