//! The web page: fleet, job, finding and fabric, as they are now, and decisions about proposed actions.
//!
//! The page's files are part of this program; it loads nothing from anywhere else, and the browser is told not to. What
//! it shows is one JSON document a view, the same whether asked for once or followed as server-sent events.
//!
//! | channel | holds | depth | when full |
//! |---|---|---|---|
//! | of each viewer | the newest document | 1 | the next one waits; whatever changed meanwhile is in it |
//! | the brain's inputs | that somebody looks at a job | shared | left out: it is said again |
//!
//! A viewer's task ends when the viewer goes, or when the controller does. Documents of large jobs take longer to make
//! and are sent more seldom, so that viewers cannot take the controller's time from agents.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use c4_detect::{finding::FindingId, observation::JobId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    brain::{Input, desk::Desk},
    clock::Clock,
    events::EventLog,
    snapshot::Snapshot,
};

mod actions;
mod assets;
mod document;
mod fabric;
mod report;
mod scene;
mod service;

/// Viewers at once; more are asked to come again later.
const MAX_VIEWERS: usize = 128;
/// A viewer gets a document at most this often.
const PACE: Duration = Duration::from_secs(1);
/// And making them takes at most one part in so many of the time, for each viewer.
const SHARE: u32 = 50;
/// A viewer has to come again, and to say who it is, this often: roles change, tokens are taken back.
const SEAT: Duration = Duration::from_secs(300);
/// A decision has no more bytes.
const DECISION_BYTES: usize = 16 << 10;
/// How long a request waits for a picture that nobody looked at before.
const DRAWN: Duration = Duration::from_secs(2);
/// Nothing else may be loaded or run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page needs.
#[derive(Clone)]
pub struct Page {
    see: watch::Receiver<Arc<Snapshot>>,
    events: EventLog,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
    desk: Desk,
    viewers: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Page {
    /// A page that shows `see` and `events`, tells `inputs` which jobs are looked at, and hands decisions to `desk`.
    #[must_use]
    pub fn new(
        see: watch::Receiver<Arc<Snapshot>>,
        events: EventLog,
        clock: Clock,
        inputs: mpsc::Sender<Input>,
        desk: Desk,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let viewers = Arc::new(Semaphore::new(MAX_VIEWERS));
        Self { see, events, clock, inputs, desk, viewers, tasks, cancel }
    }
}

/// One view of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct View {
    job: Option<String>,
    finding: Option<String>,
    fabric: bool,
}

/// The page as a router.
pub fn router(page: Page) -> Router {
    Router::new()
        .route("/", get(async || assets::file("index.html")))
        .route("/page/{file}", get(async |Path(file): Path<String>| assets::file(&file)))
        .route("/api/page", get(once))
        .route("/api/page/live", get(live))
        .route("/api/page/you", get(actions::you))
        .route("/api/page/decide", post(actions::post).layer(DefaultBodyLimit::max(DECISION_BYTES)))
        .layer(map_response(protect))
        .with_state(page)
}

async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn once(State(page): State<Page>, Query(view): Query<View>) -> Response {
    page.look(&view);
    page.drawn(&view).await;
    match page.document(&view) {
        Some(document) => Json(document).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"error": view.unknown()}))).into_response(),
    }
}

async fn live(State(page): State<Page>, Query(view): Query<View>) -> Response {
    let Ok(seat) = page.viewers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], "too many viewers\n")
            .into_response();
    };
    let (send, receive) = mpsc::channel(1);
    let cancel = page.cancel.clone();
    page.tasks.clone().spawn(async move {
        let _seat = seat;
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = timeout(SEAT, follow(page, view, send)) => {}
        }
    });
    Sse::new(ReceiverStream::new(receive).map(Ok::<_, Infallible>)).into_response()
}

/// Sends the document of a view whenever it has changed, and the time always, so that a page which hears nothing knows that
/// nobody speaks.
async fn follow(page: Page, view: View, send: mpsc::Sender<Event>) {
    let mut sent = String::new();
    page.look(&view);
    page.drawn(&view).await;
    loop {
        page.look(&view);
        let began = page.clock.now();
        let document = page.document(&view).unwrap_or_else(|| json!({"error": view.unknown()})).to_string();
        let spent = Duration::from_micros(page.clock.now().micros_since(began));
        if document != sent {
            if send.send(Event::default().event("document").data(&document)).await.is_err() {
                return;
            }
            sent = document;
        }
        let now = json!({"now_us": page.clock.now().0}).to_string();
        if send.send(Event::default().event("alive").data(now)).await.is_err() {
            return;
        }
        let mut left = PACE.max(spent * SHARE);
        while left > Duration::ZERO {
            let nap = left.min(PACE);
            sleep(nap).await;
            left -= nap;
            if left > Duration::ZERO && send.send(Event::default().event("alive").data("{}")).await.is_err() {
                return;
            }
        }
    }
}

impl View {
    fn unknown(&self) -> String {
        match self {
            View { finding: Some(id), .. } => {
                format!(
                    "The controller knows no finding {id:?}. It may have been restarted, or have forgotten it."
                )
            }
            View { job: Some(name), .. } => {
                format!("The controller knows no job {name:?}. It may have ended long ago.")
            }
            _ => "There is no such view.".to_owned(),
        }
    }
}

impl Page {
    /// The job that a view draws live.
    fn job(&self, view: &View) -> Option<JobId> {
        view.job.clone().filter(|_| view.finding.is_none()).map(JobId)
    }

    fn look(&self, view: &View) {
        if let Some(job) = self.job(view).filter(|job| self.see.borrow().jobs.contains_key(job)) {
            // Full: it is said again within a second.
            let _ = self.inputs.try_send(Input::Looked { job });
        }
    }

    /// Waits for the picture of the view's job, unless it takes too long: then the rest is shown without.
    async fn drawn(&self, view: &View) {
        let Some(job) = self.job(view) else { return };
        let mut see = self.see.clone();
        let there =
            see.wait_for(|picture| picture.live.contains_key(&job) || !picture.jobs.contains_key(&job));
        let _ = timeout(DRAWN, there).await;
    }

    fn document(&self, view: &View) -> Option<Value> {
        let picture = self.see.borrow().clone();
        match view {
            View { finding: Some(id), .. } => document::finding(&picture, &FindingId(id.clone())),
            View { job: Some(name), .. } => document::job(&picture, &self.events, &JobId(name.clone())),
            View { fabric: true, .. } => Some(fabric::fabric(&picture)),
            _ => Some(document::fleet(&picture, &self.events)),
        }
    }
}
