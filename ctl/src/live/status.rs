//! `c4ctl status`: is the controller there, and does it see its nodes?

use std::collections::BTreeMap;

use c4_proto::v1;
use serde_json::{Value, json};

use super::Asked;
use crate::{
    failure::Failure,
    output::{Output, Style},
    table::{Align, Cell, Table},
    words::{count, duration_us, printable},
};

pub(super) async fn run(asked: &mut Asked<'_>) -> Result<(), Failure> {
    let mut calls = asked.client.calls.clone();
    let status = asked.client.call(asked.timeout, "", calls.get_status(v1::GetStatusRequest {})).await?;
    if asked.json {
        asked.out.json(&document(&status))?;
        return Ok(());
    }
    let out = &mut *asked.out;
    out.line(format!(
        "controller {} at {}, up {}, mode {}",
        printable(&status.version),
        asked.client.url,
        duration_us(status.uptime_us),
        printable(&status.mode),
    ))?;
    if !status.controller.is_empty() {
        let standbys: Vec<String> =
            status.standbys.iter().map(|standby| printable(standby).into_owned()).collect();
        let beside = if standbys.is_empty() { "nobody".to_owned() } else { standbys.join(", ") };
        out.line(format!(
            "{} leads (term {}), standing by: {beside}",
            printable(&status.controller),
            status.term
        ))?;
    }
    let findings = count(status.open_findings.into(), "open finding");
    let findings = out.paint(if status.open_findings == 0 { Style::Good } else { Style::Bad }, findings);
    out.line(format!(
        "{}, {}, {findings}",
        count(status.jobs.into(), "job"),
        count(status.ranks.into(), "rank"),
    ))?;
    out.line("")?;
    if status.nodes.is_empty() {
        out.line("No agent has connected yet: start c4-agent on the nodes, with this controller's address.")?;
        return Ok(());
    }
    nodes(&status.nodes).print(out)?;
    if out.is_wide() {
        missing_sensors(&status.nodes, out)?;
    }
    Ok(())
}

fn nodes(nodes: &[v1::Node]) -> Table {
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("SEEN", Align::Right),
        ("RANKS", Align::Right),
        ("AGENT", Align::Left),
        ("DROPPED", Align::Right),
        ("SENSORS", Align::Left),
    ]);
    for node in nodes {
        table.row(vec![
            (&node.name).into(),
            match node.connected {
                true => Cell::styled("connected", Style::Good),
                false => Cell::styled("lost", Style::Bad),
            },
            duration_us(node.last_seen_us).into(),
            node.ranks.to_string().into(),
            (&node.agent_version).into(),
            match node.spool_dropped {
                0 => "0".into(),
                dropped => Cell::styled(dropped.to_string(), Style::Doubtful),
            },
            sensors(&node.sensors).into(),
        ]);
    }
    table
}

/// Why sensors are missing, once for all nodes with the same reason.
fn missing_sensors(nodes: &[v1::Node], out: &mut Output) -> std::io::Result<()> {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for sensor in node.sensors.iter().filter(|sensor| !sensor.present) {
            reasons.entry((&sensor.name, &sensor.detail)).or_default().push(&node.name);
        }
    }
    if !reasons.is_empty() {
        out.line("")?;
        out.line("Why sensors are missing:")?;
    }
    for ((name, detail), nodes) in reasons {
        let detail = if detail.is_empty() { "no reason was given" } else { detail };
        out.line(printable(&format!("  {name}: {detail} ({})", nodes.join(", "))))?;
    }
    Ok(())
}

fn sensors(sensors: &[v1::NodeSensor]) -> String {
    let present: Vec<&str> = sensors.iter().filter(|s| s.present).map(|s| s.name.as_str()).collect();
    let missing: Vec<&str> = sensors.iter().filter(|s| !s.present).map(|s| s.name.as_str()).collect();
    match (present.is_empty(), missing.is_empty()) {
        (_, true) => present.join(" "),
        (true, false) => format!("missing: {}", missing.join(" ")),
        (false, false) => format!("{}, missing: {}", present.join(" "), missing.join(" ")),
    }
}

fn document(status: &v1::Status) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            let sensors: Vec<Value> = node
                .sensors
                .iter()
                .map(|s| json!({"name": s.name, "present": s.present, "detail": s.detail}))
                .collect();
            json!({
                "name": node.name,
                "connected": node.connected,
                "last_seen_seconds": node.last_seen_us as f64 / 1e6,
                "agent_version": node.agent_version,
                "ranks": node.ranks,
                "sensors": sensors,
                "spool_dropped": node.spool_dropped,
            })
        })
        .collect();
    json!({
        "controller": status.controller,
        "term": status.term,
        "standbys": status.standbys,
        "version": status.version,
        "uptime_seconds": status.uptime_us as f64 / 1e6,
        "mode": status.mode,
        "jobs": status.jobs,
        "ranks": status.ranks,
        "open_findings": status.open_findings,
        "nodes": nodes,
    })
}
