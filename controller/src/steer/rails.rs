//! The rails: reasons not to act. All must be absent.

use std::{collections::BTreeSet, fmt};

use c4_detect::{
    finding::Finding,
    observation::{JobId, NodeName, Timestamp},
};

use super::placement::Layout;
use crate::config::{Maintenance, Mode, Steer as Config};

/// So many jobs may always be restarted within an hour.
const LEAST_JOBS: u32 = 3;

/// How a job can be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// Agents supervise its process groups.
    Agents(Layout),
    /// A scheduler runs it and finds it other nodes: its name.
    Scheduler(&'static str),
}

/// What the policy needs to know of a job besides its findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// Its newest incarnation.
    pub incarnation: u32,
    /// How it can be restarted; if it cannot, why.
    pub means: Result<Means, String>,
    /// What contradicts itself in what is told of it.
    pub conflict: Option<String>,
    /// Iteration of its newest checkpoint.
    pub checkpoint: Option<u64>,
    /// Why it wants to be left alone, if it does.
    pub opted_out: Option<String>,
}

/// What the policy remembers of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Restarts begun.
    pub restarts: u32,
    /// When the last one began.
    pub last: Option<Timestamp>,
    /// When an action on the present incarnation failed.
    pub failed_here: Option<Timestamp>,
}

/// What holds for everybody now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// An operator has paused everything: who.
    pub paused: Option<String>,
    /// The circuit breaker is open: why.
    pub breaker: Option<String>,
    /// The controller has only just started.
    pub settling: bool,
}

/// Why nothing is done about a finding for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing that can be done helps against this kind.
    Kind,
    /// Not sure enough.
    Confidence,
    /// It speaks of an incarnation that is no more.
    Stale,
    /// Something is being done already.
    Busy,
    /// The job's identity is in doubt.
    Conflict(String),
    /// A restart of this incarnation was tried and failed.
    Failed,
    /// Taking the node away for this finding was tried and failed.
    NodeFailed,
    /// The fault follows the job: how that shows.
    JobsOwn(String),
    /// Too many restarts.
    Limit(u32),
    /// The last restart was a moment ago.
    CoolDown,
    /// Too many restarts of all jobs together.
    Budget(String),
    /// Nobody can restart this job.
    NoActuator(String),
    /// The job or node wants to be left alone.
    OptedOut(String),
    /// It is being worked on: until when.
    Maintenance(String),
    /// The controller has only just started.
    Settling,
    /// The circuit breaker is open.
    Breaker(String),
    /// An operator has paused everything.
    Paused(String),
    /// An operator has said no.
    Rejected(String),
    /// A rail for nodes.
    Node(String),
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
            Hold::NodeFailed => f.write_str("that has failed before; a person is needed"),
            Hold::JobsOwn(how) => write!(f, "the fault follows the job ({how}); a person is needed"),
            Hold::Limit(limit) => {
                write!(f, "it was restarted {limit} times, which is the limit; a person is needed")
            }
            Hold::CoolDown => f.write_str("the last restart was a moment ago; waiting for the cool-down"),
            Hold::Budget(spent) => {
                write!(f, "C4 has restarted {spent} within an hour, and may no more; a person is needed")
            }
            Hold::NoActuator(why) | Hold::Node(why) => f.write_str(why),
            Hold::OptedOut(why) => write!(f, "it is to be left alone ({why})"),
            Hold::Maintenance(until) => write!(f, "it is in maintenance until {until}"),
            Hold::Settling => f.write_str("the controller has only just started; waiting for its agents"),
            Hold::Breaker(why) => write!(f, "the circuit breaker is open ({why})"),
            Hold::Paused(by) => write!(f, "all actions are paused by {by}"),
            Hold::Rejected(by) => write!(f, "{by} has said no"),
            Hold::Observing => f.write_str("mode observe"),
        }
    }
}

/// The first reason not to restart the finding's job, whoever decides.
#[must_use]
pub fn check(
    finding: &Finding,
    facts: &JobFacts,
    history: &History,
    weather: &Weather,
    config: &Config,
    now: Timestamp,
) -> Option<Hold> {
    let us = |seconds: f64| (seconds * 1e6) as u64;
    if !config.restart_on.contains(&finding.kind) {
        return Some(Hold::Kind);
    }
    if finding.incarnation != facts.incarnation {
        return Some(Hold::Stale);
    }
    // A restart in place helps a job that stands still whoever is to blame; only to isolate somebody, that must be sure.
    let certainty = finding.certainty();
    if certainty.is_nan() || certainty < config.min_confidence {
        return Some(Hold::Confidence);
    }
    if let Some(conflict) = &facts.conflict {
        return Some(Hold::Conflict(conflict.clone()));
    }
    if history.failed_here.is_some_and(|at| now.micros_since(at) < us(config.watch_seconds)) {
        return Some(Hold::Failed);
    }
    if let Err(why) = &facts.means {
        return Some(Hold::NoActuator(why.clone()));
    }
    if let Some(why) = &facts.opted_out {
        return Some(Hold::OptedOut(why.clone()));
    }
    if let Some(until) = maintenance(config, Some(&finding.job), None, now) {
        return Some(Hold::Maintenance(until));
    }
    if history.restarts >= config.max_restarts {
        return Some(Hold::Limit(config.max_restarts));
    }
    if history.last.is_some_and(|last| now.micros_since(last) < us(config.cooldown_seconds)) {
        return Some(Hold::CoolDown);
    }
    storm(weather)
}

/// The first reason to do nothing to anybody.
#[must_use]
pub fn storm(weather: &Weather) -> Option<Hold> {
    if weather.settling {
        return Some(Hold::Settling);
    }
    if let Some(why) = &weather.breaker {
        return Some(Hold::Breaker(why.clone()));
    }
    weather.paused.clone().map(Hold::Paused)
}

/// Until when a job or node is in maintenance, in words; none if it is not.
#[must_use]
pub fn maintenance(
    config: &Config,
    job: Option<&JobId>,
    node: Option<&NodeName>,
    now: Timestamp,
) -> Option<String> {
    let concerns = |window: &&Maintenance| {
        let everybody = window.jobs.is_empty() && window.nodes.is_empty();
        everybody
            || job.is_some_and(|job| window.jobs.contains(&job.0))
            || node.is_some_and(|node| window.nodes.contains(&node.0))
    };
    let window = config.maintenance.iter().filter(concerns).find(|window| window.contains(now))?;
    window.until.map(|until| until.to_string())
}

/// How many nodes may be out by our doing at once and within an hour, of so many.
#[must_use]
pub fn node_budget(config: &Config, nodes: u32) -> u32 {
    let share = (f64::from(nodes) * config.nodes_share).floor() as u32;
    config.nodes_per_hour.min(share.max(1))
}

/// How many jobs, of so many, may be restarted within an hour without a person.
#[must_use]
pub fn job_budget(config: &Config, jobs: u32) -> u32 {
    let share = (f64::from(jobs) * config.jobs_share).floor() as u32;
    share.max(LEAST_JOBS)
}

/// Whether one more restart is too many after those of the last hour, each with its job: by what, if so.
#[must_use]
pub fn restarts_spent(config: &Config, jobs: u32, recent: &[&JobId], job: &JobId) -> Option<Hold> {
    if recent.len() >= config.restarts_per_hour as usize {
        return Some(Hold::Budget(format!("jobs {} times", recent.len())));
    }
    let different: BTreeSet<&JobId> = recent.iter().copied().filter(|other| *other != job).collect();
    let spent = different.len() >= job_budget(config, jobs) as usize;
    spent.then(|| Hold::Budget(format!("{} other jobs", different.len())))
}

/// What a mode makes of something that nothing else speaks against.
#[must_use]
pub fn mode(mode: Mode) -> Option<Hold> {
    (mode == Mode::Observe).then_some(Hold::Observing)
}
