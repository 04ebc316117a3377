//! `/metrics` and `/healthz`. Healthy means that the recorders were looked at within the last seconds; a controller that is
//! away is no fault of this agent.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Without a look at the recorders for this long the agent is ill.
const STALE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    sampled: watch::Receiver<Instant>,
}

/// Binds the address, so that one that is in use is known before anything else starts.
///
/// # Errors
/// It cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `shutdown`. `sampled` is when the recorders were last looked at.
///
/// # Errors
/// The listener is broken.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    sampled: watch::Receiver<Instant>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(|State(shared): State<Shared>| async move { shared.metrics.render() }))
        .route("/healthz", get(healthz))
        .with_state(Shared { metrics, sampled });
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    let age = shared.sampled.borrow().elapsed();
    if age < STALE {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("recorders were last read {:.1} s ago\n", age.as_secs_f64()),
        )
    }
}
