//! Adds outcomes up into a table.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    cases::{Case, Row},
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
    /// Share of the jobs in which the fault was found.
    pub recall: Option<f64>,
    /// Share of the findings with the right first suspect.
    pub right_suspect: Option<f64>,
    /// Share of the findings with the right kind.
    pub right_kind: Option<f64>,
    /// Median and largest time to the verdict.
    pub seconds: Option<(f64, f64)>,
    /// Findings beside the first, over all jobs.
    pub further: usize,
    /// Accusations of the innocent.
    pub false_alarms: usize,
}

/// Outcomes by row.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<Row, Vec<(f64, bool, Outcome)>>,
}

impl Table {
    /// Adds a case.
    pub fn add(&mut self, case: &Case, outcome: Outcome) {
        let days = case.length_ns as f64 / 86_400e9;
        self.rows.entry(case.row.clone()).or_default().push((days, case.truth.is_some(), outcome));
    }

    /// The figures.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.rows.iter().map(|(row, outcomes)| line(row, outcomes)).collect()
    }

    /// For a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:<14} {:<13} {:>6} {:>5} {:>8} {:>8} {:>8} {:>8} {:>15} {:>7} {:>6}\n",
            "fault",
            "severity",
            "ranks",
            "jobs",
            "days",
            "found",
            "suspect",
            "kind",
            "seconds",
            "further",
            "false"
        );
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".into(), |s| format!("{:.1} %", 100.0 * s));
        for line in self.lines() {
            let seconds =
                line.seconds.map_or_else(|| "-".into(), |(median, most)| format!("{median:.1} / {most:.1}"));
            let _ = writeln!(
                text,
                "{:<14} {:<13} {:>6} {:>5} {:>8.3} {:>8} {:>8} {:>8} {:>15} {:>7} {:>6}",
                line.row.fault,
                line.row.severity,
                line.row.ranks,
                line.jobs,
                line.job_days,
                percent(line.recall),
                percent(line.right_suspect),
                percent(line.right_kind),
                seconds,
                line.further,
                line.false_alarms
            );
        }
        text
    }
}

fn line(row: &Row, outcomes: &[(f64, bool, Outcome)]) -> Line {
    let faulty = outcomes.iter().any(|(_, faulty, _)| *faulty);
    let found: Vec<&Outcome> = outcomes.iter().map(|(_, _, o)| o).filter(|o| o.found).collect();
    let share = |part: usize, whole: usize| (faulty && whole > 0).then(|| part as f64 / whole as f64);
    let mut seconds: Vec<f64> = found.iter().filter_map(|outcome| outcome.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Line {
        row: row.clone(),
        jobs: outcomes.len(),
        job_days: outcomes.iter().map(|(days, _, _)| days).sum(),
        recall: share(found.len(), outcomes.len()),
        right_suspect: share(found.iter().filter(|o| o.right_suspect).count(), found.len()),
        right_kind: share(found.iter().filter(|o| o.right_kind).count(), found.len()),
        seconds: seconds.last().map(|most| (seconds[seconds.len() / 2], *most)),
        further: found.iter().map(|outcome| outcome.further).sum(),
        false_alarms: outcomes.iter().map(|(_, _, outcome)| outcome.false_alarms.len()).sum(),
    }
}
