//! What one receiver has been told and has to be told.
//!
//! One entry for each finding, holding its newest form. A receiver that was down learns how things are, not
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

/// How a queue behaves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An open finding is told again after this time.
    pub repeat_us: Option<u64>,
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

/// One delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What to tell.
    pub notice: Notice,
    /// "opened", "updated", "cleared", or "repeated".
    pub event: &'static str,
    version: u64,
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
            entry.due = Some(now);
            return Offered::Queued;
        }
        if self.entries.len() >= self.limits.entries {
            return Offered::Full;
        }
        let entry = Entry { notice, version: 1, delivered: None, attempts: 0, due: Some(now) };
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
            Some((_, entry)) => Next::Deliver(Box::new(Delivery {
                notice: entry.notice.clone(),
                event: entry.event(),
                version: entry.version,
            })),
        }
    }

    /// The receiver has confirmed a delivery.
    pub fn delivered(&mut self, delivery: &Delivery, now: Timestamp) {
        let id = &delivery.notice.finding.id;
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.delivered = Some(delivery.version);
        entry.attempts = 0;
        if entry.version != delivery.version {
            return;
        }
        if delivery.notice.finding.cleared.is_some() {
            self.entries.remove(id);
        } else {
            entry.due = self.limits.repeat_us.map(|repeat_us| now.after(repeat_us));
        }
    }

    /// A delivery has failed. With `retry` it will be tried again, up to the limit. Returns true when it was given up.
    pub fn failed(&mut self, delivery: &Delivery, retry: bool, now: Timestamp) -> bool {
        let id = &delivery.notice.finding.id;
        let pause_us = self.pause_us(id);
        let Some(entry) = self.entries.get_mut(id) else { return false };
        if entry.version != delivery.version {
            return false;
        }
        entry.attempts += 1;
        if retry && entry.attempts < self.limits.attempts {
            entry.due = Some(now.after(pause_us));
            return false;
        }
        entry.attempts = 0;
        if entry.notice.finding.cleared.is_some() {
            self.entries.remove(id);
        } else {
            // Given up in this form. Where open findings are repeated, this one still is.
            entry.due = self.limits.repeat_us.map(|repeat_us| now.after(repeat_us.max(BACKOFF_MAX_US)));
        }
        true
    }

    /// Entries that wait to be delivered for the first time in their present form.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.due.is_some() && entry.delivered != Some(entry.version))
            .count()
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
