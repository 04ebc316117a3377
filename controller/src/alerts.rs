//! Telling people and machines about findings.
//!
//! Each receiver has a task of its own with a [`queue::Queue`], a pure machine that knows what the receiver has been
//! told, what it has to be told next, and when to try again. A receiver that is down, slow or talks rubbish delays
//! nobody but itself, and nothing is told twice that it has confirmed. Notices reach the task through a channel
//! (depth 1024); what finds no room is counted as `dropped`.
//!
//! Secrets (addresses that are one, keys, tokens) are in files of their own and never in the configuration.

pub mod alertmanager;
pub mod driver;
pub mod pagerduty;
pub mod queue;
pub mod secret;
pub mod service;
pub mod slack;
pub mod test;
pub mod webhook;

use c4_detect::{
    finding::{Finding, Kind},
    observation::Timestamp,
};
use jiff::Timestamp as Moment;

/// A finding as it is now, with what was done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The finding.
    pub finding: Finding,
    /// What was done or would have been done about it, in sentences.
    pub actions: Vec<String>,
}

impl Notice {
    /// The sentence for 3 a.m., with what was done about it.
    #[must_use]
    pub fn sentence(&self) -> String {
        sentence(&self.finding.summary, &self.actions)
    }

    /// `critical`: a job makes no progress; `warning`: it is slow, or will be; `info`: it could be faster.
    #[must_use]
    pub fn severity(&self) -> &'static str {
        match self.finding.kind {
            Kind::ProcessDeath | Kind::NonCommHang | Kind::CommHang | Kind::Desync => "critical",
            Kind::NonCommSlow | Kind::CommSlow | Kind::Health | Kind::PathFault => "warning",
            Kind::WorkloadImbalance => "info",
        }
    }
}

/// A summary, followed by the newest thing done about it.
#[must_use]
pub fn sentence(summary: &str, actions: &[String]) -> String {
    match actions.last() {
        Some(last) => format!("{}; {last}", summary.trim_end_matches('.')),
        None => summary.to_owned(),
    }
}

/// A moment as RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let micros = i64::try_from(at.0).unwrap_or(i64::MAX);
    let moment = Moment::from_microsecond(micros).unwrap_or(Moment::MAX);
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_with_what_was_done() {
        assert_eq!(sentence("rank 3 died.", &[]), "rank 3 died.");
        let actions = ["restarting".to_owned(), "job restarted".to_owned()];
        assert_eq!(sentence("rank 3 died.", &actions), "rank 3 died; job restarted");
    }

    #[test]
    fn moments_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(Timestamp(1_700_000_000_123_456)), "2023-11-14T22:13:20.123Z");
        assert!(rfc3339(Timestamp(u64::MAX)).starts_with("9999"));
    }
}
