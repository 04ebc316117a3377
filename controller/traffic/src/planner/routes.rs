//! Which ports each flow may use, and whether it has to use links that are to be avoided.
//!
//! In this order, the first that has a path: the same plane at both ends over links that are up; different planes over
//! links that are up; the same, and then different planes, over links to be avoided too.

use crate::{
    flows::Flows,
    plan::Why,
    planner::fabric::{Fabric, Ups},
    topology::State,
};

/// What all flows may use.
#[derive(Debug)]
pub(crate) struct Routes {
    start: Vec<u32>,
    pairs: Vec<(u32, u32)>,
    lenient: Vec<bool>,
    why: Vec<Option<Why>>,
}

impl Routes {
    pub(crate) fn new(fabric: &Fabric, flows: &Flows) -> Self {
        let mut reach = Reach::new(fabric);
        let mut routes = Self { start: vec![0], pairs: Vec::new(), lenient: Vec::new(), why: Vec::new() };
        for flow in flows.as_slice() {
            let (src, dst) = (fabric.ports_of(flow.src.index()), fabric.ports_of(flow.dst.index()));
            let before = routes.pairs.len();
            let mut lenient = false;
            for (avoid, cross) in [(false, false), (false, true), (true, false), (true, true)] {
                if routes.pairs.len() > before {
                    break;
                }
                lenient = avoid;
                for a in src.clone().filter(|port| usable(fabric, *port, avoid)) {
                    for b in dst.clone().filter(|port| usable(fabric, *port, avoid)) {
                        let (x, y) = (&fabric.ports[a as usize], &fabric.ports[b as usize]);
                        if (x.plane != y.plane) == cross && reach.joined(x.leaf, y.leaf, avoid) {
                            routes.pairs.push((a, b));
                        }
                    }
                }
            }
            let found = routes.pairs.len() > before;
            routes.why.push((!found).then(|| {
                if !src.clone().any(|port| usable(fabric, port, true)) {
                    Why::SourceDown
                } else if !dst.clone().any(|port| usable(fabric, port, true)) {
                    Why::DestinationDown
                } else {
                    Why::NoPath
                }
            }));
            routes.start.push(routes.pairs.len() as u32);
            routes.lenient.push(lenient);
        }
        routes
    }

    /// The pairs of ports that a flow may use; empty when it has no path.
    pub(crate) fn pairs(&self, flow: usize) -> &[(u32, u32)] {
        &self.pairs[self.start[flow] as usize..self.start[flow + 1] as usize]
    }

    /// Whether it may use what is to be avoided.
    pub(crate) fn lenient(&self, flow: usize) -> bool {
        self.lenient[flow]
    }

    pub(crate) fn why(&self, flow: usize) -> Option<Why> {
        self.why[flow]
    }
}

fn usable(fabric: &Fabric, port: u32, avoid: bool) -> bool {
    match fabric.ports[port as usize].state {
        State::Up => true,
        State::Avoid => avoid,
        State::Down => false,
    }
}

/// Which switches can be climbed to from each leaf, as bits. Two leaves are joined when they can climb to the same one:
/// if the two climbs share a spine on the way, that spine joins them already.
struct Reach<'f> {
    fabric: &'f Fabric,
    words: usize,
    above: [Vec<Option<Box<[u64]>>>; 2],
}

impl<'f> Reach<'f> {
    fn new(fabric: &'f Fabric) -> Self {
        let switches = fabric.is_spine.len();
        Self { fabric, words: switches.div_ceil(64), above: [vec![None; switches], vec![None; switches]] }
    }

    fn joined(&mut self, a: u32, b: u32, lenient: bool) -> bool {
        if a == b {
            return true;
        }
        self.climb(a, lenient);
        self.climb(b, lenient);
        let above = &self.above[usize::from(lenient)];
        match (&above[a as usize], &above[b as usize]) {
            (Some(a), Some(b)) => a.iter().zip(b).any(|(a, b)| a & b != 0),
            _ => false,
        }
    }

    fn climb(&mut self, leaf: u32, lenient: bool) {
        let slot = &mut self.above[usize::from(lenient)][leaf as usize];
        if slot.is_none() {
            let mut bits = vec![0u64; self.words].into_boxed_slice();
            mark(self.fabric.ups(lenient), leaf, &mut bits);
            *slot = Some(bits);
        }
    }
}

fn mark(ups: &Ups, switch: u32, bits: &mut [u64]) {
    // Three tiers at most, so this goes two deep.
    for up in ups.of(switch) {
        let (word, bit) = (up.high as usize / 64, 1u64 << (up.high % 64));
        if bits[word] & bit == 0 {
            bits[word] |= bit;
            mark(ups, up.high, bits);
        }
    }
}
