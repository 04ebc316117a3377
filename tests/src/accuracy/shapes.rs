//! Shapes of jobs, and the noise of the clusters they run on.

use rand::{Rng, RngExt as _};

use crate::simulator::{
    layout::Layout,
    noise::Noise,
    program::{Model, Sharding},
};

/// A job's layout and the way its model is cut up, without the time it takes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Parallel layout.
    pub layout: Layout,
    microbatches: u32,
    layers: u32,
    chunks: u32,
    sharding: Sharding,
    overlap: bool,
    /// Shortest and longest iteration, in seconds.
    iteration_s: (f64, f64),
}

const fn layout(tp: u32, cp: u32, dp: u32, pp: u32, ep: u32) -> Layout {
    Layout { tp, cp, dp, pp, ep, gpus_per_node: 8 }
}

/// Every shape, small to large.
#[must_use]
pub fn shapes() -> Vec<Shape> {
    use Sharding::{Full, None, Optimizer};
    let shape = |layout, (microbatches, layers, chunks), sharding, overlap, iteration_s| Shape {
        layout,
        microbatches,
        layers,
        chunks,
        sharding,
        overlap,
        iteration_s,
    };
    vec![
        shape(layout(1, 1, 8, 1, 1), (1, 6, 1), None, true, (0.3, 2.0)),
        shape(layout(1, 1, 16, 1, 1), (2, 6, 1), Full, true, (0.5, 3.0)),
        shape(layout(4, 1, 4, 1, 1), (2, 4, 1), Optimizer, false, (0.3, 3.0)),
        shape(layout(1, 1, 4, 4, 1), (8, 2, 1), None, true, (0.5, 4.0)),
        shape(layout(2, 2, 4, 2, 1), (8, 1, 2), Optimizer, true, (0.5, 4.0)),
        shape(layout(2, 1, 8, 4, 4), (8, 2, 1), Optimizer, false, (1.0, 6.0)),
        shape(layout(4, 1, 4, 4, 1), (8, 1, 2), Optimizer, true, (1.0, 6.0)),
        shape(layout(8, 1, 16, 8, 1), (16, 1, 1), Optimizer, false, (2.0, 6.0)),
        shape(layout(8, 1, 64, 16, 1), (16, 1, 1), Optimizer, true, (4.0, 6.0)),
        shape(layout(8, 1, 1250, 10, 1), (10, 1, 1), Optimizer, true, (5.0, 6.0)),
    ]
}

impl Shape {
    /// The model, for an iteration that takes about `seconds`.
    #[must_use]
    pub fn model(&self, seconds: f64) -> Model {
        let passes = self.microbatches * self.chunks + self.layout.pp - 1;
        let experts = if self.layout.ep > 1 { 1.5 } else { 1.0 };
        let layer_ns = seconds * 1e9 / (f64::from(passes * self.layers * 3) * experts);
        Model {
            microbatches: self.microbatches,
            layers: self.layers,
            chunks: self.chunks,
            layer_ns: layer_ns as u64,
            activation_bytes: 16 << 20,
            gradient_bytes: 64 << 20,
            sharding: self.sharding,
            overlap: self.overlap,
            optimizer_ns: (seconds * 2e7) as u64,
        }
    }

    /// How long an iteration takes in one job of this shape, in seconds.
    pub fn iteration(&self, rng: &mut impl Rng) -> f64 {
        log_uniform(rng, self.iteration_s.0, self.iteration_s.1)
    }
}

/// The noise of one cluster. GPUs differ by at most some three per cent all in all, so that none is a straggler already.
pub fn noise(rng: &mut impl Rng) -> Noise {
    let checkpoint_s = log_uniform(rng, 0.5, 8.0);
    Noise {
        kernel_sigma: log_uniform(rng, 0.005, 0.03),
        tail_probability: log_uniform(rng, 1e-5, 1e-3),
        drift: rng.random_range(0.0..0.012),
        spread: rng.random_range(0.002..0.006),
        gc_probability: log_uniform(rng, 0.001, 0.01),
        gc_ns: (log_uniform(rng, 0.02, 0.15) * 1e9) as u64,
        loading_probability: log_uniform(rng, 0.0003, 0.003),
        loading_ns: 50_000_000,
        storage_probability: 0.0,
        checkpoint_every: rng.random_range(100..600),
        checkpoint_ns: (checkpoint_s * 1e9) as u64,
        warm_up: (rng.random_range(1..5), log_uniform(rng, 2.0, 10.0)),
        clock_ppm: 20.0,
        delivery_ns: 5_000_000,
    }
}

/// A number between two others, small ones as often as large ones.
pub fn log_uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    rng.random_range(low.ln()..=high.ln()).exp()
}
