//! The programs of a job, made once: for each model, stage and purpose.

use std::ops::Index;

use crate::simulator::{
    layout::Layout,
    program::{Model, Op, Program, Stream},
    workload::Workload,
};

/// A program, and what the engine looks up in it.
#[derive(Debug)]
pub(super) struct StagePlan {
    pub(super) program: Program,
    /// Indices into the program, by stream.
    pub(super) streams: [Vec<u32>; Stream::COUNT],
    /// The stream that waits for each event.
    pub(super) waiters: Vec<Option<usize>>,
    /// Operations that can be observed.
    pub(super) told: Vec<u32>,
}

/// All programs.
#[derive(Debug)]
pub(super) struct Plans {
    plans: Vec<StagePlan>,
    stages: usize,
}

/// For training, for evaluation, and for training with two operations in the wrong order.
const PURPOSES: usize = 3;

impl Plans {
    pub(super) fn new(layout: &Layout, model: &Model, workload: &Workload) -> Self {
        let models = std::iter::once(model).chain(workload.phases.iter().map(|(_, model)| model));
        let mut plans = Vec::new();
        for model in models {
            for stage in 0..layout.pp {
                let train = Program::of_stage(layout, model, stage);
                let disordered = train.disordered().unwrap_or_else(|| train.clone());
                let evaluation = Program::evaluation(layout, model, stage);
                plans.extend([train, evaluation, disordered].map(StagePlan::new));
            }
        }
        Self { plans, stages: layout.pp as usize }
    }

    /// Which one to use.
    pub(super) fn find(&self, phase: Option<usize>, stage: u32, evaluates: bool, disordered: bool) -> usize {
        let model = phase.map_or(0, |phase| phase + 1);
        let purpose = match (evaluates, disordered) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        };
        (model * self.stages + stage as usize) * PURPOSES + purpose
    }
}

impl Index<usize> for Plans {
    type Output = StagePlan;

    fn index(&self, plan: usize) -> &StagePlan {
        &self.plans[plan]
    }
}

impl StagePlan {
    fn new(program: Program) -> Self {
        let mut streams: [Vec<u32>; Stream::COUNT] = Default::default();
        let mut waiters = vec![None; program.events as usize];
        let mut told = Vec::new();
        for (index, (stream, op)) in (0u32..).zip(&program.ops) {
            streams[*stream as usize].push(index);
            match op {
                Op::Wait { event } => waiters[*event as usize] = Some(*stream as usize),
                Op::Collective { .. } | Op::Send { .. } | Op::Recv { .. } => told.push(index),
                Op::Compute { .. } | Op::Record { .. } => {}
            }
        }
        Self { program, streams, waiters, told }
    }
}
