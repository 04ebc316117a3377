//! Which cases make up a suite, and how they are run.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    cases::{self, Case, Class},
    combined::{Combination, combined},
    judge::{Outcome, judge},
    network::{NETWORK, network},
    shapes::{Shape, shapes},
    sound::{SOUND_NS, Variety, sound},
    table::Table,
};

/// Beyond this size, a shape is simulated less often: so many times, instead of `jobs`.
const LARGE: [(u32, u64); 3] = [(50_000, 1), (4_096, 1), (512, 2)];
/// Sound jobs are simulated up to this size: what a job-day costs grows with it.
const SOUND_RANKS: u32 = 64;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Suite {
    /// First seed.
    pub seed: u64,
    /// Jobs for each fault, severity and shape; large shapes have fewer.
    pub jobs: u64,
    /// Job-days of healthy jobs, and as many of unbalanced ones.
    pub sound_days: f64,
    /// Only shapes of at least and at most so many ranks.
    pub ranks: (u32, u32),
    /// Only rows whose fault contains this.
    pub only: Option<String>,
    /// Only the case with this seed.
    pub only_seed: Option<u64>,
}

impl Suite {
    /// The cases, each with a seed of its own. A seed says the same whatever else is in the suite.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let shapes: Vec<Shape> = shapes()
            .into_iter()
            .filter(|shape| (self.ranks.0..=self.ranks.1).contains(&shape.layout.ranks()))
            .collect();
        for shape in &shapes {
            let limit = LARGE.iter().find(|(ranks, _)| shape.layout.ranks() > *ranks);
            let jobs = limit.map_or(self.jobs, |(_, most)| self.jobs.min(*most));
            let salt = u64::from(shape.layout.ranks());
            for job in 0..jobs {
                for (kind, entry) in (0u64..).zip(cases::faults()) {
                    cases.extend(cases::case(shape, &entry, self.seed + job * 1_000 + kind * 20 + salt % 20));
                }
                for (kind, slow) in (0u64..).zip(NETWORK) {
                    let seed = self.seed + job * 1_000 + 500 + kind * 20 + salt % 20;
                    cases.extend(network(shape, slow, seed));
                }
                for (kind, combination) in (0u64..).zip(Combination::ALL) {
                    let seed = self.seed + job * 1_000 + 700 + kind * 20 + salt % 20;
                    cases.extend(combined(shape, combination, seed));
                }
            }
        }
        let small: Vec<Shape> =
            shapes.into_iter().filter(|shape| shape.layout.ranks() <= SOUND_RANKS).collect();
        for class in [Class::Healthy, Class::Unbalanced] {
            cases.extend(self.sound_cases(&small, class));
        }
        cases.retain(|case| self.only_seed.is_none_or(|seed| case.spec.seed == seed));
        cases.retain(|case| self.only.as_ref().is_none_or(|part| case.row.fault.contains(part.as_str())));
        cases
    }

    /// Sound jobs of a class: all varieties and shapes in turn.
    fn sound_cases(&self, shapes: &[Shape], class: Class) -> Vec<Case> {
        let wanted = (self.sound_days * 86_400e9 / SOUND_NS as f64).round() as usize;
        let varieties: Vec<Variety> =
            Variety::ALL.into_iter().filter(|variety| variety.class() == class).collect();
        let seeds = (0u64..).map(|job| self.seed + 500_000 + 2 * job + u64::from(class == Class::Unbalanced));
        let kinds = varieties.iter().flat_map(|variety| shapes.iter().map(move |shape| (variety, shape)));
        if shapes.is_empty() {
            return Vec::new();
        }
        let turns = kinds.cycle().zip(seeds);
        turns.filter_map(|((variety, shape), seed)| sound(shape, *variety, seed)).take(wanted).collect()
    }
}

/// Runs cases on so many threads, tells `each` of every outcome, and adds them up.
pub fn run(cases: &[Case], threads: usize, each: impl Fn(usize, &Case, &Outcome) + Sync) -> Table {
    let table = Mutex::new(Table::default());
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = judge(case);
                    each(done.fetch_add(1, Ordering::Relaxed) + 1, case, &outcome);
                    if let Ok(mut table) = table.lock() {
                        table.add(case, outcome);
                    }
                }
            });
        }
    });
    table.into_inner().unwrap_or_default()
}
