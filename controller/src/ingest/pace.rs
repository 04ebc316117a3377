//! How fast one stream is read. Whoever sends faster is held up by flow control, so nothing is lost; an agent that goes
//! wild, or is meant to, costs no more than its share.

use std::time::Duration;

use tokio::time::Instant;

/// A stream may be ahead of its pace by so much: the rest of a second, and acknowledgements, go on meanwhile.
const SLACK: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    each: Duration,
    /// Until when the messages taken so far would have taken at the pace.
    due: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: f64) -> Self {
        Self { each: Duration::from_secs_f64(1.0 / per_second.max(1e-3)), due: None }
    }

    /// A message was taken `now`: how long to wait before the next one, if at all.
    pub(super) fn taken(&mut self, now: Instant) -> Option<Duration> {
        let due = self.due.unwrap_or(now).max(now) + self.each;
        self.due = Some(due);
        due.duration_since(now).checked_sub(SLACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_at_once_and_then_the_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(100.0);
        for _ in 0..300 {
            if let Some(pause) = pace.taken(Instant::now()) {
                tokio::time::sleep(pause).await;
            }
        }
        let took = start.elapsed();
        assert!((1.9..2.3).contains(&took.as_secs_f64()), "100 at once, 200 in two seconds: {took:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(
            (0..200).filter(|_| pace.taken(Instant::now()).is_some_and(|p| !p.is_zero())).count(),
            100
        );
    }
}
