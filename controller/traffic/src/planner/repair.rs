//! Bringing every link below a limit.
//!
//! A link that is over gives a piece to another path. If every other path would go over in turn, pieces are exchanged
//! in a chain: the piece goes to spine *t*, a piece that then is too much there comes back to spine *s*, and so on until
//! somewhere there was room. For equal flows in two tiers that is König's argument for colouring the edges of a
//! bipartite graph, so the chain always ends well when the limit can be met; with unequal flows, three tiers or broken
//! links it is a good heuristic. What is cut into several queue pairs moves by queue pairs, if cutting is allowed.

use std::collections::{HashMap, HashSet};

use super::{
    augment::augment,
    cut::{self, Portion, spread},
    fabric::{Fabric, Hop, Path, Resource},
    state::{Limits, PieceId, ROUNDING, State},
};

/// How many pieces of a link are tried for a direct move.
const DIRECT: usize = 64;
/// How many pieces of a link are tried as the start of a chain, and to how many switches each.
const STARTS: usize = 12;
const TARGETS: usize = 12;
/// How many pieces are looked at when one must leave inside a chain.
const CHOICES: usize = 24;
/// How long a chain may become.
const LONGEST: usize = 400;

/// What repairing may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) limits: Limits,
    /// Whether flows may be cut into more pieces.
    pub(crate) split: bool,
}

/// Pieces in the order in which they should rather move: those first whose moving costs nothing.
pub(crate) trait Preference {
    /// Smaller moves first.
    fn cost(&self, state: &State<'_>, piece: PieceId) -> u32;
}

/// Brings everything below the limits; false (and some of the way gone) when it did not work.
pub(crate) fn repair(state: &mut State<'_>, means: Means, prefer: &dyn Preference) -> bool {
    let mut before = f64::INFINITY;
    loop {
        let over = state.overfull(means.limits);
        // Chains may shift what is too much; each has to leave less of it.
        let excess: f64 = over.iter().map(|resource| -state.room(*resource, means.limits)).sum();
        if over.is_empty() || excess > before * (1.0 - ROUNDING) {
            return over.is_empty();
        }
        before = excess;
        for resource in over {
            while state.is_over(resource, means.limits) {
                if state.fuel() == 0 || !relieve(state, resource, means, prefer) {
                    return false;
                }
            }
        }
    }
}

/// Takes something off a link, everything else staying within limits.
fn relieve(state: &mut State<'_>, resource: Resource, means: Means, prefer: &dyn Preference) -> bool {
    let candidates = candidates(state, resource, means, prefer);
    for detours in [false, true] {
        if detours && !(state.fabric.has_cores && state.fabric.in_fabric(resource)) {
            break;
        }
        for piece in candidates.iter().take(DIRECT) {
            if direct(state, *piece, resource, means, detours) {
                return true;
            }
        }
    }
    for piece in candidates.iter().take(STARTS) {
        if exchange(state, *piece, resource, means, prefer) {
            return true;
        }
    }
    augment(state, resource, means, prefer) || (means.split && spread(state, resource, means, prefer))
}

/// The pieces of a link, those first that cost nothing to move, then those that fit what is too much.
pub(super) fn candidates(
    state: &mut State<'_>,
    resource: Resource,
    means: Means,
    prefer: &dyn Preference,
) -> Vec<PieceId> {
    let excess = -state.room(resource, means.limits);
    let mut candidates: Vec<(u32, f64, PieceId)> = state
        .members(resource)
        .into_iter()
        .filter(|piece| !state.pinned[state.part(*piece).flow as usize])
        .map(|piece| {
            let part = state.part(piece);
            let amount = state.amount(part.flow, part.units) * share(state, &part.path, resource);
            (prefer.cost(state, piece), (amount - excess).abs(), piece)
        })
        .collect();
    candidates.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    state.burn(16 * candidates.len());
    candidates.into_iter().map(|(.., piece)| piece).collect()
}

/// The part of a path's traffic that a resource bears.
pub(super) fn share(state: &State<'_>, path: &Path, resource: Resource) -> f64 {
    let mut share = 0.0;
    state.fabric.each(path, |other, part| {
        if other == resource {
            share = part;
        }
    });
    share
}

/// How much of a piece should leave a link that is over its limit.
fn portion(state: &State<'_>, piece: PieceId, resource: Resource, means: Means) -> Portion {
    let part = state.part(piece);
    if !means.split {
        return Portion::whole(part.units);
    }
    let excess = -state.room(resource, means.limits);
    cut::at_least(state, piece, excess / share(state, &part.path, resource).max(f64::MIN_POSITIVE))
}

/// Moves a piece, or as many queue pairs of it as should go and fit, to a path with room.
fn direct(state: &mut State<'_>, piece: PieceId, resource: Resource, means: Means, detours: bool) -> bool {
    let mark = state.mark();
    let mut portion = portion(state, piece, resource, means);
    for _ in 0..2 {
        let before = *state.part(piece);
        state.recut(before.flow, portion.times);
        let part = *state.part(piece);
        let amount = state.amount(part.flow, portion.units);
        // Searched for as if it were not there.
        let step = state.mark();
        state.put(piece, part.units - portion.units, part.path);
        let found = state.best(part.flow, amount, means.limits, detours);
        state.roll_back(step);
        let Some(path) = found.filter(|path| *path != part.path && !crosses(state, path, resource)) else {
            break;
        };
        state.relocate(piece, portion.units, path);
        if state.fits_beyond(&path, &part.path, means.limits) {
            return true;
        }
        state.roll_back(mark);
        if !means.split {
            break;
        }
        // Too much for any path: as much as the best one has room for.
        let mut room = amount;
        state.fabric.each(&path, |other, part_of| {
            if share(state, &part.path, other) == 0.0 {
                room = room.min(state.room(other, means.limits) / part_of);
            }
        });
        match cut::at_most(state, piece, room) {
            Some(less) => portion = less,
            None => break,
        }
    }
    state.roll_back(mark);
    false
}

fn crosses(state: &State<'_>, path: &Path, resource: Resource) -> bool {
    share(state, path, resource) > 0.0
}

/// Between what a chain goes back and forth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    /// Highest switches.
    Tops(u32, u32),
    /// Planes of source and destination port.
    Planes((u32, u32), (u32, u32)),
}

/// Moves a piece and repairs what that breaks by exchanging pieces.
fn exchange(
    state: &mut State<'_>,
    piece: PieceId,
    resource: Resource,
    means: Means,
    prefer: &dyn Preference,
) -> bool {
    for between in targets(state, piece, resource, means) {
        if state.fuel() == 0 {
            break;
        }
        let mark = state.mark();
        let portion = portion(state, piece, resource, means);
        let part = *state.part(piece);
        let lost = portion.amount(state, part.flow) * share(state, &part.path, resource);
        let cap = state.allowed(resource, means.limits).max(state.loads.load[resource as usize] - lost);
        let mut chain = Chain::new(between, means, prefer);
        // The link itself must not get back what it gave.
        chain.caps.insert(resource, cap);
        if chain.run(state, piece, portion) {
            return true;
        }
        state.roll_back(mark);
    }
    false
}

/// Where a piece could go so that its own end of the link is relieved.
fn targets(state: &mut State<'_>, piece: PieceId, resource: Resource, means: Means) -> Vec<Between> {
    let part = *state.part(piece);
    let amount = if means.split { 0.0 } else { state.amount(part.flow, part.units) };
    let mut targets: Vec<(f64, f64, Between)> = Vec::new();
    let mut offer = |state: &State<'_>, path: &Path, between: Between| {
        // At its own end there has to be room, or the chain would only come back.
        let instead = replaced(state, &part.path, path, resource);
        let full = |other| state.room(other, means.limits) < amount.max(ROUNDING) * (1.0 - ROUNDING);
        if crosses(state, path, resource) || instead.is_some_and(full) {
            return;
        }
        let (mut over, mut total) = (0.0f64, 0.0);
        state.fabric.each(path, |other, part_of| {
            if share(state, &part.path, other) == 0.0 {
                let room = state.room(other, means.limits) - amount * part_of;
                let scale = state.loads.inverse[other as usize];
                over += (-room * scale).max(0.0);
                total -= room * scale;
            }
        });
        targets.push((over, total, between));
    };
    if state.fabric.in_fabric(resource) {
        let Some(from) = state.top(&part.path) else { return Vec::new() };
        let ports = &state.fabric.ports;
        let (a, b) = (ports[part.path.src as usize].leaf, ports[part.path.dst as usize].leaf);
        for top in tops(state, a, b, state.routes.lenient(part.flow as usize), from) {
            if let Some(path) = state.via(part.flow, (part.path.src, part.path.dst), amount, top) {
                offer(state, &path, Between::Tops(from, top));
            }
        }
    }
    let here = (part.path.src, part.path.dst);
    let routes = state.routes;
    for pair in routes.pairs(part.flow as usize).iter().filter(|pair| **pair != here) {
        let between = Between::Planes(planes(state, here), planes(state, *pair));
        let path = match state.fabric.in_fabric(resource) {
            true => state.between_ports(part.flow, *pair, amount),
            // Inside the plane the best way is looked for when the chain gets there.
            false => Some(Path::new(pair.0, pair.1, &[])),
        };
        if let Some(path) = path {
            offer(state, &path, between);
        }
    }
    targets.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    targets.truncate(TARGETS);
    targets.into_iter().map(|(_, _, between)| between).collect()
}

/// Switches that join two leaves, other than one; the same tier as that one.
fn tops(state: &State<'_>, a: u32, b: u32, lenient: bool, but: u32) -> Vec<u32> {
    let tier = state.fabric.is_spine[but as usize];
    let mut tops = tops_of(state.fabric, a, b, lenient);
    tops.retain(|top| *top != but && state.fabric.is_spine[*top as usize] == tier);
    tops
}

/// All switches that join two leaves.
pub(crate) fn tops_of(fabric: &Fabric, a: u32, b: u32, lenient: bool) -> Vec<u32> {
    let ups = fabric.ups(lenient);
    let above = |leaf: u32| {
        let mut tops: Vec<u32> = Vec::new();
        for up in ups.of(leaf) {
            tops.push(up.high);
            tops.extend(ups.of(up.high).iter().map(|up| up.high));
        }
        tops.sort_unstable();
        tops.dedup();
        tops
    };
    let other = above(b);
    above(a).into_iter().filter(|top| other.binary_search(top).is_ok()).collect()
}

/// A chain of exchanges in the making.
struct Chain<'p> {
    between: Between,
    means: Means,
    prefer: &'p dyn Preference,
    /// What has been moved already, and stays.
    moved: HashSet<PieceId>,
    /// Links that got something.
    pending: Vec<Resource>,
    /// How much links may bear, in Gbit/s: what the limit allows, or what they bore before, or as full as the link was
    /// that the same end used before. Others that are over are not this chain's business; making them worse would be.
    caps: HashMap<Resource, f64>,
}

impl<'p> Chain<'p> {
    fn new(between: Between, means: Means, prefer: &'p dyn Preference) -> Self {
        Self { between, means, prefer, moved: HashSet::new(), pending: Vec::new(), caps: HashMap::new() }
    }

    /// How much more a link may bear.
    fn room(&self, state: &State<'_>, resource: Resource) -> f64 {
        let load = state.loads.load[resource as usize];
        let cap = match self.caps.get(&resource) {
            Some(cap) => *cap,
            None => state.allowed(resource, self.means.limits).max(load),
        };
        cap - load
    }

    fn is_over(&self, state: &State<'_>, resource: Resource) -> bool {
        -self.room(state, resource) > ROUNDING * state.fabric.capacity[resource as usize]
    }

    /// How much of a piece should leave a link.
    fn portion(&self, state: &State<'_>, piece: PieceId, resource: Resource) -> Portion {
        let part = state.part(piece);
        if !self.means.split {
            return Portion::whole(part.units);
        }
        let excess = -self.room(state, resource);
        cut::at_least(state, piece, excess / share(state, &part.path, resource).max(f64::MIN_POSITIVE))
    }

    /// Moves some of a piece to the other side, and whatever is then too much there back, until all fits.
    fn run(&mut self, state: &mut State<'_>, piece: PieceId, portion: Portion) -> bool {
        let Some(path) = self.flipped(state, piece, portion) else { return false };
        self.take(state, piece, portion, path);
        let mut steps = 1;
        while let Some(resource) = self.pending.pop() {
            while self.is_over(state, resource) {
                steps += 1;
                if steps > LONGEST || state.fuel() == 0 {
                    return false;
                }
                if matches!(self.between, Between::Planes(..)) && state.fabric.in_fabric(resource) {
                    // The plane is right; inside it another spine may have room.
                    let candidates = candidates(state, resource, self.means, self.prefer);
                    if !candidates.iter().take(CHOICES).any(|piece| self.sideways(state, *piece, resource)) {
                        return false;
                    }
                    continue;
                }
                let Some((next, portion, path)) = self.ejected(state, resource) else { return false };
                self.take(state, next, portion, path);
            }
        }
        true
    }

    /// Moves some of a piece, and notes what it now loads.
    fn take(&mut self, state: &mut State<'_>, piece: PieceId, portion: Portion, path: Path) {
        let part = *state.part(piece);
        let relieved = relieved(state, &part.path, &path);
        state.fabric.each(&path, |resource, _| {
            if share(state, &part.path, resource) == 0.0 {
                let instead =
                    relieved.iter().find(|(new, _)| *new == resource).map_or(0.0, |(_, used)| *used);
                let used = state.loads.used(resource).max(instead);
                let allowed = state.limit(resource, self.means.limits).max(used);
                let cap = allowed * state.fabric.capacity[resource as usize];
                self.caps.entry(resource).or_insert(cap);
                self.pending.push(resource);
            }
        });
        state.recut(part.flow, portion.times);
        self.moved.insert(state.relocate(piece, portion.units, path));
    }

    /// The path of a piece on the other side.
    fn flipped(&self, state: &mut State<'_>, piece: PieceId, portion: Portion) -> Option<Path> {
        let part = *state.part(piece);
        let amount = portion.amount(state, part.flow);
        let here = (part.path.src, part.path.dst);
        match self.between {
            Between::Tops(s, t) => {
                let to = match state.top(&part.path)? {
                    top if top == s => t,
                    top if top == t => s,
                    _ => return None,
                };
                state.via(part.flow, here, amount, to)
            }
            Between::Planes(s, t) => {
                let to = match planes(state, here) {
                    planes if planes == s => t,
                    planes if planes == t => s,
                    _ => return None,
                };
                let routes = state.routes;
                let pair =
                    routes.pairs(part.flow as usize).iter().find(|pair| planes(state, **pair) == to)?;
                state.between_ports(part.flow, *pair, amount)
            }
        }
    }

    /// Moves a piece to another switch in its own plane, if it fits there.
    fn sideways(&mut self, state: &mut State<'_>, piece: PieceId, resource: Resource) -> bool {
        let mark = state.mark();
        let portion = self.portion(state, piece, resource);
        state.recut(state.part(piece).flow, portion.times);
        let part = *state.part(piece);
        let amount = state.amount(part.flow, portion.units);
        let step = state.mark();
        state.put(piece, part.units - portion.units, part.path);
        let found = state.between_ports(part.flow, (part.path.src, part.path.dst), amount);
        state.roll_back(step);
        if let Some(path) = found.filter(|path| *path != part.path && !crosses(state, path, resource)) {
            state.relocate(piece, portion.units, path);
            if state.fits_beyond(&path, &part.path, self.means.limits) {
                return true;
            }
        }
        state.roll_back(mark);
        false
    }

    /// The piece that leaves a link: one that fits on the other side, else the one that overflows least.
    fn ejected(&self, state: &mut State<'_>, resource: Resource) -> Option<(PieceId, Portion, Path)> {
        let mut best: Option<(f64, PieceId, Portion, Path)> = None;
        let mut looked = 0;
        for piece in candidates(state, resource, self.means, self.prefer) {
            if self.moved.contains(&piece) {
                continue;
            }
            let portion = self.portion(state, piece, resource);
            let Some(path) = self.flipped(state, piece, portion) else { continue };
            if crosses(state, &path, resource) {
                continue;
            }
            looked += 1;
            let part = *state.part(piece);
            let amount = portion.amount(state, part.flow);
            let mut over = 0.0;
            state.fabric.each(&path, |other, share_of| {
                if share(state, &part.path, other) == 0.0 {
                    let room = self.room(state, other) - amount * share_of;
                    over += (-room * state.loads.inverse[other as usize]).max(0.0);
                }
            });
            // What it leaves behind counts as well: half a cure is another round.
            let left = -(self.room(state, resource) + amount * share(state, &part.path, resource));
            over += (left * state.loads.inverse[resource as usize]).max(0.0);
            if best.as_ref().is_none_or(|(least, ..)| over < *least) {
                best = Some((over, piece, portion, path));
            }
            if over <= ROUNDING || looked >= CHOICES {
                break;
            }
        }
        best.map(|(_, piece, portion, path)| (piece, portion, path))
    }
}

/// Pairs of links at the same step of two paths.
fn steps<'a>(
    state: &'a State<'_>,
    new: &'a Path,
    old: &'a Path,
) -> impl Iterator<Item = (Resource, Resource)> + 'a {
    let same = new.hops().len() == old.hops().len();
    let link = |hop: &Hop| state.fabric.lanes[hop.lane()].first + u32::from(hop.is_down());
    let pairs = new.hops().iter().zip(old.hops());
    pairs.filter(move |_| same).map(move |(new, old)| (link(new), link(old)))
}

/// The link of a new path that stands for one of the old path.
fn replaced(state: &State<'_>, old: &Path, new: &Path, resource: Resource) -> Option<Resource> {
    steps(state, new, old).find(|(_, old)| *old == resource).map(|(new, _)| new)
}

/// For each link of a new path the use of the one it replaces.
fn relieved(state: &State<'_>, old: &Path, new: &Path) -> Vec<(Resource, f64)> {
    steps(state, new, old).map(|(new, old)| (new, state.loads.used(old))).collect()
}

/// Planes of two ports.
fn planes(state: &State<'_>, (src, dst): (u32, u32)) -> (u32, u32) {
    (state.fabric.ports[src as usize].plane, state.fabric.ports[dst as usize].plane)
}
