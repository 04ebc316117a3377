//! The Slurm actuator, through `scontrol`, whose one-line output is the interface that has stayed the same the longest.
//!
//! Slurm owns its nodes and jobs, so nothing is done to a process behind its back: a job is stopped by requeueing it with
//! a hold and started by releasing it, a node is isolated by draining it with a reason that begins with [`MARK`], and
//! only what has that mark is ever resumed. Every order first looks whether what it wants is so already, which makes
//! carrying it out twice harmless; and it ends only when Slurm shows it.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use c4_detect::observation::{JobId, NodeName};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use super::{
    action::{Deed, Order, Step},
    actuator::{Actuator, ActuatorError, Answer},
    scheduler::SchedulerNode,
};
use crate::config::Slurm as Config;

#[cfg(test)]
mod tests;

/// The scheduler's name.
pub const NAME: &str = "slurm";
/// What the reasons of drains by C4 begin with.
pub const MARK: &str = "C4: ";
/// How jobs of Slurm are called whose names nobody has set.
const PREFIX: &str = "slurm-";
/// Time between two looks while Slurm works.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Time after which a node's slurmd takes a job again whose processes it was told to end: it refuses credentials of the same second,
/// to the resolution of its clock and of slurmctld's, and the job would fail.
const REVOKED: Duration = Duration::from_secs(2);
/// How long one call of `scontrol` may take.
const CALL: Duration = Duration::from_secs(15);
/// Slurm cuts longer reasons.
const MAX_REASON: usize = 200;

/// The fields of a line of `scontrol -o`.
type Fields = BTreeMap<String, String>;

/// See the module.
#[derive(Clone, Debug)]
pub struct SlurmActuator {
    config: Config,
}

/// The number of a job in Slurm, where its name tells it.
#[must_use]
pub fn number(job: &JobId) -> Option<u32> {
    job.0.strip_prefix(PREFIX)?.parse().ok()
}

impl SlurmActuator {
    /// An actuator that speaks to a configured Slurm.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// All nodes.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn nodes(&self) -> Result<Vec<SchedulerNode>, ActuatorError> {
        let text = self.call(&["--oneliner".into(), "show".into(), "nodes".into()]).await?;
        Ok(text.lines().filter_map(|line| node(&fields(line))).collect())
    }

    async fn call(&self, arguments: &[String]) -> Result<String, ActuatorError> {
        let program = self.config.scontrol.display();
        let failed = |what: String| ActuatorError(format!("{program}: {what}"));
        let mut command = Command::new(&self.config.scontrol);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(conf) = &self.config.conf {
            command.env("SLURM_CONF", Path::new(conf));
        }
        match timeout(CALL, command.output()).await {
            Err(_) => Err(failed(format!("no answer within {} s", CALL.as_secs()))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(output)) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(Ok(output)) => {
                let words = String::from_utf8_lossy(&output.stderr);
                let words = words.trim().lines().next_back().unwrap_or("failed").to_owned();
                Err(failed(words))
            }
        }
    }

    async fn job(&self, number: u32) -> Result<Fields, ActuatorError> {
        let number = number.to_string();
        let text = self.call(&["--oneliner".into(), "show".into(), "job".into(), number.clone()]).await?;
        text.lines()
            .map(fields)
            .find(|fields| fields.get("JobId") == Some(&number))
            .ok_or_else(|| ActuatorError(format!("Slurm knows no job {number}")))
    }

    async fn node(&self, name: &NodeName) -> Result<Option<SchedulerNode>, ActuatorError> {
        Ok(self.nodes().await?.into_iter().find(|node| node.name == *name))
    }

    /// Whether Slurm has a node.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn has(&self, name: &NodeName) -> Result<bool, ActuatorError> {
        Ok(self.node(name).await?.is_some())
    }

    async fn work(&self, order: &Order) -> Result<String, ActuatorError> {
        match (&order.action.deed, order.step) {
            (Deed::Restart { job, incarnation, without, .. }, Step::Stop | Step::Start) => {
                let number =
                    number(job).ok_or_else(|| ActuatorError(format!("job {} is not Slurm's", job.0)))?;
                if order.step == Step::Stop {
                    self.stop(number, *incarnation).await
                } else {
                    self.start(number, without.iter()).await
                }
            }
            (deed, Step::Isolate) => {
                let mut said = Vec::new();
                for node in deed.nodes() {
                    said.push(self.drain(node, order).await?);
                }
                Ok(said.join("; "))
            }
            (Deed::Release { node, .. }, Step::Release) => self.resume(node).await,
            _ => Err(ActuatorError("Slurm cannot do this".into())),
        }
    }

    /// Requeues a job with a hold, and waits until nothing of it runs.
    async fn stop(&self, number: u32, incarnation: u32) -> Result<String, ActuatorError> {
        let mut asked = false;
        loop {
            let job = self.job(number).await?;
            let state = job.get("JobState").map_or("", String::as_str);
            let restarts: u32 = job.get("Restarts").and_then(|text| text.parse().ok()).unwrap_or(0);
            match state {
                // Somebody was faster.
                "RUNNING" if restarts > incarnation => return Ok(String::new()),
                "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "SPECIAL_EXIT"
                    if asked || restarts > incarnation =>
                {
                    return Ok(String::new());
                }
                "RUNNING" | "SUSPENDED" | "STOPPED" | "PENDING" if !asked => {
                    self.call(&["requeuehold".into(), number.to_string()]).await?;
                    asked = true;
                }
                "COMPLETED" | "CANCELLED" | "DEADLINE" => {
                    return Err(ActuatorError(format!("Slurm's job {number} is {}", state.to_lowercase())));
                }
                "FAILED" | "NODE_FAIL" | "TIMEOUT" | "OUT_OF_MEMORY" | "BOOT_FAIL" | "PREEMPTED"
                    if !asked =>
                {
                    self.call(&["requeuehold".into(), number.to_string()]).await?;
                    asked = true;
                }
                _ => {}
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Releases a job that is held, without some nodes, and waits until it runs.
    async fn start(
        &self,
        number: u32,
        without: impl Iterator<Item = &NodeName>,
    ) -> Result<String, ActuatorError> {
        let without: Vec<&str> = without.map(|node| node.0.as_str()).collect();
        let mut released = false;
        loop {
            let job = self.job(number).await?;
            match job.get("JobState").map_or("", String::as_str) {
                "RUNNING" => {
                    let nodes = job.get("NodeList").cloned().unwrap_or_default();
                    return Ok(format!("Slurm runs it on {nodes}"));
                }
                "PENDING" | "REQUEUED" | "REQUEUE_HOLD" if !released => {
                    if !without.is_empty() {
                        let mut all: Vec<&str> = job
                            .get("ExcNodeList")
                            .map_or("", String::as_str)
                            .split(',')
                            .filter(|name| !name.is_empty() && *name != "(null)")
                            .collect();
                        all.extend(&without);
                        all.sort_unstable();
                        all.dedup();
                        let exclude = format!("ExcNodeList={}", all.join(","));
                        self.call(&["update".into(), format!("JobId={number}"), exclude]).await?;
                    }
                    self.call(&["release".into(), number.to_string()]).await?;
                    // Slurm would let a requeued job wait for two minutes; nothing of this one runs any more. A Slurm that does
                    // not take this takes that time.
                    sleep(REVOKED).await;
                    let at_once = ["update".into(), format!("JobId={number}"), "StartTime=now".into()];
                    if let Err(error) = self.call(&at_once).await {
                        tracing::info!("job {number} is released, but not started at once: {error}");
                    }
                    released = true;
                }
                state @ ("COMPLETED" | "CANCELLED" | "FAILED" | "NODE_FAIL" | "TIMEOUT") => {
                    return Err(ActuatorError(format!("Slurm's job {number} is {}", state.to_lowercase())));
                }
                _ => {}
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn drain(&self, name: &NodeName, order: &Order) -> Result<String, ActuatorError> {
        let known = self.node(name).await?.ok_or_else(|| unknown(name))?;
        if known.drained {
            return Ok(match known.reason.starts_with(MARK) {
                true => format!("Slurm drains {}", name.0),
                false => format!("Slurm had drained {} already: {}", name.0, known.reason),
            });
        }
        let reason = reason(&order.action.because, &order.action.id.0);
        let update = ["update".into(), format!("NodeName={}", name.0), "State=DRAIN".into(), reason];
        self.call(&update).await?;
        match self.node(name).await? {
            Some(node) if node.drained => Ok(format!("Slurm drains {}", name.0)),
            _ => {
                Err(ActuatorError(format!("Slurm took the drain of {} and shows it as not drained", name.0)))
            }
        }
    }

    async fn resume(&self, name: &NodeName) -> Result<String, ActuatorError> {
        let known = self.node(name).await?.ok_or_else(|| unknown(name))?;
        if !known.drained && !known.down {
            return Ok(format!("Slurm uses {} already", name.0));
        }
        if !known.reason.starts_with(MARK) {
            let why = format!("{} stays drained in Slurm, which somebody else did: {}", name.0, known.reason);
            return Err(ActuatorError(why));
        }
        self.call(&["update".into(), format!("NodeName={}", name.0), "State=RESUME".into()]).await?;
        match self.node(name).await? {
            Some(node) if !node.drained => Ok(format!("Slurm uses {} again", name.0)),
            _ => Err(ActuatorError(format!("Slurm took the resume of {} and shows it as drained", name.0))),
        }
    }
}

impl Actuator for SlurmActuator {
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a> {
        Box::pin(self.work(order))
    }
}

fn unknown(name: &NodeName) -> ActuatorError {
    ActuatorError(format!("Slurm knows no node {}", name.0))
}

/// The reason of a drain: one argument, one line, and no longer than Slurm keeps.
fn reason(because: &str, action: &str) -> String {
    let text: String =
        format!("{MARK}{because} ({action})").chars().filter(|c| !c.is_control() && *c != '"').collect();
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("Reason={}", &text[..end])
}

/// A line of `Key=value Key=value …`. Values may hold blanks (reasons do) and `=`; a key begins with a capital letter.
fn fields(line: &str) -> Fields {
    let mut fields: Vec<(String, String)> = Vec::new();
    for word in line.split(' ') {
        let key = word.split_once('=').filter(|(key, _)| {
            key.starts_with(|c: char| c.is_ascii_uppercase())
                && key.chars().all(|c| c.is_ascii_alphanumeric() || ":/_".contains(c))
        });
        match (key, fields.last_mut()) {
            (Some((key, value)), _) => fields.push((key.to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => {}
        }
    }
    let trimmed = fields.into_iter().map(|(key, value)| (key, value.trim().to_owned()));
    // The first of a name is the thing's own: what a reason quotes comes last.
    trimmed.rev().collect()
}

fn node(fields: &Fields) -> Option<SchedulerNode> {
    let state = fields.get("State")?;
    let mut flags =
        state.split('+').map(|flag| flag.trim_end_matches(['*', '~', '#', '!', '%', '$', '@', '^', '-']));
    let first = flags.next().unwrap_or_default();
    let reason = fields.get("Reason").map_or("", String::as_str);
    Some(SchedulerNode {
        name: NodeName(fields.get("NodeName")?.clone()),
        drained: flags.clone().any(|flag| flag == "DRAIN") || matches!(first, "DRAINED" | "DRAINING"),
        down: first == "DOWN" || flags.any(|flag| flag == "FAIL"),
        // "C4: because [root@2026-11-28T20:00:00]"
        reason: reason.rsplit_once(" [").map_or(reason, |(reason, _)| reason).to_owned(),
        opted_out: None,
    })
}
