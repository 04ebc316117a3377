//! The fault suite: shapes of jobs, kinds of faults, severities.

use c4_detect::finding::Kind;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::simulator::{
    fault::{Fault, FaultKind},
    layout::Layout,
    noise::Noise,
    program::Model,
    telemetry::Spec,
};

const SECOND_NS: u64 = 1_000_000_000;

/// What a case is about; a row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// Fault, in words; "healthy" or what is unbalanced where nothing is broken.
    pub fault: String,
    /// Severity, in words.
    pub severity: String,
    /// Number of ranks.
    pub ranks: u32,
}

/// One simulated job and what ought to be said of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its row.
    pub row: Row,
    /// The job.
    pub spec: Spec,
    /// The fault, if there is one.
    pub truth: Option<Truth>,
    /// How long to watch it.
    pub length_ns: u64,
}

/// What a right finding says.
#[derive(Clone, Debug)]
pub struct Truth {
    /// When the fault begins.
    pub start_ns: u64,
    /// Kinds that describe it rightly.
    pub kinds: Vec<Kind>,
    /// Ranks of which the first suspect must be one.
    pub ranks: Vec<u32>,
}

/// Shapes of jobs: small data-parallel up to full three-dimensional.
#[must_use]
pub fn shapes() -> Vec<(Layout, Model)> {
    let model = |microbatches, layers, layer_ms: u64| Model {
        microbatches,
        layers,
        layer_ns: layer_ms * 1_000_000,
        activation_bytes: 8 << 20,
        gradient_bytes: 64 << 20,
        sharded: false,
        optimizer_ns: 10_000_000,
    };
    vec![
        (Layout::data_parallel(8), model(1, 6, 10)),
        (Layout { tp: 4, dp: 4, pp: 1, ep: 1, gpus_per_node: 8 }, model(2, 4, 10)),
        (Layout { tp: 1, dp: 4, pp: 4, ep: 1, gpus_per_node: 8 }, model(8, 2, 10)),
        (Layout { tp: 2, dp: 8, pp: 4, ep: 4, gpus_per_node: 8 }, Model { sharded: true, ..model(8, 2, 10) }),
    ]
}

/// The faults of the suite with their severity in words. `peer` is filled in by [`case`].
#[must_use]
pub fn faults() -> Vec<(&'static str, String, FaultKind)> {
    let mut faults = vec![
        ("death", String::new(), FaultKind::Death),
        ("stop", String::new(), FaultKind::Stop),
        ("host hang", String::new(), FaultKind::HostHang),
        ("gpu hang", String::new(), FaultKind::GpuHang),
        ("link blocked", String::new(), FaultKind::LinkBlocked { peer: 0 }),
        ("desync", String::new(), FaultKind::Desync),
    ];
    for factor in [1.15, 1.3, 1.5, 2.0] {
        let kind = FaultKind::SlowCompute { factor, every: 1 };
        faults.push(("slow compute", format!("{factor} x"), kind));
    }
    let kind = FaultKind::SlowCompute { factor: 2.0, every: 10 };
    faults.push(("slow compute", "2 x, 1 in 10".into(), kind));
    faults
}

/// A case with a fault, in a job of this shape.
#[must_use]
pub fn case(shape: &(Layout, Model), fault: &(&'static str, String, FaultKind), seed: u64) -> Case {
    let (layout, model) = *shape;
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xc4);
    let rank = rng.random_range(0..layout.ranks());
    let start_ns = rng.random_range(60 * SECOND_NS..120 * SECOND_NS);
    let mut ranks = vec![rank];
    let mut kind = fault.2;
    if let FaultKind::LinkBlocked { peer } = &mut kind {
        // The next in the ring of all ranks, which is what every job has.
        *peer = (rank + 1) % layout.ranks();
        ranks.push(*peer);
    }
    let truth = Truth { start_ns, kinds: kinds(&kind), ranks };
    let spec = Spec {
        layout,
        model,
        noise: Noise::ordinary(),
        faults: vec![Fault { kind, rank, start_ns, end_ns: None }],
        seed,
    };
    Case {
        row: Row { fault: fault.0.into(), severity: fault.1.clone(), ranks: layout.ranks() },
        spec,
        truth: Some(truth),
        length_ns: start_ns + 90 * SECOND_NS,
    }
}

/// A job without a fault: healthy, or unbalanced by its model or data.
#[must_use]
pub fn sound(shape: &(Layout, Model), unbalanced: Option<FaultKind>, seconds: u64, seed: u64) -> Case {
    let (layout, model) = *shape;
    let fault = match unbalanced {
        None => "healthy",
        Some(FaultKind::HeavyStage { .. }) => "heavy stage",
        Some(_) => "taking turns",
    };
    let faults =
        unbalanced.map(|kind| Fault { kind, rank: 0, start_ns: 0, end_ns: None }).into_iter().collect();
    Case {
        row: Row { fault: fault.into(), severity: String::new(), ranks: layout.ranks() },
        spec: Spec { layout, model, noise: Noise::ordinary(), faults, seed },
        truth: None,
        length_ns: seconds * SECOND_NS,
    }
}

fn kinds(fault: &FaultKind) -> Vec<Kind> {
    match fault {
        FaultKind::Death => vec![Kind::ProcessDeath],
        FaultKind::Stop | FaultKind::HostHang | FaultKind::GpuHang => vec![Kind::NonCommHang],
        FaultKind::LinkBlocked { .. } => vec![Kind::CommHang],
        FaultKind::Desync => vec![Kind::Desync],
        FaultKind::SlowCompute { .. } | FaultKind::LateHost { .. } => vec![Kind::NonCommSlow],
        FaultKind::SlowLink { .. } | FaultKind::SlowNic { .. } => vec![Kind::CommSlow],
        FaultKind::HeavyStage { .. } | FaultKind::TakingTurns { .. } => vec![Kind::WorkloadImbalance],
    }
}
