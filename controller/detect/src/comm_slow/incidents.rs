//! Causes that findings are open about, and when it is time to look for further ones.

use std::collections::BTreeSet;

use super::{
    PATIENCE_ITERATIONS,
    matrix::{Pair, ends},
};
use crate::{case::Slot, finding::Finding, model::Job, observation::Timestamp};

/// Links whose state is not known yet are waited for, so long or so many iterations; where the job is held up, whose iterations
/// are long by that, for so many iterations only.
const PATIENCE_US: u64 = 30_000_000;

/// Causes that findings are open about.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    pub(super) open: Vec<Incident>,
    pub(super) numbered: u64,
    /// Since when there are slow links, and when the latest was found.
    began: Option<Timestamp>,
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
    pub(super) fn settled(&mut self, slow: &BTreeSet<Pair>, settle_us: u64, now: Timestamp) -> bool {
        if !slow.is_subset(&self.untold) {
            self.news = Some(now);
        }
        if slow.is_empty() {
            self.began = None;
        } else {
            self.began.get_or_insert(now);
        }
        self.untold.clone_from(slow);
        self.news.is_some_and(|news| now.micros_since(news) >= settle_us)
    }

    /// Whether links that are not known yet may be waited for.
    pub(super) fn may_wait(&self, iteration_us: u64, holds_up: bool, now: Timestamp) -> bool {
        let least_us = if holds_up { 0 } else { PATIENCE_US };
        let patience_us = least_us.max(iteration_us.saturating_mul(PATIENCE_ITERATIONS));
        self.open.is_empty() && self.began.is_some_and(|began| now.micros_since(began) < patience_us)
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
