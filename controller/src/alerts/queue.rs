//! What one receiver has been told and has to be told.
//!
//! One entry for each finding, holding its newest form. What becomes known of one job within a moment is told together. A receiver that was down learns how things are, not
//! how they came about: forms that nobody could deliver are replaced by newer ones. The same form is not delivered
//! twice, except that an open finding is repeated where the receiver forgets ([`Limits::repeat_us`]).

use std::collections::BTreeMap;

use c4_detect::{finding::FindingId, observation::Timestamp};

use super::Notice;

#[cfg(test)]
mod tests;

/// First pause after a failure (0.5 s); it doubles with each further one.
const BACKOFF_US: u64 = 500_000;
/// Longest pause between attempts (2 min).
const BACKOFF_MAX_US: u64 = 120_000_000;

/// Longest pause that a receiver may ask for (10 min).
const AFTER_MAX_US: u64 = 600_000_000;

/// How a queue behaves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An open finding is told again after this time.
    pub repeat_us: Option<u64>,
    /// What is news waits so long for other news of its job…
    pub group_us: u64,
    /// … and so many findings are told together at most.
    pub together: usize,
    /// Attempts at one form of a finding.
    pub attempts: u32,
    /// Findings at most.
    pub entries: usize,
    /// Makes the jitter of different receivers differ.
    pub seed: u64,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Deliver this, then call [`Queue::delivered`] or [`Queue::failed`].
    Deliver(Box<Delivery>),
    /// Nothing before then.
    Wait(Timestamp),
    /// Nothing until another notice comes.
    Idle,
}

/// One delivery: findings of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What to tell, at least one.
    pub items: Vec<Item>,
}

/// One finding in a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What to tell.
    pub notice: Notice,
    /// "opened", "updated", "cleared", or "repeated".
    pub event: &'static str,
    version: u64,
}

impl Item {
    /// Something that is in no queue.
    #[must_use]
    pub fn loose(notice: Notice, event: &'static str) -> Self {
        Self { notice, event, version: 0 }
    }
}

/// What came of a delivery that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Whether it may pass if it is tried again.
    pub retry: bool,
    /// When the receiver wants to be asked again, in microseconds from now.
    pub after_us: Option<u64>,
}

/// What became of a notice that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It will be delivered.
    Queued,
    /// The receiver knows it.
    Known,
    /// There was no room.
    Full,
}

#[derive(Debug)]
struct Entry {
    notice: Notice,
    /// Grows with every form that has to be delivered.
    version: u64,
    delivered: Option<u64>,
    attempts: u32,
    due: Option<Timestamp>,
}

/// The machine.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    entries: BTreeMap<FindingId, Entry>,
    jitter: u64,
}

impl Queue {
    /// A queue whose receiver has been told nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: BTreeMap::new(), jitter: limits.seed }
    }

    /// A finding has taken this form.
    pub fn offer(&mut self, notice: Notice, now: Timestamp) -> Offered {
        let id = notice.finding.id.clone();
        if let Some(entry) = self.entries.get_mut(&id) {
            let same = form(&entry.notice) == form(&notice);
            entry.notice = notice;
            if same {
                return Offered::Known;
            }
            entry.version += 1;
            entry.attempts = 0;
            entry.due = Some(now.after(self.limits.group_us));
            return Offered::Queued;
        }
        if self.entries.len() >= self.limits.entries {
            return Offered::Full;
        }
        let due = Some(now.after(self.limits.group_us));
        let entry = Entry { notice, version: 1, delivered: None, attempts: 0, due };
        self.entries.insert(id, entry);
        Offered::Queued
    }

    /// What is to be done at `now`.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Next {
        let due =
            self.entries.values().filter_map(|entry| Some((entry.due?, entry))).min_by_key(|(due, _)| *due);
        match due {
            None => Next::Idle,
            Some((due, _)) if due > now => Next::Wait(due),
            Some((_, first)) => Next::Deliver(Box::new(self.together(first, now))),
        }
    }

    /// What is due, with whatever else of its job is due soon.
    fn together(&self, first: &Entry, now: Timestamp) -> Delivery {
        let soon = now.after(self.limits.group_us);
        let job = &first.notice.finding.job;
        let others = self.entries.values().filter(|entry| {
            entry.notice.finding.job == *job
                && entry.notice.finding.id != first.notice.finding.id
                && entry.due.is_some_and(|due| due <= soon)
        });
        let item = |entry: &Entry| Item {
            notice: entry.notice.clone(),
            event: entry.event(),
            version: entry.version,
        };
        let entries = std::iter::once(first).chain(others).take(self.limits.together.max(1));
        Delivery { items: entries.map(item).collect() }
    }

    /// The receiver has confirmed a delivery.
    pub fn delivered(&mut self, delivery: &Delivery, now: Timestamp) {
        for item in &delivery.items {
            let id = &item.notice.finding.id;
            let Some(entry) = self.entries.get_mut(id) else { continue };
            entry.delivered = Some(item.version);
            entry.attempts = 0;
            if entry.version != item.version {
                continue;
            }
            if item.notice.finding.cleared.is_some() {
                self.entries.remove(id);
            } else {
                entry.due = self.limits.repeat_us.map(|repeat_us| now.after(repeat_us));
            }
        }
    }

    /// A delivery has failed. It will be tried again where that may help, up to the limit. Returns what was given up.
    pub fn failed(&mut self, delivery: &Delivery, failed: Failed, now: Timestamp) -> Vec<FindingId> {
        let mut given_up = Vec::new();
        for item in &delivery.items {
            let id = &item.notice.finding.id;
            let pause_us = self.pause_us(id).max(failed.after_us.unwrap_or(0).min(AFTER_MAX_US));
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if entry.version != item.version {
                continue;
            }
            entry.attempts += 1;
            if failed.retry && entry.attempts < self.limits.attempts {
                entry.due = Some(now.after(pause_us));
                continue;
            }
            entry.attempts = 0;
            given_up.push(id.clone());
            if entry.notice.finding.cleared.is_some() {
                self.entries.remove(id);
            } else {
                // Given up in this form. Where open findings are repeated, this one still is.
                entry.due = self.limits.repeat_us.map(|repeat_us| now.after(repeat_us.max(BACKOFF_MAX_US)));
            }
        }
        given_up
    }

    /// Entries that wait to be delivered for the first time in their present form.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.due.is_some() && entry.delivered != Some(entry.version))
            .count()
    }

    /// Nothing waits for company any more.
    pub fn hurry(&mut self) {
        self.limits.group_us = 0;
        for entry in self.entries.values_mut().filter(|entry| entry.attempts == 0) {
            if entry.delivered != Some(entry.version) {
                entry.due = entry.due.map(|_| Timestamp(0));
            }
        }
    }

    /// Exponential, with a quarter of jitter either way, so that many findings do not come back in step.
    fn pause_us(&mut self, id: &FindingId) -> u64 {
        let attempts = self.entries.get(id).map_or(0, |entry| entry.attempts);
        let pause_us = BACKOFF_US.saturating_mul(1 << attempts.min(20)).min(BACKOFF_MAX_US);
        // SplitMix64: no more randomness is needed, and the same seed gives the same run.
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        pause_us - pause_us / 4 + z % (pause_us / 2)
    }
}

impl Entry {
    fn event(&self) -> &'static str {
        match (self.notice.finding.cleared, self.delivered) {
            (Some(_), _) => "cleared",
            (None, None) => "opened",
            (None, Some(version)) if version == self.version => "repeated",
            (None, Some(_)) => "updated",
        }
    }
}

/// What makes two notices tell the same: numbers in the evidence move all the time and are no news.
fn form(notice: &Notice) -> (bool, &str, &[String]) {
    (notice.finding.cleared.is_some(), &notice.finding.summary, &notice.actions)
}
