//! Network interfaces and RDMA devices: link state, losses, flaps and error counters.
//!
//! A link that was never up is a free port, not a fault: only one that was seen up and is down is reported. A link that
//! was lost and came back within seconds may be what stopped a rank, so the loss is told for a while after it. Counters count
//! since boot, so only what they gain is news; how much of it is too much differs by counter and by cluster, so each
//! has a rule of its own, and rules can be changed and added.

mod read;
mod rules;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use c4_detect::{catalogue, observation::Severity};
pub use read::{NicReading, read_all};
pub(super) use read::{children, text};
pub use rules::CounterRule;
use tokio::time::Instant;

use super::{Sampled, Sensor, Transitions, limits::Gain};
use crate::report::Health;

/// When a link loses itself too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlapLimit {
    /// Losses that make a flap.
    pub losses: u32,
    /// Within this time.
    pub within: Duration,
    /// Whether a flap stays until the agent is started anew; else it ends when the losses are long ago.
    pub sticky: bool,
}

/// Where NICs are, and when they are not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSettings {
    /// Where sysfs is.
    pub sys_root: PathBuf,
    /// How long a link may be down before it is called down.
    pub down_after: Duration,
    /// How long a loss is told after it.
    pub loss_told_for: Duration,
    /// When it flaps.
    pub flap: FlapLimit,
    /// Rules for counters, by name. The code of a health event is "nic-" and the name.
    pub counters: BTreeMap<String, CounterRule>,
}

impl Default for NicSettings {
    fn default() -> Self {
        let ten_minutes = Duration::from_secs(600);
        Self {
            sys_root: PathBuf::from("/sys"),
            down_after: Duration::from_secs(5),
            loss_told_for: Duration::from_secs(60),
            flap: FlapLimit { losses: 3, within: ten_minutes, sticky: false },
            counters: rules::defaults(),
        }
    }
}

#[derive(Debug, Default)]
struct Port {
    last: NicReading,
    was_up: bool,
    down_since: Option<Instant>,
    lost_at: Vec<Instant>,
    flapped: bool,
    best_mbps: u64,
    gains: BTreeMap<String, Gain>,
}

/// Decides what is news. Pure: readings and time in, events out.
#[derive(Debug, Default)]
struct Judge {
    ports: BTreeMap<String, Port>,
    transitions: Transitions,
}

impl Judge {
    fn update(
        &mut self,
        settings: &NicSettings,
        readings: BTreeMap<String, NicReading>,
        now: Instant,
    ) -> Vec<Health> {
        let mut conditions = Vec::new();
        for (name, port) in &self.ports {
            if port.was_up && !readings.contains_key(name) {
                conditions.push(condition(name, "nic-lost", "it was there, and up".to_owned()));
            }
        }
        for (name, reading) in readings {
            match self.ports.get_mut(&name) {
                Some(port) => port.update(settings, &name, reading, now, &mut conditions),
                None => {
                    let mut port = Port { last: reading.clone(), ..Port::default() };
                    port.update(settings, &name, reading, now, &mut conditions);
                    self.ports.insert(name, port);
                }
            }
        }
        self.transitions.update(conditions)
    }
}

impl Port {
    fn update(
        &mut self,
        settings: &NicSettings,
        name: &str,
        reading: NicReading,
        now: Instant,
        conditions: &mut Vec<Health>,
    ) {
        let mut tell = |code: &str, detail: String| conditions.push(condition(name, code, detail));
        let down = self.was_up && reading.up == Some(false);
        let counted = reading.losses.saturating_sub(self.last.losses);
        // A loss that no counter tells of is seen if the link is down at the time of a look.
        let seen = u64::from(down && self.down_since.is_none());
        let most = u64::from(settings.flap.losses).max(1);
        self.lost_at.extend((0..counted.max(seen).min(most)).map(|_| now));
        let remembered = settings.flap.within.max(settings.loss_told_for);
        self.lost_at.retain(|at| now.saturating_duration_since(*at) < remembered);
        self.down_since = if down { self.down_since.or(Some(now)) } else { None };

        if let Some(since) = self.down_since
            && now.saturating_duration_since(since) >= settings.down_after
        {
            tell("link-down", "it was up before".to_owned());
        }
        let within = |span: Duration| {
            self.lost_at.iter().filter(|at| now.saturating_duration_since(**at) < span).count()
        };
        if within(settings.loss_told_for) > 0 {
            tell("link-lost", format!("told for {} s after it", settings.loss_told_for.as_secs()));
        }
        let losses = within(settings.flap.within);
        self.flapped = losses >= settings.flap.losses as usize || (self.flapped && settings.flap.sticky);
        if self.flapped {
            let limit = settings.flap;
            tell("link-flap", format!("{} losses within {} s or more", limit.losses, limit.within.as_secs()));
        }
        if reading.up == Some(true) {
            self.was_up = true;
            self.best_mbps = self.best_mbps.max(reading.mbps.unwrap_or(0));
            if let Some(mbps) = reading.mbps.filter(|mbps| *mbps < self.best_mbps) {
                tell("link-slow", format!("{mbps} of {} Mbit/s", self.best_mbps));
            }
        }
        for (rule, limit) in &settings.counters {
            let Some(value) = reading.counters.get(&limit.counter) else { continue };
            let gained = self.gains.entry(rule.clone()).or_default().look(*value, now, limit.gain);
            if let Some(gained) = gained {
                let seconds = limit.gain.within.as_secs_f64();
                let detail = format!("{} grew by {gained} within {seconds} s", limit.counter);
                let severity = if limit.fatal { Severity::Fatal } else { Severity::Warning };
                conditions.push(Health { severity, ..condition(name, &format!("nic-{rule}"), detail) });
            }
        }
        self.last = reading;
    }
}

fn condition(nic: &str, code: &str, detail: String) -> Health {
    let severity = catalogue::entry(code, &detail).map_or(Severity::Warning, |entry| entry.severity);
    let (nic, code) = (Some(nic.to_owned()), code.to_owned());
    Health { component: "nic", gpu: None, nic, code, detail, severity, cleared: false }
}

/// Watches the ports.
#[derive(Debug)]
pub struct NicSensor {
    settings: NicSettings,
    counters: Vec<String>,
    judge: Judge,
}

impl NicSensor {
    /// Opens it.
    ///
    /// # Errors
    /// There is no port: why.
    pub fn open(settings: NicSettings) -> Result<(Self, String), String> {
        let mut counters: Vec<String> = settings.counters.values().map(|rule| rule.counter.clone()).collect();
        counters.sort();
        counters.dedup();
        let names: Vec<String> = read_all(&settings.sys_root, &counters).into_keys().collect();
        if names.is_empty() {
            return Err(format!("{}: no network device", settings.sys_root.display()));
        }
        Ok((Self { settings, counters, judge: Judge::default() }, names.join(", ")))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    fn root(&self) -> &Path {
        &self.settings.sys_root
    }
}

impl Sensor for NicSensor {
    fn sample(&mut self, now: Instant, _interval: Duration) -> Sampled {
        let readings = read_all(self.root(), &self.counters);
        let shown = readings.iter().flat_map(|(name, reading)| reading.shown(name)).collect();
        let health = self.judge.update(&self.settings, readings, now);
        Sampled { health, readings: shown, ..Sampled::default() }
    }
}
