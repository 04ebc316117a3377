//! What no plan can beat, however it places and splits.
//!
//! Every cut bounds: the traffic that has to cross it, over its capacity. Looked at are the ports of each NIC, the
//! uplinks of each leaf and of leaves that serve the same NICs, and the links between each pod and the cores, in each
//! direction. Where a flow has a choice it only counts for cuts that all its choices cross.

use std::collections::HashMap;

use super::{
    fabric::{Fabric, Up},
    routes::Routes,
};
use crate::flows::Flows;

/// How many different ports or leaves one end of a flow may have for cuts through several of them to be looked at.
const MOST_CHOICES: usize = 4;

/// Lower bounds of utilisation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bounds {
    /// Of the fullest of all links.
    pub(crate) all: f64,
    /// Of the fullest link between switches.
    pub(crate) fabric: f64,
    /// Of the fullest link between switches as long as no flow is cut: so many flows do not fit any better.
    pub(crate) whole: f64,
}

impl Bounds {
    pub(crate) fn new(fabric: &Fabric, routes: &Routes, flows: &Flows) -> Self {
        let pods = Pods::new(fabric);
        let mut ports = [(); 2].map(|()| Cuts::new(fabric.ports.len()));
        let mut leaves = [(); 2].map(|()| Cuts::new(fabric.is_spine.len()));
        let mut across = [vec![(0.0, false); pods.count], vec![(0.0, false); pods.count]];
        let mut ends: Vec<u32> = Vec::new();
        for (number, flow) in flows.as_slice().iter().enumerate() {
            let pairs = routes.pairs(number);
            let (demand, lenient) = (flow.demand.get(), routes.lenient(number));
            if pairs.is_empty() {
                continue;
            }
            let leaf = |port: u32| fabric.ports[port as usize].leaf;
            for side in 0..2 {
                let end = |pair: &(u32, u32)| if side == 0 { pair.0 } else { pair.1 };
                ends.clear();
                ends.extend(pairs.iter().map(end));
                ports[side].add(&mut ends, demand, lenient);
                if pairs.iter().all(|(a, b)| leaf(*a) != leaf(*b)) {
                    ends.clear();
                    ends.extend(pairs.iter().map(|pair| leaf(end(pair))));
                    leaves[side].add(&mut ends, demand, lenient);
                }
                let pod = |port: u32| pods.of[leaf(port) as usize];
                let here = pod(end(&pairs[0]));
                if pairs.iter().all(|pair| pod(end(pair)) == here && pod(pair.0) != pod(pair.1)) {
                    let cut = &mut across[side][here as usize];
                    *cut = (cut.0 + demand, cut.1 | lenient);
                }
            }
        }
        let mut bounds = Self { whole: whole(fabric, routes, flows), ..Self::default() };
        for side in 0..2usize {
            let port = |port: u32, _: bool| fabric.capacity[2 * port as usize + side];
            bounds.all = bounds.all.max(ports[side].bound(port));
            let leaf = |leaf: u32, lenient: bool| above(fabric, leaf, side, lenient);
            bounds.fabric = bounds.fabric.max(leaves[side].bound(leaf));
            for (pod, (demand, lenient)) in across[side].iter().enumerate().filter(|(_, cut)| cut.0 > 0.0) {
                bounds.fabric = bounds.fabric.max(demand / pods.capacity(fabric, pod as u32, *lenient, side));
            }
        }
        bounds.all = bounds.all.max(bounds.fabric);
        bounds.whole = bounds.whole.max(bounds.fabric);
        bounds
    }
}

/// What a leaf's links come to when each flow that has to cross them is as small as the smallest and stays in one piece:
/// the limit at which as many fit.
fn whole(fabric: &Fabric, routes: &Routes, flows: &Flows) -> f64 {
    // Of each leaf, going up and coming down: how many, the smallest, and whether they may use links to be avoided.
    let mut leaves = vec![[(0u32, f64::INFINITY, false); 2]; fabric.is_spine.len()];
    for (number, flow) in flows.as_slice().iter().enumerate() {
        let [(src, dst)] = routes.pairs(number) else { continue };
        let ends = [fabric.ports[*src as usize].leaf, fabric.ports[*dst as usize].leaf];
        if ends[0] != ends[1] {
            for (side, leaf) in ends.into_iter().enumerate() {
                let (count, least, lenient) = &mut leaves[leaf as usize][side];
                *count += 1;
                *least = least.min(flow.demand.get());
                *lenient |= routes.lenient(number);
            }
        }
    }
    // The highest limit so far that is too low for some leaf, and the one just above it that is not.
    let (mut bound, mut enough): (f64, f64) = (0.0, 0.0);
    for (leaf, sides) in leaves.iter().enumerate() {
        for (side, (count, least, lenient)) in sides.iter().enumerate().filter(|(_, side)| side.0 > 0) {
            let ups = fabric.ups(*lenient).of(leaf as u32);
            // A trunk that is spread over takes fractions; leave such leaves out.
            if ups.iter().any(|up| up.width > 1 || fabric.lanes[up.lane as usize].label.is_none()) {
                continue;
            }
            let room = |limit: f64| -> f64 {
                let links = ups.iter().map(|up| fabric.capacity[up.first as usize + side]);
                links.map(|capacity| (limit * capacity / least + 1e-9).floor()).sum()
            };
            let fits = |limit: f64| room(limit) >= f64::from(*count);
            // Most leaves are like one that was looked at before.
            if fits(enough) {
                continue;
            }
            let (mut low, mut high) = (0.0, least * f64::from(*count) / total(ups, fabric, side) * 2.0 + 1.0);
            while !fits(high) && high < 1e12 {
                high *= 2.0;
            }
            for _ in 0..60 {
                let middle = (low + high) / 2.0;
                if fits(middle) { high = middle } else { low = middle }
            }
            // From below, so that it stays a bound.
            (bound, enough) = (bound.max(low), enough.max(high));
        }
    }
    bound
}

fn total(ups: &[Up], fabric: &Fabric, side: usize) -> f64 {
    ups.iter().map(|up| fabric.capacity[up.first as usize + side]).sum()
}

/// What the upward lanes of a switch can carry up (side 0) or down (side 1).
fn above(fabric: &Fabric, switch: u32, side: usize, lenient: bool) -> f64 {
    let mut capacity = 0.0;
    let mut counted = u32::MAX;
    for up in fabric.ups(lenient).of(switch) {
        // Lanes over a whole trunk come before the lanes of its links, which are the same links again.
        if up.width > 1 {
            counted = up.high;
            capacity += (0..u32::from(up.width))
                .map(|i| fabric.capacity[(up.first + 2 * i) as usize + side])
                .sum::<f64>();
        } else if counted != up.high {
            capacity += fabric.capacity[up.first as usize + side];
        }
    }
    capacity
}

/// Traffic by the set of ports or leaves that it has to choose from.
#[derive(Debug)]
struct Cuts {
    /// By the one port or leaf that there is.
    single: Vec<(f64, bool)>,
    several: HashMap<Vec<u32>, (f64, bool)>,
}

impl Cuts {
    /// Of so many ports or switches.
    fn new(count: usize) -> Self {
        Self { single: vec![(0.0, false); count], several: HashMap::new() }
    }

    fn add(&mut self, ends: &mut Vec<u32>, demand: f64, lenient: bool) {
        ends.sort_unstable();
        ends.dedup();
        let cut = match ends.as_slice() {
            [one] => &mut self.single[*one as usize],
            several if several.len() <= MOST_CHOICES => match self.several.get_mut(several) {
                Some(cut) => cut,
                None => self.several.entry(several.to_vec()).or_default(),
            },
            // Leaving a flow out keeps the bound true.
            _ => return,
        };
        *cut = (cut.0 + demand, cut.1 | lenient);
    }

    fn bound(&self, capacity: impl Fn(u32, bool) -> f64) -> f64 {
        let mut bound: f64 = 0.0;
        for (end, (demand, lenient)) in self.single.iter().enumerate().filter(|(_, cut)| cut.0 > 0.0) {
            bound = bound.max(demand / capacity(end as u32, *lenient));
        }
        for ends in self.several.keys() {
            // All that has to choose among these or fewer of these.
            let (mut demand, mut lenient) = (0.0, false);
            for subset in 1u32..1 << ends.len() {
                let chosen = ends.iter().enumerate().filter(|(index, _)| subset >> index & 1 == 1);
                let chosen: Vec<u32> = chosen.map(|(_, end)| *end).collect();
                let cut = match chosen.as_slice() {
                    [one] => self.single.get(*one as usize),
                    several => self.several.get(several),
                };
                if let Some((more, avoid)) = cut {
                    demand += more;
                    lenient |= avoid;
                }
            }
            let total: f64 = ends.iter().map(|end| capacity(*end, lenient)).sum();
            bound = bound.max(demand / total);
        }
        bound
    }
}

/// Leaves and spines that are joined without cores.
struct Pods {
    of: Vec<u32>,
    count: usize,
}

impl Pods {
    fn new(fabric: &Fabric) -> Self {
        let switches = fabric.is_spine.len();
        let mut root: Vec<u32> = (0..switches as u32).collect();
        for lane in fabric.lanes.iter().filter(|lane| fabric.is_spine[lane.high as usize]) {
            let (a, b) = (find(&mut root, lane.low), find(&mut root, lane.high));
            root[a.max(b) as usize] = a.min(b);
        }
        let of: Vec<u32> = (0..switches as u32).map(|switch| find(&mut root, switch)).collect();
        Self { of, count: switches }
    }

    /// Of the links between a pod and the cores.
    fn capacity(&self, fabric: &Fabric, pod: u32, lenient: bool, side: usize) -> f64 {
        let mut capacity = 0.0;
        for switch in (0..self.of.len() as u32).filter(|switch| self.of[*switch as usize] == pod) {
            if fabric.is_spine[switch as usize] {
                capacity += above(fabric, switch, side, lenient);
                continue;
            }
            // Leaves may have links straight to cores.
            for up in fabric.ups(lenient).of(switch) {
                if !fabric.is_spine[up.high as usize] {
                    capacity += fabric.capacity[up.first as usize + side] * f64::from(up.width);
                }
            }
        }
        capacity
    }
}

fn find(root: &mut [u32], mut switch: u32) -> u32 {
    while root[switch as usize] != switch {
        let above = root[root[switch as usize] as usize];
        root[switch as usize] = above;
        switch = above;
    }
    switch
}
