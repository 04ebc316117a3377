//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Healthy means that this process answers. Ready means that the brain takes its turns: a controller whose brain hangs
//! is worse than none, since everything else about it looks alive.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use c4_detect::observation::Timestamp;

use crate::{clock::Clock, metrics::Metrics};

/// The brain takes a turn ten times a second; after two seconds without one it is not alive.
const ALIVE_US: u64 = 2_000_000;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// When the brain last took a turn.
    pub heartbeat: Arc<AtomicU64>,
    /// The time.
    pub clock: Clock,
}

impl Pages {
    /// Whether the brain takes its turns.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.silent_us() < ALIVE_US
    }

    fn silent_us(&self) -> u64 {
        self.clock.now().micros_since(Timestamp(self.heartbeat.load(Ordering::Relaxed)))
    }
}

/// The pages as a router.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>) -> Response {
    match pages.metrics.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> Response {
    if pages.alive() {
        "ready\n".into_response()
    } else {
        let text = format!("the brain has not taken a turn for {:.1} s\n", pages.silent_us() as f64 / 1e6);
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}
