//! Runs one case through the detector and judges what it says.

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind, Suspect, Verdict},
    observation::Timestamp,
};

use super::cases::{Case, Class, Expected, Truth};
use crate::simulator::telemetry::{EPOCH_US, History, Telemetry};

/// How long after an agent is lost, or is back, the job's verdict must follow.
const VERDICT_DELAY_US: u64 = 15_000_000;
/// Findings that follow on the first one in a job that stands still are waited for so long.
const AFTERMATH_NS: u64 = 20_000_000_000;
/// How often is looked whether a case is over.
const STRIDE_NS: u64 = 10_000_000_000;
/// Iterations before a fault from which the usual length of one is taken.
const USUAL: usize = 21;

/// How a case went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Something was said after the fault began.
    pub is_found: bool,
    /// Its kind was right.
    pub is_right_kind: bool,
    /// Its first suspect was right, and every fault that had to be named was.
    pub is_right_suspect: bool,
    /// Simulated seconds from the fault to the first finding; for a job that stands still, from the moment the first rank
    /// waited in vain: a process that hangs while nobody needs it hurts nobody yet.
    pub seconds: Option<f64>,
    /// The same in iterations, from the fault, as long as they were before it.
    pub iterations: Option<f64>,
    /// Iterations that the job ended from the fault to the first finding, however long these took.
    pub ended: Option<usize>,
    /// Seconds from the end of a fault to that of its finding; infinite if it was not taken back.
    pub clearing_seconds: Option<f64>,
    /// All accusations, and those of them whose first suspect was right: a workload imbalance accuses nobody.
    pub accusations: usize,
    /// See `accusations`.
    pub right_accusations: usize,
    /// Accusations in a sound job, or before the fault.
    pub false_alarms: Vec<String>,
    /// Findings opened after the first one in a faulty job: symptoms that were not recognised as such.
    pub further: usize,
    /// What the first finding said, for a person who asks why.
    pub said: Option<String>,
    /// All that was said and taken back, with simulated seconds and the evidence, for the same person.
    pub log: Vec<String>,
    /// Observations that the detector was given.
    pub observations: u64,
}

/// A finding as it was when it was opened, whom it named later, and when it was taken back.
struct Said {
    finding: Finding,
    later: Vec<Suspect>,
    cleared: Option<Timestamp>,
}

/// Runs a case.
#[must_use]
pub fn judge(case: &Case) -> Outcome {
    let mut detector = Detector::new(Config::default());
    let mut said: Vec<Said> = Vec::new();
    let mut probes = Probes::new(&case.expected);
    let mut telemetry = Telemetry::new(case.spec.clone());
    let wishes = telemetry.wishes();
    let (mut until_ns, mut observations) = (0, 0);
    while until_ns < case.length_ns && !is_over(case, &said, until_ns) {
        until_ns = (until_ns + STRIDE_NS).min(case.length_ns);
        telemetry.run(until_ns, |now, observation| {
            observations += 1;
            for finding in detector.observe(observation, now) {
                match said.iter_mut().find(|known| known.finding.id == finding.id) {
                    Some(known) => {
                        known.cleared = finding.cleared;
                        known.later.extend(finding.suspects);
                    }
                    None => said.push(Said { cleared: finding.cleared, later: Vec::new(), finding }),
                }
            }
            wishes.borrow_mut().extend(detector.wishes());
            probes.look(&detector, now);
        });
    }
    let outcome = match &case.expected {
        Expected::Silence => of_sound(&said),
        Expected::Faults(truths) => of_faults(&said, truths, telemetry.history()),
        Expected::Unknown { truth, from_ns, .. } => {
            of_unseen(&said, truth.as_ref(), EPOCH_US + from_ns / 1000, &probes)
        }
    };
    Outcome { observations, log: said.iter().map(line).collect(), ..outcome }
}

/// A finding, as it was when it was opened.
fn line(said: &Said) -> String {
    let Said { finding, cleared, .. } = said;
    let at = |time: Timestamp| (time.0 as f64 - EPOCH_US as f64) / 1e6;
    let until = cleared.map_or_else(String::new, |cleared| format!(" to {:.1} s", at(cleared)));
    let evidence = serde_json::to_string(&finding.evidence).unwrap_or_default();
    format!("{:.1} s{until}: {}: {} {evidence}", at(finding.detected), finding.kind.name(), finding.summary)
}

/// Whether a job that stands still has been diagnosed, and watched for a while after that: nothing more happens in it.
fn is_over(case: &Case, said: &[Said], until_ns: u64) -> bool {
    let (Class::Death | Class::Hang, Expected::Faults(truths)) = (case.row.class, &case.expected) else {
        return false;
    };
    let fault_ns = truths.iter().map(|truth| truth.start_ns).min().unwrap_or(0);
    let enough_us = EPOCH_US + until_ns.saturating_sub(AFTERMATH_NS) / 1000;
    said.iter().any(|said| {
        (EPOCH_US + fault_ns / 1000..enough_us).contains(&said.finding.detected.0) && accuses(said)
    })
}

fn accuses(said: &Said) -> bool {
    said.finding.kind != Kind::WorkloadImbalance
}

fn words<'a>(said: impl Iterator<Item = &'a Said>) -> Vec<String> {
    said.filter(|said| accuses(said)).map(|said| said.finding.summary.clone()).collect()
}

fn of_sound(said: &[Said]) -> Outcome {
    let imbalance = said.iter().any(|said| said.finding.kind == Kind::WorkloadImbalance);
    let false_alarms = words(said.iter());
    Outcome { is_found: imbalance, accusations: false_alarms.len(), false_alarms, ..Outcome::default() }
}

fn of_faults(said: &[Said], truths: &[Truth], history: &History) -> Outcome {
    let Some(fault_ns) = truths.iter().map(|truth| truth.start_ns).min() else { return of_sound(said) };
    let fault_us = EPOCH_US + fault_ns / 1000;
    let (before, after): (Vec<&Said>, Vec<&Said>) =
        said.iter().partition(|said| said.finding.detected.0 < fault_us);
    let mut outcome = Outcome {
        false_alarms: words(before.into_iter()),
        accusations: said.iter().filter(|said| accuses(said)).count(),
        right_accusations: after.iter().filter(|said| accuses(said) && is_any(said, truths)).count(),
        ..Outcome::default()
    };
    let Some(first) = after.first() else { return outcome };
    outcome.is_found = true;
    outcome.said = Some(format!("{}: {}", first.finding.kind.name(), first.finding.summary));
    outcome.further = after.len() - 1;
    let matching = |truth: &&Truth| is_first(&first.finding, truth);
    let truth = truths.iter().find(matching);
    outcome.is_right_kind = truth.unwrap_or(&truths[0]).kinds.contains(&first.finding.kind);
    let all_named = truths.iter().filter(|truth| truth.is_required).all(|truth| is_named(&after, truth));
    outcome.is_right_suspect = truth.is_some() && all_named;
    let detected_us = first.finding.detected.0;
    let since_ns = history.stalled_ns.map_or(fault_ns, |stalled| stalled.max(fault_ns));
    let since_us = EPOCH_US + since_ns / 1000;
    let dies = truth.is_some_and(|truth| truth.kinds.contains(&Kind::ProcessDeath));
    let from_us = if dies { fault_us } else { since_us };
    outcome.seconds = Some((detected_us as f64 - from_us as f64).max(0.0) / 1e6);
    outcome.iterations = usual_iteration_ns(history, fault_ns)
        .map(|iteration_ns| (detected_us - fault_us) as f64 * 1e3 / iteration_ns as f64);
    let ended = |end: &&u64| (fault_us..=detected_us).contains(&(EPOCH_US + **end / 1000));
    outcome.ended = Some(history.iteration_ends_ns.iter().filter(ended).count());
    outcome.clearing_seconds = truth.and_then(|truth| truth.end_ns).map(|end_ns| {
        let end_us = EPOCH_US + end_ns / 1000;
        first.cleared.map_or(f64::INFINITY, |cleared| (cleared.0 as f64 - end_us as f64) / 1e6)
    });
    outcome
}

/// A job of which part is out of sight: no accusation but the right one, and a verdict that says what is missing.
fn of_unseen(said: &[Said], truth: Option<&Truth>, from_us: u64, probes: &Probes) -> Outcome {
    let right = |said: &&Said| truth.is_some_and(|truth| is_first(&said.finding, truth));
    let is_wrong = |said: &&Said| accuses(said) && !right(said);
    let is_misled = said.iter().filter(is_wrong).any(|said| said.finding.detected.0 >= from_us);
    let wrong = words(said.iter().filter(is_wrong));
    let is_named = said.iter().any(|said| right(&said));
    let is_unknown = probes.all_right || is_named;
    Outcome {
        is_found: is_unknown,
        is_right_kind: is_unknown,
        is_right_suspect: is_unknown && !is_misled,
        accusations: said.iter().filter(|said| accuses(said)).count(),
        right_accusations: said.iter().filter(right).count(),
        said: said.first().map(|said| said.finding.summary.clone()),
        false_alarms: wrong,
        ..Outcome::default()
    }
}

fn is_first(finding: &Finding, truth: &Truth) -> bool {
    finding.suspects.first().is_some_and(|suspect| match (suspect.rank, &suspect.node) {
        (Some(rank), _) => truth.ranks.contains(&rank),
        (None, Some(node)) => truth.nodes.contains(&node.0),
        (None, None) => false,
    })
}

fn is_any(said: &Said, truths: &[Truth]) -> bool {
    truths.iter().any(|truth| is_first(&said.finding, truth))
}

/// Whether a finding of the right kind has the rank among its suspects, or came to have it: ranks of one node share one.
fn is_named(said: &[&Said], truth: &Truth) -> bool {
    said.iter().any(|said| {
        let named = |suspect: &Suspect| match (suspect.rank, &suspect.node) {
            (Some(rank), _) => truth.ranks.contains(&rank),
            (None, node) => node.as_ref().is_some_and(|node| truth.nodes.contains(&node.0)),
        };
        truth.kinds.contains(&said.finding.kind) && said.finding.suspects.iter().chain(&said.later).any(named)
    })
}

/// The median length of the iterations before a fault.
fn usual_iteration_ns(history: &History, fault_ns: u64) -> Option<u64> {
    let ends = &history.iteration_ends_ns;
    let until = ends.partition_point(|end| *end <= fault_ns);
    let ends = &ends[until.saturating_sub(USUAL)..until];
    let mut lengths: Vec<u64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().filter(|length| *length > 0)
}

/// Looks at the job's verdict at the moments at which it must, or must not, be unknown.
struct Probes {
    /// When, and whether it must be unknown then.
    due: Vec<(u64, bool)>,
    all_right: bool,
}

impl Probes {
    fn new(expected: &Expected) -> Self {
        let at_us = |ns: u64| EPOCH_US + ns / 1000 + VERDICT_DELAY_US;
        let due = match expected {
            Expected::Unknown { from_ns, until_ns, .. } => {
                let back = until_ns.map(|until_ns| (at_us(until_ns), false));
                std::iter::once((at_us(*from_ns), true)).chain(back).collect()
            }
            _ => Vec::new(),
        };
        Self { due, all_right: true }
    }

    fn look(&mut self, detector: &Detector, now: Timestamp) {
        let Some(&(at_us, must_be_unknown)) = self.due.first() else { return };
        if now.0 < at_us {
            return;
        }
        self.due.remove(0);
        let jobs = detector.jobs();
        let is_unknown = jobs.iter().any(|job| matches!(job.verdict, Verdict::Unknown { .. }));
        self.all_right &= is_unknown == must_be_unknown;
    }
}
