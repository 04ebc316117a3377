//! The best path for some traffic, given what the links already bear: that whose fullest link stays emptiest, and among
//! equals that whose links are emptiest together.

use std::cmp::Ordering;

use super::fabric::{Fabric, Hop, Path, Resource, Up, Ups};

/// How full links would be: the fullest, then all together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) max: f64,
    pub(crate) sum: f64,
}

impl Cost {
    pub(crate) const NOTHING: Cost = Cost { max: 0.0, sum: 0.0 };
    const WORST: Cost = Cost { max: f64::INFINITY, sum: f64::INFINITY };

    fn with(self, other: Cost) -> Cost {
        Cost { max: self.max.max(other.max), sum: self.sum + other.sum }
    }

    pub(crate) fn order(&self, other: &Cost) -> Ordering {
        self.max.total_cmp(&other.max).then(self.sum.total_cmp(&other.sum))
    }

    fn less(&self, other: &Cost) -> bool {
        self.max < other.max || (self.max == other.max && self.sum < other.sum)
    }
}

/// What every resource bears.
#[derive(Clone, Debug)]
pub(crate) struct Loads {
    /// In Gbit/s.
    pub(crate) load: Vec<f64>,
    /// One over the capacity.
    pub(crate) inverse: Vec<f64>,
}

impl Loads {
    pub(crate) fn new(fabric: &Fabric) -> Self {
        let inverse = fabric.capacity.iter().map(|capacity| 1.0 / capacity).collect();
        Self { load: vec![0.0; fabric.capacity.len()], inverse }
    }

    pub(crate) fn used(&self, resource: Resource) -> f64 {
        self.load[resource as usize] * self.inverse[resource as usize]
    }

    fn with(&self, resource: Resource, more: f64) -> f64 {
        (self.load[resource as usize] + more) * self.inverse[resource as usize]
    }

    fn lane(&self, up: &Up, down: u32, more: f64) -> Cost {
        if up.width == 1 {
            let used = self.with(up.first + down, more);
            return Cost { max: used, sum: used };
        }
        let part = more / f64::from(up.width);
        let mut cost = Cost::NOTHING;
        for index in 0..u32::from(up.width) {
            cost.max = cost.max.max(self.with(up.first + down + 2 * index, part));
        }
        cost.sum = cost.max;
        cost
    }

    /// The best of parallel lanes; there is at least one.
    fn best_lane(&self, ups: &[Up], down: u32, more: f64) -> (Cost, u32) {
        let mut best = (Cost::WORST, 0);
        for up in ups {
            let cost = self.lane(up, down, more);
            if cost.less(&best.0) {
                best = (cost, up.lane);
            }
        }
        best
    }
}

/// A way from leaf to leaf and its cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossing {
    pub(crate) cost: Cost,
    hops: [Hop; 4],
    length: usize,
}

impl Crossing {
    fn over(cost: Cost, climb: &[Hop], descent: &[Hop]) -> Self {
        let mut hops = [Hop::NONE; 4];
        let length = climb.len() + descent.len();
        hops[..climb.len()].copy_from_slice(climb);
        hops[climb.len()..length].copy_from_slice(descent);
        Self { cost, hops, length }
    }

    pub(crate) fn path(&self, src: u32, dst: u32) -> Path {
        Path::new(src, dst, &self.hops[..self.length])
    }
}

/// One way from a leaf to a switch above it.
#[derive(Clone, Copy, Debug)]
struct Climb {
    cost: Cost,
    /// The spine on the way to a core.
    mid: u32,
    hops: [Hop; 2],
    length: usize,
}

const NOWHERE: Climb = Climb { cost: Cost::WORST, mid: u32::MAX, hops: [Hop::NONE; 2], length: 0 };
const DIRECT: u32 = u32::MAX - 1;

/// Room for climbing to every core, kept between searches: the two best climbs by different spines, and when they
/// were found.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    climbs: [Vec<[Climb; 2]>; 2],
    stamps: [Vec<u32>; 2],
    touched: [Vec<u32>; 2],
    stamp: u32,
}

impl Scratch {
    pub(crate) fn new(switches: usize, has_cores: bool) -> Self {
        let size = if has_cores { switches } else { 0 };
        let climbs = || vec![[NOWHERE; 2]; size];
        let stamps = || vec![0; size];
        Self {
            climbs: [climbs(), climbs()],
            stamps: [stamps(), stamps()],
            touched: [Vec::new(), Vec::new()],
            stamp: 0,
        }
    }

    fn begin(&mut self) {
        self.stamp = self.stamp.wrapping_add(1);
        self.touched.iter_mut().for_each(Vec::clear);
    }

    fn offer(&mut self, side: usize, top: u32, climb: Climb) {
        let at = top as usize;
        if self.stamps[side][at] != self.stamp {
            self.stamps[side][at] = self.stamp;
            self.climbs[side][at] = [NOWHERE; 2];
            self.touched[side].push(top);
        }
        let best = &mut self.climbs[side][at];
        if climb.cost.less(&best[0].cost) {
            if climb.mid != best[0].mid {
                best[1] = best[0];
            }
            best[0] = climb;
        } else if climb.mid != best[0].mid && climb.cost.less(&best[1].cost) {
            best[1] = climb;
        }
    }

    fn at(&self, side: usize, top: u32) -> [Climb; 2] {
        match self.stamps[side][top as usize] == self.stamp {
            true => self.climbs[side][top as usize],
            false => [NOWHERE; 2],
        }
    }
}

/// What a search may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Source and destination leaf.
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Gbit/s to be added.
    pub(crate) more: f64,
    /// Whether links to be avoided may be used.
    pub(crate) lenient: bool,
    /// Whether to go over cores also where spines join the leaves.
    pub(crate) detours: bool,
}

/// The best way between two leaves.
pub(crate) fn best(fabric: &Fabric, loads: &Loads, scratch: &mut Scratch, ask: Ask) -> Option<Crossing> {
    if ask.from == ask.to {
        return Some(Crossing::over(Cost::NOTHING, &[], &[]));
    }
    let ups = fabric.ups(ask.lenient);
    let short = short(loads, ups, ask);
    if !fabric.has_cores || (short.is_some() && !ask.detours) {
        return short;
    }
    let long = long(fabric, loads, scratch, ask);
    match (short, long) {
        // A detour loads more links, so it has to be better for the fullest one.
        (Some(short), Some(long)) if long.cost.max < short.cost.max * (1.0 - 1e-9) => Some(long),
        (None, long) => long,
        (short, _) => short,
    }
}

/// Over one switch above both leaves.
fn short(loads: &Loads, ups: &Ups, ask: Ask) -> Option<Crossing> {
    let (a, b) = (ups.of(ask.from), ups.of(ask.to));
    let (mut i, mut j) = (0, 0);
    let mut best = (Cost::WORST, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].high.cmp(&b[j].high) {
            Ordering::Less => i += 1,
            Ordering::Greater => j += 1,
            Ordering::Equal => {
                let high = a[i].high;
                let lanes = |all: &[Up], from: usize| {
                    from + 1 + all[from + 1..].iter().take_while(|up| up.high == high).count()
                };
                let (next_i, next_j) = (lanes(a, i), lanes(b, j));
                let (climb, up) = loads.best_lane(&a[i..next_i], 0, ask.more);
                // Most spines are no better than the best so far already on the way up.
                if climb.max <= best.0.max {
                    let (descent, down) = loads.best_lane(&b[j..next_j], 1, ask.more);
                    let cost = climb.with(descent);
                    if cost.less(&best.0) {
                        best = (cost, up, down);
                    }
                }
                (i, j) = (next_i, next_j);
            }
        }
    }
    (best.0.max < f64::INFINITY).then(|| Crossing::over(best.0, &[Hop::up(best.1)], &[Hop::down(best.2)]))
}

/// Over a core, with a spine on one side at least.
fn long(fabric: &Fabric, loads: &Loads, scratch: &mut Scratch, ask: Ask) -> Option<Crossing> {
    let ups = fabric.ups(ask.lenient);
    scratch.begin();
    for (side, leaf) in [(0, ask.from), (1, ask.to)] {
        climb(fabric, loads, ups, scratch, side, leaf, ask.more);
    }
    let mut best: Option<Crossing> = None;
    for index in 0..scratch.touched[0].len() {
        let top = scratch.touched[0][index];
        join(scratch, top, &mut best);
    }
    best
}

fn climb(
    fabric: &Fabric,
    loads: &Loads,
    ups: &Ups,
    scratch: &mut Scratch,
    side: usize,
    leaf: u32,
    more: f64,
) {
    let down = side as u32;
    let step = |lane: u32| if side == 0 { Hop::up(lane) } else { Hop::down(lane) };
    for first in ups.of(leaf) {
        let cost = loads.lane(first, down, more);
        if !fabric.is_spine[first.high as usize] {
            let hops = [step(first.lane), Hop::NONE];
            scratch.offer(side, first.high, Climb { cost, mid: DIRECT, hops, length: 1 });
            continue;
        }
        for second in ups.of(first.high) {
            let cost = cost.with(loads.lane(second, down, more));
            let (a, b) = (step(first.lane), step(second.lane));
            let hops = if side == 0 { [a, b] } else { [b, a] };
            scratch.offer(side, second.high, Climb { cost, mid: first.high, hops, length: 2 });
        }
    }
}

/// Joins the climbs from both leaves to one core, unless both come by the same spine: that would be a loop.
fn join(scratch: &Scratch, top: u32, best: &mut Option<Crossing>) {
    let (left, right) = (scratch.at(0, top), scratch.at(1, top));
    for a in &left {
        for b in &right {
            if a.length == 0 || b.length == 0 || (a.mid == b.mid && a.mid != DIRECT) {
                continue;
            }
            let cost = a.cost.with(b.cost);
            if best.as_ref().is_none_or(|best| cost.less(&best.cost)) {
                *best = Some(Crossing::over(cost, &a.hops[..a.length], &b.hops[..b.length]));
            }
        }
    }
}

/// The best way whose highest switch is `top`.
pub(crate) fn via(
    fabric: &Fabric,
    loads: &Loads,
    scratch: &mut Scratch,
    ask: Ask,
    top: u32,
) -> Option<Crossing> {
    let ups = fabric.ups(ask.lenient);
    let (a, b) = (ups.between(ask.from, top), ups.between(ask.to, top));
    if !a.is_empty() && !b.is_empty() {
        let (climb, up) = loads.best_lane(a, 0, ask.more);
        let (descent, down) = loads.best_lane(b, 1, ask.more);
        return Some(Crossing::over(climb.with(descent), &[Hop::up(up)], &[Hop::down(down)]));
    }
    if !fabric.has_cores || fabric.is_spine[top as usize] {
        return None;
    }
    scratch.begin();
    for (side, leaf, down) in [(0, ask.from, 0), (1, ask.to, 1)] {
        let step = |lane: u32| if side == 0 { Hop::up(lane) } else { Hop::down(lane) };
        for first in ups.of(leaf) {
            if first.high == top {
                let (cost, hops) = (loads.lane(first, down, ask.more), [step(first.lane), Hop::NONE]);
                scratch.offer(side, top, Climb { cost, mid: DIRECT, hops, length: 1 });
            }
            for second in ups.between(first.high, top) {
                let cost = loads.lane(first, down, ask.more).with(loads.lane(second, down, ask.more));
                let (a, b) = (step(first.lane), step(second.lane));
                let hops = if side == 0 { [a, b] } else { [b, a] };
                scratch.offer(side, top, Climb { cost, mid: first.high, hops, length: 2 });
            }
        }
    }
    let mut best = None;
    join(scratch, top, &mut best);
    best
}
