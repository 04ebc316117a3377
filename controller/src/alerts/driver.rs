//! One task for each receiver: takes notices, does what its [`Queue`] says, one request at a time.
//!
//! Cancelling is safe at any point: what a receiver did not confirm is in the queue, and the queue lives as long as
//! the controller. On the way out, the task delivers what is due once more, within the drain time its caller grants.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Notice, alertmanager,
    queue::{Delivery, Limits, Next, Offered, Queue},
    webhook,
};
use crate::{
    clock::Clock,
    config::{Alert, AlertKind},
    events::{Event, EventLog},
    metrics::Metrics,
};

/// Notices that may wait for a task.
pub const DEPTH: usize = 1024;
/// Redirects followed at most, and only on the same host.
const REDIRECTS: usize = 3;

/// A client could not be made.
#[derive(Debug, Error)]
#[error("alerts[{index}]: no HTTP client can be made")]
pub struct ClientError {
    index: usize,
    source: reqwest::Error,
}

/// One receiver's task.
pub struct Receiver {
    index: usize,
    config: Alert,
    kind: AlertKind,
    client: Client,
    queue: Queue,
    notices: mpsc::Receiver<Notice>,
    clock: Clock,
    metrics: Arc<Metrics>,
    events: EventLog,
    /// Whether the last attempt failed, so that trouble is told once when it begins and once when it ends.
    troubled: bool,
}

/// Why a delivery failed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    why: String,
    retry: bool,
}

impl Receiver {
    /// A receiver, and the channel that feeds it.
    pub fn new(
        index: usize,
        config: Alert,
        clock: Clock,
        metrics: Arc<Metrics>,
        events: EventLog,
    ) -> Result<(Self, mpsc::Sender<Notice>), ClientError> {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(Duration::from_secs_f64(config.timeout_seconds))
            .redirect(redirect::Policy::custom(same_host))
            .no_proxy()
            .user_agent(concat!("c4-controller/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ClientError { index, source })?;
        let kind = config.kind.unwrap_or(AlertKind::Json);
        let queue = Queue::new(Limits {
            repeat_us: (kind == AlertKind::Alertmanager).then_some((config.repeat_seconds * 1e6) as u64),
            attempts: config.attempts,
            entries: config.queue,
            seed: clock.now().0 ^ index as u64,
        });
        let (send, notices) = mpsc::channel(DEPTH);
        Ok((
            Self { index, config, kind, client, queue, notices, clock, metrics, events, troubled: false },
            send,
        ))
    }

    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            while let Ok(notice) = self.notices.try_recv() {
                self.offer(notice);
            }
            match self.queue.next(self.clock.now()) {
                Next::Deliver(delivery) => {
                    // Not cut short by the end of the controller: what was sent should not be sent again.
                    let outcome = self.deliver(&delivery).await;
                    self.settle(&delivery, outcome);
                }
                next => {
                    let due = match next {
                        Next::Wait(due) => Some(self.clock.instant(due)),
                        _ => None,
                    };
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        notice = self.notices.recv() => match notice {
                            Some(notice) => self.offer(notice),
                            None => break,
                        },
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
        self.last_words().await;
    }

    /// One more attempt at whatever is due.
    async fn last_words(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.offer(notice);
        }
        for _ in 0..self.queue.undelivered() {
            let Next::Deliver(delivery) = self.queue.next(self.clock.now()) else { return };
            let outcome = self.deliver(&delivery).await;
            self.settle(&delivery, outcome);
        }
    }

    fn offer(&mut self, notice: Notice) {
        let finding = notice.finding.id.clone();
        if self.queue.offer(notice, self.clock.now()) == Offered::Full {
            self.count("dropped");
            tracing::warn!("{}: no room for finding {}", self.name(), finding.0);
        }
    }

    fn settle(&mut self, delivery: &Delivery, outcome: Result<(), Failure>) {
        let now = self.clock.now();
        let job = &delivery.notice.finding.job.0;
        match outcome {
            Ok(()) => {
                self.queue.delivered(delivery, now);
                self.count("delivered");
                if std::mem::take(&mut self.troubled) {
                    self.say(job, format!("{} takes alerts again", self.name()));
                }
            }
            Err(failure) => {
                let given_up = self.queue.failed(delivery, failure.retry, now);
                self.count("failed");
                if !std::mem::replace(&mut self.troubled, true) {
                    self.say(job, format!("{} does not take alerts: {}", self.name(), failure.why));
                }
                if given_up {
                    self.count("dead_lettered");
                    let finding = &delivery.notice.finding.id.0;
                    self.say(job, format!("{}: gave up telling of {finding}: {}", self.name(), failure.why));
                }
            }
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<(), Failure> {
        let (url, body) = self.request(delivery);
        let response = self
            .client
            .post(url)
            .json(&body)
            .send()
            .await
            .map_err(|error| Failure { retry: !error.is_builder(), why: chain(&error.without_url()) })?;
        // The body is never read: whoever talks rubbish, or without end, talks to nobody.
        judge(response.status())
    }

    fn request(&self, delivery: &Delivery) -> (String, Value) {
        match self.kind {
            AlertKind::Alertmanager => {
                let repeat_us = (self.config.repeat_seconds * 1e6) as u64;
                let body = alertmanager::body(&delivery.notice, self.clock.now(), repeat_us);
                (alertmanager::endpoint(&self.config.url), body)
            }
            AlertKind::Json => (self.config.url.clone(), webhook::body(&delivery.notice, delivery.event)),
        }
    }

    fn name(&self) -> String {
        format!("receiver alerts[{}]", self.index)
    }

    fn say(&self, job: &str, text: String) {
        self.events.push(Event { at: self.clock.now(), kind: "alert", job: job.to_owned(), text });
    }

    fn count(&self, outcome: &str) {
        let receiver = match self.kind {
            AlertKind::Alertmanager => "alertmanager",
            AlertKind::Json => "json",
        };
        self.metrics.alerts.with_label_values(&[receiver, outcome]).inc();
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn judge(status: StatusCode) -> Result<(), Failure> {
    let retry = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if status.is_success() { Ok(()) } else { Err(Failure { why: format!("it answered {status}"), retry }) }
}

/// A receiver may move on its own host. It may not send findings to somebody else's.
fn same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from = attempt.previous().first();
    let place = |url: &reqwest::Url| {
        (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default())
    };
    let same = from.is_some_and(|from| place(from) == place(attempt.url()));
    if same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// An error with its causes: reqwest's own message says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert_eq!(judge(StatusCode::OK), Ok(()));
        for status in [500, 502, 503, 429, 408] {
            assert!(judge(StatusCode::from_u16(status).unwrap()).unwrap_err().retry, "{status}");
        }
        for status in [301, 307, 400, 401, 404, 413] {
            assert!(!judge(StatusCode::from_u16(status).unwrap()).unwrap_err().retry, "{status}");
        }
    }
}
