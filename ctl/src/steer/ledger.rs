//! `c4ctl ledger`: what faults have cost, in the parts that the C4 paper counts.

use std::time::Duration;

use c4_proto::v1;
use serde_json::{Value, json};

use super::{Asked, actions::when};
use crate::{
    failure::Failure,
    table::{Align, Table},
    words::{printable, seconds},
};

pub(crate) async fn run(asked: &mut Asked<'_>, job: Option<&str>) -> Result<(), Failure> {
    let mut calls = asked.client.steering.clone();
    let request = v1::GetLedgerRequest { job: job.unwrap_or_default().to_owned() };
    let missing = job.map_or(String::new(), |job| format!("the controller knows no job {job:?}"));
    let jobs = asked.client.call(asked.timeout, &missing, calls.get_ledger(request)).await?.jobs;
    if asked.json {
        let all: Vec<Value> = jobs.iter().map(document).collect();
        asked.out.json(&json!({"jobs": all, "cluster": cluster(&jobs)}))?;
        return Ok(());
    }
    if jobs.is_empty() {
        return asked.no_jobs();
    }
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("SEEN", Align::Right),
        ("OUTAGES", Align::Right),
        ("LOST WORK", Align::Right),
        ("DETECTION", Align::Right),
        ("DIAGNOSIS", Align::Right),
        ("RESTART", Align::Right),
        ("LOST", Align::Right),
        ("GPU TIME", Align::Right),
    ]);
    for job in &jobs {
        table.row(vec![
            (&job.job).into(),
            seconds(job.observed_seconds).into(),
            job.entries.len().to_string().into(),
            seconds(job.post_checkpoint_seconds).into(),
            seconds(job.detection_seconds).into(),
            seconds(job.diagnosis_isolation_seconds).into(),
            seconds(job.reinitialisation_seconds).into(),
            format!("{:.2} %", job.lost_share * 100.0).into(),
            seconds(job.lost_rank_seconds).into(),
        ]);
    }
    table.print(asked.out)?;
    for job in &jobs {
        let Some(advice) = &job.checkpoint else { continue };
        asked.out.line(format!(
            "{}: a checkpoint every {} would lose least (now every {}; one takes {}, a fault comes every {}), and save {:.2} % of its time",
            printable(&job.job),
            seconds(advice.interval_seconds),
            seconds(advice.present_seconds),
            seconds(advice.cost_seconds),
            seconds(advice.mean_time_between_failures_seconds),
            advice.saves_share * 100.0,
        ))?;
    }
    Ok(())
}

/// `c4ctl checkpoint`.
pub(super) async fn checkpoint(
    asked: &mut Asked<'_>,
    job: &str,
    iteration: u64,
    took: Option<Duration>,
) -> Result<(), Failure> {
    let took_us = took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    let report = v1::CheckpointReport { job: job.to_owned(), iteration, took_us };
    let mut calls = asked.client.steering.clone();
    let missing = format!("the controller knows no job {job:?}");
    asked.client.call(asked.timeout, &missing, calls.report_checkpoint(report)).await?;
    if asked.json {
        asked.out.json(
            &json!({"job": job, "iteration": iteration, "took_seconds": took.map(|took| took.as_secs_f64())}),
        )?;
    } else {
        asked.out.line(format!("job {} goes on from iteration {iteration} after a fault", printable(job)))?;
    }
    Ok(())
}

fn document(job: &v1::JobLedger) -> Value {
    let entries = job.entries.iter().map(|entry| {
        json!({
            "finding": entry.finding,
            "started": when(entry.started_unix_us),
            "post_checkpoint_seconds": (!entry.post_checkpoint_unknown).then_some(entry.post_checkpoint_seconds),
            "detection_seconds": entry.detection_seconds,
            "diagnosis_isolation_seconds": entry.diagnosis_isolation_seconds,
            "reinitialisation_seconds": entry.reinitialisation_seconds,
            "complete": entry.complete,
        })
    });
    json!({
        "job": job.job,
        "ranks": job.ranks,
        "observed_seconds": job.observed_seconds,
        "post_checkpoint_seconds": job.post_checkpoint_seconds,
        "detection_seconds": job.detection_seconds,
        "diagnosis_isolation_seconds": job.diagnosis_isolation_seconds,
        "reinitialisation_seconds": job.reinitialisation_seconds,
        "lost_share": job.lost_share,
        "lost_rank_seconds": job.lost_rank_seconds,
        "entries": entries.collect::<Vec<_>>(),
        "checkpoint": job.checkpoint.as_ref().map(|advice| json!({
            "interval_seconds": advice.interval_seconds,
            "present_seconds": advice.present_seconds,
            "cost_seconds": advice.cost_seconds,
            "mean_time_between_failures_seconds": advice.mean_time_between_failures_seconds,
            "saves_share": advice.saves_share,
        })),
    })
}

/// All jobs together, each rank's second counting once.
fn cluster(jobs: &[v1::JobLedger]) -> Value {
    let all: f64 = jobs.iter().map(|job| job.observed_seconds * f64::from(job.ranks)).sum();
    let lost: f64 = jobs.iter().map(|job| job.lost_rank_seconds).sum();
    json!({
        "rank_seconds": all,
        "lost_rank_seconds": lost,
        "lost_share": if all > 0.0 { (lost / all).min(1.0) } else { 0.0 },
    })
}
