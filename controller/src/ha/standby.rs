//! What a controller serves while another one leads: whether it lives, its metrics, and refusals.
//!
//! Agents and operators learn from a refusal who leads. An agent that has been all around says so (the header `c4-wait`),
//! and its call is held until there is news, or for three seconds: so ten thousand agents wait for a new leader at its
//! door instead of knocking again and again.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, response::Response};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, metadata::MetadataValue, service::Routes};

use super::election::View;
use crate::{
    clock::Clock,
    config::Config,
    front::{Doors, Front, FrontError},
    http::{self, Pages, Standing},
    metrics::Metrics,
};

/// How long a call is held that wants to wait.
const HOLD: Duration = Duration::from_secs(3);
/// What is still open when a term begins is cut off after this.
const STOP: Duration = Duration::from_millis(200);
/// The header of callers who want to wait for a leader.
pub const WAIT: &str = "c4-wait";
/// The header of refusals with the leader's address.
pub const LEADER: &str = "c4-leader";

/// See the module.
pub struct Standby {
    /// What tells whether it does its work.
    pub pages: Pages,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Door {
    view: watch::Receiver<View>,
    cancel: CancellationToken,
}

impl Standby {
    /// Begins to serve.
    ///
    /// # Errors
    /// A file is wrong.
    pub fn start(
        config: &Config,
        doors: &Doors,
        view: watch::Receiver<View>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, FrontError> {
        let clock = Clock::anchored();
        let front = Front::new(config, doors, clock, metrics.clone())?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let heartbeat = Arc::new(AtomicU64::new(clock.now().0));
        let pages = Pages { metrics, heartbeat, clock, standing: Standing::Beside(view.clone()) };
        let door = Door { view, cancel: cancel.clone() };
        let calls = Routes::from(Router::new().fallback(refuse).with_state(door));
        front.serve(calls, http::router(pages.clone()), &tasks, &cancel);
        Ok(Self { pages, cancel, tasks })
    }

    /// Ends, so that the same addresses can be served otherwise.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        let _ = timeout(STOP, self.tasks.wait()).await;
    }
}

async fn refuse(State(door): State<Door>, headers: HeaderMap) -> Response {
    let mut view = door.view;
    let before = view.borrow_and_update().clone();
    if headers.contains_key(WAIT) {
        let news = async {
            while view.changed().await.is_ok() {
                let now = view.borrow_and_update();
                if now.leader != before.leader && now.leader.is_some() {
                    return;
                }
            }
        };
        tokio::select! {
            () = news => {}
            () = sleep(HOLD) => {}
            () = door.cancel.cancelled() => {}
        }
    }
    let now = view.borrow().clone();
    status(&now).into_http()
}

/// What somebody hears who takes this controller for the leader.
#[must_use]
pub fn status(view: &View) -> Status {
    let mut status = Status::unavailable(format!("this controller stands by: {}", words(view)));
    if let Some((leader, _)) = &view.leader
        && let Ok(address) = MetadataValue::try_from(leader.address.as_str())
    {
        status.metadata_mut().insert(LEADER, address);
    }
    status
}

/// Who leads, in words.
#[must_use]
pub fn words(view: &View) -> String {
    match (&view.leader, &view.problem) {
        (Some((leader, _)), _) => format!("the leader is {} ({})", leader.name, leader.address),
        (None, Some(problem)) => format!("nobody is known to lead ({problem})"),
        (None, None) => "nobody leads yet".to_owned(),
    }
}
