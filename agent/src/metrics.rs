//! The agent's own figures, in Prometheus's text format. All have the label `node`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use c4_metrics::{Catalogue, Family};
use c4_proto::v1::agent_message::Body;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use thiserror::Error;

use crate::{
    paths::{discovery::Report as PathReport, trains::Tally},
    recorders::{Collectives, Figures},
    report::{Health, SensorStatus},
    sensors::Reading,
    stream::Spool,
};

mod known;

use known::Known;

/// Two figures have one name: a mistake in this file.
#[derive(Debug, Error)]
#[error("cannot set up the metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All figures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalogue: Catalogue,
    known: Arc<Mutex<Known>>,
    messages: IntCounterVec,
    refused: IntCounter,
    connected: IntGauge,
    spool_messages: IntGauge,
    spool_bytes: IntGauge,
    spool_dropped: IntCounter,
    recorders: IntGauge,
    recorders_unreadable: IntGauge,
    recorders_silent: IntGauge,
    recorder_errors: IntCounter,
    plugin_dropped: IntCounter,
    unread: IntCounter,
    step_requests: IntCounter,
    sample_seconds: Histogram,
    sensors: IntGaugeVec,
    health_events: IntCounterVec,
    path_orders: IntGauge,
    paths_missing: IntGauge,
    path_probes: IntCounter,
    path_ports: IntCounterVec,
    paths_found: IntGauge,
    paths_settled: IntGauge,
    path_trains: IntCounterVec,
    path_changes: IntCounter,
    path_seconds: Histogram,
}

impl Metrics {
    /// Fresh figures in a registry of their own.
    ///
    /// # Errors
    /// Two figures have one name.
    pub fn new(node: &str) -> Result<Self, MetricsError> {
        let mut c = Catalogue::of_node("c4_agent", env!("CARGO_PKG_VERSION"), node)?;
        let known = Arc::new(Mutex::new(Known::default()));
        c.source(known::Source(Arc::clone(&known)))?;
        let inner = Inner {
            known,
            messages: c.counters(
                "c4_agent_messages_sent_total",
                &["kind"],
                "Messages sent to the controller, by kind",
            )?,
            refused: c.counter("c4_agent_messages_refused_total", "Messages the controller found invalid")?,
            connected: c.gauge("c4_agent_connected", "Whether the controller is connected")?,
            spool_messages: c.gauge("c4_agent_spool_messages", "Messages not acknowledged yet")?,
            spool_bytes: c.gauge("c4_agent_spool_bytes", "Their size")?,
            spool_dropped: c
                .counter("c4_agent_spool_dropped_total", "Messages dropped because the spool was full")?,
            recorders: c.gauge("c4_agent_recorders", "Flight recorders of live processes")?,
            recorders_unreadable: c.gauge(
                "c4_agent_recorders_unreadable",
                "Files in the recorder directory that cannot be read",
            )?,
            recorders_silent: c.gauge(
                "c4_agent_recorders_silent",
                "Flight recorders of live processes in which profiling is off",
            )?,
            recorder_errors: c.counter("c4_agent_recorder_errors_total", "Looks at recorders that failed")?,
            plugin_dropped: c.counter(
                "c4_agent_plugin_dropped_total",
                "Operations, communicators and connections that found no room in a recorder",
            )?,
            unread: c.counter(
                "c4_agent_operations_unread_total",
                "Operations that were overwritten before the agent read them",
            )?,
            step_requests: c.counter(
                "c4_agent_step_requests_total",
                "Times a process was asked to time all its network steps",
            )?,
            sample_seconds: c.histogram(
                "c4_agent_sample_seconds",
                "Time one look at all recorders takes",
                &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
            )?,
            sensors: c.gauges("c4_agent_sensor_present", &["sensor"], "Whether a sensor works")?,
            health_events: c.counters(
                "c4_agent_health_events_total",
                &["code", "severity"],
                "Times that a sensor reported trouble",
            )?,
            path_orders: c
                .gauge("c4_agent_path_orders", "Destinations whose connections are to take planned paths")?,
            paths_missing: c
                .gauge("c4_agent_paths_without_port", "Planned paths for which no source port is known")?,
            path_probes: c.counter("c4_agent_path_probes_total", "Probes sent to learn paths")?,
            path_ports: c.counters(
                "c4_agent_path_ports_tried_total",
                &["result"],
                "Source ports tried to learn paths, by what came of it",
            )?,
            paths_found: c
                .gauge("c4_agent_paths_found", "Paths that are known, to all destinations together")?,
            paths_settled: c
                .gauge("c4_agent_paths_settled", "Whether nothing more is being learned about paths")?,
            path_trains: c.counters(
                "c4_agent_path_trains_total",
                &["result"],
                "Trains of probes to other agents, by what became of them",
            )?,
            path_changes: c.counter(
                "c4_agent_path_changes_total",
                "Times that a port took another path than before, so that all were learned anew",
            )?,
            path_seconds: c.histogram(
                "c4_agent_path_learning_seconds",
                "Time that learning paths takes, a round",
                &[0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
            )?,
            catalogue: c,
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
            Body::EvidenceSaved(_) => "evidence_saved",
            Body::NodeWish(_) => "node_wish",
            Body::SpoolLoss(_) => "spool_loss",
            Body::Traffic(_) => "traffic",
            Body::PathReport(_) => "path_report",
            Body::PathTrains(_) => "path_trains",
            Body::PathsExplored(_) => "paths_explored",
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
        self.0.recorders_silent.set(clamp(figures.silent as u64));
        raise(&self.0.recorder_errors, figures.errors);
        raise(&self.0.plugin_dropped, figures.dropped);
        raise(&self.0.unread, figures.unread);
        raise(&self.0.step_requests, figures.step_requests);
        self.0.sample_seconds.observe(took.as_secs_f64());
    }

    /// Collectives that completed since the last call, by job.
    pub(crate) fn collectives(&self, by_job: BTreeMap<String, Collectives>) {
        if !by_job.is_empty() {
            self.known(|known| known.collectives(by_job));
        }
    }

    pub(crate) fn paths_learned(&self, report: &PathReport) {
        self.0.path_probes.inc_by(report.probes.into());
        self.0.path_seconds.observe(report.elapsed_us as f64 * 1e-6);
        let given_up = report.silent + report.unsteady + report.busy + report.lost;
        for (result, ports) in [
            ("learned", report.ports.saturating_sub(given_up)),
            ("silent", report.silent),
            ("unsteady", report.unsteady),
            ("busy", report.busy),
            ("unreachable", report.lost),
        ] {
            self.0.path_ports.with_label_values(&[result]).inc_by(ports.into());
        }
    }

    /// How many paths are known, and whether that is all there is to learn.
    pub(crate) fn paths_known(&self, paths: usize, settled: bool) {
        self.0.paths_found.set(clamp(paths as u64));
        self.0.paths_settled.set(i64::from(settled));
    }

    /// What became of trains of probes since the last call.
    pub(crate) fn trains(&self, new: &Tally) {
        let results = [("good", new.good), ("bad", new.bad), ("busy", new.busy), ("unknown", new.unknown)];
        for (result, count) in results {
            self.0.path_trains.with_label_values(&[result]).inc_by(count);
        }
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

    /// A sensor reports trouble, or takes it back.
    pub(crate) fn health(&self, health: &Health) {
        if !health.cleared {
            let severity = format!("{:?}", health.severity).to_lowercase();
            self.0.health_events.with_label_values(&[&health.code, &severity]).inc();
        }
        self.known(|known| known.health(health));
    }

    /// What a sensor read, in place of what it read before.
    pub(crate) fn readings(&self, sensor: &'static str, readings: Vec<Reading>) {
        self.known(|known| known.readings(sensor, readings));
    }

    /// Everything declared, by name.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.0.catalogue.families()
    }

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.catalogue.text().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot render the metrics");
            String::new()
        })
    }

    fn known(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Brings a counter to a total that is kept elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
