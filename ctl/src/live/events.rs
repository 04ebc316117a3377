//! `c4ctl events`: what has happened, and with `--follow` what happens.
//!
//! The controller's stream never ends by itself, and it does not mark where history stops. Without `--follow` the
//! command therefore stops when it has all the history it asked for, or when nothing has come for [`QUIET`]: a
//! controller sends its history at once.

use std::time::Duration;

use c4_proto::v1;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use super::Asked;
use crate::{
    failure::Failure,
    output::{Output, Style},
    words::{moment, printable},
};

/// Silence after which a controller has no more history to send.
const QUIET: Duration = Duration::from_millis(500);

pub(super) async fn run(asked: &mut Asked<'_>, follow: bool, history: u32) -> Result<(), Failure> {
    if history == 0 && !follow {
        return if asked.json { Ok(asked.out.json(&json!({"events": []}))?) } else { Ok(()) };
    }
    let mut calls = asked.client.calls.clone();
    let request = v1::WatchEventsRequest { history };
    let stream = asked.client.call(asked.timeout, "", calls.watch_events(request)).await?;
    if follow { stream_on(asked, stream).await } else { history_of(asked, stream, history).await }
}

async fn stream_on(asked: &mut Asked<'_>, mut stream: Streaming<v1::Event>) -> Result<(), Failure> {
    while !asked.out.gone() {
        let Some(event) = next(asked, &mut stream).await? else {
            return Err(Failure::Unreachable {
                url: asked.client.url.clone(),
                cause: "it ended the stream of events".to_owned(),
                hint: "it may be restarting; run the command again to go on",
            });
        };
        if asked.json {
            asked.out.json_line(&document(&event))?;
        } else {
            print(&event, asked.out)?;
        }
        asked.out.flush()?;
    }
    Ok(())
}

/// What has happened of late to a job.
pub(super) async fn past(asked: &Asked<'_>, history: u32, job: &str) -> Result<Value, Failure> {
    let mut calls = asked.client.calls.clone();
    let request = v1::WatchEventsRequest { history };
    let stream = asked.client.call(asked.timeout, "", calls.watch_events(request)).await?;
    let events = collect(asked, stream, history).await?;
    let events: Vec<Value> =
        events.iter().filter(|event| event.job.is_empty() || event.job == job).map(document).collect();
    Ok(json!({"events": events}))
}

async fn history_of(
    asked: &mut Asked<'_>,
    stream: Streaming<v1::Event>,
    history: u32,
) -> Result<(), Failure> {
    let events = collect(asked, stream, history).await?;
    if asked.json {
        let events: Vec<Value> = events.iter().map(document).collect();
        asked.out.json(&json!({"events": events}))?;
        return Ok(());
    }
    for event in &events {
        print(event, asked.out)?;
    }
    Ok(())
}

async fn collect(
    asked: &Asked<'_>,
    mut stream: Streaming<v1::Event>,
    history: u32,
) -> Result<Vec<v1::Event>, Failure> {
    let mut events = Vec::new();
    while events.len() < history as usize {
        match tokio::time::timeout(QUIET, next(asked, &mut stream)).await {
            Ok(Ok(Some(event))) => events.push(event),
            Ok(Err(failure)) => return Err(failure),
            Ok(Ok(None)) | Err(_) => break,
        }
    }
    Ok(events)
}

async fn next(asked: &Asked<'_>, stream: &mut Streaming<v1::Event>) -> Result<Option<v1::Event>, Failure> {
    stream.message().await.map_err(|status: Status| asked.client.failed(&status, ""))
}

fn print(event: &v1::Event, out: &mut Output) -> std::io::Result<()> {
    let style = match event.kind.as_str() {
        "finding" | "alert" => Style::Bad,
        "action" => Style::Doubtful,
        _ => Style::Plain,
    };
    let when = out.paint(Style::Dim, time(event));
    let kind = out.paint(style, format!("{:<8}", printable(&event.kind)));
    let job = if event.job.is_empty() { String::new() } else { format!("{}: ", printable(&event.job)) };
    out.line(format!("{when}  {kind}  {job}{}", printable(&event.text)))
}

fn time(event: &v1::Event) -> String {
    u64::try_from(event.unix_us).map_or_else(|_| "–".to_owned(), moment)
}

fn document(event: &v1::Event) -> Value {
    json!({"time": time(event), "kind": event.kind, "job": event.job, "text": event.text})
}
