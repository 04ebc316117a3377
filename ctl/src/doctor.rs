//! `c4ctl doctor`: is this machine ready to be watched?
//!
//! Each check looks at one thing in the way a job or an agent would meet it, says what it found, and what to do if that is
//! not enough. It changes nothing. What cannot be looked at without running a job is not claimed.

use std::time::Duration;

use c4_proto::v1;
use serde_json::{Value, json};

use crate::{
    asked,
    cli::{Cli, Doctor},
    client::Client,
    clock,
    contexts::{self, Target},
    failure::{Exit, Failure},
    output::{Output, Style},
    words::{duration_us, printable},
};

mod cluster;
mod hardware;
mod libraries;
mod memory;

/// Clocks that are further apart make times in sentences misleading.
const APART_US: u64 = 2_000_000;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Good,
    Doubtful,
    Bad,
}

/// What came of a check.
#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    grade: Grade,
    found: String,
    /// What to do, where something is to be done.
    advice: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, grade: Grade::Good, found: found.into(), advice: None }
    }

    fn doubtful(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, grade: Grade::Doubtful, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, grade: Grade::Bad, found: found.into(), advice: Some(advice.into()) }
    }

    fn document(&self) -> Value {
        let grade = match self.grade {
            Grade::Good => "good",
            Grade::Doubtful => "doubtful",
            Grade::Bad => "bad",
        };
        json!({"check": self.name, "result": grade, "found": self.found, "advice": self.advice})
    }
}

/// Checks this machine. [`Exit::Found`] if something is wrong; what is only doubtful is none.
///
/// # Errors
/// When the answer cannot be written, or a setting is wrong.
pub fn run(cli: &Cli, args: &Doctor, out: &mut Output) -> Result<Exit, Failure> {
    let target = contexts::target(cli)?;
    let mut checks = Vec::new();
    if !args.cluster {
        checks.extend([libraries::plugin(args.plugin.as_deref()), libraries::nccl(args.nccl.as_deref())]);
        checks.extend(memory::recorders(&args.recorders));
        checks.extend([hardware::gpus(), hardware::nics(), hardware::kernel_log()]);
    }
    checks.extend(asked::runtime()?.block_on(reach(&target, args.cluster, asked::timeout(cli))));
    if cli.is_json() {
        let documents: Vec<Value> = checks.iter().map(Check::document).collect();
        out.json(&json!({"checks": documents}))?;
    } else {
        for check in &checks {
            print(check, out)?;
        }
    }
    out.flush()?;
    let is_bad = checks.iter().any(|check| check.grade == Grade::Bad);
    Ok(if is_bad { Exit::Found } else { Exit::Fine })
}

fn print(check: &Check, out: &mut Output) -> std::io::Result<()> {
    let (style, word) = match check.grade {
        Grade::Good => (Style::Good, "good    "),
        Grade::Doubtful => (Style::Doubtful, "doubtful"),
        Grade::Bad => (Style::Bad, "bad     "),
    };
    let word = out.paint(style, word);
    out.line(format!("{word}  {:<14}  {}", check.name, printable(&check.found)))?;
    match &check.advice {
        Some(advice) => out.line(format!("{:>26}{}", "→ ", printable(advice))),
        None => Ok(()),
    }
}

/// Whether the controller answers, knows an agent of this machine or, asked about the cluster, is well with all of them, and has the
/// same time.
async fn reach(target: &Target, cluster: bool, timeout: Duration) -> Vec<Check> {
    let began = clock::unix_us();
    let client = match Client::connect(&target.controller, &target.credentials, timeout).await {
        Ok(client) => client,
        Err(failure) => {
            return vec![Check::bad(
                "controller",
                failure.to_string(),
                "start c4-controller, or name the right one with --controller or a context",
            )];
        }
    };
    let mut calls = client.calls.clone();
    let status = match client.call(timeout, "", calls.get_status(v1::GetStatusRequest {})).await {
        Ok(status) => status,
        Err(failure) => {
            return vec![Check::bad("controller", failure.to_string(), "see the controller's log")];
        }
    };
    let took_us = clock::unix_us().saturating_sub(began);
    let (version, url) = (printable(&status.version), &client.url);
    let took = duration_us(took_us);
    let mut checks = vec![Check::good("controller", format!("{version} at {url} answers within {took}"))];
    if cluster {
        let mut calls = client.steering.clone();
        match client.call(timeout, "", calls.list_actions(v1::ListActionsRequest::default())).await {
            Ok(steering) => checks.extend(cluster::checks(&status, &steering)),
            Err(failure) => {
                checks.push(Check::bad("actions", failure.to_string(), "see the controller's log"));
            }
        }
    } else {
        checks.push(agent(&status));
    }
    checks.extend(clock_of(&client, timeout).await);
    checks
}

fn agent(status: &v1::Status) -> Check {
    let name = hardware::host_name();
    let short = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    match status.nodes.iter().find(|node| short(&node.name) == short(&name)) {
        Some(node) if node.connected => {
            let missing: Vec<&str> = node
                .sensors
                .iter()
                .filter(|sensor| !sensor.present)
                .map(|sensor| sensor.name.as_str())
                .collect();
            let seen = format!("agent {} of {name} is connected", node.agent_version);
            if missing.is_empty() {
                Check::good("agent", seen)
            } else {
                let advice = "`c4ctl status -o wide` says why sensors are missing";
                Check::doubtful("agent", format!("{seen}, without {}", missing.join(", ")), advice)
            }
        }
        Some(_) => Check::bad(
            "agent",
            format!("the agent of {name} is out of sight"),
            "see `systemctl status c4-agent`",
        ),
        None => Check::doubtful(
            "agent",
            format!("the controller knows no agent of {name}"),
            "start c4-agent here, or ignore this if it goes by another name (`node` in its configuration)",
        ),
    }
}

async fn clock_of(client: &Client, timeout: Duration) -> Option<Check> {
    let mut pictures = client.pictures.clone();
    let began = clock::unix_us();
    let picture =
        client.call(timeout, "", pictures.get_picture(v1::GetPictureRequest::default())).await.ok()?;
    let ended = clock::unix_us();
    let theirs = u64::try_from(picture.now_unix_us).ok()?;
    // It was read at some time between the two.
    let apart_us = began.saturating_sub(theirs).max(theirs.saturating_sub(ended));
    Some(if apart_us < APART_US {
        Check::good("clock", format!("differs from the controller's by less than {}", duration_us(APART_US)))
    } else {
        Check::doubtful(
            "clock",
            format!("differs from the controller's by {}", duration_us(apart_us)),
            "findings do not depend on clocks, but logs will not match their times: set up chrony or ntp",
        )
    })
}
