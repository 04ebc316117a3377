//! What the controller tells Prometheus.
//!
//! `c4_controller_*` is what it counts about itself, declared here; the rest is about jobs, nodes and findings, declared in
//! `picture` and read from the newest picture when somebody scrapes. Names of jobs and nodes are labels, so what they could
//! grow to is bounded there; ranks are labels only where something is wrong.

use std::sync::Arc;

use c4_metrics::{Catalogue, Family};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use tokio::sync::watch;

use crate::snapshot::Snapshot;

mod paths;
mod picture;
#[cfg(test)]
mod tests;

/// Reason for which messages are refused that are wrong by themselves.
pub const INVALID: &str = "invalid";
/// Buckets for how old a message is when it is taken: an agent tells once a second, and spools for an hour.
const AGES: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0];
/// Buckets for the work on a batch of inputs.
const TURNS: [f64; 8] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0];

/// All metrics.
pub struct Metrics {
    catalogue: Catalogue,
    /// Messages taken, by what they say.
    pub messages: IntCounterVec,
    /// Messages refused, by reason.
    pub refused: IntCounterVec,
    /// Messages that had been taken before.
    pub duplicates: IntCounter,
    /// Sequence numbers that never came.
    pub missing: IntCounter,
    /// Messages that agents had to drop.
    pub spool_lost: IntCounter,
    /// How old messages were when they were taken.
    pub message_age: Histogram,
    /// Streams open.
    pub streams: IntGauge,
    /// Streams turned away or closed by us, by reason.
    pub streams_closed: IntCounterVec,
    /// Messages to agents that found no room.
    pub replies_dropped: IntCounter,
    /// Processes whose agents were asked to have all network steps timed.
    pub step_requests: IntCounter,
    /// Findings opened, by kind.
    pub findings: IntCounterVec,
    /// What came of findings, by outcome.
    pub actions: IntCounterVec,
    /// Deliveries to receivers of alerts, by kind of receiver and outcome.
    pub alerts: IntCounterVec,
    /// Lines of the recording that were dropped because the disk did not keep up.
    pub record_dropped: IntCounter,
    /// Calls, pages and connections turned away, by reason.
    pub denied: IntCounterVec,
    /// Whether this controller leads.
    pub leader: IntGauge,
    /// The term in which it leads.
    pub term: IntGauge,
    /// Inputs waiting for the brain.
    pub queue: IntGauge,
    /// Work on a batch of inputs.
    pub turns: Histogram,
}

impl Metrics {
    /// All metrics at zero. Fails only if two have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let mut c = Catalogue::new("c4_controller", env!("CARGO_PKG_VERSION"))?;
        let metrics = Self {
            messages: c.counters(
                "c4_controller_messages_total",
                &["body"],
                "Messages from agents that were taken",
            )?,
            refused: c.counters(
                "c4_controller_messages_refused_total",
                &["reason"],
                "Messages from agents that were refused",
            )?,
            duplicates: c
                .counter("c4_controller_messages_duplicate_total", "Messages that had been taken before")?,
            missing: c.counter(
                "c4_controller_messages_missing_total",
                "Sequence numbers of agents that never came",
            )?,
            spool_lost: c.counter(
                "c4_controller_agent_spool_dropped_total",
                "Messages that agents dropped for want of room",
            )?,
            message_age: c.histogram(
                "c4_controller_message_age_seconds",
                "Time from the moment an agent saw something to the moment it sent it",
                &AGES,
            )?,
            streams: c.gauge("c4_controller_streams", "Streams of agents that are open")?,
            streams_closed: c.counters(
                "c4_controller_streams_closed_total",
                &["reason"],
                "Streams that the controller closed",
            )?,
            replies_dropped: c
                .counter("c4_controller_replies_dropped_total", "Messages to agents that found no room")?,
            step_requests: c.counter(
                "c4_controller_step_requests_total",
                "Processes whose agents were asked to have all network steps timed",
            )?,
            findings: c.counters("c4_findings_total", &["kind"], "Findings opened")?,
            actions: c.counters("c4_actions_total", &["outcome"], "What came of findings")?,
            alerts: c.counters(
                "c4_controller_alerts_total",
                &["receiver", "outcome"],
                "Deliveries to receivers of alerts",
            )?,
            record_dropped: c
                .counter("c4_controller_record_dropped_total", "Lines of the recording that were dropped")?,
            denied: c.counters(
                "c4_controller_denied_total",
                &["reason"],
                "Calls and connections turned away",
            )?,
            leader: c.gauge(
                "c4_controller_leader",
                "1 for the controller that leads, which the only one always does; 0 for one that stands by",
            )?,
            term: c.gauge(
                "c4_controller_term",
                "Number of the term in which it leads; grows with each change of the leader, 0 for the only one",
            )?,
            queue: c.gauge("c4_controller_queue_messages", "Inputs waiting to be taken in")?,
            turns: c.histogram(
                "c4_controller_turn_seconds",
                "Time that taking in a batch of inputs takes, detection included",
                &TURNS,
            )?,
            catalogue: c,
        };
        // What has not happened is 0, not absent: only so the first time shows in a rate.
        for kind in picture::KINDS {
            metrics.findings.with_label_values(&[kind.name()]);
        }
        metrics.refused.with_label_values(&[INVALID]);
        Ok(metrics)
    }

    /// Shows what is in the newest picture besides.
    ///
    /// # Errors
    /// If called twice.
    pub fn show(&mut self, pictures: watch::Receiver<Arc<Snapshot>>) -> Result<(), prometheus::Error> {
        self.catalogue.source(paths::PlannedPaths(pictures.clone()))?;
        self.catalogue.source(picture::Pictures(pictures))
    }

    /// Everything declared, by name.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.catalogue.families()
    }

    /// The exposition text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.catalogue.text()
    }
}
