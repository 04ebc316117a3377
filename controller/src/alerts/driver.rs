//! One task for each receiver: takes notices, does what its [`Queue`] says, one request at a time.
//!
//! Cancelling is safe at any point: what a receiver did not confirm is in the queue, and the queue lives as long as
//! the controller. On the way out, the task delivers what is due once more, within the drain time its caller grants.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, header, redirect};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Notice, alertmanager, pagerduty,
    queue::{Delivery, Failed, Item, Limits, Next, Offered, Queue},
    secret::{Secret, SecretError},
    slack, test,
    webhook::{self, Template},
};
use crate::{
    causes::chain,
    clock::Clock,
    config::{Alert, AlertKind},
    events::{Event, EventLog},
    ha::fence::Fence,
    metrics::Metrics,
};

/// Findings told together at most.
const TOGETHER: usize = 100;
/// Notices that may wait for a task.
pub const DEPTH: usize = 1024;
/// Redirects followed at most, and only on the same host.
const REDIRECTS: usize = 3;

/// A receiver could not be made.
#[derive(Debug, Error)]
pub enum ReceiverError {
    /// No client.
    #[error("alerts[{index}]: no HTTP client can be made")]
    Client {
        /// The receiver.
        index: usize,
        /// Why.
        source: reqwest::Error,
    },
    /// A file that it needs.
    #[error("alerts[{index}]: {source}")]
    Secret {
        /// The receiver.
        index: usize,
        /// Why.
        source: SecretError,
    },
    /// Its template.
    #[error("alerts[{index}]: template {}: {why}", .path.display())]
    Template {
        /// The receiver.
        index: usize,
        /// The template's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Somebody wants to know whether a receiver hears.
pub type Trial = oneshot::Sender<Result<(), String>>;

/// The ends of a receiver's channels.
#[derive(Clone, Debug)]
pub struct Handle {
    /// How it is called: `alerts[0]`.
    pub name: String,
    /// How it is told.
    pub kind: AlertKind,
    /// Findings for it.
    pub notices: mpsc::Sender<Notice>,
    /// Trials, one at a time.
    pub trials: mpsc::Sender<Trial>,
}

/// One receiver's task.
pub struct Receiver {
    index: usize,
    config: Alert,
    kind: AlertKind,
    client: Client,
    template: Option<Template>,
    queue: Queue,
    notices: mpsc::Receiver<Notice>,
    trials: mpsc::Receiver<Trial>,
    clock: Clock,
    metrics: Arc<Metrics>,
    events: EventLog,
    fence: Fence,
    /// Whether the last attempt failed, so that trouble is told once when it begins and once when it ends.
    troubled: bool,
}

/// Why a delivery failed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    why: String,
    retry: bool,
    after_us: Option<u64>,
}

impl Failure {
    /// One that may pass.
    fn passing(why: String) -> Self {
        Self { why, retry: true, after_us: None }
    }
}

impl Receiver {
    /// A receiver, and the ends of its channels. Its secrets and its template are looked at now, so that a mistake shows at
    /// the start.
    pub fn new(
        index: usize,
        config: Alert,
        clock: Clock,
        metrics: Arc<Metrics>,
        events: EventLog,
        fence: Fence,
    ) -> Result<(Self, Handle), ReceiverError> {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(Duration::from_secs_f64(config.timeout_seconds))
            .redirect(redirect::Policy::custom(same_host))
            .no_proxy()
            .user_agent(concat!("c4-controller/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ReceiverError::Client { index, source })?;
        let kind = config.kind.unwrap_or(AlertKind::Json);
        for path in [&config.url_file, &config.secret_file, &config.token_file].into_iter().flatten() {
            Secret::read(path).map_err(|source| ReceiverError::Secret { index, source })?;
        }
        let template = config.template_file.as_ref().map(|path| {
            let wrong = |why: String| ReceiverError::Template { index, path: path.clone(), why };
            let source = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            Template::new(source, &[Item::loose(test::notice(clock.now(), false), "opened")]).map_err(wrong)
        });
        let template = template.transpose()?;
        let (group_us, together) = match kind {
            AlertKind::Alertmanager => (0, TOGETHER),
            AlertKind::Pagerduty => (0, 1),
            AlertKind::Json | AlertKind::Slack => ((config.group_seconds * 1e6) as u64, TOGETHER),
        };
        let queue = Queue::new(Limits {
            repeat_us: (kind == AlertKind::Alertmanager).then_some((config.repeat_seconds * 1e6) as u64),
            group_us,
            together,
            attempts: config.attempts,
            entries: config.queue,
            seed: clock.now().0 ^ index as u64,
        });
        let (send, notices) = mpsc::channel(DEPTH);
        let (try_out, trials) = mpsc::channel(1);
        let name = format!("alerts[{index}]");
        let handle = Handle { name, kind, notices: send, trials: try_out };
        let troubled = false;
        let receiver = Self {
            index,
            config,
            kind,
            client,
            template,
            queue,
            notices,
            trials,
            clock,
            metrics,
            events,
            fence,
            troubled,
        };
        Ok((receiver, handle))
    }

    /// Runs until cancelled, or until somebody else leads: what is left is then theirs to tell.
    pub async fn run(mut self, cancel: CancellationToken) {
        while !cancel.is_cancelled() && self.fence.holds() {
            while let Ok(notice) = self.notices.try_recv() {
                self.offer(notice);
            }
            match self.queue.next(self.clock.now()) {
                Next::Deliver(delivery) => {
                    // Not cut short by the end of the controller: what was sent should not be sent again.
                    let outcome = self.deliver(&delivery.items).await;
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
                        Some(trial) = self.trials.recv() => self.try_out(trial).await,
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
        self.queue.hurry();
        for _ in 0..self.queue.undelivered() {
            if !self.fence.holds() {
                return;
            }
            let Next::Deliver(delivery) = self.queue.next(self.clock.now()) else { return };
            let outcome = self.deliver(&delivery.items).await;
            self.settle(&delivery, outcome);
        }
    }

    /// Tells of a finding that is none, and takes it back, past the queue and once. Whoever asked may have gone.
    async fn try_out(&self, trial: Trial) {
        let mut outcome = Ok(());
        for (cleared, event) in [(false, "opened"), (true, "cleared")] {
            let notice = test::notice(self.clock.now(), cleared);
            let delivered = self.deliver(&[Item::loose(notice, event)]).await;
            self.count(if delivered.is_ok() { "delivered" } else { "failed" });
            outcome = outcome.and(delivered.map_err(|failure| failure.why));
        }
        let _ = trial.send(outcome);
    }

    fn offer(&mut self, notice: Notice) {
        if !self.config.kinds.is_empty() && !self.config.kinds.contains(&notice.finding.kind) {
            return;
        }
        let finding = notice.finding.id.clone();
        if self.queue.offer(notice, self.clock.now()) == Offered::Full {
            self.count("dropped");
            tracing::warn!("{}: no room for finding {}", self.name(), finding.0);
        }
    }

    fn settle(&mut self, delivery: &Delivery, outcome: Result<(), Failure>) {
        let now = self.clock.now();
        let Some(job) = delivery.items.first().map(|item| item.notice.finding.job.0.clone()) else { return };
        match outcome {
            Ok(()) => {
                self.queue.delivered(delivery, now);
                self.count("delivered");
                if std::mem::take(&mut self.troubled) {
                    self.say(&job, format!("{} takes alerts again", self.name()));
                }
            }
            Err(failure) => {
                let failed = Failed { retry: failure.retry, after_us: failure.after_us };
                let given_up = self.queue.failed(delivery, failed, now);
                self.count("failed");
                if !std::mem::replace(&mut self.troubled, true) {
                    self.say(&job, format!("{} does not take alerts: {}", self.name(), failure.why));
                }
                for finding in given_up {
                    self.count("dead_lettered");
                    self.say(
                        &job,
                        format!("{}: gave up telling of {}: {}", self.name(), finding.0, failure.why),
                    );
                }
            }
        }
    }

    async fn deliver(&self, items: &[Item]) -> Result<(), Failure> {
        let secret = |path: &Option<PathBuf>| path.as_deref().map(Secret::read).transpose();
        let unreadable = |error: SecretError| Failure::passing(error.to_string());
        let key = secret(&self.config.secret_file).map_err(unreadable)?;
        let (url, body) = self.request(items, key.as_ref())?;
        let body = body.to_string().into_bytes();
        let mut request = self.client.post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = secret(&self.config.token_file).map_err(unreadable)? {
            request = request.bearer_auth(token.expose());
        }
        if let Some(key) = key.filter(|_| matches!(self.kind, AlertKind::Json | AlertKind::Slack)) {
            let now = Clock::wall();
            request = request
                .header("X-C4-Timestamp", now.0 / 1_000_000)
                .header("X-C4-Signature", format!("sha256={}", key.sign(now, &body)));
        }
        let response = request.body(body).send().await;
        let response = response.map_err(|error| Failure {
            why: chain(&error.without_url()),
            retry: true,
            after_us: None,
        })?;
        // The body is never read: whoever talks rubbish, or without end, talks to nobody.
        judge(response.status(), retry_after(&response))
    }

    fn request(&self, items: &[Item], key: Option<&Secret>) -> Result<(String, Value), Failure> {
        let url = match &self.config.url_file {
            Some(path) => {
                let secret = Secret::read(path).map_err(|error| Failure::passing(error.to_string()))?;
                secret.expose().to_owned()
            }
            None => self.config.url.clone(),
        };
        Ok(match self.kind {
            AlertKind::Alertmanager => {
                let repeat_us = (self.config.repeat_seconds * 1e6) as u64;
                (alertmanager::endpoint(&url), alertmanager::body(items, Clock::wall(), repeat_us))
            }
            AlertKind::Json => {
                let document = webhook::body(items);
                let body = self.template.as_ref().map(|template| template.fill(&document));
                let never = |why| Failure { why, retry: false, after_us: None };
                (url, body.transpose().map_err(never)?.unwrap_or(document))
            }
            AlertKind::Slack => (url, slack::body(items)),
            AlertKind::Pagerduty => {
                let url = if url.is_empty() { pagerduty::ENDPOINT.to_owned() } else { url };
                let key = key.map_or("", Secret::expose);
                (url, items.first().map_or(Value::Null, |item| pagerduty::body(item, key)))
            }
        })
    }

    fn name(&self) -> String {
        format!("receiver alerts[{}]", self.index)
    }

    fn say(&self, job: &str, text: String) {
        self.events.push(Event { at: self.clock.now(), kind: "alert", job: job.to_owned(), text });
    }

    fn count(&self, outcome: &str) {
        self.metrics.alerts.with_label_values(&[self.kind.name(), outcome]).inc();
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// When the receiver wants to be asked again, if it says so in seconds; dates are left alone.
fn retry_after(response: &Response) -> Option<u64> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
    Some(u64::from(seconds) * 1_000_000)
}

fn judge(status: StatusCode, after_us: Option<u64>) -> Result<(), Failure> {
    let retry = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if status.is_success() {
        return Ok(());
    }
    Err(Failure { why: format!("it answered {status}"), retry, after_us: after_us.filter(|_| retry) })
}

/// A receiver may move on its own host. It may not send findings to somebody else's, nor ask for what the other redirections
/// mean: the same place once more, but with nothing to tell.
fn same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from = attempt.previous().first();
    let place = |url: &reqwest::Url| {
        (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default())
    };
    let same = from.is_some_and(|from| place(from) == place(attempt.url()));
    let whole = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    if same && whole && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert_eq!(judge(StatusCode::OK, None), Ok(()));
        for status in [500, 502, 503, 429, 408] {
            assert!(judge(StatusCode::from_u16(status).unwrap(), None).unwrap_err().retry, "{status}");
        }
        for status in [301, 307, 400, 401, 404, 413] {
            assert!(!judge(StatusCode::from_u16(status).unwrap(), None).unwrap_err().retry, "{status}");
        }
    }
}
