//! The table a network engineer asks for: what flows get from hashing, from local splitting, from a plan, and at best.
//!
//! The model is max-min fairness ([`crate::rates`]). A collective waits for its slowest flow, so a job's all-reduce runs at
//! the part of its demand that this one gets; its *bus bandwidth* is that part of what one of its NICs would send.

use std::collections::BTreeMap;

use crate::{
    baseline,
    flows::Flows,
    plan::Plan,
    rates,
    topology::{NicId, Topology},
    wires::Wires,
};

/// Ways for hashes to fall that are averaged over.
const DRAWS: u64 = 20;

/// What flows get, in Gbit/s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gain {
    /// The flow that gets least of what it asks for.
    pub slowest: f64,
    /// All flows together.
    pub sum: f64,
    /// Bus bandwidth of an all-reduce, the mean over all jobs.
    pub bus: f64,
}

impl Gain {
    /// What these rates, one for each flow, come to.
    #[must_use]
    pub fn of(flows: &Flows, rates: &[f64]) -> Self {
        struct Job {
            part: f64,
            sends: BTreeMap<NicId, f64>,
        }
        let mut jobs: BTreeMap<&str, Job> = BTreeMap::new();
        let (mut slowest, mut least) = (0.0, f64::INFINITY);
        for (flow, rate) in flows.as_slice().iter().zip(rates) {
            let part = rate / flow.demand.get();
            if part < least {
                (slowest, least) = (*rate, part);
            }
            let job = jobs.entry(&flow.job).or_insert(Job { part: f64::INFINITY, sends: BTreeMap::new() });
            job.part = job.part.min(part);
            *job.sends.entry(flow.src).or_default() += flow.demand.get();
        }
        // A ring is as fast as the NIC that may send least.
        let bus = |job: &Job| job.part * job.sends.values().copied().fold(f64::INFINITY, f64::min);
        let bus = jobs.values().map(bus).sum::<f64>() / jobs.len().max(1) as f64;
        Self { slowest, sum: rates.iter().sum(), bus }
    }

    /// The mean of several.
    #[must_use]
    pub fn mean(of: &[Gain]) -> Self {
        let count = of.len().max(1) as f64;
        let mean = |value: fn(&Gain) -> f64| of.iter().map(value).sum::<f64>() / count;
        Self { slowest: mean(|gain| gain.slowest), sum: mean(|gain| gain.sum), bus: mean(|gain| gain.bus) }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Who chooses paths.
    pub name: &'static str,
    /// What flows get from that.
    pub gain: Gain,
}

/// The table for a plan. Flows without a path get nothing from anybody.
#[must_use]
pub fn compare(topology: &Topology, flows: &Flows, plan: &Plan) -> Vec<Line> {
    let wires = Wires::new(topology);
    let gain = |plan: &Plan| Gain::of(flows, &rates::planned(&wires, flows, plan));
    let drawn = |plan: &dyn Fn(u64) -> Plan| {
        Gain::mean(&(0..DRAWS).map(|seed| gain(&plan(seed))).collect::<Vec<_>>())
    };
    let ecmp = |pairs| drawn(&|seed| baseline::ecmp(topology, flows, pairs, seed));
    let ethereal = drawn(&|seed| baseline::ethereal(topology, flows, seed));
    let spraying = Gain::of(flows, &baseline::spraying(topology, flows));
    [
        ("ECMP, 1 queue pair a flow", ecmp(1)),
        ("ECMP, 2 queue pairs", ecmp(2)),
        ("ECMP, 16 queue pairs", ecmp(16)),
        ("Ethereal alone", ethereal),
        ("this plan", gain(plan)),
        ("ideal spraying", spraying),
    ]
    .map(|(name, gain)| Line { name, gain })
    .into()
}
