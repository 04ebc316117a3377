//! What faces the network: the two listeners, with the gate before everything that they serve.
//!
//! Tasks: one a listener (see [`c4_tls::Accepting`]), one for gRPC, one for pages and one more for each of their
//! connections, one that reads the file of tokens again when it changes, and one that
//! fetches the keys of `access.oidc`. All run on the tracker of the front and end
//! when it is cancelled: open calls and pages are given until the end of their stage of the drain.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use c4_proto::v1::{
    alerting_server::AlertingServer, backups_server::BackupsServer, operations_server::OperationsServer,
    pictures_server::PicturesServer, steering_server::SteeringServer, telemetry_server::TelemetryServer,
};
use c4_tls::{Accepting, FileError, Limits, Protocol, Slots, serve_pages};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{service::Routes, transport::Server};
use tower::util::MapRequestLayer;

use crate::{
    access::{
        Gate,
        grpc::GateLayer,
        oidc::{Fetcher, Issuer, SetupError},
        tokens::{Tokens, TokensError},
        web,
    },
    alerts::service::AlertingService,
    api::{OperationsService, backup::BackupService, steering::SteeringService},
    clock::Clock,
    config::{Config, REREAD, Tls},
    ingest::TelemetryService,
    metrics::Metrics,
    page::Page,
};

mod pieces;

/// A silent peer is asked whether it is there this often, and is gone when it does not answer for as long.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// A handshake takes two round trips and a few milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once: ten thousand agents that reconnect together take turns.
const HANDSHAKES: usize = 512;
/// Connections that may wait to be accepted. Where there is no room, whoever calls hears nothing and tries again after seconds: with the
/// usual 128, ten thousand agents that reconnect together need minutes. The system's limit (`net.core.somaxconn`) holds as well.
const BACKLOG: u32 = 16_384;
/// Calls at once over one connection. `c4ctl` has one, an agent one, a page's proxy some.
const CALLS: u32 = 100;
/// Bytes of a call's headers.
const HEADERS: u32 = 16 << 10;
/// Bytes that a call, and a connection, may be ahead of what is taken from it. An agent that tells of an hour needs no more at once; and
/// while the controller is behind, all of ten thousand agents may be ahead by so much.
const AHEAD: u32 = 64 << 10;
/// Largest message of an agent: a thousand windows are far smaller.
const TELEMETRY_BYTES: usize = 4 << 20;
/// Largest message of an operator.
const OPERATIONS_BYTES: usize = 256 << 10;

/// Why the front could not be set up.
#[derive(Debug, Error)]
pub enum FrontError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate, key or the like.
    #[error("tls: {0}")]
    Tls(#[from] FileError),
    /// The tokens.
    #[error("access.tokens: {0}")]
    Tokens(#[from] TokensError),
    /// The issuer of others.
    #[error("access.oidc: {0}")]
    Oidc(#[from] SetupError),
}

/// Bound addresses. What is served there may change: connections that come meanwhile wait.
#[derive(Debug)]
pub struct Doors {
    /// Where agents and operators connect.
    pub grpc: SocketAddr,
    /// Where the pages are.
    pub http: SocketAddr,
    calls: std::net::TcpListener,
    pages: std::net::TcpListener,
}

/// Everything that is needed to serve, which has not begun.
pub struct Front {
    calls: Accepting,
    pages: Accepting,
    gate: GateLayer,
    tokens: Option<TokenFile>,
    fetcher: Option<Fetcher>,
}

/// What is served.
pub struct Services {
    /// To agents.
    pub telemetry: TelemetryService,
    /// To operators.
    pub operations: OperationsService,
    /// To operators who try their receivers of alerts.
    pub alerting: AlertingService,
    /// To administrators, to keep.
    pub backups: BackupService,
    /// To operators, about actions.
    pub steering: SteeringService,
    /// Pages.
    pub pages: Router,
    /// What the pages show, to programs.
    pub pictures: Page,
}

impl Services {
    /// The calls.
    fn routes(self) -> (Routes, Router) {
        let calls =
            Routes::new(TelemetryServer::new(self.telemetry).max_decoding_message_size(TELEMETRY_BYTES))
                .add_service(
                    OperationsServer::new(self.operations).max_decoding_message_size(OPERATIONS_BYTES),
                )
                .add_service(AlertingServer::new(self.alerting).max_decoding_message_size(OPERATIONS_BYTES))
                .add_service(BackupsServer::new(self.backups).max_decoding_message_size(OPERATIONS_BYTES))
                .add_service(SteeringServer::new(self.steering).max_decoding_message_size(OPERATIONS_BYTES))
                .add_service(PicturesServer::new(self.pictures).max_decoding_message_size(OPERATIONS_BYTES));
        (calls, self.pages)
    }
}

impl Doors {
    /// Binds both addresses.
    ///
    /// # Errors
    /// One is taken.
    pub fn bind(config: &Config) -> Result<Self, FrontError> {
        let (calls, grpc) = bind("listen", config.listen)?;
        let (pages, http) = bind("http", config.http)?;
        Ok(Self { grpc, http, calls, pages })
    }

    fn listeners(&self) -> Result<(TcpListener, TcpListener), FrontError> {
        let again = |key, address, listener: &std::net::TcpListener| {
            let listener = listener.try_clone().and_then(TcpListener::from_std);
            listener.map_err(|source| FrontError::Bind { key, address, source })
        };
        Ok((again("listen", self.grpc, &self.calls)?, again("http", self.http, &self.pages)?))
    }
}

impl Front {
    /// Reads every file, so that whatever is wrong with them is known before anything runs.
    ///
    /// # Errors
    /// A file is wrong.
    pub fn new(
        config: &Config,
        doors: &Doors,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, FrontError> {
        let (grpc, http) = doors.listeners()?;
        let access = &config.access;
        let limits = Limits {
            slots: Slots::new(access.connections, access.connections_per_address),
            handshake: HANDSHAKE,
            handshakes: HANDSHAKES,
            reread: REREAD,
        };
        let files = config.tls.as_ref().map(Tls::files);
        let calls = Accepting::new(grpc, files.clone(), Protocol::Grpc, limits.clone())?;
        let pages = Accepting::new(http, files, Protocol::Http, limits)?;
        let (tokens, see_tokens) = match &access.tokens {
            Some(path) => TokenFile::load(path.clone()).map(|(file, see)| (Some(file), see))?,
            None => (None, watch::channel(Arc::default()).1),
        };
        let (issuer, fetcher) = access.oidc.as_ref().map(Issuer::new).transpose()?.unzip();
        let gate = Arc::new(Gate::new(access, config.anonymous(), see_tokens, issuer));
        let gate = GateLayer { gate, clock, metrics };
        Ok(Self { calls, pages, gate, tokens, fetcher })
    }

    /// Serves everything that a leader does, until `cancel`.
    pub fn serve_all(self, services: Services, tasks: &TaskTracker, cancel: &CancellationToken) {
        let (calls, pages) = services.routes();
        self.serve(calls, pages, tasks, cancel);
    }

    /// Serves until `cancel`.
    pub fn serve(self, calls: Routes, pages: Router, tasks: &TaskTracker, cancel: &CancellationToken) {
        let metrics = self.gate.metrics.clone();
        let turned = move |why: c4_tls::Turned| metrics.denied.with_label_values(&[why.name()]).inc();
        let routes = calls;
        let (calls, accepting) = self.calls.begin(cancel.clone(), turned.clone());
        tasks.spawn(accepting);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(CALLS)
            .initial_stream_window_size(AHEAD)
            .initial_connection_window_size(AHEAD)
            .http2_max_header_list_size(HEADERS)
            .layer(self.gate.clone())
            .layer(MapRequestLayer::new(pieces::in_pieces))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(calls).map(Ok::<_, io::Error>),
                cancel.clone().cancelled_owned(),
            );
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!("the gRPC server ended: {error}");
            }
        });
        let shown = pages;
        let (pages, accepting) = self.pages.begin(cancel.clone(), turned);
        tasks.spawn(accepting);
        let router = shown.layer(axum::middleware::from_fn_with_state(self.gate, web::gate));
        tasks.spawn(serve_pages(pages, router, tasks.clone(), cancel.clone()));
        if let Some(tokens) = self.tokens {
            tasks.spawn(tokens.follow(cancel.clone()));
        }
        if let Some(fetcher) = self.fetcher {
            tasks.spawn(fetcher.follow(cancel.clone()));
        }
    }
}

/// A file of tokens that is followed.
struct TokenFile {
    path: PathBuf,
    bytes: Vec<u8>,
    tokens: watch::Sender<Arc<Tokens>>,
}

impl TokenFile {
    fn load(path: PathBuf) -> Result<(Self, watch::Receiver<Arc<Tokens>>), TokensError> {
        let bytes = Tokens::read(&path)?;
        let (tokens, see) = watch::channel(Arc::new(Tokens::parse(&bytes, &path)?));
        Ok((Self { path, bytes, tokens }, see))
    }

    async fn follow(mut self, cancel: CancellationToken) {
        let mut tick = interval(REREAD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wrong = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.refresh() {
                Ok(()) => wrong = false,
                Err(error) if !std::mem::replace(&mut wrong, true) => {
                    tracing::error!(
                        "the tokens were changed and cannot be used, the last ones stay: {error}"
                    );
                }
                Err(_) => {}
            }
        }
    }

    fn refresh(&mut self) -> Result<(), TokensError> {
        let bytes = Tokens::read(&self.path)?;
        if bytes != self.bytes {
            self.tokens.send_replace(Arc::new(Tokens::parse(&bytes, &self.path)?));
            self.bytes = bytes;
            tracing::info!("the tokens were changed: taken");
        }
        Ok(())
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), FrontError> {
    let failed = |source| FrontError::Bind { key, address, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(failed)?;
    // As any listener's: a port whose last connections are being buried may be had again.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener.into_std().map_err(failed)?, bound))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// Longer than a connection on this machine takes when it is busy, and as long as a call that finds no room is tried again.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_crowd_may_wait_to_be_let_in() {
        let (listener, address) = bind("listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        // Nobody is let in, so all of them wait, as far as the system lets them.
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let crowd = most.trim().parse::<usize>().unwrap().min(600);
        let call = |_| TcpStream::connect_timeout(&address, PATIENCE);
        let waiting: io::Result<Vec<TcpStream>> = (0..crowd).map(call).collect();
        assert_eq!(waiting.unwrap().len(), crowd);
        drop(listener);
    }
}
