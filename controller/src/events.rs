//! What happened, in sentences: a bounded log that operators follow.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use c4_detect::observation::Timestamp;
use tokio::sync::broadcast;

/// Events kept for those who come later.
const HISTORY: usize = 10_000;
/// Events that a slow follower may be behind; what is older is missed, and it is told how many.
const BEHIND: usize = 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// "job", "node", "finding", "action" or "alert".
    pub kind: &'static str,
    /// The job, empty where none is concerned.
    pub job: String,
    /// A sentence.
    pub text: String,
}

struct Log {
    past: VecDeque<Event>,
    live: broadcast::Sender<Event>,
}

/// The log. Clones share it.
#[derive(Clone)]
pub struct EventLog(Arc<Mutex<Log>>);

impl Default for EventLog {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Log { past: VecDeque::new(), live: broadcast::channel(BEHIND).0 })))
    }
}

impl EventLog {
    /// Adds an event.
    pub fn push(&self, event: Event) {
        tracing::info!(kind = event.kind, job = event.job, "{}", event.text);
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.past.len() >= HISTORY {
            log.past.pop_front();
        }
        log.past.push_back(event.clone());
        // Nobody following is not an error.
        let _ = log.live.send(event);
    }

    /// The last `history` events, and all that come after them, without gap or repetition.
    #[must_use]
    pub fn follow(&self, history: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = log.past.len().saturating_sub(history);
        (log.past.iter().skip(skip).cloned().collect(), log.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event { at: Timestamp(n), kind: "job", job: String::new(), text: n.to_string() }
    }

    #[tokio::test]
    async fn followers_get_the_past_and_then_what_comes() {
        let log = EventLog::default();
        for n in 0..5 {
            log.push(event(n));
        }
        let (past, mut live) = log.follow(2);
        assert_eq!(past, [event(3), event(4)]);
        log.push(event(5));
        assert_eq!(live.recv().await.unwrap(), event(5));
    }

    #[test]
    fn history_is_bounded() {
        let log = EventLog::default();
        for n in 0..HISTORY as u64 + 10 {
            log.push(event(n));
        }
        let (past, _) = log.follow(usize::MAX);
        assert_eq!((past.len(), past[0].at), (HISTORY, Timestamp(10)));
    }
}
