//! What C4 promises of its detector, and whether a table keeps it.
//!
//! A share passes if it is reached; its interval (Wilson, 95 %) says how far the number of jobs carries. A rate of false
//! alarms passes if it stays below its limit over enough job-days to tell; fewer of them decide nothing, unless they are
//! already too many.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::Serialize;

use super::{
    cases::Class,
    judge::Outcome,
    table::{Judged, Table},
};

/// Two-sided normal quantile of 95 %.
const QUANTILE: f64 = 1.96;
/// Iterations within which a straggler is to be found.
pub const IN_TIME: f64 = 10.0;
/// Job-days in which there may be less than one false alarm.
const DAYS_PER_ALARM: f64 = 30.0;

/// Whether a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Reached.
    Pass,
    /// Missed.
    Fail,
    /// Too little was simulated.
    Undecided,
}

/// One promise and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// In words.
    pub name: String,
    /// What is promised: a least share, or false alarms in a job-day, which must be fewer.
    pub wanted: f64,
    /// What was measured.
    pub measured: f64,
    /// Interval in which the true value lies with 95 % confidence.
    pub interval: (f64, f64),
    /// Jobs, or job-days.
    pub of: f64,
    /// Whether that is good enough.
    pub answer: Answer,
}

/// All targets for which something was simulated.
#[must_use]
pub fn targets(table: &Table) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |name: String, wanted: f64, judged: Vec<&Judged>, good: &dyn Fn(&Outcome) -> bool| {
        if !judged.is_empty() {
            let right = judged.iter().filter(|judged| good(&judged.outcome)).count();
            targets.push(share(name, wanted, right, judged.len()));
        }
    };
    let right = |outcome: &Outcome| outcome.is_right_suspect;
    add("right suspect, 1.3 x and more".into(), 0.995, of_class(table, Class::Straggler), &right);
    add("right suspect, 1.15 x or 1 in 10".into(), 0.95, of_class(table, Class::MildStraggler), &right);
    for class in [Class::Death, Class::Hang] {
        for fault in names(table, class) {
            let judged = of_fault(table, class, &fault);
            add(format!("right suspect, {fault}"), 0.995, judged, &right);
        }
    }
    add("right suspect, slow network".into(), 0.995, of_class(table, Class::SlowNetwork), &right);
    add("right, combined and unseen".into(), 0.995, of_class(table, Class::Combined), &right);
    let within_seconds = |limit: f64| move |o: &Outcome| o.seconds.is_some_and(|seconds| seconds <= limit);
    add("death within 1 s".into(), 0.995, of_class(table, Class::Death), &within_seconds(1.0));
    add("hang within 5 s".into(), 0.995, of_class(table, Class::Hang), &within_seconds(5.0));
    let in_time = |o: &Outcome| o.ended.is_some_and(|ended| ended as f64 <= IN_TIME);
    add("straggler within 10 iterations".into(), 0.995, of_class(table, Class::Straggler), &in_time);
    // The iterations of a job with a straggler are longer: so this asks for more, and for what cannot be where one
    // that is five times as slow makes two iterations as long as ten.
    let in_time = |o: &Outcome| o.iterations.is_some_and(|iterations| iterations <= IN_TIME);
    add("… in 10 of the length before".into(), 0.995, of_class(table, Class::Straggler), &in_time);
    let ended: Vec<&Judged> = table.rows.values().flatten().filter(|judged| has_ended(judged)).collect();
    let cleared = |o: &Outcome| o.clearing_seconds.is_some_and(f64::is_finite);
    add("cleared once it has ended".into(), 0.995, ended, &cleared);
    for (name, class) in [("healthy", Class::Healthy), ("unbalanced", Class::Unbalanced)] {
        let judged = of_class(table, class);
        if !judged.is_empty() {
            targets.push(alarms(format!("false alarms in a job-day, {name}"), &judged));
        }
    }
    targets
}

/// For a person.
#[must_use]
pub fn text(targets: &[Target]) -> String {
    let mut text = String::from("\ntargets\n");
    for target in targets {
        let is_rate = target.name.starts_with("false alarms");
        let figures = if is_rate {
            let (low, high) = target.interval;
            format!(
                "{:.4} of < {:.4}, 95 %: {low:.4} to {high:.4}, {:.1} job-days",
                target.measured, target.wanted, target.of
            )
        } else {
            let (low, high) = (100.0 * target.interval.0, 100.0 * target.interval.1);
            format!(
                "{:.2} % of {:.1} %, 95 %: {low:.2} to {high:.2}, {} jobs",
                100.0 * target.measured,
                100.0 * target.wanted,
                target.of
            )
        };
        let answer = match target.answer {
            Answer::Pass => "pass",
            Answer::Fail => "FAIL",
            Answer::Undecided => "undecided",
        };
        let _ = writeln!(text, "  {answer:<9} {:<36} {figures}", target.name);
    }
    text
}

fn has_ended(judged: &Judged) -> bool {
    judged.outcome.clearing_seconds.is_some()
}

fn of_class(table: &Table, class: Class) -> Vec<&Judged> {
    table.rows.iter().filter(|(row, _)| row.class == class).flat_map(|(_, judged)| judged).collect()
}

fn of_fault<'a>(table: &'a Table, class: Class, fault: &str) -> Vec<&'a Judged> {
    let rows = table.rows.iter().filter(|(row, _)| row.class == class && row.fault == fault);
    rows.flat_map(|(_, judged)| judged).collect()
}

fn names(table: &Table, class: Class) -> BTreeSet<String> {
    table.rows.keys().filter(|row| row.class == class).map(|row| row.fault.clone()).collect()
}

fn share(name: String, wanted: f64, right: usize, of: usize) -> Target {
    let measured = right as f64 / of as f64;
    let answer = if measured >= wanted { Answer::Pass } else { Answer::Fail };
    Target { name, wanted, measured, interval: wilson(right, of), of: of as f64, answer }
}

fn alarms(name: String, judged: &[&Judged]) -> Target {
    let days: f64 = judged.iter().map(|judged| judged.days).sum();
    let alarms = judged.iter().map(|judged| judged.outcome.false_alarms.len()).sum::<usize>() as f64;
    let (measured, wanted) = (alarms / days, 1.0 / DAYS_PER_ALARM);
    // A Poisson count n lies between (√n − z/2)² and (√(n+1) + z/2)², nearly.
    let low = (alarms.sqrt() - QUANTILE / 2.0).max(0.0).powi(2);
    let high = ((alarms + 1.0).sqrt() + QUANTILE / 2.0).powi(2);
    let answer = match (measured < wanted, days >= DAYS_PER_ALARM) {
        (true, true) => Answer::Pass,
        (true, false) => Answer::Undecided,
        // A single alarm in a short run may be that one in thirty days.
        (false, false) if alarms <= 1.0 => Answer::Undecided,
        (false, _) => Answer::Fail,
    };
    Target { name, wanted, measured, interval: (low / days, high / days), of: days, answer }
}

/// The interval of Wilson (1927) for a share of `of` trials.
fn wilson(right: usize, of: usize) -> (f64, f64) {
    let (n, p, z) = (of as f64, right as f64 / of as f64, QUANTILE);
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + z * z / n;
    (((centre - spread) / whole).max(0.0), ((centre + spread) / whole).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_books() {
        let (low, high) = wilson(8, 10);
        assert!((low - 0.4902).abs() < 1e-3 && (high - 0.9433).abs() < 1e-3, "{low} {high}");
        let (low, high) = wilson(200, 200);
        assert!((low - 0.9812).abs() < 1e-3 && high == 1.0, "{low} {high}");
    }

    #[test]
    fn a_share_fails_below_its_target_and_alarms_need_days_to_pass() {
        assert_eq!(share(String::new(), 0.995, 199, 200).answer, Answer::Pass);
        assert_eq!(share(String::new(), 0.995, 198, 200).answer, Answer::Fail);
        let judged = |days, alarms: usize| Judged {
            days,
            outcome: Outcome { false_alarms: vec![String::new(); alarms], ..Outcome::default() },
        };
        let answer = |judged: Judged| alarms(String::new(), &[&judged]).answer;
        assert_eq!(answer(judged(40.0, 0)), Answer::Pass);
        assert_eq!(answer(judged(40.0, 1)), Answer::Pass);
        assert_eq!(answer(judged(40.0, 2)), Answer::Fail);
        assert_eq!(answer(judged(1.0, 0)), Answer::Undecided);
        assert_eq!(answer(judged(1.0, 1)), Answer::Undecided);
        assert_eq!(answer(judged(1.0, 2)), Answer::Fail);
    }
}
