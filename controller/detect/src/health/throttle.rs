//! Conditions that healthy components have now and then: only one that lasts is worth a warning.
//!
//! A GPU under full load reports for a while that heat lowers its clocks, and is well. Each of these reports would be a
//! false alarm, so what counts is the share of the time in which it is so, as a mean that fades over the window of the
//! configuration. It is told above one share and taken back below a smaller one, so that what swings about a threshold is told
//! once. Whether a rank suffers is another question, which no report is too short for: see [`super::join`].

use std::collections::BTreeMap;

use crate::{
    case::Slot,
    config::Config,
    observation::{HealthEvent, Timestamp},
};

/// Components watched at once; more of them are no cluster of ours.
const MAX_WATCHED: usize = 65_536;
/// Below this share what was so long ago is forgotten.
const NOTHING: f64 = 0.001;

/// What changed in the view of a component.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    /// It has been so for most of the time, at first since then.
    Lasts(HealthEvent, Timestamp),
    /// It no longer is.
    Over(Slot),
}

/// How much of the time a component was throttled.
#[derive(Debug)]
struct Duty {
    event: HealthEvent,
    since: Timestamp,
    holds: bool,
    share: f64,
    at: Timestamp,
    lasts: bool,
    told: bool,
}

impl Duty {
    fn advance(&mut self, now: Timestamp, window_us: f64) {
        let kept = (-(now.micros_since(self.at) as f64) / window_us).exp();
        let new = if self.holds { 1.0 - kept } else { 0.0 };
        self.share = self.share * kept + new;
        self.at = self.at.max(now);
    }
}

/// All components that were throttled lately.
#[derive(Debug, Default)]
pub(crate) struct Throttling {
    watched: BTreeMap<Slot, Duty>,
}

impl Throttling {
    /// It has begun, or has ended, at a time that is not after what was seen before.
    pub(crate) fn take(&mut self, event: HealthEvent, at: Timestamp, config: &Config) {
        let slot = super::slot(&event);
        let holds = !event.cleared;
        if let Some(duty) = self.watched.get_mut(&slot) {
            duty.advance(at, window_us(config));
            duty.holds = holds;
            if holds {
                duty.event = event;
            }
        } else if holds && self.watched.len() < MAX_WATCHED {
            let duty = Duty { event, since: at, holds, share: 0.0, at, lasts: false, told: false };
            self.watched.insert(slot, duty);
        }
    }

    /// What has come to last, and what is over. One that an open finding explains is told once it no longer does.
    pub(crate) fn look(
        &mut self,
        config: &Config,
        now: Timestamp,
        explained: impl Fn(&HealthEvent) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.watched.retain(|slot, duty| {
            duty.advance(now, window_us(config));
            if !duty.lasts && duty.share > config.health_throttle_share {
                duty.lasts = true;
            } else if duty.lasts && duty.share < config.health_throttle_clear_share {
                duty.lasts = false;
                changes.push(Change::Over(slot.clone()));
            }
            let tell = duty.lasts && !explained(&duty.event);
            if tell && !duty.told {
                changes.push(Change::Lasts(duty.event.clone(), duty.since));
            }
            duty.told = tell;
            duty.holds || duty.lasts || duty.share > NOTHING
        });
        changes
    }
}

fn window_us(config: &Config) -> f64 {
    config.health_throttle_window_ms.max(1) as f64 * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{NodeName, Severity};

    const S: u64 = 1_000_000;

    fn event(cleared: bool) -> HealthEvent {
        HealthEvent {
            node: NodeName("node-1".into()),
            gpu: Some(4),
            nic: None,
            code: "thermal-slowdown".into(),
            detail: String::new(),
            severity: Severity::Warning,
            cleared,
            ago_us: 0,
        }
    }

    /// The seconds at which it is told and taken back, of a GPU that is hot in these seconds.
    fn told(seconds: u64, hot: impl Fn(u64) -> bool, explained: impl Fn(u64) -> bool) -> Vec<(u64, bool)> {
        let (mut throttling, config) = (Throttling::default(), Config::default());
        let (mut was, mut told) = (false, Vec::new());
        for second in 0..seconds {
            let now = Timestamp(second * S);
            if hot(second) != was {
                was = !was;
                throttling.take(event(!was), now, &config);
            }
            let changes = throttling.look(&config, now, |_| explained(second));
            told.extend(changes.iter().map(|change| (second, matches!(change, Change::Lasts(..)))));
        }
        told
    }

    #[test]
    fn a_blip_is_nothing_and_is_forgotten() {
        let (mut throttling, config) = (Throttling::default(), Config::default());
        throttling.take(event(false), Timestamp(0), &config);
        throttling.take(event(true), Timestamp(60 * S), &config);
        assert_eq!(throttling.look(&config, Timestamp(61 * S), |_| false), []);
        assert_eq!(throttling.look(&config, Timestamp(9_000 * S), |_| false), []);
        assert!(throttling.watched.is_empty());
    }

    #[test]
    fn what_lasts_is_told_once_and_taken_back_long_after_its_end() {
        let told = told(3_000, |second| second < 1_200, |_| false);
        let [(first, true), (last, false)] = told[..] else { panic!("{told:?}") };
        assert!((410..425).contains(&first), "0.7 windows: {first}");
        assert!((1_900..2_000).contains(&last), "1.3 windows later: {last}");
    }

    #[test]
    fn what_swings_about_the_threshold_is_told_once() {
        assert_eq!(told(20_000, |second| second % 60 < 15, |_| false), [], "a quarter of the time");
        let often = told(20_000, |second| second % 60 < 32, |_| false);
        assert_eq!(often.len(), 1, "a little more than half of it: {often:?}");
    }

    #[test]
    fn what_a_finding_explains_is_told_when_it_no_longer_does() {
        let told = told(1_500, |_| true, |second| second < 1_000);
        assert_eq!(told, [(1_000, true)]);
    }
}
