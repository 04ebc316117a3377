//! `/metrics`, `/healthz`, `/readyz` and `/leaderz`.
//!
//! Healthy means that this process answers. Ready means that the brain takes its turns: a controller whose brain hangs
//! is worse than none, since everything else about it looks alive. One that stands by is ready if it could take over.
//! `/leaderz` is for whoever must find the one of several controllers that leads.

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
use tokio::sync::watch;

use crate::{
    clock::Clock,
    ha::{election::View, standby},
    metrics::Metrics,
};

/// The brain takes a turn ten times a second; after two seconds without one it is not alive.
const ALIVE_US: u64 = 2_000_000;

/// What this controller is among others.
#[derive(Clone)]
pub enum Standing {
    /// There are no others.
    Alone,
    /// It leads, in this term.
    Leads(u64),
    /// Another one leads.
    Beside(watch::Receiver<View>),
}

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// When the brain last took a turn.
    pub heartbeat: Arc<AtomicU64>,
    /// The time.
    pub clock: Clock,
    /// Whether it leads.
    pub standing: Standing,
}

impl Pages {
    /// Whether the brain takes its turns.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(self.standing, Standing::Beside(_)) || self.silent_us() < ALIVE_US
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
        .route("/leaderz", get(leads))
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
    let (ready, text) = match &pages.standing {
        _ if !pages.alive() => {
            (false, format!("the brain has not taken a turn for {:.1} s\n", pages.silent_us() as f64 / 1e6))
        }
        Standing::Alone => (true, "ready\n".to_owned()),
        Standing::Leads(term) => (true, format!("ready: leads, term {term}\n")),
        Standing::Beside(view) => {
            let view = view.borrow();
            let word = if view.problem.is_none() { "ready" } else { "not ready" };
            (view.problem.is_none(), format!("{word}: stands by, {}\n", standby::words(&view)))
        }
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn leads(State(pages): State<Pages>) -> Response {
    match &pages.standing {
        Standing::Alone | Standing::Leads(_) => "leads\n".into_response(),
        Standing::Beside(view) => {
            let text = format!("stands by: {}\n", standby::words(&view.borrow()));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}
