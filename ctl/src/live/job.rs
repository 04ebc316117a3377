//! `c4ctl job J`: one job, rank by rank, with what is wrong and what it has cost.

use std::collections::BTreeMap;

use c4_detect::{
    change::{ChangePoint, Grown},
    report::change_value,
};
use c4_proto::v1;
use serde_json::{Value, json};

use super::{Asked, findings::reports, jobs};
use crate::{
    convert,
    failure::Failure,
    finding,
    output::{Output, Style},
    table::{Align, Cell, Table},
    words::{count, duration_us, moment, printable, seconds},
};

pub(super) async fn run(asked: &mut Asked<'_>, name: &str) -> Result<(), Failure> {
    let missing =
        format!("the controller at {} knows no job {name:?}; `c4ctl jobs` lists them", asked.client.url);
    let mut calls = asked.client.calls.clone();
    let request = v1::GetJobRequest { name: name.to_owned() };
    let job = asked.client.call(asked.timeout, &missing, calls.get_job(request)).await?;
    let reports = reports(job.findings)?;
    let changes: Vec<ChangePoint> = job.iteration_changes.into_iter().map(convert::change).collect();
    let summary = job.summary.unwrap_or_default();
    let ledger = job.ledger.unwrap_or_default();
    if asked.json {
        let mut document = json!({
            "job": jobs::summary(&summary),
            "ranks": job.ranks.iter().map(rank_document).collect::<Vec<_>>(),
            "iteration_changes": changes.iter().map(change_value).collect::<Vec<_>>(),
            "ledger": ledger_document(&ledger),
        });
        document["findings"] = finding::document(&reports)["findings"].take();
        asked.out.json(&document)?;
        return Ok(());
    }
    let out = &mut *asked.out;
    heading(&summary, out)?;
    if !reports.is_empty() {
        out.line("")?;
        finding::print_table(&reports, out)?;
    }
    out.line("")?;
    ranks(&job.ranks).print(out)?;
    blind_spots(&job.ranks, out)?;
    if !changes.is_empty() {
        out.line("")?;
        out.line("When the iteration time changed:")?;
        table_of(&changes).print(out)?;
    }
    if !ledger.entries.is_empty() {
        out.line("")?;
        out.line(format!("Downtime: {} in all", seconds(ledger.total_seconds)))?;
        downtime(&ledger).print(out)?;
    }
    Ok(())
}

fn heading(job: &v1::JobSummary, out: &mut Output) -> std::io::Result<()> {
    let state = out.paint(jobs::style(&job.state), printable(&job.state));
    let noise = match job.iteration_noise {
        noise if noise > 0.0 => format!(" ± {:.1} %", noise * 100.0),
        _ => String::new(),
    };
    out.line(format!(
        "job {}: {state}, ranks seen {}, iteration {}{noise}, {}",
        printable(&job.name),
        jobs::ranks(job),
        jobs::iteration(job),
        count(job.restarts.into(), "restart"),
    ))?;
    if !job.missing.is_empty() {
        out.line(format!("missing evidence: {}", printable(&job.missing.join(", "))))?;
    }
    Ok(())
}

fn ranks(ranks: &[v1::Rank]) -> Table {
    let mut table = Table::new(&[
        ("RANK", Align::Right),
        ("STATE", Align::Left),
        ("NODE", Align::Left),
        ("GPU", Align::Right),
        ("PID", Align::Right),
        ("ENQUEUED", Align::Right),
        ("STARTED", Align::Right),
        ("COMPLETED", Align::Right),
    ]);
    for rank in ranks {
        let style = match rank.state.as_str() {
            "dead" | "stopped" => Style::Bad,
            "waiting" | "unknown" => Style::Doubtful,
            _ => Style::Plain,
        };
        table.row(vec![
            rank.rank.to_string().into(),
            Cell::styled(&rank.state, style),
            (&rank.node).into(),
            rank.gpu.map_or_else(|| "–".to_owned(), |gpu| gpu.to_string()).into(),
            rank.pid.to_string().into(),
            rank.enqueued.to_string().into(),
            rank.started.to_string().into(),
            rank.completed.to_string().into(),
        ]);
    }
    table
}

/// What cannot be seen, once for all ranks of which it is true: a job's ranks mostly run the same NCCL.
fn blind_spots(ranks: &[v1::Rank], out: &mut Output) -> std::io::Result<()> {
    let mut spots: BTreeMap<&str, usize> = BTreeMap::new();
    for spot in ranks.iter().flat_map(|rank| &rank.blind_spots) {
        *spots.entry(spot).or_default() += 1;
    }
    if spots.is_empty() {
        return Ok(());
    }
    out.line("")?;
    out.line("What cannot be seen:")?;
    for (spot, seen) in spots {
        let of = if seen == ranks.len() { String::new() } else { format!(" ({seen} ranks)") };
        out.line(format!("  {}{of}", printable(spot)))?;
    }
    Ok(())
}

fn table_of(changes: &[ChangePoint]) -> Table {
    let mut table = Table::new(&[
        ("AT", Align::Left),
        ("BEFORE", Align::Right),
        ("AFTER", Align::Right),
        ("HOW", Align::Left),
        ("WHAT GREW OR SHRANK", Align::Left),
    ]);
    for change in changes {
        let grew: Vec<String> = change.grew.iter().map(Grown::phrase).collect();
        table.row(vec![
            moment(change.at.0).into(),
            duration_us(change.before_us).into(),
            duration_us(change.after_us).into(),
            if change.gradual { "slowly" } else { "at once" }.into(),
            grew.join("; ").into(),
        ]);
    }
    table
}

fn downtime(ledger: &v1::Ledger) -> Table {
    let mut table = Table::new(&[
        ("FINDING", Align::Left),
        ("STARTED", Align::Left),
        ("LOST WORK", Align::Right),
        ("DETECTION", Align::Right),
        ("DIAGNOSIS", Align::Right),
        ("RESTART", Align::Right),
        ("OVER", Align::Left),
    ]);
    for entry in &ledger.entries {
        table.row(vec![
            (&entry.finding).into(),
            u64::try_from(entry.started_unix_us).map_or_else(|_| "–".to_owned(), moment).into(),
            if entry.post_checkpoint_unknown {
                "unknown".into()
            } else {
                seconds(entry.post_checkpoint_seconds).into()
            },
            seconds(entry.detection_seconds).into(),
            seconds(entry.diagnosis_isolation_seconds).into(),
            seconds(entry.reinitialisation_seconds).into(),
            if entry.complete { "yes".into() } else { Cell::styled("not yet", Style::Bad) },
        ]);
    }
    table
}

fn rank_document(rank: &v1::Rank) -> Value {
    json!({
        "rank": rank.rank,
        "node": rank.node,
        "gpu": rank.gpu,
        "pid": rank.pid,
        "state": rank.state,
        "enqueued": rank.enqueued,
        "started": rank.started,
        "completed": rank.completed,
        "blind_spots": rank.blind_spots,
    })
}

fn ledger_document(ledger: &v1::Ledger) -> Value {
    let entries: Vec<Value> = ledger
        .entries
        .iter()
        .map(|entry| {
            json!({
                "finding": entry.finding,
                "started": u64::try_from(entry.started_unix_us).ok().map(moment),
                "post_checkpoint_seconds":
                    (!entry.post_checkpoint_unknown).then_some(entry.post_checkpoint_seconds),
                "detection_seconds": entry.detection_seconds,
                "diagnosis_isolation_seconds": entry.diagnosis_isolation_seconds,
                "reinitialisation_seconds": entry.reinitialisation_seconds,
                "complete": entry.complete,
            })
        })
        .collect();
    json!({"entries": entries, "total_seconds": ledger.total_seconds})
}
