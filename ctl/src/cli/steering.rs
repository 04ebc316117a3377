//! What operators see of actions and decide about them.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::Watch;

/// Commands about actions.
#[derive(Debug, Subcommand)]
pub enum Steer {
    /// Actions that wait or run, isolated nodes, modes; with --all also what has ended
    Actions {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
        /// Also actions that have ended
        #[arg(long)]
        all: bool,
    },
    /// Who or what did what, when, and why
    Audit {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
        /// Only the newest so many entries
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// What jobs have lost to faults, part by part, and how often they should leave checkpoints
    Ledger {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
        /// Only this job's
        job: Option<String>,
    },
    /// Tell of a checkpoint that a job has left, where it has no marker file: to be called by the job itself
    Checkpoint {
        /// The job
        job: String,
        /// The iteration to go on from
        iteration: u64,
        /// How long the checkpoint kept the job from its work
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        took: Option<Duration>,
    },
    /// What was saved of processes before they were ended, and where
    Evidence {
        /// Only this job's
        #[arg(long, value_name = "JOB")]
        job: Option<String>,
    },
    /// Say yes to a proposed action
    Approve {
        /// Its id, as `actions` prints it
        action: String,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Say no to a proposed action
    Reject {
        /// Its id, as `actions` prints it
        action: String,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Stop all actions, at once
    Pause {
        /// Why, for the others
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Let actions go on
    Resume {
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Keep new work away from a node
    Isolate {
        /// The node
        node: String,
        /// Why, for the others
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Give an isolated node back, once its checks pass
    Release {
        /// The node
        node: String,
        /// Whatever its checks would say: C4 then leaves the node alone until somebody isolates it again
        #[arg(long)]
        unchecked: bool,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
    /// Who decides about actions: for the cluster, or for a job, node or kind of finding
    Mode {
        /// Which mode
        mode: Mode,
        /// Only for this job
        #[arg(long, value_name = "JOB", group = "scope")]
        job: Option<String>,
        /// Only for this node
        #[arg(long, value_name = "NODE", group = "scope")]
        node: Option<String>,
        /// Only for findings of this kind, such as comm_hang
        #[arg(long, value_name = "KIND", group = "scope")]
        kind: Option<String>,
        /// Ends by itself after this time, such as 90s, 30m, 2h or 1d
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lasting: Option<u64>,
        /// How to decide
        #[command(flatten)]
        how: How,
    },
}

impl Steer {
    /// How often it is to be asked again.
    #[must_use]
    pub fn watch(&self) -> Option<u64> {
        match self {
            Steer::Actions { watch, .. } | Steer::Audit { watch, .. } | Steer::Ledger { watch, .. } => {
                watch.seconds
            }
            _ => None,
        }
    }
}

/// Options of every decision.
#[derive(Clone, Debug, Default, Args)]
pub struct How {
    /// Only say what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(long, short)]
    pub yes: bool,
    /// Who decides, for the audit trail
    #[arg(long, value_name = "NAME", env = "USER", default_value = "unknown")]
    pub by: String,
}

/// Modes, and the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Nothing is done; what would have been is said.
    Observe,
    /// Each action waits for a yes.
    Approve,
    /// What passes the rails is done.
    Auto,
    /// As configured again.
    Default,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number of seconds, such as 3.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// A time such as 30m, in microseconds.
fn duration(text: &str) -> Result<u64, String> {
    let expected = || "expected a time such as 90s, 30m, 2h or 1d".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    match number.checked_mul(seconds * 1_000_000) {
        Some(us) if us > 0 => Ok(us),
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(90_000_000));
        assert_eq!(duration("2h"), Ok(7_200_000_000));
        for bad in ["", "s", "0s", "5", "5 m", "-1h", "5µ", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
