//! The planner: flows onto paths.
//!
//! It puts each flow where the fullest link stays emptiest (`search`), the largest flows first; then it takes what is
//! too full and makes room, by moves and chains of exchanges (`repair`), below ever lower limits down to a bound that
//! no plan can beat (`bound`). Only when whole flows cannot get there, some are cut (`cut`). First the fullest of
//! all links counts, NIC ports included; then, with that kept, the fullest link between switches. Few flows that end
//! above the bound are planned again from elsewhere (`starts`). With an earlier plan
//! it starts from there, moves what is on dead links or too much, and in the end moves back what need not have moved
//! (`stay`).

use crate::{
    flows::Flows,
    plan::{Piece, Plan, PlannedFlow, Previous},
    topology::Topology,
};

mod augment;
mod bound;
mod colour;
mod cut;
pub(crate) mod fabric;
pub(crate) mod hashed;
mod improve;
mod level;
pub(crate) mod repair;
pub(crate) mod routes;
mod search;
mod starts;
pub(crate) mod state;
mod stay;
mod tiers;

use bound::Bounds;
use fabric::Fabric;
use routes::Routes;
use state::{Limits, State};
use stay::Memory;

/// Plans paths for all flows. Flows that `previous` knows move only where that makes the fullest link less full, or
/// where their path is gone.
#[must_use]
pub fn plan(topology: &Topology, flows: &Flows, previous: Option<&Previous>) -> Plan {
    let fabric = Fabric::new(topology, previous);
    let routes = Routes::new(&fabric, flows);
    let mut state = State::new(&fabric, &routes, flows);
    let bounds = Bounds::new(&fabric, &routes, flows);
    let memory = previous.map(|previous| Memory::new(&fabric, &routes, flows, previous)).unwrap_or_default();
    let homeless = memory.restore(&mut state);
    place(&mut state, homeless, &bounds);
    improve::improve(&mut state, &bounds, &memory);
    if previous.is_none() {
        starts::others(&mut state, flows, &bounds);
    }
    answer(&mut state, flows, &bounds, &memory)
}

/// Puts flows without a place where they fit best, the largest first.
fn place(state: &mut State<'_>, homeless: Vec<(u32, u32)>, bounds: &Bounds) {
    // With a plan to start from, what is new goes around what is there.
    let anew = state.parts.iter().all(|part| part.units == 0);
    let mut homeless = if anew { tiers::place(state, homeless) } else { homeless };
    homeless.sort_by(|a, b| {
        let amount = |(flow, units): &(u32, u32)| state.amount(*flow, *units);
        amount(b).total_cmp(&amount(a)).then(a.cmp(b))
    });
    let limits = Limits { ports: bounds.all, fabric: bounds.fabric };
    for (flow, units) in homeless {
        let amount = state.amount(flow, units);
        if let Some(path) = state.best(flow, amount, limits, false) {
            state.add(flow, units, path);
        }
    }
    state.settle();
}

/// Writes the plan down.
fn answer(state: &mut State<'_>, flows: &Flows, bounds: &Bounds, memory: &Memory<'_>) -> Plan {
    state.settle();
    let (all, fabric) = state.fullest();
    let mut moves = 0;
    let planned = (0..flows.len() as u32).map(|flow| {
        let mut parts: Vec<_> = state.pieces_of(flow).map(|piece| *state.part(piece)).collect();
        parts.sort_by_key(|part| (std::cmp::Reverse(part.units), state.fabric.switches(&part.path)));
        let cut = state.cut[flow as usize];
        let common = parts.iter().fold(cut, |common, part| gcd(common, part.units)).max(1);
        let pieces = parts.iter().map(|part| {
            let was = memory.piece(flow, &part.path);
            moves += usize::from(was.is_none() && memory.knows(flow));
            let ports = &state.fabric.ports;
            Piece {
                units: part.units / common,
                of: cut / common,
                src_port: ports[part.path.src as usize].plane,
                dst_port: ports[part.path.dst as usize].plane,
                path: state.fabric.switches(&part.path),
                link: match was {
                    // In the words of the earlier plan: what did not move must not look as if it had.
                    Some(was) => was.link.clone(),
                    None => Some(
                        part.path.hops().iter().map(|hop| state.fabric.lanes[hop.lane()].label).collect(),
                    ),
                },
            }
        });
        PlannedFlow { pieces: pieces.collect(), unplaced: state.routes.why(flow as usize) }
    });
    let flows = planned.collect();
    Plan {
        max_link_utilisation: all,
        max_fabric_utilisation: fabric,
        // Sums in another order may round to just above what they bound.
        lower_bound: bounds.all.min(all),
        fabric_lower_bound: bounds.fabric.min(fabric),
        moves,
        flows,
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
