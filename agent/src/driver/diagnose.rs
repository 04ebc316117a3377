//! The task that stands in for a controller where there is none: it hears all reports, says what it finds as it finds it,
//! and in the end, when nothing more comes, everything.
//!
//! It takes reports as fast as they come, so the queue of reports does not fill. Wishes to time network steps that find no
//! room are dropped: the detector says them again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use c4_detect::{finding::Finding, observation::Timestamp};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    diagnosis::Diagnosis,
    report::{Captured, Report, TimeSteps},
};

/// The detector hears this often that time goes on.
const TICK: Duration = Duration::from_millis(200);

/// Runs until it is cancelled and nothing more comes; then writes what was found to standard error.
pub(super) async fn diagnose(
    node: String,
    mut reports: mpsc::Receiver<Captured>,
    wishes: mpsc::Sender<TimeSteps>,
    shutdown: CancellationToken,
) {
    let clock = Clock::anchored();
    let mut diagnosis = Diagnosis::new(&node);
    diagnosis.begin(clock.now());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = tokio::select! {
            biased;
            report = reports.recv() => match report {
                Some(Captured { at, report }) => {
                    if let Report::Health(health) = &report {
                        info!(code = %health.code, detail = %health.detail, cleared = health.cleared, "health");
                    }
                    let age_us = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
                    diagnosis.take(report, age_us, clock.now())
                }
                None => break,
            },
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {
                let news = diagnosis.tick(clock.now());
                for wish in diagnosis.wishes() {
                    let _ = wishes.try_send(wish);
                }
                news
            }
        };
        news.iter().for_each(say);
    }
    eprint!("{}", diagnosis.text());
}

fn say(finding: &Finding) {
    warn!(job = %finding.job.0, kind = finding.kind.name(), "{}", finding.summary);
}

/// The wall clock of the start, carried on by one that does not jump.
struct Clock {
    wall_us: u64,
    started: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "findings tell the time of day; read once, at the start")]
    fn anchored() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX), started: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.wall_us).after(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
