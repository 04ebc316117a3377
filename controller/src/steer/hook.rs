//! The exec hook: a program for what C4 cannot do itself, such as filing a ticket.
//!
//! It gets one JSON document on standard input and answers by its exit code: 0, done; 75 (`EX_TEMPFAIL`), to be tried
//! again; anything else, failed. What it says is kept: the first line of standard output as what it did, the last
//! lines of standard error as why it failed. It may be run twice for one action, so it should look for the action's
//! id before it does anything. A run that takes too long is killed, with everything it has started.

use std::{io, process::Stdio, time::Duration};

use c4_detect::words::rfc3339;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::{
    action::Order,
    actuator::{Actuator, ActuatorError, Answer},
};
use crate::config::Hook as Config;

#[cfg(test)]
mod tests;

/// Output that is looked at.
const MAX_OUTPUT: u64 = 16 * 1024;
/// Lines of it that are kept.
const KEPT_BYTES: usize = 300;

/// See the module.
#[derive(Clone, Debug)]
pub struct HookActuator {
    config: Config,
}

impl HookActuator {
    /// An actuator that runs a configured program.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    async fn work(&self, order: &Order) -> Result<String, ActuatorError> {
        let Some((program, arguments)) = self.config.command.split_first() else {
            return Err(ActuatorError("no hook is configured".into()));
        };
        let failed = |what: String| ActuatorError(format!("hook {program}: {what}"));
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that nothing it starts outlives its time.
        let child = command.process_group(0).spawn().map_err(|error| failed(error.to_string()))?;
        let running = Running(child);
        let limit = Duration::from_secs_f64(self.config.timeout_seconds);
        match timeout(limit, run(running, document(order).to_string())).await {
            Err(_) => Err(failed(format!("took longer than {:.0} s and was killed", limit.as_secs_f64()))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok((Some(0), said, _))) => Ok(said.lines().next().map(shortened).unwrap_or_default()),
            Ok(Ok((code, _, complained))) => {
                let ended = match code {
                    Some(75) => "is not possible now (exit code 75)".to_owned(),
                    Some(code) => format!("exit code {code}"),
                    None => "ended by a signal".to_owned(),
                };
                let why = complained.trim().lines().next_back().map(shortened).unwrap_or_default();
                Err(failed(if why.is_empty() { ended } else { format!("{ended}: {why}") }))
            }
        }
    }
}

impl Actuator for HookActuator {
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a> {
        Box::pin(self.work(order))
    }
}

/// A run; dropping it kills it with everything it has started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn run(mut running: Running, document: String) -> io::Result<(Option<i32>, String, String)> {
    let child = &mut running.0;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not want to read has its reasons.
            let _ = stdin.write_all(document.as_bytes()).await;
        }
    };
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let hear = async {
        match stdout {
            Some(stdout) => drain(stdout, &mut said).await,
            None => Ok(()),
        }
    };
    let mind = async {
        match stderr {
            Some(stderr) => drain(stderr, &mut complained).await,
            None => Ok(()),
        }
    };
    let ((), heard, minded) = tokio::join!(feed, hear, mind);
    heard.and(minded)?;
    let status = child.wait().await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code(), text(said), text(complained)))
}

/// Reads to the end, and keeps the beginning.
async fn drain(mut from: impl tokio::io::AsyncRead + Unpin, kept: &mut Vec<u8>) -> io::Result<()> {
    (&mut from).take(MAX_OUTPUT).read_to_end(kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(())
}

fn shortened(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(KEPT_BYTES).collect()
}

/// What the program is told.
#[must_use]
pub fn document(order: &Order) -> Value {
    let action = &order.action;
    json!({
        "version": 1,
        "event": order.step.name(),
        "action": action.id.0,
        "attempt": action.attempt,
        "nodes": action.deed.nodes().iter().map(|node| &node.0).collect::<Vec<_>>(),
        "job": action.job.as_ref().map(|job| &job.0),
        "finding": action.finding.as_ref().map(|finding| &finding.0),
        "kind": action.kind.map(|kind| kind.name()),
        "because": action.because,
        "by": action.by,
        "planned": rfc3339(action.planned),
    })
}
