//! The rails: reasons not to act. All must be absent.

use std::fmt;

use c4_detect::{finding::Finding, observation::Timestamp};

use crate::config::{Mode, Steer as Config};

/// What the policy needs to know of a job besides its findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// Its newest incarnation.
    pub incarnation: u32,
    /// Whether an actuator can restart it; if not, why.
    pub supervised: Result<(), String>,
    /// What contradicts itself in what is told of it.
    pub conflict: Option<String>,
    /// Iteration of its newest checkpoint.
    pub checkpoint: Option<u64>,
}

/// What the policy remembers of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Restarts begun.
    pub restarts: u32,
    /// When the last one began.
    pub last: Option<Timestamp>,
    /// A restart is running.
    pub busy: bool,
    /// The present incarnation was already acted on, and that failed.
    pub failed_here: bool,
}

/// Why nothing is done about a finding for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A restart does not help against this kind.
    Kind,
    /// Not sure enough.
    Confidence,
    /// It speaks of an incarnation that is no more.
    Stale,
    /// The job is being restarted.
    Busy,
    /// The job's identity is in doubt.
    Conflict(String),
    /// A restart of this incarnation was tried and failed.
    Failed,
    /// Too many restarts.
    Limit(u32),
    /// The last restart was a moment ago.
    CoolDown,
    /// Nobody can restart this job.
    NoActuator(String),
    /// An operator has to say yes.
    Approval,
    /// Only watching.
    Observing,
}

impl Hold {
    /// Whether it is worth telling a person: the finding asks for an action, and this is why there is none.
    #[must_use]
    pub fn worth_saying(&self) -> bool {
        !matches!(self, Hold::Kind | Hold::Stale | Hold::Busy)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Kind => f.write_str("a restart does not help against this"),
            Hold::Confidence => f.write_str("the finding is not sure enough"),
            Hold::Stale => f.write_str("the finding is about an earlier incarnation"),
            Hold::Busy => f.write_str("a restart is already running"),
            Hold::Conflict(what) => write!(f, "the job's identity is in doubt: {what}"),
            Hold::Failed => f.write_str("restarting this incarnation has failed before; a person is needed"),
            Hold::Limit(limit) => {
                write!(f, "it was restarted {limit} times, which is the limit; a person is needed")
            }
            Hold::CoolDown => f.write_str("the last restart was a moment ago; waiting for the cool-down"),
            Hold::NoActuator(why) => f.write_str(why),
            Hold::Approval => f.write_str("mode approve: waiting for a yes, which nobody can give yet"),
            Hold::Observing => f.write_str("mode observe"),
        }
    }
}

/// The first reason not to restart the finding's job. The mode is looked at last, so that in mode observe only that
/// is called "would restart" which auto would restart.
#[must_use]
pub fn check(
    finding: &Finding,
    facts: &JobFacts,
    history: &History,
    config: &Config,
    now: Timestamp,
) -> Option<Hold> {
    let cooldown_us = (config.cooldown_seconds * 1e6) as u64;
    if !config.restart_on.contains(&finding.kind) {
        return Some(Hold::Kind);
    }
    if finding.incarnation != facts.incarnation {
        return Some(Hold::Stale);
    }
    if history.busy {
        return Some(Hold::Busy);
    }
    // A restart in place helps a job that stands still whoever is to blame; only to isolate somebody, that must be sure.
    let certainty = finding.certainty();
    if certainty.is_nan() || certainty < config.min_confidence {
        return Some(Hold::Confidence);
    }
    if let Some(conflict) = &facts.conflict {
        return Some(Hold::Conflict(conflict.clone()));
    }
    if history.failed_here {
        return Some(Hold::Failed);
    }
    if let Err(why) = &facts.supervised {
        return Some(Hold::NoActuator(why.clone()));
    }
    if history.restarts >= config.max_restarts {
        return Some(Hold::Limit(config.max_restarts));
    }
    if history.last.is_some_and(|last| now.micros_since(last) < cooldown_us) {
        return Some(Hold::CoolDown);
    }
    match config.mode {
        Mode::Observe => Some(Hold::Observing),
        Mode::Approve => Some(Hold::Approval),
        Mode::Auto => None,
    }
}
