//! Where every piece is, what that loads, and a journal to take steps back by.
//!
//! Improving a plan means trying things that may lead nowhere. Every change goes through [`State::put`] or
//! [`State::recut`] and is written down, so that an attempt that fails is undone exactly.

use super::{
    fabric::{Fabric, Path, Resource},
    routes::Routes,
    search::{self, Ask, Cost, Crossing, Loads, Scratch},
};
use crate::flows::Flows;

/// Number of a piece. The first pieces are numbered as their flows are.
pub(crate) type PieceId = u32;
pub(crate) const NO_PIECE: PieceId = PieceId::MAX;

/// Loads this much over a limit, relative to it, are rounding.
pub(crate) const ROUNDING: f64 = 1e-9;

/// Part of a flow on one path; one without units is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) flow: u32,
    pub(crate) units: u32,
    pub(crate) path: Path,
    /// The flow's next piece.
    pub(crate) next: PieceId,
}

#[derive(Clone, Copy, Debug)]
enum Undo {
    Put { piece: PieceId, units: u32, path: Path },
    Recut { flow: u32, times: u32 },
    Cut { flow: u32, cut: u32 },
}

/// How full links may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) ports: f64,
    pub(crate) fabric: f64,
}

/// The plan in the making.
#[derive(Debug)]
pub(crate) struct State<'a> {
    pub(crate) fabric: &'a Fabric,
    pub(crate) routes: &'a Routes,
    /// Of each flow, in Gbit/s.
    pub(crate) demand: Vec<f64>,
    pub(crate) max_pieces: Vec<u32>,
    /// Flows that stay where they are.
    pub(crate) pinned: Vec<bool>,
    /// Of each flow: how many units it is cut into.
    pub(crate) cut: Vec<u32>,
    pub(crate) parts: Vec<Part>,
    pub(crate) loads: Loads,
    pub(crate) scratch: Scratch,
    /// Pieces on each resource, and some that are no longer there; built when first asked for.
    members: Vec<Vec<PieceId>>,
    journal: Vec<Undo>,
    /// How much more may be looked at; see [`super::improve`].
    fuel: u64,
}

impl<'a> State<'a> {
    pub(crate) fn new(fabric: &'a Fabric, routes: &'a Routes, flows: &Flows) -> Self {
        let nowhere = Path::new(0, 0, &[]);
        let flows = flows.as_slice();
        let part = |flow| Part { flow: flow as u32, units: 0, path: nowhere, next: NO_PIECE };
        Self {
            fabric,
            routes,
            demand: flows.iter().map(|flow| flow.demand.get()).collect(),
            max_pieces: flows.iter().map(|flow| flow.max_pieces.get()).collect(),
            pinned: vec![false; flows.len()],
            cut: vec![1; flows.len()],
            parts: (0..flows.len()).map(part).collect(),
            loads: Loads::new(fabric),
            scratch: Scratch::new(fabric.is_spine.len(), fabric.has_cores),
            members: Vec::new(),
            journal: Vec::new(),
            fuel: 0,
        }
    }

    /// Allows so much to be looked at, in links.
    pub(crate) fn refuel(&mut self, fuel: u64) {
        self.fuel = fuel;
    }

    /// What is left of it.
    pub(crate) fn fuel(&self) -> u64 {
        self.fuel
    }

    pub(crate) fn burn(&mut self, links: usize) {
        self.fuel = self.fuel.saturating_sub(links as u64);
    }

    /// Gbit/s of so many units of a flow.
    pub(crate) fn amount(&self, flow: u32, units: u32) -> f64 {
        let flow = flow as usize;
        if units == self.cut[flow] {
            return self.demand[flow];
        }
        self.demand[flow] * f64::from(units) / f64::from(self.cut[flow])
    }

    /// The pieces of a flow.
    pub(crate) fn pieces_of(&self, flow: u32) -> impl Iterator<Item = PieceId> + '_ {
        let next = |piece: &PieceId| Some(self.parts[*piece as usize].next).filter(|next| *next != NO_PIECE);
        std::iter::successors(Some(flow), next).filter(|piece| self.parts[*piece as usize].units > 0)
    }

    pub(crate) fn part(&self, piece: PieceId) -> &Part {
        &self.parts[piece as usize]
    }

    /// Where the journal stands.
    pub(crate) fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Undoes everything since a mark.
    pub(crate) fn roll_back(&mut self, mark: usize) {
        while self.journal.len() > mark {
            match self.journal.pop() {
                Some(Undo::Put { piece, units, path }) => self.apply(piece, units, path),
                Some(Undo::Recut { flow, times }) => {
                    self.cut[flow as usize] /= times;
                    self.scale(flow, |units| units / times);
                }
                Some(Undo::Cut { flow, cut }) => self.cut[flow as usize] = cut,
                None => return,
            }
        }
    }

    /// Takes a flow off all its paths, to be cut anew.
    pub(crate) fn lift(&mut self, flow: u32, cut: u32) {
        let pieces: Vec<PieceId> = self.pieces_of(flow).collect();
        for piece in pieces {
            self.put(piece, 0, self.part(piece).path);
        }
        self.journal.push(Undo::Cut { flow, cut: self.cut[flow as usize] });
        self.cut[flow as usize] = cut;
    }

    /// Forgets how we came here, and sums loads up afresh: many small additions drift.
    pub(crate) fn settle(&mut self) {
        self.journal.clear();
        self.loads.load.fill(0.0);
        for piece in 0..self.parts.len() {
            let part = self.parts[piece];
            if part.units > 0 {
                let amount = self.amount(part.flow, part.units);
                let load = &mut self.loads.load;
                self.fabric.each(&part.path, |resource, share| load[resource as usize] += amount * share);
            }
        }
    }

    fn scale(&mut self, flow: u32, change: impl Fn(u32) -> u32) {
        let mut piece = flow;
        while piece != NO_PIECE {
            let part = &mut self.parts[piece as usize];
            part.units = change(part.units);
            piece = part.next;
        }
    }

    /// Cuts every unit of a flow into `times` units.
    pub(crate) fn recut(&mut self, flow: u32, times: u32) {
        if times > 1 {
            self.journal.push(Undo::Recut { flow, times });
            self.cut[flow as usize] *= times;
            self.scale(flow, |units| units * times);
        }
    }

    /// Has a piece be so many units on this path.
    pub(crate) fn put(&mut self, piece: PieceId, units: u32, path: Path) {
        let part = self.parts[piece as usize];
        self.journal.push(Undo::Put { piece, units: part.units, path: part.path });
        self.apply(piece, units, path);
    }

    fn apply(&mut self, piece: PieceId, units: u32, path: Path) {
        let part = self.parts[piece as usize];
        let (before, after) = (self.amount(part.flow, part.units), self.amount(part.flow, units));
        let load = &mut self.loads.load;
        if part.units > 0 {
            self.fabric.each(&part.path, |resource, share| load[resource as usize] -= before * share);
        }
        if units > 0 {
            self.fabric.each(&path, |resource, share| load[resource as usize] += after * share);
        }
        if !self.members.is_empty() && units > 0 && (part.units == 0 || part.path != path) {
            let members = &mut self.members;
            self.fabric.each(&path, |resource, _| members[resource as usize].push(piece));
        }
        let part = &mut self.parts[piece as usize];
        (part.units, part.path) = (units, path);
    }

    /// A piece of the flow without units.
    fn fresh_piece(&mut self, flow: u32) -> PieceId {
        let mut piece = flow;
        loop {
            let part = &self.parts[piece as usize];
            if part.units == 0 {
                return piece;
            }
            if part.next == NO_PIECE {
                break;
            }
            piece = part.next;
        }
        let fresh = self.parts.len() as PieceId;
        let path = self.parts[flow as usize].path;
        self.parts.push(Part { flow, units: 0, path, next: NO_PIECE });
        self.parts[piece as usize].next = fresh;
        fresh
    }

    /// Adds units of a flow on a path: to the piece that is there, or as a new one. Returns which it is.
    pub(crate) fn add(&mut self, flow: u32, units: u32, path: Path) -> PieceId {
        let there = self.pieces_of(flow).find(|piece| self.parts[*piece as usize].path == path);
        let piece = there.unwrap_or_else(|| self.fresh_piece(flow));
        self.put(piece, self.parts[piece as usize].units + units, path);
        piece
    }

    /// Moves units of a piece to another path. Returns the piece that has them now.
    pub(crate) fn relocate(&mut self, piece: PieceId, units: u32, path: Path) -> PieceId {
        let part = self.parts[piece as usize];
        if part.path == path {
            return piece;
        }
        let there = self.pieces_of(part.flow).find(|other| self.parts[*other as usize].path == path);
        if there.is_none() && units == part.units {
            self.put(piece, units, path);
            return piece;
        }
        self.put(piece, part.units - units, part.path);
        self.add(part.flow, units, path)
    }

    /// The pieces on a resource, in order.
    pub(crate) fn members(&mut self, resource: Resource) -> Vec<PieceId> {
        if self.members.is_empty() {
            self.members = vec![Vec::new(); self.fabric.capacity.len()];
            for (piece, part) in self.parts.iter().enumerate().filter(|(_, part)| part.units > 0) {
                let members = &mut self.members;
                self.fabric.each(&part.path, |resource, _| {
                    members[resource as usize].push(piece as PieceId);
                });
            }
        }
        let mut list = std::mem::take(&mut self.members[resource as usize]);
        self.burn(4 * list.len());
        list.sort_unstable();
        list.dedup();
        list.retain(|piece| {
            let part = &self.parts[*piece as usize];
            let mut on = false;
            if part.units > 0 {
                self.fabric.each(&part.path, |other, _| on |= other == resource);
            }
            on
        });
        self.members[resource as usize].clone_from(&list);
        list
    }

    /// How full a resource may be.
    pub(crate) fn limit(&self, resource: Resource, limits: Limits) -> f64 {
        if self.fabric.in_fabric(resource) { limits.fabric } else { limits.ports }
    }

    pub(crate) fn is_over(&self, resource: Resource, limits: Limits) -> bool {
        self.loads.used(resource) > self.limit(resource, limits) * (1.0 + ROUNDING)
    }

    /// How much more a resource could bear, in Gbit/s.
    pub(crate) fn room(&self, resource: Resource, limits: Limits) -> f64 {
        self.allowed(resource, limits) - self.loads.load[resource as usize]
    }

    /// How much a resource may bear, in Gbit/s.
    pub(crate) fn allowed(&self, resource: Resource, limits: Limits) -> f64 {
        self.limit(resource, limits) * self.fabric.capacity[resource as usize]
    }

    /// Whether what a path has that another has not is within limits.
    pub(crate) fn fits_beyond(&self, path: &Path, other: &Path, limits: Limits) -> bool {
        let mut fits = true;
        self.fabric.each(path, |resource, _| {
            if self.is_over(resource, limits) {
                let mut shared = false;
                self.fabric.each(other, |old, _| shared |= old == resource);
                fits &= shared;
            }
        });
        fits
    }

    /// The fullest of all resources, and the fullest link between switches.
    pub(crate) fn fullest(&self) -> (f64, f64) {
        let used = |range: std::ops::Range<usize>| {
            range.map(|resource| self.loads.used(resource as Resource)).fold(0.0, f64::max)
        };
        let ports = 2 * self.fabric.ports.len();
        let (ports, fabric) = (used(0..ports), used(ports..self.fabric.capacity.len()));
        (ports.max(fabric), fabric)
    }

    /// All resources over their limits, the fullest first.
    pub(crate) fn overfull(&self, limits: Limits) -> Vec<Resource> {
        let all = 0..self.fabric.capacity.len() as Resource;
        let over = all.filter(|resource| self.is_over(*resource, limits));
        let mut over: Vec<_> = over.map(|resource| (self.loads.used(resource), resource)).collect();
        over.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        over.into_iter().map(|(_, resource)| resource).collect()
    }

    /// The best path for so much more of a flow: within limits where that can be, then with the emptiest fabric.
    pub(crate) fn best(&mut self, flow: u32, more: f64, limits: Limits, detours: bool) -> Option<Path> {
        let lenient = self.routes.lenient(flow as usize);
        let routes = self.routes;
        let mut best: Option<(Cost, Cost, Path)> = None;
        for (src, dst) in routes.pairs(flow as usize) {
            let Some((crossing, ports)) = self.crossing(*src, *dst, more, lenient, detours) else { continue };
            // Below the limits all are equal; there the fabric decides, then the ports.
            let over = (ports.max / limits.ports).max(crossing.cost.max / limits.fabric).max(1.0 + ROUNDING);
            let first = Cost { max: over, sum: crossing.cost.max };
            let second = Cost { max: crossing.cost.sum, sum: ports.sum };
            // Between planes balance of the ports comes first.
            let first = if routes.pairs(flow as usize).len() > 1 {
                Cost { max: over, sum: crossing.cost.max.max(ports.max) }
            } else {
                first
            };
            let better = best.as_ref().is_none_or(|(a, b, _)| first.order(a).then(second.order(b)).is_lt());
            if better {
                best = Some((first, second, crossing.path(*src, *dst)));
            }
        }
        best.map(|(_, _, path)| path)
    }

    /// The best way between two ports, and what the ports would bear.
    fn crossing(
        &mut self,
        src: u32,
        dst: u32,
        more: f64,
        lenient: bool,
        detours: bool,
    ) -> Option<(Crossing, Cost)> {
        let ports = &self.fabric.ports;
        let (from, to) = (ports[src as usize].leaf, ports[dst as usize].leaf);
        let used = |resource: u32| {
            (self.loads.load[resource as usize] + more) * self.loads.inverse[resource as usize]
        };
        let (out, into) = (used(2 * src), used(2 * dst + 1));
        let ask = Ask { from, to, more, lenient, detours };
        self.burn(16 + self.fabric.ups(lenient).of(from).len());
        let crossing = search::best(self.fabric, &self.loads, &mut self.scratch, ask)?;
        Some((crossing, Cost { max: out.max(into), sum: out + into }))
    }

    /// The best path of a flow between two ports.
    pub(crate) fn between_ports(&mut self, flow: u32, (src, dst): (u32, u32), more: f64) -> Option<Path> {
        let lenient = self.routes.lenient(flow as usize);
        let (crossing, _) = self.crossing(src, dst, more, lenient, false)?;
        Some(crossing.path(src, dst))
    }

    /// The best path of a flow between two ports over a certain highest switch.
    pub(crate) fn via(&mut self, flow: u32, (src, dst): (u32, u32), more: f64, top: u32) -> Option<Path> {
        let ports = &self.fabric.ports;
        let (from, to) = (ports[src as usize].leaf, ports[dst as usize].leaf);
        let lenient = self.routes.lenient(flow as usize);
        let ask = Ask { from, to, more, lenient, detours: false };
        self.burn(if self.fabric.has_cores { 32 } else { 8 });
        let crossing = search::via(self.fabric, &self.loads, &mut self.scratch, ask, top)?;
        Some(crossing.path(src, dst))
    }

    /// The best path over a certain highest switch while nothing else is there.
    pub(crate) fn over(&self, flow: u32, (src, dst): (u32, u32), top: u32) -> Option<Path> {
        let ports = &self.fabric.ports;
        let (from, to) = (ports[src as usize].leaf, ports[dst as usize].leaf);
        let lenient = self.routes.lenient(flow as usize);
        let ask = Ask { from, to, more: 1.0, lenient, detours: false };
        let crossing = search::via(self.fabric, &self.loads, &mut self.scratch.clone(), ask, top)?;
        Some(crossing.path(src, dst))
    }

    /// The highest switch of a path; none inside one leaf.
    pub(crate) fn top(&self, path: &Path) -> Option<u32> {
        let hops = path.hops();
        let last_up = hops.iter().take_while(|hop| !hop.is_down()).last()?;
        Some(self.fabric.lanes[last_up.lane()].high)
    }
}
