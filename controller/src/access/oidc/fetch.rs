//! Fetches an issuer's keys: what OpenID Connect Discovery 1.0 says where they are, and then them.
//!
//! One task. It asks at the start, every `refresh_seconds`, and when a token names a key that is not known, but never twice within
//! [`PAUSE`](super::PAUSE). Keys stay while the issuer is away, for a day at most: then nobody knows whether they still count.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{Issuer, Keys, PAUSE, State, allowed, crypto};
use crate::{causes::chain, config::Oidc};

/// One request.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Documents of issuers have a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// Keys that could not be asked for again for so long are dropped.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Why there can be no client for an issuer.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The file of its authority.
    #[error("ca: {}: {problem}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The client.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

/// Where documents come from.
pub(crate) trait Source: Send + Sync {
    /// What is at an address.
    fn get(&self, address: &str) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
}

/// The task.
#[derive(Debug)]
pub(crate) struct Fetcher<S = Client> {
    source: S,
    issuer: String,
    every: Duration,
    state: watch::Sender<State>,
    ask: Arc<Notify>,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// By the configuration; knows no key until the task runs.
    ///
    /// # Errors
    /// A file is wrong.
    pub(crate) fn new(config: &Oidc) -> Result<(Self, Fetcher), SetupError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = |error: reqwest::Error| SetupError::Client(chain(&error));
        // Keys from where somebody else sends us are somebody else's.
        let mut builder = Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none());
        if let Some(path) = &config.ca {
            let failed = |problem: String| SetupError::Authority { path: path.clone(), problem };
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let authorities =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(chain(&error)))?;
            if authorities.is_empty() {
                return Err(failed("holds no certificate (PEM)".into()));
            }
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self::over(config, builder.build().map_err(client)?))
    }

    pub(super) fn over<S>(config: &Oidc, source: S) -> (Self, Fetcher<S>) {
        crypto::install();
        let (state, see) = watch::channel(State::default());
        let ask = Arc::new(Notify::new());
        let fetcher = Fetcher {
            source,
            issuer: config.issuer.clone(),
            every: Duration::from_secs_f64(config.refresh_seconds),
            state,
            ask: ask.clone(),
        };
        (Self { config: config.clone(), allowed: allowed(config), state: see, ask }, fetcher)
    }
}

impl<S: Source> Fetcher<S> {
    /// Runs until `cancel`.
    pub(crate) async fn follow(self, cancel: CancellationToken) {
        let mut tick = interval_at(Instant::now(), self.every);
        let (mut wrong, mut fetched) = (false, Instant::now());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
                () = self.ask.notified() => {}
            }
            if self.state.borrow().asked.is_some_and(|at| at.elapsed() < PAUSE) {
                continue;
            }
            let found = tokio::select! {
                () = cancel.cancelled() => return,
                found = self.fetch() => found,
            };
            match &found {
                Ok(keys) => {
                    if std::mem::replace(&mut wrong, false) || self.state.borrow().asked.is_none() {
                        tracing::info!(
                            issuer = self.issuer,
                            keys = keys.count(),
                            "the issuer's keys are known"
                        );
                    }
                    fetched = Instant::now();
                }
                Err(problem) if !std::mem::replace(&mut wrong, true) => {
                    tracing::warn!(
                        issuer = self.issuer,
                        "the issuer's keys cannot be had, those of before stay for a day: {problem}"
                    );
                }
                Err(_) => {}
            }
            let stale = fetched.elapsed() > STALE;
            self.state.send_modify(|state| {
                state.asked = Some(Instant::now());
                match found {
                    Ok(keys) => state.keys = keys,
                    Err(_) if stale => state.keys = Keys::default(),
                    Err(_) => {}
                }
            });
        }
    }

    async fn fetch(&self) -> Result<Keys, String> {
        let at = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let said: Discovered = serde_json::from_slice(&self.source.get(&at).await?)
            .map_err(|error| format!("{at}: is no discovery document: {error}"))?;
        if said.issuer != self.issuer {
            return Err(format!("{at}: is of the issuer {:?}, not of {:?}", said.issuer, self.issuer));
        }
        let protected = |address: &str| Url::parse(address).is_ok_and(|url| url.scheme() == "https");
        if protected(&self.issuer) && !protected(&said.jwks_uri) {
            return Err(format!("{at}: jwks_uri {:?} must be https", said.jwks_uri));
        }
        Keys::parse(&self.source.get(&said.jwks_uri).await?)
            .map_err(|problem| format!("{}: {problem}", said.jwks_uri))
    }
}

impl Source for Client {
    async fn get(&self, address: &str) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| format!("{address}: {}", chain(&error));
        let mut answer = Client::get(self, address).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("{address}: it answered {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(format!("{address}: is larger than 1 MiB"));
            }
        }
        Ok(body)
    }
}
