//! `c4ctl jobs`: every job, a line each.

use c4_proto::v1;
use serde_json::{Value, json};

use super::Asked;
use crate::{
    failure::Failure,
    output::Style,
    table::{Align, Cell, Table},
    words::seconds,
};

pub(super) async fn run(asked: &mut Asked<'_>) -> Result<(), Failure> {
    let mut calls = asked.client.calls.clone();
    let jobs = asked.client.call(asked.timeout, "", calls.list_jobs(v1::ListJobsRequest {})).await?.jobs;
    if asked.json {
        let jobs: Vec<Value> = jobs.iter().map(summary).collect();
        asked.out.json(&json!({"jobs": jobs}))?;
        return Ok(());
    }
    if jobs.is_empty() {
        return asked.no_jobs();
    }
    let wide = asked.out.is_wide();
    let mut columns = vec![
        ("JOB", Align::Left),
        ("STATE", Align::Left),
        ("RANKS", Align::Right),
        ("ITERATION", Align::Right),
        ("FINDINGS", Align::Right),
        ("RESTARTS", Align::Right),
    ];
    if wide {
        columns.extend([("NOISE", Align::Right), ("INCARNATION", Align::Right)]);
    }
    columns.push(("MISSING", Align::Left));
    let mut table = Table::new(&columns);
    for job in &jobs {
        let mut row = vec![
            (&job.name).into(),
            Cell::styled(&job.state, style(&job.state)),
            ranks(job).into(),
            iteration(job).into(),
            job.open_findings.to_string().into(),
            job.restarts.to_string().into(),
        ];
        if wide {
            let noise = job.iteration_noise;
            row.push(if noise > 0.0 { format!("{:.1} %", noise * 100.0) } else { "–".into() }.into());
            row.push(job.incarnation.to_string().into());
        }
        row.push(job.missing.join(", ").into());
        table.row(row);
    }
    table.print(asked.out)?;
    Ok(())
}

/// How a job's state stands out.
pub(super) fn style(state: &str) -> Style {
    match state {
        "healthy" => Style::Good,
        "faulty" => Style::Bad,
        "unknown" | "restarting" => Style::Doubtful,
        _ => Style::Plain,
    }
}

/// "8/8": seen of all, as far as known.
pub(super) fn ranks(job: &v1::JobSummary) -> String {
    match job.world_size {
        0 => job.ranks_seen.to_string(),
        size => format!("{}/{size}", job.ranks_seen),
    }
}

/// The learned duration of an iteration.
pub(super) fn iteration(job: &v1::JobSummary) -> String {
    if job.iteration_seconds > 0.0 { seconds(job.iteration_seconds) } else { "–".to_owned() }
}

/// One job for scripts.
pub(super) fn summary(job: &v1::JobSummary) -> Value {
    json!({
        "name": job.name,
        "incarnation": job.incarnation,
        "world_size": Some(job.world_size).filter(|size| *size > 0),
        "ranks_seen": job.ranks_seen,
        "state": job.state,
        "missing": job.missing,
        "iteration_seconds": Some(job.iteration_seconds).filter(|seconds| *seconds > 0.0),
        "iteration_noise": Some(job.iteration_noise).filter(|noise| *noise > 0.0),
        "open_findings": job.open_findings,
        "restarts": job.restarts,
    })
}
