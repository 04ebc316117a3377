//! Whether this controller may act.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// See the module. Clones are one fence.
#[derive(Clone, Debug)]
pub struct Fence {
    term: u64,
    lease: Option<Arc<Lease>>,
}

#[derive(Debug)]
struct Lease {
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl Fence {
    /// Of a controller that has nobody beside it: it always holds. Its term is 0, which agents take from anybody.
    #[must_use]
    pub fn alone() -> Self {
        Self { term: 0, lease: None }
    }

    /// Of the leader of a term, whose lease lasts until then.
    #[must_use]
    pub fn leased(term: u64, until: Instant) -> Self {
        let lost = CancellationToken::new();
        Self { term, lease: Some(Arc::new(Lease { until: Mutex::new(until), lost })) }
    }

    /// The same lease, as that of the leader of a term.
    #[must_use]
    pub fn of_term(&self, term: u64) -> Self {
        Self { term, lease: self.lease.clone() }
    }

    /// Number of the term, which grows from leader to leader.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether this controller may act, now. Cheap; to be asked before each deed.
    #[must_use]
    pub fn holds(&self) -> bool {
        let Some(lease) = &self.lease else { return true };
        !lease.lost.is_cancelled()
            && Instant::now() < *lease.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease was renewed until then, at least. One that was lost stays so.
    pub fn renew(&self, until: Instant) {
        if let Some(lease) = &self.lease {
            let mut lasts = lease.until.lock().unwrap_or_else(PoisonError::into_inner);
            *lasts = until.max(*lasts);
        }
    }

    /// Somebody else leads, or may.
    pub fn lose(&self) {
        if let Some(lease) = &self.lease {
            lease.lost.cancel();
        }
    }

    /// Ends when the lease is lost or has run out.
    pub async fn lost(&self) {
        let Some(lease) = &self.lease else { return std::future::pending().await };
        loop {
            let until = *lease.until.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= until {
                lease.lost.cancel();
                return;
            }
            tokio::select! {
                () = lease.lost.cancelled() => return,
                // It may have been renewed meanwhile.
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// How long a lease may be relied on that was granted or renewed for `ttl` at an unknown moment after `asked`: a tenth less,
/// for clocks that do not run equally fast.
#[must_use]
pub fn until(asked: Instant, ttl: Duration) -> Instant {
    asked + ttl.mul_f64(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_holds_as_long_as_its_lease() {
        let ttl = Duration::from_secs(10);
        let fence = Fence::leased(7, until(Instant::now(), ttl));
        tokio::time::advance(Duration::from_millis(8_900)).await;
        assert!(fence.holds());
        fence.renew(until(Instant::now(), ttl));
        tokio::time::advance(Duration::from_millis(8_900)).await;
        assert!(fence.holds());
        fence.renew(Instant::now());
        assert!(fence.holds(), "answers overtake each other");
        fence.lost().await;
        assert!(!fence.holds());
        fence.renew(until(Instant::now(), ttl));
        assert!(!fence.holds(), "what was lost is not found again");
        assert!(Fence::alone().holds());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_slept_past_its_lease_knows_at_once() {
        let fence = Fence::leased(7, until(Instant::now(), Duration::from_secs(3)));
        // No task of this program has run meanwhile, as after SIGSTOP.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(!fence.holds());
    }
}
