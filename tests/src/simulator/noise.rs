//! What makes healthy jobs unsteady. The distributions have the shapes that clusters show: kernels that vary by a
//! percent, rarely by a lot; hosts that collect garbage or load data slowly now and then; GPUs that drift with their
//! temperature; checkpoints that stop everybody for a while; agents whose clocks disagree and whose news come late.
//!
//! A wait for data is cut off at [`LONGEST_LOADING_NS`]: a host that alone stands still for longer is not healthy, and
//! nothing that is observable tells it from one that hangs.

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Longest wait for data of a host that is well.
pub const LONGEST_LOADING_NS: u64 = 2_500_000_000;
/// Most that a tail adds to a kernel. What is one kernel here stands for the many of a layer: only one of them is hit.
const LONGEST_TAIL_NS: f64 = 300e6;

/// How unsteady a healthy job is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Standard deviation of the logarithm of a kernel's duration.
    pub kernel_sigma: f64,
    /// Probability that a kernel has a heavy tail (Pareto, shape 2, at most 300 ms).
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
    /// How long it is waited for then, at least; the rest is Pareto with shape 1.5.
    pub loading_ns: u64,
    /// Probability, per iteration, that the storage of the whole job stands still, for a second or so on all ranks.
    pub storage_probability: f64,
    /// Iterations between checkpoints, 0 for none.
    pub checkpoint_every: u64,
    /// Time a checkpoint takes every rank; rank 0 needs half as much again.
    pub checkpoint_ns: u64,
    /// How many times as long the first iterations take (compilation, autotuning): `(iterations, factor)`.
    pub warm_up: (u64, f64),
    /// How wrong the rates of clocks are, standard deviation in millionths; their offsets are arbitrary.
    pub clock_ppm: f64,
    /// How late a window comes to the controller, on average (exponential, at most half a second).
    pub delivery_ns: u64,
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
            storage_probability: 0.0,
            checkpoint_every: 500,
            checkpoint_ns: 3_000_000_000,
            warm_up: (3, 8.0),
            clock_ppm: 20.0,
            delivery_ns: 5_000_000,
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
            storage_probability: 0.0,
            checkpoint_every: 0,
            checkpoint_ns: 0,
            warm_up: (0, 1.0),
            clock_ppm: 0.0,
            delivery_ns: 0,
        }
    }
}

/// What keeps a host from its next iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostWork {
    /// For how long altogether.
    pub ns: u64,
    /// The part of it, at its end, that it spends writing or reading.
    pub disk_ns: u64,
}

/// The noise of one rank: its own stream of random numbers, so that ranks do not depend on each other's order.
#[derive(Debug)]
pub struct RankNoise {
    noise: Noise,
    rng: ChaCha8Rng,
    seed: u64,
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
        let speed = (noise.spread * normal_of(rng.next_u64())).exp();
        let drift_period_ns = rng.random_range(120.0..1200.0) * 1e9;
        let drift_phase = rng.random_range(0.0..std::f64::consts::TAU);
        Self { noise, rng, seed, speed, drift_period_ns, drift_phase }
    }

    /// How many times as long as usual the kernels of the iteration take that begins at `now_ns`.
    #[must_use]
    pub fn pace(&self, now_ns: u64, iteration: u64) -> f64 {
        let phase = now_ns as f64 / self.drift_period_ns * std::f64::consts::TAU + self.drift_phase;
        let factor = self.speed * (1.0 + self.noise.drift * phase.sin());
        let (warm_up, longer) = self.noise.warm_up;
        if iteration < warm_up { factor * longer } else { factor }
    }

    /// How long a kernel takes that takes `ns` on average.
    pub fn kernel(&mut self, ns: f64) -> f64 {
        let noise = self.noise;
        let took = ns * (noise.kernel_sigma * normal_of(self.rng.next_u64())).exp();
        if noise.tail_probability > 0.0 && unit(self.rng.next_u64()) < noise.tail_probability {
            return took + (took * (pareto(self.rng.next_u64(), 2.0) - 1.0)).min(LONGEST_TAIL_NS);
        }
        took
    }

    /// How long the host of `rank` is busy with other things before iteration `iteration`.
    pub fn host(&mut self, rank: u32, iteration: u64) -> HostWork {
        let noise = self.noise;
        let mut work = HostWork::default();
        if noise.gc_probability > 0.0 && self.rng.random_bool(noise.gc_probability) {
            work.ns += noise.gc_ns;
        }
        if noise.loading_probability > 0.0 && self.rng.random_bool(noise.loading_probability) {
            let ns = (noise.loading_ns as f64 * pareto(self.rng.next_u64(), 1.5)) as u64;
            work.ns += ns.min(LONGEST_LOADING_NS);
        }
        // The job's storage is slow for all of its ranks at once, for each a little differently.
        let storage = mix(self.seed ^ mix(iteration ^ 0x5708));
        if unit(storage) < noise.storage_probability {
            let common = 0.2e9 * pareto(mix(storage), 1.5).min(15.0);
            work.disk_ns += (common * (0.8 + 0.4 * unit(self.rng.next_u64()))) as u64;
        }
        if noise.checkpoint_every > 0 && iteration > 0 && iteration.is_multiple_of(noise.checkpoint_every) {
            work.disk_ns += noise.checkpoint_ns + if rank == 0 { noise.checkpoint_ns / 2 } else { 0 };
        }
        work.ns += work.disk_ns;
        work
    }

    /// A factor for the duration of a transfer.
    pub fn transfer(&mut self) -> f64 {
        (2.0 * self.noise.kernel_sigma * normal_of(self.rng.next_u64())).exp()
    }
}

/// The clock of a node, as far as it is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset_ns: u64,
    rate: f64,
}

impl Clock {
    /// The clock of `node` in the job with this seed.
    #[must_use]
    pub fn new(noise: &Noise, seed: u64, node: u32) -> Self {
        let random = mix(seed ^ mix(u64::from(node) ^ 0xc10c));
        Self {
            offset_ns: if noise.clock_ppm > 0.0 { mix(random) >> 16 } else { 0 },
            rate: 1.0 + noise.clock_ppm * 1e-6 * normal_of(random),
        }
    }

    /// What it shows.
    #[must_use]
    pub fn shows(&self, ns: u64) -> u64 {
        self.offset_ns + (ns as f64 * self.rate) as u64
    }
}

/// How late a node's windows of a second come.
#[must_use]
pub fn delivery_ns(noise: &Noise, seed: u64, node: u32, second: u64) -> u64 {
    let random = mix(seed ^ mix(second ^ mix(u64::from(node) ^ 0xde11)));
    ((noise.delivery_ns as f64 * -unit(random).max(1e-12).ln()) as u64).min(500_000_000)
}

/// Spreads the bits of a number (the finaliser of SplitMix64).
#[must_use]
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random bits as a number from 0 to 1.
#[must_use]
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Random bits as a number that is nearly normal: the sum of four uniform ones. It has no far tails, which are drawn by
/// themselves, and costs a fraction of an exact one.
#[must_use]
pub fn normal_of(bits: u64) -> f64 {
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    // Four uniform numbers have a mean of 2 and a variance of 4/12.
    (sum as f64 / 65536.0 - 2.0) * 3f64.sqrt()
}

/// A number of at least 1 with a Pareto distribution.
fn pareto(bits: u64, shape: f64) -> f64 {
    (1.0 - unit(bits)).powf(-1.0 / shape)
}
