//! The section on planned paths.

use std::{ops::Range, path::PathBuf, time::Duration};

use super::{
    fields::{Fields, Mistake, milliseconds, or_null, path, text, truth},
    size,
};
use crate::paths::{
    explore::ExploreSettings,
    measure::MeasureSettings,
    orders::Listening,
    service::{PathSettings, Source},
};

/// Paths are planned when orders come from somewhere.
pub(super) fn paths(node: &str, mut section: Fields, mistakes: &mut Vec<Mistake>) -> Option<PathSettings> {
    let mut settings = PathSettings {
        orders: Source::Controller,
        host: node.to_owned(),
        // Where the shim looks if it is told nothing else.
        table: PathBuf::from("/dev/shm/c4/paths"),
        // Below the kernel's ephemeral ports (32768 and up), so that nobody else has them by chance.
        ports: 20_000..30_000,
        listen: Listening { tcp: 30_000..30_016, roce: false },
        // So many connections of one process to one host can share a path at the same time.
        depth: 8,
        verify: Duration::from_secs(2),
        // Beside the agent's other port; a rate that costs half a percent of a core.
        measure: Some(MeasureSettings { port: 4403, per_second: 200 }),
        explore: None,
    };
    // Nothing: which ports carry jobs' traffic is the operator's to say.
    let mut explore: Vec<String> = Vec::new();
    let mut orders: Option<Source> = None;
    section.value("orders", &mut orders, mistakes, or_null(source));
    section.value("host", &mut settings.host, mistakes, text);
    section.value("table", &mut settings.table, mistakes, path);
    section.value("source_ports", &mut settings.ports, mistakes, ports);
    section.value("listen_ports", &mut settings.listen.tcp, mistakes, ports);
    section.value("roce", &mut settings.listen.roce, mistakes, truth);
    section.value("ports_per_path", &mut settings.depth, mistakes, size(1, 1000));
    let mut measure = settings.measure.unwrap_or(MeasureSettings { port: 4403, per_second: 0 });
    section.value("measure_port", &mut measure.port, mistakes, port);
    section.value("measure_per_second", &mut measure.per_second, mistakes, rate);
    settings.measure = (measure.per_second > 0).then_some(measure);
    section.value("verify_ms", &mut settings.verify, mistakes, milliseconds(250, 600_000));
    section.value("explore", &mut explore, mistakes, interfaces);
    section.finish(mistakes);
    if !explore.is_empty() {
        let (ports, to) = (settings.ports.clone(), settings.listen.tcp.start);
        settings.explore = Some(ExploreSettings { interfaces: explore, ports, to });
    }
    orders.map(|orders| PathSettings { orders, ..settings })
}

/// `controller`, or the path of a file.
fn source(value: &serde_yaml::Value) -> Result<Source, String> {
    if value.as_str() == Some("controller") {
        return Ok(Source::Controller);
    }
    path(value).map(Source::File).map_err(|expected| format!("{expected}, or controller"))
}

/// A port that needs no privileges.
fn port(value: &serde_yaml::Value) -> Result<u16, String> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port >= 1024);
    port.ok_or_else(|| "a port from 1024 to 65535".to_owned())
}

/// Probes within a second.
fn rate(value: &serde_yaml::Value) -> Result<u32, String> {
    let rate = value.as_u64().and_then(|rate| u32::try_from(rate).ok()).filter(|rate| *rate <= 10_000);
    rate.ok_or_else(|| "a whole number from 0 to 10000".to_owned())
}

/// Names of interfaces.
fn interfaces(value: &serde_yaml::Value) -> Result<Vec<String>, String> {
    let names = value.as_sequence().map(|names| {
        let name = |name: &serde_yaml::Value| {
            let name = name.as_str()?;
            let stem = name.strip_suffix('*').unwrap_or(name);
            (!name.is_empty() && !stem.contains('*')).then(|| name.to_owned())
        };
        names.iter().map(name).collect::<Option<Vec<String>>>()
    });
    names.flatten().ok_or_else(|| "names of interfaces, such as [eth1, enp*]".to_owned())
}

/// First and last port.
fn ports(value: &serde_yaml::Value) -> Result<Range<u16>, String> {
    let ends = value.as_sequence().filter(|ends| ends.len() == 2).map(|ends| {
        let port = |at: usize| ends[at].as_u64().and_then(|port| u16::try_from(port).ok());
        port(0).zip(port(1))
    });
    match ends.flatten() {
        Some((first, last)) if (1024..u16::MAX).contains(&last) && (1024..=last).contains(&first) => {
            Ok(first..last + 1)
        }
        _ => Err("first and last port, such as [20000, 29999], from 1024 to 65534".to_owned()),
    }
}
