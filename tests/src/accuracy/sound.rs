//! Sound jobs, each with something about it that may be taken for a fault.

use rand::RngExt as _;

use super::{
    cases::{Case, Class, Draft, Expected, SECOND_NS},
    shapes::{Shape, log_uniform},
};
use crate::simulator::{program::Model, telemetry::Happening, workload::Imbalance};

/// How long each sound job runs.
pub const SOUND_NS: u64 = 7_200 * SECOND_NS;

/// What is peculiar about a sound job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variety {
    /// Nothing.
    Plain,
    /// Kernels with far tails.
    Tails,
    /// Hosts that collect garbage often and for long.
    Garbage,
    /// GPUs whose speed drifts with their temperature, by some per cent.
    Thermal,
    /// Data that often comes late, on single ranks and on all.
    Loading,
    /// Frequent checkpoints, up to twenty seconds long.
    Checkpoints,
    /// Evaluation now and then.
    Evaluation,
    /// A job that ends normally.
    Ends,
    /// A job that somebody stops.
    Stopped,
    /// A pipeline stage with more work.
    HeavyStage,
    /// Another replica has more work in each iteration.
    Turns,
    /// All replicas have other work in each iteration.
    UnevenData,
    /// Experts have.
    UnevenExperts,
    /// Sequences grow all the time.
    Growing,
    /// Sequences grow, and batches, in steps.
    Steps,
    /// Gradients are accumulated over many microbatches.
    Accumulation,
    /// Sequences have other lengths in every iteration.
    Lengths,
}

impl Variety {
    /// All of them.
    pub const ALL: [Variety; 17] = [
        Variety::Plain,
        Variety::Tails,
        Variety::Garbage,
        Variety::Thermal,
        Variety::Loading,
        Variety::Checkpoints,
        Variety::Evaluation,
        Variety::Ends,
        Variety::Stopped,
        Variety::HeavyStage,
        Variety::Turns,
        Variety::UnevenData,
        Variety::UnevenExperts,
        Variety::Growing,
        Variety::Steps,
        Variety::Accumulation,
        Variety::Lengths,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variety::Plain => "healthy",
            Variety::Tails => "heavy tails",
            Variety::Garbage => "garbage coll.",
            Variety::Thermal => "thermal drift",
            Variety::Loading => "slow loading",
            Variety::Checkpoints => "checkpoints",
            Variety::Evaluation => "evaluation",
            Variety::Ends => "job ends",
            Variety::Stopped => "job stopped",
            Variety::HeavyStage => "heavy stage",
            Variety::Turns => "taking turns",
            Variety::UnevenData => "uneven data",
            Variety::UnevenExperts => "uneven experts",
            Variety::Growing => "growing seq.",
            Variety::Steps => "growth in steps",
            Variety::Accumulation => "accumulation",
            Variety::Lengths => "seq. lengths",
        }
    }

    /// Whether its work is uneven, over ranks or over time.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Variety::Plain
            | Variety::Tails
            | Variety::Garbage
            | Variety::Thermal
            | Variety::Loading
            | Variety::Checkpoints
            | Variety::Evaluation
            | Variety::Ends
            | Variety::Stopped => Class::Healthy,
            _ => Class::Unbalanced,
        }
    }

    fn fits(self, shape: &Shape) -> bool {
        let layout = shape.layout;
        match self {
            Variety::HeavyStage => layout.pp > 1,
            Variety::Turns | Variety::UnevenData => layout.dp > 2,
            Variety::UnevenExperts => layout.ep > 1,
            _ => true,
        }
    }

    fn apply(self, draft: &mut Draft) {
        let (spec, rng) = (&mut draft.spec, &mut draft.rng);
        let (noise, workload) = (&mut spec.noise, &mut spec.workload);
        let mut uneven = |imbalance| workload.imbalance.push(imbalance);
        match self {
            Variety::Plain => {}
            Variety::Tails => {
                noise.kernel_sigma = rng.random_range(0.03..0.06);
                noise.tail_probability = log_uniform(rng, 1e-3, 1e-2);
            }
            Variety::Garbage => {
                noise.gc_probability = rng.random_range(0.01..0.05);
                noise.gc_ns = (log_uniform(rng, 0.1, 0.5) * 1e9) as u64;
            }
            Variety::Thermal => {
                noise.drift = rng.random_range(0.015..0.025);
                noise.spread = 0.008;
            }
            Variety::Loading => {
                noise.loading_probability = log_uniform(rng, 0.003, 0.02);
                noise.storage_probability = 0.005;
            }
            Variety::Checkpoints => {
                noise.checkpoint_every = rng.random_range(20..100);
                noise.checkpoint_ns = (log_uniform(rng, 2.0, 20.0) * 1e9) as u64;
            }
            Variety::Evaluation => {
                workload.evaluation = Some((rng.random_range(30..200), rng.random_range(3..20)));
            }
            Variety::Ends => {
                let at_ns = rng.random_range(600 * SECOND_NS..SOUND_NS - 60 * SECOND_NS);
                spec.happenings.push(Happening::Ends { at_ns });
            }
            Variety::Stopped => {
                let at_ns = rng.random_range(600 * SECOND_NS..SOUND_NS - 60 * SECOND_NS);
                spec.happenings.push(Happening::Stopped { at_ns, is_announced: rng.random_bool(0.5) });
            }
            Variety::HeavyStage => {
                let stage = rng.random_range(0..spec.layout.pp);
                uneven(Imbalance::HeavyStage { stage, factor: rng.random_range(1.15..1.7) });
            }
            Variety::Turns => uneven(Imbalance::Turns { factor: rng.random_range(1.2..1.8) }),
            Variety::UnevenData => uneven(Imbalance::Data { sigma: rng.random_range(0.05..0.2) }),
            Variety::UnevenExperts => uneven(Imbalance::Experts { sigma: rng.random_range(0.05..0.2) }),
            Variety::Growing => workload.growth = log_uniform(rng, 1e-4, 1e-3),
            Variety::Steps => workload.phases = steps(&spec.model, spec.layout.pp, rng),
            Variety::Accumulation => {
                let times = rng.random_range(2..5);
                spec.model.microbatches *= times;
                spec.model.layer_ns /= u64::from(times);
            }
            Variety::Lengths => workload.lengths = rng.random_range(0.05..0.3),
        }
    }
}

/// A batch that doubles, and sequences that get longer by a quarter, every other time.
fn steps(model: &Model, stages: u32, rng: &mut impl rand::Rng) -> Vec<(u64, Model)> {
    let mut model = *model;
    let mut at = 0;
    (0..4)
        .map(|step| {
            at += rng.random_range(100..400);
            if step % 2 == 0 {
                model.layer_ns = model.layer_ns * 5 / 4;
                model.activation_bytes = model.activation_bytes * 5 / 4;
            } else {
                model.microbatches += model.microbatches.max(stages).next_multiple_of(stages);
            }
            (at, model)
        })
        .collect()
}

/// A sound job; `None` if a job of this shape cannot be of this variety.
#[must_use]
pub fn sound(shape: &Shape, variety: Variety, seed: u64) -> Option<Case> {
    if !variety.fits(shape) {
        return None;
    }
    let mut draft = Draft::new(shape, seed);
    variety.apply(&mut draft);
    Some(Case {
        row: draft.row(variety.class(), variety.name(), ""),
        spec: draft.spec,
        expected: Expected::Silence,
        length_ns: SOUND_NS,
    })
}
