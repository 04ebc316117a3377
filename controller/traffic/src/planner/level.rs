//! Levelling: many small steps down a smooth slope.
//!
//! A limit is a wall: where every single move runs into it, [`super::repair`] is stuck, though several moves together
//! would have been better for all. Here the sum of all utilisations to a high power is made smaller instead, flow by
//! flow. It follows the fullest links alone as the power grows, and on the way there everything that could make room for
//! them has been moved aside. Flows that may be cut are moved in parts of the best size.

use super::{
    augment::paths,
    cut::{self, Portion},
    fabric::{Path, Resource},
    repair::{Means, Preference, candidates, share},
    state::{Limits, PieceId, State},
};

/// The powers, one after the other.
const POWERS: [i32; 8] = [4, 8, 16, 32, 64, 128, 256, 512];
/// How often all links that matter are gone through for each.
const SWEEPS: usize = 16;
/// How many pieces of a link are looked at.
const PIECES: usize = 48;
/// What weighing one path costs, in links looked at.
const WEIGHING: usize = 120;
/// Steps of the search for the best size of a part.
const HALVINGS: usize = 18;

/// Levels all links; or (with a limit for ports) those between switches, ports being as bad at their limit as the
/// fullest of those. Ends where it was best on the way.
pub(super) fn level(state: &mut State<'_>, means: Means, ports: Option<f64>, prefer: &dyn Preference) {
    let mut best = (state.mark(), f64::INFINITY);
    for power in POWERS {
        for _ in 0..SWEEPS {
            let (all, fabric) = state.fullest();
            let scale = match ports {
                Some(ports) => Limits { ports, fabric },
                None => Limits { ports: all, fabric: all },
            };
            let moved = sweep(state, &Slope { power, scale, means }, prefer);
            let (all, fabric) = state.fullest();
            // What ports are over has to be brought back at the cost of the fabric.
            let now = ports.map_or(all, |ports| fabric * (all.max(ports) / ports));
            if now < best.1 {
                best = (state.mark(), now);
            }
            if !moved || state.fuel() == 0 {
                break;
            }
        }
    }
    state.roll_back(best.0);
}

struct Slope {
    power: i32,
    /// The utilisation that counts as 1, of ports and of links between switches.
    scale: Limits,
    means: Means,
}

impl Slope {
    fn height(&self, state: &State<'_>, resource: Resource, used: f64) -> f64 {
        (used / state.limit(resource, self.scale)).max(0.0).powi(self.power)
    }

    /// How much the sum changes when so much goes from one path to another.
    fn change(&self, state: &State<'_>, links: &[(Resource, f64)], amount: f64) -> f64 {
        let mut change = 0.0;
        for (resource, part) in links {
            let used = state.loads.used(*resource);
            let after = used + part * amount * state.loads.inverse[*resource as usize];
            change += self.height(state, *resource, after) - self.height(state, *resource, used);
        }
        change
    }
}

/// What a move takes from each link (negative) and gives to it.
fn links(state: &State<'_>, old: &Path, new: &Path) -> Vec<(Resource, f64)> {
    let mut links: Vec<(Resource, f64)> = Vec::with_capacity(12);
    state.fabric.each(new, |resource, part| links.push((resource, part)));
    state.fabric.each(old, |resource, part| match links.iter_mut().find(|(other, _)| *other == resource) {
        Some((_, both)) => *both -= part,
        None => links.push((resource, -part)),
    });
    links.retain(|(_, part)| *part != 0.0);
    links
}

/// Goes through all links near the fullest. False when nothing could be moved.
fn sweep(state: &mut State<'_>, slope: &Slope, prefer: &dyn Preference) -> bool {
    let near = 1.0 - 3.0 / f64::from(slope.power);
    let all = 0..state.fabric.capacity.len() as Resource;
    let used = |resource| state.loads.used(resource) / state.limit(resource, slope.scale);
    let mut hot: Vec<(f64, Resource)> =
        all.map(|resource| (used(resource), resource)).filter(|(used, _)| *used > near).collect();
    let fuller = |a: &(f64, Resource), b: &(f64, Resource)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    // In a balanced fabric all are near, and there is not the fuel to look at all.
    let most = (state.fuel() / WEIGHING as u64) as usize;
    if hot.len() > most {
        hot.select_nth_unstable_by(most, fuller);
        hot.truncate(most);
    }
    hot.sort_unstable_by(fuller);
    let mut moved = false;
    for (_, resource) in hot {
        for piece in candidates(state, resource, slope.means, prefer).into_iter().take(PIECES) {
            if state.fuel() == 0 {
                return moved;
            }
            if state.part(piece).units > 0 && share(state, &state.part(piece).path, resource) > 0.0 {
                moved |= step(state, piece, slope);
            }
        }
    }
    moved
}

/// Moves as much of a piece as is best to the path that is best.
fn step(state: &mut State<'_>, piece: PieceId, slope: &Slope) -> bool {
    let part = *state.part(piece);
    let amount = state.amount(part.flow, part.units);
    let mut best: Option<(f64, f64, Path)> = None;
    for path in paths(state, piece, 0.0) {
        let links = links(state, &part.path, &path);
        state.burn(WEIGHING);
        let size = match slope.means.split && state.max_pieces[part.flow as usize] > 1 {
            true => best_size(state, slope, &links, amount),
            false => amount,
        };
        let change = slope.change(state, &links, size);
        if best.as_ref().is_none_or(|(least, ..)| change < *least) {
            best = Some((change, size, path));
        }
    }
    let Some((change, size, path)) = best.filter(|(change, ..)| *change < -1e-9) else { return false };
    let portion = if size >= amount * (1.0 - 1e-9) {
        Some(Portion::whole(part.units))
    } else {
        cut::at_most(state, piece, size)
    };
    let Some(portion) = portion else { return false };
    let links = links(state, &part.path, &path);
    // The best size may be none that can be had.
    if slope.change(state, &links, portion.amount(state, part.flow)) > change * 0.25 {
        return false;
    }
    state.recut(part.flow, portion.times);
    state.relocate(piece, portion.units, path);
    true
}

/// Where the slope has its valley: it is convex in the size.
fn best_size(state: &State<'_>, slope: &Slope, links: &[(Resource, f64)], most: f64) -> f64 {
    let (mut low, mut high) = (0.0, most);
    if slope.change(state, links, most) <= slope.change(state, links, most * 0.999) {
        return most;
    }
    for _ in 0..HALVINGS {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if slope.change(state, links, a) < slope.change(state, links, b) {
            high = b;
        } else {
            low = a;
        }
    }
    (low + high) / 2.0
}
