//! One simulated job and what ought to be said of it; and the faults of the suite, by kind and severity.

use c4_detect::finding::Kind;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::shapes::{self, Shape};
use crate::simulator::{
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::mix,
    program::Sharding,
    telemetry::Spec,
    workload::Workload,
};

/// What half of all seeds have communicators with names by.
const NAMES: u64 = 0x6e61_6d65;
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// What a case is about; a row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// What is asked of the detector here.
    pub class: Class,
    /// Fault, in words, or what is peculiar about a sound job.
    pub fault: String,
    /// Severity, in words.
    pub severity: String,
    /// Number of ranks.
    pub ranks: u32,
}

/// Groups of rows that have a target in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A process dies.
    Death,
    /// The job stands still.
    Hang,
    /// A rank is late by 1.3 times or more, in every iteration.
    Straggler,
    /// A rank is late by 1.15 times, or in one iteration out of ten.
    MildStraggler,
    /// A connection, NIC or switch is slow.
    SlowNetwork,
    /// Several things at once, or missing evidence.
    Combined,
    /// So little, or so slowly, that nothing is asked for; what is said is reported.
    Slight,
    /// Sound and even.
    Healthy,
    /// Sound, with uneven work.
    Unbalanced,
}

/// One simulated job and what ought to be said of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its row.
    pub row: Row,
    /// The job.
    pub spec: Spec,
    /// What ought to be said.
    pub expected: Expected,
    /// How long to watch it.
    pub length_ns: u64,
}

/// What ought to be said of a job.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Nobody is accused.
    Silence,
    /// The first finding is one of these, and all that are required are named.
    Faults(Vec<Truth>),
    /// Evidence is missing from this time on: the verdict is unknown, or, where there is a fault, the truth.
    Unknown {
        /// The fault, if there is one.
        truth: Option<Truth>,
        /// From when on.
        from_ns: u64,
        /// When the verdict must no longer be unknown.
        until_ns: Option<u64>,
    },
}

/// What a right finding says.
#[derive(Clone, Debug)]
pub struct Truth {
    /// When the fault begins.
    pub start_ns: u64,
    /// When it ends, if it does.
    pub end_ns: Option<u64>,
    /// Kinds that describe it rightly.
    pub kinds: Vec<Kind>,
    /// Ranks of which the first suspect must be one.
    pub ranks: Vec<u32>,
    /// Nodes that may be suspected as a whole.
    pub nodes: Vec<String>,
    /// Whether it must be named even if something else was found first.
    pub is_required: bool,
}

/// A fault of the suite. Places are filled in for each job.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its target.
    pub class: Class,
    /// In words.
    pub fault: &'static str,
    /// In words.
    pub severity: String,
    /// What.
    pub kind: FaultKind,
    /// Whether it ends after a while.
    pub ends: bool,
}

/// The faults of the suite.
#[must_use]
pub fn faults() -> Vec<Entry> {
    let hang = |fault, kind| entry(Class::Hang, fault, String::new(), kind);
    let mut faults = vec![
        entry(Class::Death, "death", String::new(), FaultKind::Death),
        hang("stop", FaultKind::Stop),
        hang("host hang", FaultKind::HostHang),
        hang("gpu hang", FaultKind::GpuHang),
        hang("link blocked", FaultKind::LinkBlocked { peer: 0 }),
        hang("desync", FaultKind::Desync),
        hang("deadlock", FaultKind::Deadlock),
    ];
    for (class, factor) in [
        (Class::Slight, 1.05),
        (Class::MildStraggler, 1.15),
        (Class::Straggler, 1.3),
        (Class::Straggler, 1.5),
        (Class::Straggler, 2.0),
        (Class::Straggler, 5.0),
    ] {
        let kind = FaultKind::SlowCompute { factor, every: 1 };
        faults.push(entry(class, "slow compute", format!("{factor} x"), kind));
    }
    let kind = FaultKind::SlowCompute { factor: 2.0, every: 10 };
    faults.push(entry(Class::MildStraggler, "slow compute", "2 x, 1 in 10".into(), kind));
    let kind = FaultKind::SlowCompute { factor: 1.5, every: 1 };
    let passing = entry(Class::Straggler, "slow compute", "1.5 x, ends".into(), kind);
    faults.push(Entry { ends: true, ..passing });
    let kind = FaultKind::Throttle { factor: 1.5, ramp_ns: 60 * SECOND_NS };
    faults.push(entry(Class::Slight, "throttle ramp", "to 1.5 x in 60 s".into(), kind));
    // In hundredths of the job's iteration, until the job is known.
    for (class, percent) in [(Class::MildStraggler, 15), (Class::Straggler, 30), (Class::Straggler, 100)] {
        let kind = FaultKind::LateHost { ns: percent };
        faults.push(entry(class, "late host", format!("{percent} %"), kind));
    }
    faults
}

fn entry(class: Class, fault: &'static str, severity: String, kind: FaultKind) -> Entry {
    Entry { class, fault, severity, kind, ends: false }
}

/// A job that is sound so far, and the random numbers for what else there is to choose.
pub(super) struct Draft {
    pub(super) spec: Spec,
    pub(super) iteration_ns: u64,
    pub(super) rng: ChaCha8Rng,
}

impl Draft {
    pub(super) fn new(shape: &Shape, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xc4);
        let seconds = shape.iteration(&mut rng);
        let spec = Spec {
            layout: shape.layout,
            model: shape.model(seconds),
            workload: Workload::default(),
            // Not drawn, so that it changes nothing else about a seed.
            names: mix(seed ^ NAMES).is_multiple_of(2),
            noise: shapes::noise(&mut rng),
            faults: Vec::new(),
            happenings: Vec::new(),
            seed,
        };
        Self { spec, iteration_ns: (seconds * 1e9) as u64, rng }
    }

    /// A moment at which the job has found its rhythm: its first iterations, which take several times as long, are over by then.
    pub(super) fn onset_ns(&mut self) -> u64 {
        // What a simulated second costs grows with the job.
        let most = if self.spec.layout.ranks() > 4_096 { 30 } else { 60 };
        let iterations = self.rng.random_range(25..most);
        let onset_ns =
            (self.iteration_ns * iterations).max(self.rng.random_range(60 * SECOND_NS..120 * SECOND_NS));
        let (slow, times) = self.spec.noise.warm_up;
        onset_ns + (slow as f64 * (times - 1.0) * self.iteration_ns as f64) as u64
    }

    pub(super) fn any_rank(&mut self) -> u32 {
        self.rng.random_range(0..self.spec.layout.ranks())
    }

    /// Puts a fault of this kind somewhere into the job; `None` if the job cannot have it.
    pub(super) fn inject(
        &mut self,
        kind: FaultKind,
        rank: u32,
        start_ns: u64,
        end_ns: Option<u64>,
    ) -> Option<Truth> {
        let layout = self.spec.layout;
        let mut ranks = vec![rank];
        let kind = match kind {
            FaultKind::LinkBlocked { .. } => {
                let peer = ring_neighbour(&layout, rank)?;
                ranks.push(peer);
                FaultKind::LinkBlocked { peer }
            }
            FaultKind::LateHost { ns: percent } => {
                FaultKind::LateHost { ns: self.iteration_ns * percent / 100 }
            }
            FaultKind::Deadlock => {
                let model = &self.spec.model;
                if model.sharding != Sharding::Optimizer || model.overlap {
                    return None;
                }
                // Both sides are wrong in a way: the rank, and those whom it meets in the wrong communicator.
                let (index, _) = layout.membership(rank, Group::Data);
                let members = 0..layout.group_size(Group::Data);
                ranks = members.map(|place| layout.member(Group::Data, index, place)).collect();
                kind
            }
            kind => kind,
        };
        self.spec.faults.push(Fault { kind, rank, start_ns, end_ns });
        Some(Truth { start_ns, end_ns, kinds: kinds(&kind), ranks, nodes: Vec::new(), is_required: true })
    }

    pub(super) fn row(&self, class: Class, fault: &str, severity: &str) -> Row {
        Row { class, fault: fault.into(), severity: severity.into(), ranks: self.spec.layout.ranks() }
    }
}

/// The next rank in the ring of a communicator that moves much data.
fn ring_neighbour(layout: &Layout, rank: u32) -> Option<u32> {
    let group =
        [Group::Data, Group::Pipeline, Group::World].into_iter().find(|g| layout.group_size(*g) > 1)?;
    let (index, place) = layout.membership(rank, group);
    Some(layout.member(group, index, (place + 1) % layout.group_size(group)))
}

/// A case with a fault, in a job of this shape; `None` if such a job cannot have it.
#[must_use]
pub fn case(shape: &Shape, entry: &Entry, seed: u64) -> Option<Case> {
    let mut draft = Draft::new(shape, seed);
    let (start_ns, rank) = (draft.onset_ns(), draft.any_rank());
    let lasts_ns = draft.rng.random_range(60..120) * draft.iteration_ns.max(SECOND_NS);
    let end_ns = entry.ends.then_some(start_ns + lasts_ns);
    let truth = draft.inject(entry.kind, rank, start_ns, end_ns)?;
    let iterations = match entry.class {
        Class::Death | Class::Hang => 5,
        Class::MildStraggler | Class::Slight => 300,
        _ => 80,
    };
    let watched_ns = (iterations * draft.iteration_ns).max(60 * SECOND_NS);
    Some(Case {
        row: draft.row(entry.class, entry.fault, &entry.severity),
        spec: draft.spec,
        expected: Expected::Faults(vec![truth]),
        length_ns: end_ns.unwrap_or(start_ns) + watched_ns,
    })
}

pub(super) fn kinds(fault: &FaultKind) -> Vec<Kind> {
    match fault {
        FaultKind::Death => vec![Kind::ProcessDeath],
        FaultKind::Stop | FaultKind::HostHang | FaultKind::GpuHang => vec![Kind::NonCommHang],
        FaultKind::LinkBlocked { .. } => vec![Kind::CommHang],
        FaultKind::Desync | FaultKind::Deadlock => vec![Kind::Desync],
        FaultKind::SlowCompute { .. } | FaultKind::LateHost { .. } | FaultKind::Throttle { .. } => {
            vec![Kind::NonCommSlow]
        }
        FaultKind::SlowLink { .. } | FaultKind::SlowNic { .. } | FaultKind::SlowSwitch { .. } => {
            vec![Kind::CommSlow]
        }
    }
}
