//! What flows get: max-min fair rates.
//!
//! Congestion control shares a full wire evenly among those who could use more. The model is progressive filling: all
//! rates grow together; when a wire is full, or a stream has all it wants, those concerned stop growing. A *stream* here
//! is a queue pair or a piece of a flow. The slowest flow is what a collective waits for.

use crate::{flows::Flows, plan::Plan, wires::Wires};

/// Something that wants bandwidth on some wires.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The wires, each with the part of the stream's rate that it carries.
    pub wires: Vec<(usize, f64)>,
    /// What it wants, in Gbit/s.
    pub demand: f64,
}

/// Wires this full, relative to their capacity, are full.
const FULL: f64 = 1.0 - 1e-9;

/// The max-min fair rate of each stream in Gbit/s, given the capacity of each wire.
#[must_use]
pub fn max_min(capacity: &[f64], streams: &[Stream]) -> Vec<f64> {
    let mut rates = vec![0.0; streams.len()];
    let mut used = vec![0.0; capacity.len()];
    // How much faster each wire fills when all who still grow grow by one.
    let mut slope = vec![0.0; capacity.len()];
    for stream in streams {
        for (wire, part) in &stream.wires {
            slope[*wire] += part;
        }
    }
    let mut growing: Vec<usize> = (0..streams.len()).collect();
    let mut live: Vec<usize> = (0..capacity.len()).filter(|wire| slope[*wire] > 0.0).collect();
    let mut level = 0.0;
    while !growing.is_empty() {
        let filled = live.iter().map(|wire| (capacity[*wire] - used[*wire]).max(0.0) / slope[*wire]);
        let sated = growing.iter().map(|stream| streams[*stream].demand - level);
        let step = filled.chain(sated).fold(f64::INFINITY, f64::min).max(0.0);
        level += step;
        for wire in &live {
            used[*wire] += step * slope[*wire];
        }
        let stopped = |stream: &usize| {
            let stream = &streams[*stream];
            let full = |(wire, _): &(usize, f64)| used[*wire] >= capacity[*wire] * FULL;
            level >= stream.demand * FULL || stream.wires.iter().any(full)
        };
        let (done, left): (Vec<usize>, Vec<usize>) = growing.iter().partition(|stream| stopped(stream));
        for stream in &done {
            rates[*stream] = level.min(streams[*stream].demand);
            for (wire, part) in &streams[*stream].wires {
                slope[*wire] -= part;
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
            // One stream for each queue pair: that is what congestion control treats alike.
            let unit = 1.0 / f64::from(piece.of);
            let crossed = wires.crossed(flow, piece);
            for _ in 0..piece.units {
                streams.push(Stream { wires: crossed.clone(), demand: flow.demand.get() * unit });
                owners.push((number, unit));
            }
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
