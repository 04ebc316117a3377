//! systemd's side of things: ready, still alive, ending. Without systemd (no NOTIFY_SOCKET) nothing is told to anybody.
//!
//! Being alive means more than answering a timer: the daemon says what its work is, and is restarted when that stands
//! still, since a watchdog that is fed by a thread of its own proves nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// The service manager.
#[derive(Clone, Copy, Debug)]
pub struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment tells. Before threads are started.
    #[must_use]
    pub fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// What there is to be served is served.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Says that the daemon lives, for as long as `alive` says so of its work. Never ends.
    pub async fn watch(self, alive: impl Fn() -> bool) {
        let Some(limit) = self.watchdog else { return std::future::pending().await };
        let mut tick = interval(limit / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if alive() {
                tell(&[NotifyState::Watchdog]);
            }
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(problem) = sd_notify::notify(state) {
        tracing::debug!(%problem, "the service manager cannot be told");
    }
}
