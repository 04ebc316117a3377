//! Causes that findings are open about, and when it is time to look for further ones.

use std::collections::BTreeSet;

use super::{
    PATIENCE_ITERATIONS,
    loss::Pace,
    matrix::{Pair, ends},
};
use crate::{case::Slot, finding::Finding, model::Job, observation::Timestamp};

/// Links whose state is not known yet are waited for, so long or so many iterations; where the job is held up, whose iterations
/// are long by that, for so many iterations only. And until a whole iteration has gone by since, in which each link is used, if it
/// does not take too long.
const PATIENCE_US: u64 = 30_000_000;
const WHOLE: u64 = 2;
const WHOLE_US: u64 = 60_000_000;

/// Causes that findings are open about.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    pub(super) open: Vec<Incident>,
    pub(super) numbered: u64,
    /// Since when there are slow links, and how many iterations had ended by then; and when the latest was found.
    began: Option<(Timestamp, u64)>,
    news: Option<Timestamp>,
    untold: BTreeSet<Pair>,
}

#[derive(Debug)]
pub(super) struct Incident {
    pub(super) number: u64,
    pub(super) links: BTreeSet<Pair>,
}

impl Incidents {
    /// Whether it is time to look for causes: no further link has become slow for a moment.
    pub(super) fn settled(
        &mut self,
        slow: &BTreeSet<Pair>,
        settle_us: u64,
        ended: u64,
        now: Timestamp,
    ) -> bool {
        if !slow.is_subset(&self.untold) {
            self.news = Some(now);
        }
        if slow.is_empty() {
            self.began = None;
        } else {
            self.began.get_or_insert((now, ended));
        }
        self.untold.clone_from(slow);
        self.news.is_some_and(|news| now.micros_since(news) >= settle_us)
    }

    /// Whether links that are not known yet may be waited for.
    pub(super) fn may_wait(&self, pace: &Pace, holds_up: bool, now: Timestamp) -> bool {
        let Some((began, ended)) = self.began.filter(|_| self.open.is_empty()) else { return false };
        let least_us = if holds_up { 0 } else { PATIENCE_US };
        let in_first = pace.ended() < ended + WHOLE;
        let whole_us = if in_first { WHOLE_US } else { 0 };
        let patience_us = pace.now_us().saturating_mul(PATIENCE_ITERATIONS).max(least_us).max(whole_us);
        now.micros_since(began) < patience_us
    }
}

pub(super) fn clear_recovered(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    if job.network.incidents.open.is_empty() {
        return;
    }
    let slow: BTreeSet<Pair> = job.network.slow.iter().filter_map(|key| ends(job, key)).collect();
    let (open, over): (Vec<_>, Vec<_>) = std::mem::take(&mut job.network.incidents.open)
        .into_iter()
        .partition(|incident| incident.links.iter().any(|pair| slow.contains(pair)));
    job.network.incidents.open = open;
    for incident in over {
        job.cases.clear(&Slot::Network(incident.number), now, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{CommId, Iteration, ProcessId};

    #[test]
    fn links_that_are_not_known_are_waited_for_until_a_whole_iteration_has_gone_by() {
        let at = |seconds: u64| Timestamp(1_000_000_000_000 + seconds * 1_000_000);
        let mut pace = Pace::default();
        let ends = |pace: &mut Pace, times, seconds: u64| {
            let duration_ns = seconds * 1_000_000_000;
            let iteration = Iteration { first: 0, operations: 4, duration_ns, count: 1 };
            (0..times).for_each(|_| pace.take(CommId(1), &iteration, true, false, at(0)));
        };
        ends(&mut pace, 20, 3);
        let mut incidents = Incidents::default();
        let slow = BTreeSet::from([(ProcessId(1), ProcessId(2))]);
        assert!(!incidents.settled(&slow, 1_000_000, pace.ended(), at(0)));
        assert!(incidents.may_wait(&pace, true, at(19)), "no iteration has ended");
        assert!(!incidents.may_wait(&pace, true, at(60)), "but not for ever");
        ends(&mut pace, 1, 17);
        assert!(incidents.may_wait(&pace, true, at(30)), "it had begun before");
        ends(&mut pace, 1, 17);
        assert!(!incidents.may_wait(&pace, true, at(40)));
    }
}
