//! `c4ctl audit` and `c4ctl evidence`.

use c4_proto::v1;
use serde_json::{Value, json};

use super::{
    Asked,
    actions::{some, when},
};
use crate::{
    failure::Failure,
    output::Style,
    table::{Align, Table},
    words::{bytes, printable},
};

pub(crate) async fn list(asked: &mut Asked<'_>, limit: u32) -> Result<(), Failure> {
    let mut calls = asked.client.steering.clone();
    let request = v1::ListAuditRequest { limit };
    let entries = asked.client.call(asked.timeout, "", calls.list_audit(request)).await?.entries;
    if asked.json {
        let entries: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "at": when(entry.unix_us),
                    "who": entry.who,
                    "what": entry.what,
                    "text": entry.text,
                    "action": some(&entry.action),
                    "finding": some(&entry.finding),
                    "job": some(&entry.job),
                    "nodes": entry.nodes,
                })
            })
            .collect();
        asked.out.json(&json!({"audit": entries}))?;
        return Ok(());
    }
    let out = &mut *asked.out;
    if entries.is_empty() {
        out.line("Nothing was done, decided or held back yet.")?;
    }
    for entry in &entries {
        let at = out.paint(Style::Dim, when(entry.unix_us));
        let of: Vec<String> = [("action", &entry.action), ("finding", &entry.finding)]
            .into_iter()
            .filter(|(_, id)| !id.is_empty())
            .map(|(what, id)| format!("{what} {}", printable(id)))
            .collect();
        let of = if of.is_empty() {
            String::new()
        } else {
            out.paint(Style::Dim, format!(" ({})", of.join(", ")))
        };
        let (who, what, text) = (printable(&entry.who), printable(&entry.what), printable(&entry.text));
        out.line(format!("{at}  {who:<8}  {what:<9}  {text}{of}"))?;
    }
    Ok(())
}

pub(crate) async fn evidence(asked: &mut Asked<'_>, job: Option<&str>) -> Result<(), Failure> {
    let mut calls = asked.client.steering.clone();
    let request = v1::ListEvidenceRequest { job: job.unwrap_or_default().to_owned() };
    let evidence = asked.client.call(asked.timeout, "", calls.list_evidence(request)).await?.evidence;
    if asked.json {
        let evidence: Vec<Value> = evidence
            .iter()
            .map(|one| {
                json!({
                    "at": when(one.unix_us),
                    "job": one.job,
                    "incarnation": one.incarnation,
                    "node": one.node,
                    "path": one.path,
                    "bytes": one.bytes,
                    "files": one.files,
                })
            })
            .collect();
        asked.out.json(&json!({"evidence": evidence}))?;
        return Ok(());
    }
    if evidence.is_empty() {
        asked.out.line("Nothing was saved yet: agents save when they are told to stop a job.")?;
        return Ok(());
    }
    let mut table = Table::new(&[
        ("AT", Align::Left),
        ("JOB", Align::Left),
        ("INCARNATION", Align::Right),
        ("NODE", Align::Left),
        ("SIZE", Align::Right),
        ("FILES", Align::Right),
        ("PATH ON THE NODE", Align::Left),
    ]);
    for one in &evidence {
        table.row(vec![
            when(one.unix_us).into(),
            (&one.job).into(),
            one.incarnation.to_string().into(),
            (&one.node).into(),
            bytes(one.bytes).into(),
            one.files.to_string().into(),
            (&one.path).into(),
        ]);
    }
    table.print(asked.out)?;
    asked.out.line("`c4ctl analyze PATH` diagnoses what is in such a directory again.")?;
    Ok(())
}
