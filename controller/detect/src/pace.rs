//! How the iteration time of a job went: when it changed, and where the time went.
//!
//! All ranks of a job take the same time for an iteration, so one communicator is enough to watch: the largest that has
//! the whole iteration for its pattern. What grew is then read from all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::{
    change::{ChangePoint, Grown, Watch},
    distribution::Distribution,
    finding::{Finding, Kind},
    makeup::{PARTS, Shares},
    model::{Comms, Job},
    observation::{CommId, Iteration, Timestamp},
    series::{Point, Series},
    words,
};

/// Changes remembered; the oldest go first.
const HISTORY: usize = 32;
/// How long a change waits, after it was noticed, for what explains it: some sums of `makeup` on all communicators.
const EXPLAIN_US: u64 = 15_000_000;
/// The same in iterations.
const EXPLAIN_ITERATIONS: u64 = 20;
/// Parts named.
const MOST_GROWN: usize = 5;
/// Share of the change from which on a part is worth naming.
const WORTH: f64 = 0.1;
/// A finding that began so close to a change, in time and in iterations, is about the same.
const NEAR_US: u64 = 10_000_000;
const NEAR_ITERATIONS: u64 = 10;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    clock: Option<CommId>,
    /// Everything before this position was looked at.
    taken: u64,
    watch: Watch,
    /// All of them, in seconds.
    durations: Distribution,
    history: VecDeque<ChangePoint>,
    series: Series,
    /// When the newest change was noticed, while it is not explained.
    unexplained: Option<Timestamp>,
    untold: Vec<ChangePoint>,
    /// A change that findings were not told of yet.
    fresh: Option<ChangePoint>,
}

impl Pace {
    /// Which communicator's iterations count.
    pub(crate) fn set_clock(&mut self, clock: Option<CommId>) {
        if clock.is_some() && clock != self.clock {
            (self.clock, self.taken, self.watch) = (clock, 0, Watch::default());
        }
    }

    pub(crate) fn clock(&self) -> Option<CommId> {
        self.clock
    }

    /// How much iterations usually differ from each other, as a share.
    pub(crate) fn noise(&self) -> Option<f64> {
        self.watch.noise()
    }

    /// How long iterations took, in seconds.
    pub(crate) fn durations(&self) -> &Distribution {
        &self.durations
    }

    /// What changed so far, oldest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = &ChangePoint> {
        self.history.iter()
    }

    /// How long iterations took, in order.
    pub(crate) fn series(&self) -> Vec<Point> {
        self.series.points()
    }

    /// Changes that were not handed out yet.
    pub(crate) fn take_untold(&mut self) -> Vec<ChangePoint> {
        std::mem::take(&mut self.untold)
    }

    /// Takes in iterations that a member of the clock has ended in the window that closes `now`. Members tell the same
    /// iterations; whoever is first counts.
    pub(crate) fn take(&mut self, iterations: &[Iteration], now: Timestamp) {
        let length_us =
            |iteration: &Iteration| iteration.duration_ns.saturating_mul(iteration.count.into()) / 1_000;
        let mut left_us = iterations.iter().map(length_us).fold(0, u64::saturating_add);
        for iteration in iterations {
            let began = now.before(left_us);
            left_us = left_us.saturating_sub(length_us(iteration));
            let operations = u64::from(iteration.operations).saturating_mul(iteration.count.into());
            if iteration.first < self.taken || operations == 0 {
                continue;
            }
            self.taken = iteration.first.saturating_add(operations);
            self.durations.add(iteration.duration_ns as f64 / 1e9, iteration.count.into());
            self.series.push(began, iteration.duration_ns / 1_000, iteration.count.into());
            let change = self.watch.push(iteration.operations, iteration.duration_ns as f64 / 1e3, began);
            if let Some(change) = change {
                self.changed(change, now);
            }
        }
    }

    fn changed(&mut self, change: ChangePoint, now: Timestamp) {
        self.give_up();
        self.unexplained = Some(now);
        match self.history.back_mut() {
            // Growth that goes on is one change.
            Some(last) if last.gradual && change.gradual && grows(last) == grows(&change) => {
                *last = ChangePoint { at: last.at, before_us: last.before_us, ..change };
                self.unexplained = None;
            }
            _ => self.history.push_back(change),
        }
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// What the newest change came from stays unknown.
    fn give_up(&mut self) {
        if self.unexplained.take().is_some() {
            if self.untold.len() >= HISTORY {
                self.untold.remove(0);
            }
            self.untold.extend(self.history.back().cloned());
            self.fresh = self.history.back().cloned();
        }
    }

    /// Looks whether it can be said by now what grew.
    pub(crate) fn explain(&mut self, comms: &Comms, now: Timestamp) {
        let (Some(noticed), Some(change)) = (self.unexplained, self.history.back_mut()) else { return };
        let iteration_us = change.before_us.max(change.after_us);
        if now.micros_since(noticed) < EXPLAIN_US.max(iteration_us.saturating_mul(EXPLAIN_ITERATIONS)) {
            return;
        }
        change.grew = grown(change, self.clock, comms);
        self.give_up();
    }

    /// The change that something which began at `since` belongs to.
    pub(crate) fn near(&self, since: Timestamp) -> Option<&ChangePoint> {
        self.history.iter().rev().find(|change| is_near(change, since))
    }
}

fn grows(change: &ChangePoint) -> bool {
    change.after_us > change.before_us
}

fn is_near(change: &ChangePoint, since: Timestamp) -> bool {
    let apart = change.at.0.abs_diff(since.0);
    let near_us = change.before_us.max(change.after_us).saturating_mul(NEAR_ITERATIONS).max(NEAR_US);
    !change.gradual && apart <= near_us
}

/// Communicators of one name and size, added up.
#[derive(Default)]
struct Alike {
    number: u32,
    before: Shares,
    after: Shares,
    operations: BTreeSet<String>,
    has_clock: bool,
}

fn grown(change: &ChangePoint, clock: Option<CommId>, comms: &Comms) -> Vec<Grown> {
    let mut kinds: BTreeMap<(&str, u32), Alike> = BTreeMap::new();
    for comm in comms.values().filter(|comm| comm.size > 1) {
        let Some((before, after)) = comm.slowness.makeup.around(change.at) else { continue };
        let kind = kinds.entry((&comm.name, comm.size)).or_default();
        kind.number += 1;
        kind.before.iter_mut().zip(before).for_each(|(sum, share)| *sum += share);
        kind.after.iter_mut().zip(after).for_each(|(sum, share)| *sum += share);
        kind.operations.extend(comm.functions.iter().map(|function| function.to_string()));
        kind.has_clock |= clock == Some(comm.id);
    }
    let total = change.after_us as f64 - change.before_us as f64;
    let mut grown: Vec<(f64, Grown)> = Vec::new();
    for ((name, size), kind) in kinds {
        for (i, part) in PARTS.into_iter().enumerate() {
            // Time outside of all communication is the same whichever communicator it is seen from.
            let Some(part) = part.filter(|part| *part != crate::change::Part::Own || kind.has_clock) else {
                continue;
            };
            let us = |shares: &Shares, us: u64| shares[i] / f64::from(kind.number) * us as f64;
            let (before, after) = (us(&kind.before, change.before_us), us(&kind.after, change.after_us));
            let worth = (after - before) / total;
            if worth >= WORTH {
                let communicator =
                    if name.is_empty() { format!("communicators of {size}") } else { name.to_owned() };
                grown.push((
                    worth,
                    Grown {
                        communicator,
                        communicators: kind.number,
                        part,
                        operations: kind.operations.iter().cloned().collect(),
                        before_us: before.round() as u64,
                        after_us: after.round() as u64,
                    },
                ));
            }
        }
    }
    grown.sort_by(|a, b| b.0.total_cmp(&a.0));
    grown.into_iter().take(MOST_GROWN).map(|(_, grown)| grown).collect()
}

impl ChangePoint {
    /// One sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (before, after) = (words::duration(self.before_us), words::duration(self.after_us));
        let how = if self.gradual { "slowly " } else { "" };
        let verb = if grows(self) { "grew" } else { "fell" };
        let mut sentence = format!(
            "the iteration time {how}{verb} from {before} to {after} at {} UTC",
            words::clock(self.at)
        );
        let parts: Vec<String> = self.grew.iter().map(Grown::phrase).collect();
        if !parts.is_empty() {
            sentence = format!("{sentence}: {}", words::list(&parts, MOST_GROWN));
        }
        sentence
    }
}

impl Grown {
    /// "waiting in data from 3.0 ms to 40.0 ms".
    #[must_use]
    pub fn phrase(&self) -> String {
        let (before, after) = (words::duration(self.before_us), words::duration(self.after_us));
        let what = match self.part {
            crate::change::Part::Own => "time outside of communication".to_owned(),
            crate::change::Part::Waiting => format!("waiting for others in {}", self.communicator),
            crate::change::Part::Transfer => format!("transfers of {}", self.communicator),
        };
        format!("{what} {before} → {after}")
    }
}

/// The key of a change among the evidence of a finding.
pub(crate) const EVIDENCE: &str = "iteration_time_changed";

/// The change as evidence.
pub(crate) fn evidence(change: &ChangePoint) -> Value {
    json!({
        "at": words::rfc3339(change.at),
        "before_ms": change.before_us as f64 / 1e3,
        "after_ms": change.after_us as f64 / 1e3,
        "grew": change.grew.iter().map(Grown::phrase).collect::<Vec<_>>(),
    })
}

/// Adds a change that can be explained now to findings about slowness that began with it.
pub(crate) fn annotate(job: &mut Job, out: &mut Vec<Finding>) {
    let Some(change) = job.pace.fresh.take() else { return };
    let evidence = evidence(&change);
    job.cases.amend_where(out, |case| {
        let slowness =
            matches!(case.finding.kind, Kind::NonCommSlow | Kind::CommSlow | Kind::WorkloadImbalance);
        let new =
            slowness && is_near(&change, case.finding.since) && !case.finding.evidence.contains_key(EVIDENCE);
        if new {
            case.finding.evidence.insert(EVIDENCE.to_owned(), evidence.clone());
        }
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_that_several_members_tell_count_once() {
        let mut pace = Pace::default();
        pace.set_clock(Some(CommId(1)));
        let mut now = Timestamp(1_000_000_000);
        for n in 0..400_u64 {
            let ms = if n < 200 { 500 } else { 750 };
            now = now.after(ms * 1_000);
            let told = [Iteration { first: n * 4, operations: 4, duration_ns: ms * 1_000_000, count: 1 }];
            for _ in 0..8 {
                pace.take(&told, now);
            }
        }
        let history: Vec<&ChangePoint> = pace.history().collect();
        assert_eq!(history.len(), 1, "{history:?}");
        assert_eq!((history[0].before_us, history[0].after_us), (500_000, 750_000));
        assert_eq!(history[0].at, Timestamp(1_100_000_000));
        assert!(
            pace.near(Timestamp(1_102_000_000)).is_some() && pace.near(Timestamp(1_150_000_000)).is_none()
        );
        let sentence = history[0].sentence();
        assert!(sentence.starts_with("the iteration time grew from 500.0 ms to 750.0 ms at"), "{sentence}");
    }

    #[test]
    fn history_is_bounded() {
        let mut pace = Pace::default();
        for n in 0..1_000_u64 {
            let change = ChangePoint {
                at: Timestamp(n),
                before_us: 1,
                after_us: 2 + n % 2,
                gradual: false,
                grew: Vec::new(),
            };
            pace.changed(change, Timestamp(n));
        }
        assert_eq!(pace.history.len(), HISTORY);
        assert_eq!(pace.take_untold().len(), HISTORY);
    }
}
