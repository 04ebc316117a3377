//! What makes the work of a sound job uneven: over ranks, by its model or its data, and over time.
//!
//! None of it is a fault. Ranks that share a sequence (tensor, context and pipeline parallelism) have the same data, so
//! data makes whole replicas late, never one rank of them.

use serde::{Deserialize, Serialize};

use super::{
    layout::{Coordinates, Layout},
    noise::{mix, normal_of, unit},
    program::Model,
};

/// How work is spread over ranks and time, beside what the model says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// What is uneven among ranks.
    pub imbalance: Vec<Imbalance>,
    /// The model from some iteration on: a batch or a sequence that grows in steps.
    pub phases: Vec<(u64, Model)>,
    /// Growth of all computation for each iteration, as a fraction: sequences that grow longer all the time.
    pub growth: f64,
    /// Evaluation after so many iterations, for so many passes.
    pub evaluation: Option<(u64, u64)>,
    /// Sequences have other lengths in every iteration and replica: standard deviation of the logarithm. Sizes of
    /// operations change with them.
    pub lengths: f64,
}

/// Something that is uneven among ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Imbalance {
    /// One pipeline stage has more to do.
    HeavyStage {
        /// Which.
        stage: u32,
        /// More than 1.
        factor: f64,
    },
    /// In each iteration another replica has more to do.
    Turns {
        /// More than 1.
        factor: f64,
    },
    /// Each replica has more or less to do in each iteration.
    Data {
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// Each expert has more or less to do in each iteration.
    Experts {
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

/// Sequence lengths come in multiples of this part of the usual one.
const LENGTH_STEPS: f64 = 32.0;

impl Workload {
    /// How many times as much a rank has to do in an iteration as the model says.
    #[must_use]
    pub fn load(&self, layout: &Layout, at: Coordinates, iteration: u64, seed: u64) -> f64 {
        let mut load = (1.0 + self.growth * iteration as f64) * self.length(at, iteration, seed);
        for imbalance in &self.imbalance {
            load *= match *imbalance {
                Imbalance::HeavyStage { stage, factor } if stage == at.pp => factor,
                Imbalance::Turns { factor }
                    if mix(seed ^ mix(iteration)) % u64::from(layout.dp) == u64::from(at.dp) =>
                {
                    factor
                }
                Imbalance::Data { sigma } => {
                    (sigma * normal_of(draw(seed, iteration, u64::from(at.dp)))).exp()
                }
                Imbalance::Experts { sigma } if layout.ep > 1 => {
                    let expert = 1 << 32 | u64::from(at.dp) << 16 | u64::from(at.pp);
                    (sigma * normal_of(draw(seed, iteration, expert))).exp()
                }
                _ => 1.0,
            };
        }
        load
    }

    /// The length of the sequences of a rank's replica, as a multiple of the usual one.
    #[must_use]
    pub fn length(&self, at: Coordinates, iteration: u64, seed: u64) -> f64 {
        if self.lengths <= 0.0 {
            return 1.0;
        }
        let exact = (self.lengths * normal_of(draw(!seed, iteration, u64::from(at.dp)))).exp();
        ((exact * LENGTH_STEPS).round() / LENGTH_STEPS).max(1.0 / LENGTH_STEPS)
    }

    /// Whether step `step` of the job is an evaluation pass.
    #[must_use]
    pub fn evaluates(&self, step: u64) -> bool {
        self.evaluation.is_some_and(|(every, passes)| step % (every + passes) >= every)
    }

    /// Which of the models is at work in an iteration: `None` for the first one.
    #[must_use]
    pub fn phase(&self, iteration: u64) -> Option<usize> {
        self.phases.iter().rposition(|(from, _)| *from <= iteration)
    }
}

/// A random number that depends on nothing but its place.
fn draw(seed: u64, iteration: u64, what: u64) -> u64 {
    mix(seed ^ mix(iteration ^ mix(what)))
}

/// Whether something that happens once in `every` iterations happens in this one; it follows no pattern.
#[must_use]
pub fn happens(seed: u64, iteration: u64, every: u64) -> bool {
    every <= 1 || unit(draw(seed, iteration, 7)) < 1.0 / every as f64
}
