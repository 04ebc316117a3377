//! What flows get: max-min fair rates.
//!
//! Congestion control shares a full wire evenly among the queue pairs that could use more, and every connection of a job has as many of
//! those, whether a plan puts them on one path or on several: NCCL opens the same number for each. So a piece of a flow weighs as much
//! as its share of the flow. (If one that is cut in sixteen had sixteen queue pairs, and its whole neighbour had one, cutting would starve the
//! neighbour.) The model is progressive filling: all rates grow together, each as its weight; when a wire is full, or a stream has all it
//! wants, those concerned stop growing. A *stream* here is a piece of a flow. The slowest flow is what a collective waits for.

use crate::{flows::Flows, plan::Plan, wires::Wires};

/// Something that wants bandwidth on some wires.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The wires, each with the part of the stream's rate that it carries.
    pub wires: Vec<(usize, f64)>,
    /// What it wants, in Gbit/s.
    pub demand: f64,
    /// What it gets of a full wire, relative to others; above zero.
    pub weight: f64,
}

impl Stream {
    /// The level at which it has all it wants.
    fn full_level(&self) -> f64 {
        self.demand / self.weight
    }
}

/// Wires this full, relative to their capacity, are full.
const FULL: f64 = 1.0 - 1e-9;

/// The max-min fair rate of each stream in Gbit/s, given the capacity of each wire.
#[must_use]
pub fn max_min(capacity: &[f64], streams: &[Stream]) -> Vec<f64> {
    let mut rates = vec![0.0; streams.len()];
    let mut used = vec![0.0; capacity.len()];
    // How much faster each wire fills when the level of all who still grow grows by one.
    let mut slope = vec![0.0; capacity.len()];
    for stream in streams {
        for (wire, part) in &stream.wires {
            slope[*wire] += part * stream.weight;
        }
    }
    let mut growing: Vec<usize> = (0..streams.len()).collect();
    let mut live: Vec<usize> = (0..capacity.len()).filter(|wire| slope[*wire] > 0.0).collect();
    let mut level = 0.0;
    while !growing.is_empty() {
        let filled = live.iter().map(|wire| (capacity[*wire] - used[*wire]).max(0.0) / slope[*wire]);
        let sated = growing.iter().map(|stream| streams[*stream].full_level() - level);
        let step = filled.chain(sated).fold(f64::INFINITY, f64::min).max(0.0);
        level += step;
        for wire in &live {
            used[*wire] += step * slope[*wire];
        }
        let stopped = |stream: &usize| {
            let stream = &streams[*stream];
            let full = |(wire, _): &(usize, f64)| used[*wire] >= capacity[*wire] * FULL;
            level >= stream.full_level() * FULL || stream.wires.iter().any(full)
        };
        let (done, left): (Vec<usize>, Vec<usize>) = growing.iter().partition(|stream| stopped(stream));
        for stream in &done {
            let Stream { wires, demand, weight } = &streams[*stream];
            rates[*stream] = (level * weight).min(*demand);
            for (wire, part) in wires {
                slope[*wire] -= part * weight;
            }
        }
        // Sums of parts leave dust behind.
        live.retain(|wire| slope[*wire] > 1e-9);
        if done.is_empty() {
            break;
        }
        growing = left;
    }
    rates
}

/// The rate of each flow under a plan, in Gbit/s: what its slowest piece allows, since a message is cut in fixed shares.
#[must_use]
pub fn planned(wires: &Wires, flows: &Flows, plan: &Plan) -> Vec<f64> {
    let (mut streams, mut owners) = (Vec::new(), Vec::new());
    for (number, (flow, planned)) in flows.as_slice().iter().zip(&plan.flows).enumerate() {
        for piece in &planned.pieces {
            let share = piece.share();
            let (wires, demand) = (wires.crossed(flow, piece), flow.demand.get() * share);
            streams.push(Stream { wires, demand, weight: share });
            owners.push((number, share));
        }
    }
    slowest(flows.len(), &max_min(wires.capacity(), &streams), &owners)
}

/// The rate of each flow from those of its streams: owners name the flow and the share of it that the stream carries.
#[must_use]
pub fn slowest(flows: usize, rates: &[f64], owners: &[(usize, f64)]) -> Vec<f64> {
    let mut slowest = vec![f64::INFINITY; flows];
    for (rate, (flow, share)) in rates.iter().zip(owners) {
        slowest[*flow] = slowest[*flow].min(rate / share);
    }
    slowest.iter_mut().filter(|rate| rate.is_infinite()).for_each(|rate| *rate = 0.0);
    slowest
}
