//! The figures of a run.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::controller::Scrape;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Ranks of the job.
    pub ranks: u32,
    /// Nodes, each with an agent and a stream of its own.
    pub nodes: u32,
    /// TCP connections that the streams share.
    pub connections: usize,
    /// Seconds until every agent was connected and all it said first was taken.
    pub start_seconds: f64,
    /// CPU time of the controller per second.
    pub cores: f64,
    /// CPU time of the controller for each rank and second, in microseconds.
    pub cpu_us_per_rank: f64,
    /// Most memory that the controller had resident, in bytes, from its start to the verdict.
    pub rss_peak_bytes: u64,
    /// The same for each rank.
    pub rss_bytes_per_rank: f64,
    /// TCP payload from agents, for each rank and second.
    pub wire_up_bytes_per_rank: f64,
    /// TCP payload to agents, likewise.
    pub wire_down_bytes_per_rank: f64,
    /// Windows acknowledged in a second.
    pub windows_per_second: f64,
    /// Times from sending to the acknowledgement (which waits up to 100 ms for company), in milliseconds.
    pub ack_ms: Quantiles,
    /// How late the simulated agents themselves were at worst, in milliseconds.
    pub agents_late_ms: f64,
    /// The page of metrics, read while the load was on.
    pub metrics: Scrape,
    /// Messages refused, streams closed, messages for which an agent had no room.
    pub refused: u64,
    /// See `refused`.
    pub closed: u64,
    /// See `refused`.
    pub overflowed: u64,
    /// The first complaint of the controller.
    pub complaint: Option<String>,
    /// Findings told although nothing was broken.
    pub false_alarms: Vec<String>,
    /// What came of the fault, if there was one.
    pub verdict: Option<Outcome>,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    /// Half are below.
    pub median: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// All are at most this.
    pub max: f64,
}

impl Quantiles {
    /// Of times in order.
    #[must_use]
    pub fn of(sorted: &[Duration]) -> Self {
        let at = |q: f64| {
            let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
            sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { median: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// What came of the fault.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The rank that broke.
    pub rank: u32,
    /// Whether it was the first suspect of a finding.
    pub found: bool,
    /// Kind of the finding.
    pub kind: String,
    /// The finding's sentence, or why there is none.
    pub summary: String,
    /// Seconds from the fault to the event.
    pub since_fault: f64,
    /// Seconds from the message that completed the evidence, for a detector that hears of the simulated ranks only, to the event; less than 0
    /// if the controller needed less, absent if it told before there was evidence.
    pub since_evidence: Option<f64>,
    /// Seconds from that message until the finding was in the list.
    pub listed_since_evidence: Option<f64>,
    /// Findings about somebody else that were told before.
    pub others: Vec<String>,
}

impl Outcome {
    /// Whether and when it was found.
    fn when(&self) -> String {
        if !self.found {
            return "NOT found".to_owned();
        }
        let after = match (self.since_evidence, self.listed_since_evidence) {
            (Some(told), Some(listed)) => {
                format!("{told:.2} s after the evidence ({listed:.2} s in the list)")
            }
            _ => "before a detector that hears of the simulated ranks only had evidence".to_owned(),
        };
        format!("found {:.2} s after the fault, {after}", self.since_fault)
    }
}

impl Row {
    /// Whether the controller kept up and the fault was found.
    #[must_use]
    pub fn passes(&self) -> bool {
        let kept_up = self.windows_per_second >= f64::from(self.ranks) * 0.98;
        let clean = self.refused + self.closed + self.overflowed == 0 && self.false_alarms.is_empty();
        kept_up && clean && self.verdict.as_ref().is_none_or(|verdict| verdict.found)
    }
}

/// The runs as a table, and a sentence for each verdict.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let mut text = String::from(
        "   ranks  nodes  cores  µs CPU/rank/s  RSS peak MB  kB/rank  B/rank/s up  down  windows/s  ack ms p50   p99   max  verdict s\n",
    );
    for row in rows {
        let verdict = row.verdict.as_ref().and_then(|verdict| verdict.since_evidence);
        let verdict = verdict.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
        let _ = writeln!(
            text,
            "{:>8} {:>6} {:>6.2} {:>14.1} {:>12.0} {:>8.1} {:>12.0} {:>5.0} {:>10.0} {:>11.0} {:>5.0} {:>5.0} {:>10}",
            row.ranks,
            row.nodes,
            row.cores,
            row.cpu_us_per_rank,
            row.rss_peak_bytes as f64 / 1e6,
            row.rss_bytes_per_rank / 1e3,
            row.wire_up_bytes_per_rank,
            row.wire_down_bytes_per_rank,
            row.windows_per_second,
            row.ack_ms.median,
            row.ack_ms.p99,
            row.ack_ms.max,
            verdict,
        );
    }
    for row in rows {
        let _ = writeln!(text, "\n{} ranks: {}", row.ranks, sentence(row));
    }
    text
}

fn sentence(row: &Row) -> String {
    let mut said = vec![format!(
        "started in {:.1} s over {} connections; agents at most {:.0} ms late; metrics: {:.2} MB, {} series in {:.2} s",
        row.start_seconds,
        row.connections,
        row.agents_late_ms,
        row.metrics.bytes as f64 / 1e6,
        row.metrics.series,
        row.metrics.seconds
    )];
    if let Some(verdict) = &row.verdict {
        said.push(format!("rank {} {}: {}", verdict.rank, verdict.when(), verdict.summary));
        said.extend(verdict.others.iter().map(|other| format!("also told: {other}")));
    }
    said.extend(row.false_alarms.iter().map(|alarm| format!("FALSE ALARM: {alarm}")));
    let lost = row.refused + row.closed + row.overflowed;
    if lost > 0 {
        let (refused, closed, overflowed) = (row.refused, row.closed, row.overflowed);
        let why = row.complaint.as_deref().unwrap_or("no reason given");
        said.push(format!("{refused} refused, {closed} streams closed, {overflowed} overflowed: {why}"));
    }
    said.join("\n  ")
}
