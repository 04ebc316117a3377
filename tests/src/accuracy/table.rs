//! Adds outcomes up into a table.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    cases::{Case, Class, Row},
    judge::Outcome,
};

/// A row with its figures.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was simulated.
    #[serde(flatten)]
    pub row: Row,
    /// Jobs.
    pub jobs: usize,
    /// Simulated time in days.
    pub job_days: f64,
    /// Share of the jobs in which the fault was found; of unbalanced ones, in which the imbalance was.
    pub recall: Option<f64>,
    /// Share of the jobs with the right first suspect.
    pub right_suspect: Option<f64>,
    /// Share of the findings with the right kind.
    pub right_kind: Option<f64>,
    /// Share of all accusations whose first suspect was right.
    pub precision: Option<f64>,
    /// Median and largest time to the verdict.
    pub seconds: Option<(f64, f64)>,
    /// The same in iterations.
    pub iterations: Option<(f64, f64)>,
    /// Of the faults that ended, how many had their finding cleared, and the median seconds that took.
    pub cleared: Option<(usize, usize, f64)>,
    /// Findings beside the first, over all jobs.
    pub further: usize,
    /// Accusations of the innocent.
    pub false_alarms: usize,
}

/// One job that was judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) days: f64,
    pub(super) outcome: Outcome,
}

/// Outcomes by row.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) rows: BTreeMap<Row, Vec<Judged>>,
}

impl Table {
    /// Adds a case.
    pub fn add(&mut self, case: &Case, outcome: Outcome) {
        let days = case.length_ns as f64 / 86_400e9;
        self.rows.entry(case.row.clone()).or_default().push(Judged { days, outcome });
    }

    /// The figures.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.rows.iter().map(|(row, judged)| line(row, judged)).collect()
    }

    /// Jobs, their simulated time in days, and the observations they gave.
    #[must_use]
    pub fn totals(&self) -> (usize, f64, u64) {
        let judged = || self.rows.values().flatten();
        let observations = judged().map(|judged| judged.outcome.observations).sum();
        (judged().count(), judged().map(|judged| judged.days).sum(), observations)
    }

    /// For a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:<16} {:<17} {:>6} {:>5} {:>7} {:>8} {:>8} {:>8} {:>9} {:>13} {:>13} {:>13} {:>7} {:>5}\n",
            "fault",
            "severity",
            "ranks",
            "jobs",
            "days",
            "found",
            "suspect",
            "kind",
            "precision",
            "seconds",
            "iterations",
            "cleared",
            "further",
            "false"
        );
        for line in self.lines() {
            let _ = writeln!(
                text,
                "{:<16} {:<17} {:>6} {:>5} {:>7.3} {:>8} {:>8} {:>8} {:>9} {:>13} {:>13} {:>13} {:>7} {:>5}",
                line.row.fault,
                line.row.severity,
                line.row.ranks,
                line.jobs,
                line.job_days,
                percent(line.recall),
                percent(line.right_suspect),
                percent(line.right_kind),
                percent(line.precision),
                range(line.seconds),
                range(line.iterations),
                cleared(line.cleared),
                line.further,
                line.false_alarms
            );
        }
        text
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share))
}

fn range(range: Option<(f64, f64)>) -> String {
    range.map_or_else(|| "-".into(), |(median, most)| format!("{median:.1} / {most:.1}"))
}

fn cleared(cleared: Option<(usize, usize, f64)>) -> String {
    cleared.map_or_else(|| "-".into(), |(some, all, seconds)| format!("{some}/{all} {seconds:.0} s"))
}

fn line(row: &Row, judged: &[Judged]) -> Line {
    let faulty = !matches!(row.class, Class::Healthy | Class::Unbalanced);
    let asked = faulty || row.class == Class::Unbalanced;
    let outcomes = || judged.iter().map(|judged| &judged.outcome);
    let share =
        |part: usize, whole: usize, applies: bool| (applies && whole > 0).then(|| part as f64 / whole as f64);
    let found = outcomes().filter(|outcome| outcome.is_found).count();
    let sum = |value: &dyn Fn(&Outcome) -> usize| outcomes().map(value).sum::<usize>();
    let clearing: Vec<f64> = outcomes().filter_map(|outcome| outcome.clearing_seconds).collect();
    let taken_back = || clearing.iter().copied().filter(|seconds| seconds.is_finite());
    Line {
        row: row.clone(),
        jobs: judged.len(),
        job_days: judged.iter().map(|judged| judged.days).sum(),
        recall: share(found, judged.len(), asked),
        right_suspect: share(outcomes().filter(|o| o.is_right_suspect).count(), judged.len(), faulty),
        right_kind: share(outcomes().filter(|o| o.is_right_kind).count(), found, faulty),
        precision: share(sum(&|o| o.right_accusations), sum(&|o| o.accusations), faulty),
        seconds: median_and_most(outcomes().filter_map(|outcome| outcome.seconds)),
        iterations: median_and_most(outcomes().filter_map(|outcome| outcome.iterations)),
        cleared: median_and_most(taken_back())
            .map(|(median, _)| (taken_back().count(), clearing.len(), median))
            .or((!clearing.is_empty()).then_some((0, clearing.len(), f64::NAN))),
        further: if faulty { sum(&|outcome| outcome.further) } else { 0 },
        false_alarms: sum(&|outcome| outcome.false_alarms.len()),
    }
}

fn median_and_most(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.last().map(|most| (values[values.len() / 2], *most))
}
