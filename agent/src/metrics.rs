//! The agent's own figures, in Prometheus's text format.

use std::{sync::Arc, time::Duration};

use c4_proto::v1::agent_message::Body;
use prometheus::{
    Counter, Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};
use thiserror::Error;

use crate::{
    paths::discovery::Report as PathReport, procfs, recorders::Figures, report::SensorStatus, stream::Spool,
};

/// Two figures have one name: a mistake in this file.
#[derive(Debug, Error)]
#[error("cannot set up the metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All figures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    messages: IntCounterVec,
    refused: IntCounter,
    connected: IntGauge,
    spool_messages: IntGauge,
    spool_bytes: IntGauge,
    spool_dropped: IntCounter,
    recorders: IntGauge,
    recorders_unreadable: IntGauge,
    recorder_errors: IntCounter,
    step_requests: IntCounter,
    sample_seconds: Histogram,
    sensors: IntGaugeVec,
    path_orders: IntGauge,
    paths_missing: IntGauge,
    path_probes: IntCounter,
    path_changes: IntCounter,
    path_seconds: Histogram,
    cpu_seconds: Counter,
}

impl Metrics {
    /// Fresh figures in a registry of their own.
    ///
    /// # Errors
    /// Two figures have one name.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let sample = HistogramOpts::new("c4_agent_sample_seconds", "Time one look at all recorders takes")
            .buckets(vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]);
        let learning =
            HistogramOpts::new("c4_agent_path_learning_seconds", "Time that learning paths takes, a round")
                .buckets(vec![0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]);
        let kinds = Opts::new("c4_agent_messages_sent_total", "Messages sent to the controller, by kind");
        let sensors = Opts::new("c4_agent_sensor_present", "Whether a sensor works");
        let inner = Inner {
            messages: add(&registry, IntCounterVec::new(kinds, &["kind"])?)?,
            refused: counter(
                &registry,
                "c4_agent_messages_refused_total",
                "Messages the controller found invalid",
            )?,
            connected: gauge(&registry, "c4_agent_connected", "Whether the controller is connected")?,
            spool_messages: gauge(&registry, "c4_agent_spool_messages", "Messages not acknowledged yet")?,
            spool_bytes: gauge(&registry, "c4_agent_spool_bytes", "Their size")?,
            spool_dropped: counter(
                &registry,
                "c4_agent_spool_dropped_total",
                "Messages dropped because the spool was full",
            )?,
            recorders: gauge(&registry, "c4_agent_recorders", "Flight recorders of live processes")?,
            recorders_unreadable: gauge(
                &registry,
                "c4_agent_recorders_unreadable",
                "Files that cannot be read",
            )?,
            recorder_errors: counter(
                &registry,
                "c4_agent_recorder_errors_total",
                "Looks at recorders that failed",
            )?,
            step_requests: counter(
                &registry,
                "c4_agent_step_requests_total",
                "Times a process was asked to time all its network steps",
            )?,
            sample_seconds: add(&registry, Histogram::with_opts(sample)?)?,
            sensors: add(&registry, IntGaugeVec::new(sensors, &["sensor"])?)?,
            path_orders: gauge(
                &registry,
                "c4_agent_path_orders",
                "Destinations whose connections are to take planned paths",
            )?,
            paths_missing: gauge(
                &registry,
                "c4_agent_paths_without_port",
                "Planned paths for which no source port is known",
            )?,
            path_probes: counter(&registry, "c4_agent_path_probes_total", "Probes sent to learn paths")?,
            path_changes: counter(
                &registry,
                "c4_agent_path_changes_total",
                "Times that a port took another path than before, so that all were learned anew",
            )?,
            path_seconds: add(&registry, Histogram::with_opts(learning)?)?,
            cpu_seconds: add(
                &registry,
                Counter::new("c4_agent_cpu_seconds_total", "CPU time this agent has used")?,
            )?,
            registry,
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) fn sent(&self, body: &Body) {
        let kind = match body {
            Body::Hello(_) => "hello",
            Body::ProcessStarted(_) => "process_started",
            Body::CommunicatorJoined(_) => "communicator_joined",
            Body::Window(_) | Body::Windows(_) => "window",
            Body::ProcessEnded(_) => "process_ended",
            Body::Health(_) => "health",
            Body::GroupReport(_) => "group_report",
            Body::CommandResult(_) => "command_result",
            Body::SpoolLoss(_) => "spool_loss",
        };
        self.0.messages.with_label_values(&[kind]).inc();
    }

    pub(crate) fn refused(&self) {
        self.0.refused.inc();
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.0.connected.set(i64::from(connected));
    }

    pub(crate) fn spool(&self, spool: &Spool) {
        self.0.spool_messages.set(clamp(spool.depth() as u64));
        self.0.spool_bytes.set(clamp(spool.bytes() as u64));
        raise(&self.0.spool_dropped, spool.dropped());
    }

    pub(crate) fn sampled(&self, figures: Figures, took: Duration) {
        self.0.recorders.set(clamp(figures.live as u64));
        self.0.recorders_unreadable.set(clamp(figures.unreadable as u64));
        raise(&self.0.recorder_errors, figures.errors);
        raise(&self.0.step_requests, figures.step_requests);
        self.0.sample_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn paths_learned(&self, report: &PathReport) {
        self.0.path_probes.inc_by(report.probes.into());
        self.0.path_seconds.observe(report.elapsed_us as f64 * 1e-6);
    }

    pub(crate) fn path_changed(&self) {
        self.0.path_changes.inc();
    }

    pub(crate) fn paths(&self, orders: usize, missing: usize) {
        self.0.path_orders.set(clamp(orders as u64));
        self.0.paths_missing.set(clamp(missing as u64));
    }

    pub(crate) fn sensors(&self, sensors: &[SensorStatus]) {
        for sensor in sensors {
            self.0.sensors.with_label_values(&[sensor.name]).set(i64::from(sensor.present));
        }
    }

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        if let Some(used) = procfs::own_cpu_seconds() {
            self.0.cpu_seconds.inc_by((used - self.0.cpu_seconds.get()).max(0.0));
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::warn!(%error, "cannot render the metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Brings a counter to a total that is kept elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, MetricsError> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    add(registry, IntCounter::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    add(registry, IntGauge::new(name, help)?)
}
