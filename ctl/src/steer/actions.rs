//! `c4ctl actions`.

use c4_proto::v1;
use serde_json::{Value, json};

use super::Asked;
use crate::{
    failure::Failure,
    output::Style,
    table::{Align, Cell, Table},
    words::{moment, printable},
};

pub(crate) async fn list(asked: &mut Asked<'_>, all: bool) -> Result<(), Failure> {
    let mut calls = asked.client.steering.clone();
    let request = v1::ListActionsRequest { include_ended: all };
    let listed = asked.client.call(asked.timeout, "", calls.list_actions(request)).await?;
    if asked.json {
        asked.out.json(&document(&listed))?;
        return Ok(());
    }
    heading(asked, &listed)?;
    let out = &mut *asked.out;
    if listed.actions.is_empty() {
        let ended = if all { "" } else { "; `c4ctl actions --all` shows what has ended" };
        out.line(format!("No actions{ended}."))?;
    } else {
        table(&listed.actions).print(out)?;
    }
    for node in &listed.nodes {
        let name = printable(&node.node);
        if let Some(since) = node.isolated_unix_us {
            let why = printable(&node.why);
            out.line(out.paint(Style::Doubtful, format!("{name} is isolated since {}: {why}", when(since))))?;
        }
        if let Some(until) = node.probation_until_unix_us {
            out.line(format!("{name} is on probation until {}", when(until)))?;
        }
        if !node.undone_by.is_empty() {
            let by = printable(&node.undone_by);
            out.line(format!("{name} was given back by {by}; C4 does not take it again by itself"))?;
        }
    }
    Ok(())
}

fn heading(asked: &mut Asked<'_>, listed: &v1::ListActionsResponse) -> Result<(), Failure> {
    let out = &mut *asked.out;
    out.line(format!("mode {}", printable(&listed.mode)))?;
    for mode in &listed.modes {
        let until = mode.until_unix_us.map_or(String::new(), |until| format!(" until {}", when(until)));
        let scope = format!("{} {}", mode.scope, printable(&mode.name));
        out.line(format!("mode {} for {}{until}, set by {}", mode.mode, scope.trim(), printable(&mode.by)))?;
    }
    if let Some(pause) = &listed.pause {
        let why = if pause.why.is_empty() { String::new() } else { format!(": {}", printable(&pause.why)) };
        let text = format!(
            "all actions are paused by {} since {}{why}",
            printable(&pause.by),
            when(pause.since_unix_us)
        );
        out.line(out.paint(Style::Bad, text))?;
    }
    if !listed.breaker.is_empty() {
        let text = format!("the circuit breaker is open: {}", printable(&listed.breaker));
        out.line(out.paint(Style::Bad, text))?;
    }
    if !listed.store_ok {
        out.line(
            out.paint(Style::Bad, "the controller cannot write down what it does, so it begins nothing"),
        )?;
    }
    Ok(())
}

fn table(actions: &[v1::Action]) -> Table {
    let mut table = Table::new(&[
        ("ACTION", Align::Left),
        ("STATE", Align::Left),
        ("PLANNED", Align::Left),
        ("WHAT", Align::Left),
        ("BY", Align::Left),
        ("BECAUSE", Align::Left),
    ]);
    for action in actions {
        let style = match action.state.as_str() {
            "failed" => Style::Bad,
            "done" => Style::Good,
            "withdrawn" | "rejected" => Style::Dim,
            _ => Style::Doubtful,
        };
        let because = if action.detail.is_empty() { &action.because } else { &action.detail };
        table.row(vec![
            (&action.id).into(),
            Cell::styled(&action.state, style),
            when(action.planned_unix_us).into(),
            (&action.text).into(),
            (&action.by).into(),
            because.into(),
        ]);
    }
    table
}

pub(super) fn when(unix_us: i64) -> String {
    u64::try_from(unix_us).map_or_else(|_| "–".to_owned(), moment)
}

fn document(listed: &v1::ListActionsResponse) -> Value {
    let actions: Vec<Value> = listed.actions.iter().map(action).collect();
    let modes = listed.modes.iter().map(|mode| {
        json!({
            "scope": mode.scope,
            "name": some(&mode.name),
            "mode": mode.mode,
            "by": mode.by,
            "until": mode.until_unix_us.map(when),
        })
    });
    let nodes = listed.nodes.iter().map(|node| {
        json!({
            "node": node.node,
            "isolated": node.isolated_unix_us.map(when),
            "why": some(&node.why),
            "probation_until": node.probation_until_unix_us.map(when),
            "undone_by": some(&node.undone_by),
        })
    });
    json!({
        "actions": actions,
        "mode": listed.mode,
        "modes": modes.collect::<Vec<_>>(),
        "paused": listed.pause.as_ref().map(|pause| json!({
            "by": pause.by, "why": some(&pause.why), "since": when(pause.since_unix_us),
        })),
        "breaker": some(&listed.breaker),
        "nodes": nodes.collect::<Vec<_>>(),
        "store_ok": listed.store_ok,
    })
}

fn action(action: &v1::Action) -> Value {
    json!({
        "id": action.id,
        "deed": action.deed,
        "text": action.text,
        "state": action.state,
        "detail": some(&action.detail),
        "job": some(&action.job),
        "incarnation": (action.deed == "restart").then_some(action.incarnation),
        "nodes": action.nodes,
        "finding": some(&action.finding),
        "because": action.because,
        "by": some(&action.by),
        "attempt": action.attempt,
        "planned": when(action.planned_unix_us),
        "ended": action.ended_unix_us.map(when),
    })
}

/// Empty means absent on the wire.
pub(super) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
