//! When to try again. Doubling, with a bound and with jitter, so that thousands of agents do not come back to a restarted
//! controller in one instant; and a connection counts as good only after it has lasted, or a controller that accepts
//! and at once closes would be called without pause.

use std::time::Duration;

use tokio::time::Instant;

/// How reconnects are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Pause after the first failure.
    pub first: Duration,
    /// Longest pause.
    pub max: Duration,
    /// A connection that lasted this long was good.
    pub stable: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    pause: Duration,
    connected: Option<Instant>,
    random: u64,
}

impl Backoff {
    /// A fresh start. `seed` should differ from agent to agent.
    #[must_use]
    pub fn new(policy: BackoffPolicy, seed: u64) -> Self {
        Self { policy, pause: policy.first, connected: None, random: seed }
    }

    /// A connection was made.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// It is gone, or could not be made. Returns when to try again: after between half of the pause and all of it.
    pub fn failed(&mut self, now: Instant) -> Instant {
        if self
            .connected
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) >= self.policy.stable)
        {
            self.pause = self.policy.first;
        }
        let pause = self.pause.min(self.policy.max);
        self.pause = (pause * 2).min(self.policy.max);
        now + pause.mul_f64(0.5 + 0.5 * self.fraction())
    }

    /// SplitMix64: good enough to spread agents, no dependency.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy {
        first: Duration::from_millis(100),
        max: Duration::from_secs(2),
        stable: Duration::from_secs(5),
    };

    #[test]
    fn pauses_double_within_jitter_up_to_the_bound() {
        let now = Instant::now();
        let mut backoff = Backoff::new(POLICY, 1);
        for expected in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = (backoff.failed(now) - now).as_millis();
            assert!(pause >= expected / 2 && pause <= expected, "{pause} of {expected}");
        }
    }

    #[test]
    fn only_a_connection_that_lasted_starts_over() {
        let now = Instant::now();
        let mut backoff = Backoff::new(POLICY, 1);
        for _ in 0..5 {
            backoff.failed(now);
        }
        backoff.connected(now);
        assert!(
            backoff.failed(now + Duration::from_secs(1)) - (now + Duration::from_secs(1)) >= POLICY.max / 2
        );
        backoff.connected(now);
        let later = now + Duration::from_secs(6);
        assert!(backoff.failed(later) - later <= POLICY.first);
    }

    #[test]
    fn two_agents_do_not_come_back_together() {
        let now = Instant::now();
        let (mut one, mut other) = (Backoff::new(POLICY, 1), Backoff::new(POLICY, 2));
        assert_ne!(one.failed(now), other.failed(now));
    }
}
