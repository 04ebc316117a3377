//! What makes healthy jobs unsteady. The distributions have the shapes that clusters show: kernels that vary by a
//! percent, rarely by a lot; hosts that collect garbage or load data slowly now and then; GPUs that drift with their
//! temperature; checkpoints that stop everybody for a while.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How unsteady a healthy job is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Standard deviation of the logarithm of a kernel's duration.
    pub kernel_sigma: f64,
    /// Probability that a kernel has a heavy tail (Pareto, shape 2, at most 20 times its duration).
    pub tail_probability: f64,
    /// Amplitude of the thermal drift of a GPU, as a share of its speed; each GPU has its own period and phase.
    pub drift: f64,
    /// Constant difference between GPUs, standard deviation as a share of speed.
    pub spread: f64,
    /// Probability, per rank and iteration, of a garbage collection.
    pub gc_probability: f64,
    /// Its length.
    pub gc_ns: u64,
    /// Probability, per rank and iteration, that data is not there in time.
    pub loading_probability: f64,
    /// How long it is then waited for, on average (exponential).
    pub loading_ns: u64,
    /// Iterations between checkpoints, 0 for none.
    pub checkpoint_every: u64,
    /// Time a checkpoint takes every rank; rank 0 needs half as much again.
    pub checkpoint_ns: u64,
    /// How many times as long the first iterations take (compilation, autotuning): `(iterations, factor)`.
    pub warm_up: (u64, f64),
}

impl Noise {
    /// The noise of an ordinary job.
    #[must_use]
    pub fn ordinary() -> Self {
        Self {
            kernel_sigma: 0.01,
            tail_probability: 1e-4,
            drift: 0.01,
            spread: 0.005,
            gc_probability: 0.002,
            gc_ns: 40_000_000,
            loading_probability: 0.001,
            loading_ns: 50_000_000,
            checkpoint_every: 500,
            checkpoint_ns: 3_000_000_000,
            warm_up: (3, 8.0),
        }
    }

    /// No noise at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            kernel_sigma: 0.0,
            tail_probability: 0.0,
            drift: 0.0,
            spread: 0.0,
            gc_probability: 0.0,
            gc_ns: 0,
            loading_probability: 0.0,
            loading_ns: 0,
            checkpoint_every: 0,
            checkpoint_ns: 0,
            warm_up: (0, 1.0),
        }
    }
}

/// The noise of one rank: its own stream of random numbers, so that ranks do not depend on each other's order.
#[derive(Debug)]
pub struct RankNoise {
    noise: Noise,
    rng: ChaCha8Rng,
    speed: f64,
    drift_period_ns: f64,
    drift_phase: f64,
}

impl RankNoise {
    /// The noise of `rank` in the job with this seed.
    #[must_use]
    pub fn new(noise: Noise, seed: u64, rank: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(rank) + 1);
        let speed = (noise.spread * normal(&mut rng)).exp();
        let drift_period_ns = rng.random_range(120.0..1200.0) * 1e9;
        let drift_phase = rng.random_range(0.0..std::f64::consts::TAU);
        Self { noise, rng, speed, drift_period_ns, drift_phase }
    }

    /// How long a kernel takes that would take `ns` undisturbed, at time `now_ns` in iteration `iteration`.
    pub fn kernel(&mut self, ns: u64, now_ns: u64, iteration: u64) -> u64 {
        let noise = self.noise;
        let phase = now_ns as f64 / self.drift_period_ns * std::f64::consts::TAU + self.drift_phase;
        let mut factor = self.speed * (1.0 + noise.drift * phase.sin());
        factor *= (noise.kernel_sigma * normal(&mut self.rng)).exp();
        if noise.tail_probability > 0.0 && self.rng.random_bool(noise.tail_probability) {
            let uniform: f64 = self.rng.random_range(1e-9..1.0);
            factor *= uniform.powf(-0.5).min(20.0);
        }
        if iteration < noise.warm_up.0 {
            factor *= noise.warm_up.1;
        }
        (ns as f64 * factor) as u64
    }

    /// How long the host of `rank` is busy with other things before iteration `iteration`.
    pub fn host(&mut self, rank: u32, iteration: u64) -> u64 {
        let noise = self.noise;
        let mut ns = 0;
        if noise.gc_probability > 0.0 && self.rng.random_bool(noise.gc_probability) {
            ns += noise.gc_ns;
        }
        if noise.loading_probability > 0.0 && self.rng.random_bool(noise.loading_probability) {
            let uniform: f64 = self.rng.random_range(1e-9..1.0);
            ns += (noise.loading_ns as f64 * -uniform.ln()) as u64;
        }
        if noise.checkpoint_every > 0 && iteration > 0 && iteration.is_multiple_of(noise.checkpoint_every) {
            ns += noise.checkpoint_ns + if rank == 0 { noise.checkpoint_ns / 2 } else { 0 };
        }
        ns
    }

    /// A factor for the duration of a transfer.
    pub fn transfer(&mut self) -> f64 {
        (2.0 * self.noise.kernel_sigma * normal(&mut self.rng)).exp()
    }
}

/// A standard normal number (Box and Muller, 1958).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius: f64 = rng.random_range(1e-300..1.0);
    let angle = rng.random_range(0.0..std::f64::consts::TAU);
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}
