//! `/metrics` and `/healthz`. Healthy means that the recorders were looked at within the last seconds; a controller that is
//! away is no fault of this agent.
//!
//! Beyond this machine they are served over TLS, and `/metrics` only to those who show a certificate of the same
//! authority as the controller's; see [`crate::config`].

use std::time::Duration;

use axum::{
    Router,
    extract::{Extension, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use c4_tls::{Accepting, FileError, Limits, Peer, Protocol, ServerFiles, Slots, serve_pages};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Config, metrics::Metrics};

/// Without a look at the recorders for this long the agent is ill.
const STALE: Duration = Duration::from_secs(10);

/// Connections at once: a Prometheus or two, a probe, and somebody with a browser.
const CONNECTIONS: usize = 32;

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    sampled: watch::Receiver<Instant>,
}

/// A listener that is bound and has not begun.
///
/// # Errors
/// A certificate or key cannot be used.
pub fn protect(listener: TcpListener, config: &Config) -> Result<Accepting, FileError> {
    let local = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let files = config.tls.as_ref().filter(|_| !local).and_then(|tls| {
        let (certificate, key) = tls.identity.clone()?;
        Some(ServerFiles { certificate, key, client_ca: Some(tls.ca.clone()), revoked: None })
    });
    let limits = Limits {
        slots: Slots::new(CONNECTIONS, CONNECTIONS / 2),
        handshake: Duration::from_secs(5),
        handshakes: CONNECTIONS,
        reread: Duration::from_secs(10),
    };
    Accepting::new(listener, files, Protocol::Http, limits)
}

/// Serves until `shutdown`. `sampled` is when the recorders were last looked at.
pub async fn serve(
    listener: Accepting,
    metrics: Metrics,
    sampled: watch::Receiver<Instant>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(healthz))
        .with_state(Shared { metrics, sampled });
    let (connections, accepting) = listener.begin(shutdown.clone(), |_| {});
    tokio::join!(accepting, serve_pages(connections, router, TaskTracker::new(), shutdown));
}

/// Whether the recorders were looked at within the last seconds.
pub fn is_fresh(sampled: &watch::Receiver<Instant>) -> bool {
    sampled.borrow().elapsed() < STALE
}

async fn render(State(shared): State<Shared>, Extension(peer): Extension<Peer>) -> Response {
    if peer.encrypted && peer.names.is_empty() {
        return (StatusCode::UNAUTHORIZED, "show a certificate\n").into_response();
    }
    shared.metrics.render().into_response()
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    let age = shared.sampled.borrow().elapsed();
    if is_fresh(&shared.sampled) {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("recorders were last read {:.1} s ago\n", age.as_secs_f64()),
        )
    }
}
