//! What the controller counts about itself and its jobs. Labels are taken from fixed sets only: a job or node name is
//! never a label, so no agent can make the number of series grow.

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// All metrics.
pub struct Metrics {
    registry: Registry,
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
    /// Streams open.
    pub streams: IntGauge,
    /// Streams turned away or closed by us, by reason.
    pub streams_closed: IntCounterVec,
    /// Messages to agents that found no room.
    pub replies_dropped: IntCounter,
    /// Processes whose agents were asked to have all network steps timed.
    pub step_requests: IntCounter,
    /// Nodes, by whether an agent is in sight.
    pub nodes: IntGaugeVec,
    /// Jobs, by state.
    pub jobs: IntGaugeVec,
    /// Ranks announced and alive.
    pub ranks: IntGauge,
    /// Findings open, by kind.
    pub findings_open: IntGaugeVec,
    /// Findings opened, by kind.
    pub findings: IntCounterVec,
    /// What came of findings, by outcome.
    pub actions: IntCounterVec,
    /// Downtime of the jobs known, by part.
    pub downtime: GaugeVec,
    /// Deliveries to receivers of alerts, by kind of receiver and outcome.
    pub alerts: IntCounterVec,
    /// Lines of the recording that were dropped because the disk did not keep up.
    pub record_dropped: IntCounter,
    /// Inputs waiting for the brain.
    pub queue: IntGauge,
}

impl Metrics {
    /// All metrics at zero. Fails only if two have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let build = Opts::new("c4_controller_build_info", "1, with the version as a label")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        add(&r, IntGauge::with_opts(build)?)?.set(1);
        Ok(Self {
            messages: counters(&r, "messages_total", "Messages from agents that were taken", &["body"])?,
            refused: counters(
                &r,
                "messages_refused_total",
                "Messages from agents that were refused",
                &["reason"],
            )?,
            duplicates: counter(&r, "messages_duplicate_total", "Messages that had been taken before")?,
            missing: counter(&r, "messages_missing_total", "Sequence numbers of agents that never came")?,
            spool_lost: counter(
                &r,
                "agent_spool_dropped_total",
                "Messages that agents dropped for want of room",
            )?,
            streams: gauge(&r, "streams", "Streams of agents that are open")?,
            streams_closed: counters(
                &r,
                "streams_closed_total",
                "Streams that the controller closed",
                &["reason"],
            )?,
            replies_dropped: counter(&r, "replies_dropped_total", "Messages to agents that found no room")?,
            step_requests: counter(
                &r,
                "step_requests_total",
                "Processes whose agents were asked to have all network steps timed",
            )?,
            nodes: gauges(&r, "nodes", "Nodes", &["state"])?,
            jobs: gauges(&r, "jobs", "Jobs", &["state"])?,
            ranks: gauge(&r, "ranks", "Ranks announced and alive")?,
            findings_open: gauges(&r, "findings_open", "Findings that are open", &["kind"])?,
            findings: counters(&r, "findings_total", "Findings opened", &["kind"])?,
            actions: counters(&r, "actions_total", "What came of findings", &["outcome"])?,
            downtime: add(
                &r,
                GaugeVec::new(
                    Opts::new("c4_controller_downtime_seconds", "Downtime of the jobs known, by part"),
                    &["part"],
                )?,
            )?,
            alerts: counters(
                &r,
                "alerts_total",
                "Deliveries to receivers of alerts",
                &["receiver", "outcome"],
            )?,
            record_dropped: counter(&r, "record_dropped_total", "Lines of the recording that were dropped")?,
            queue: gauge(&r, "queue_messages", "Inputs waiting for the brain")?,
            registry: r,
        })
    }

    /// The exposition text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("c4_controller_{name}"), help)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    add(r, IntCounter::with_opts(opts(name, help))?)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    add(r, IntCounterVec::new(opts(name, help), labels)?)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    add(r, IntGauge::with_opts(opts(name, help))?)
}

fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    add(r, IntGaugeVec::new(opts(name, help), labels)?)
}
