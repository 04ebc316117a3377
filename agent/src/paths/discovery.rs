//! What to ask next and what is known: a state machine that is handed the time.
//!
//! Switches answer expired TTLs rarely and at their leisure (ICMP is rate-limited everywhere), so silence means nothing
//! before it has been met several times: probes are paced, the pace slows down when answers stay away and picks up again
//! when they come. What a switch says is not believed at once either: a port is used only when two answers name the same
//! hops, since a switch that answers for others, or a path that moved in between, would spoil a plan silently. A port whose
//! first answer names a path that is not wanted is not asked again: it was only *glimpsed*.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use super::orders::Route;

mod report;
mod settings;

pub use report::Report;
pub use settings::Settings;
use settings::Untried;

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// Source port.
    pub port: u16,
    /// Where it ends.
    pub ttl: u8,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Send(Probe),
    /// Wait for answers, until then at most.
    Wait(u64),
    /// Nothing is left to be learned.
    Done,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A switch said that the TTL expired there.
    Hop(IpAddr),
    /// It came through to the destination: there is no switch at this TTL.
    Reached,
    /// The port is in use, or cannot be used.
    Busy,
    /// Somebody said that there is no way there.
    Unreachable,
}

/// A path, by the switches that answered, one for each TTL.
pub type Hops = Vec<IpAddr>;

/// A port under examination.
#[derive(Debug, Default)]
struct Candidate {
    /// Answers so far: two rounds over all TTLs.
    hops: Vec<IpAddr>,
    tries: u32,
}

/// Learns which source ports take which paths to one destination.
#[derive(Debug)]
pub struct Discovery {
    settings: Settings,
    started_us: Option<u64>,
    untried: Untried,
    pace_us: u64,
    due_us: u64,
    /// When the pace was last slowed down.
    slowed_us: u64,
    candidates: BTreeMap<u16, Candidate>,
    ready: VecDeque<u16>,
    /// Probes without an answer, and until when they may have one.
    flying: BTreeMap<Probe, u64>,
    paths: BTreeMap<Hops, Vec<u16>>,
    glimpsed: BTreeMap<Hops, Vec<u16>>,
    report: Report,
}

/// Ports under examination at the same time: what answers slowly is waited for, rather than asked about more ports.
const CANDIDATES: usize = 16;
/// Ports that are tried for each path that is known, before those that are not are given up; more than depth calls for.
const MOST_PORTS_A_PATH: usize = 64;
/// Ports that show nothing new in a row, for each path known, before it is believed that there are no more paths. A path
/// that takes its share of ports stays unseen among n paths over 7 n ports with probability e⁻⁷.
const NOTHING_NEW: u32 = 7;
/// Ports of known paths, for each of those and one more, after which a wanted path that none took is believed not to be
/// there: e⁻¹⁰.
const ABSENT: usize = 10;

impl Discovery {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            started_us: None,
            untried: Untried::new(&settings),
            pace_us: settings.pace_us,
            due_us: 0,
            slowed_us: 0,
            candidates: BTreeMap::new(),
            ready: VecDeque::new(),
            flying: BTreeMap::new(),
            paths: BTreeMap::new(),
            glimpsed: BTreeMap::new(),
            report: Report::default(),
            settings,
        }
    }

    /// What comes of it where everything is answered at once: in a model of a network.
    #[must_use]
    pub fn in_model(settings: Settings, mut answer: impl FnMut(Probe) -> Answer) -> Self {
        let (mut discovery, mut now_us) = (Self::new(settings), 0);
        loop {
            match discovery.next(now_us) {
                Step::Send(probe) => discovery.answer(probe, answer(probe)),
                Step::Wait(until_us) => now_us = until_us,
                Step::Done => return discovery,
            }
        }
    }

    /// What to do at this time.
    pub fn next(&mut self, now_us: u64) -> Step {
        self.started_us.get_or_insert(now_us);
        self.expire(now_us);
        if self.is_complete() {
            self.ready.clear();
        }
        let wanted = !self.ready.is_empty() || self.wants_port();
        if wanted {
            if now_us < self.due_us {
                return Step::Wait(self.due_us.min(self.earliest().unwrap_or(u64::MAX)));
            }
            if let Some(probe) = self.launch(now_us) {
                return Step::Send(probe);
            }
        }
        match self.earliest() {
            Some(until) if !self.is_complete() => Step::Wait(until),
            _ => {
                self.report.elapsed_us = now_us - self.started_us.unwrap_or(now_us);
                Step::Done
            }
        }
    }

    /// What became of a probe. Answers to probes that are not in flight are late, or lies, and ignored.
    pub fn answer(&mut self, probe: Probe, answer: Answer) {
        if self.flying.remove(&probe).is_none() {
            return;
        }
        match answer {
            Answer::Hop(hop) => {
                self.pace_us = (self.pace_us * 7 / 8).max(self.settings.pace_us);
                self.heard(probe.port, hop);
            }
            Answer::Busy => self.give_up(probe.port, |report| &mut report.busy),
            Answer::Reached | Answer::Unreachable => self.give_up(probe.port, |report| &mut report.lost),
        }
    }

    /// Whether an answer to this probe is still waited for.
    #[must_use]
    pub fn is_flying(&self, probe: Probe) -> bool {
        self.flying.contains_key(&probe)
    }

    /// Everything known so far was before this moment: something in the network changed.
    pub fn invalidate(&mut self) {
        *self = Self::new(self.settings.clone());
    }

    /// The ports of each path, in the order in which they were found.
    #[must_use]
    pub fn paths(&self) -> &BTreeMap<Hops, Vec<u16>> {
        &self.paths
    }

    /// Ports of paths that are not wanted, by what one answer said.
    #[must_use]
    pub fn glimpsed(&self) -> &BTreeMap<Hops, Vec<u16>> {
        &self.glimpsed
    }

    /// How it went, or goes.
    #[must_use]
    pub fn report(&self) -> Report {
        Report { paths: self.ways() as u32, ..self.report.clone() }
    }

    /// Paths that were seen.
    fn ways(&self) -> usize {
        self.paths.len() + self.glimpsed.keys().filter(|hops| !self.paths.contains_key(*hops)).count()
    }

    /// Ports whose path was seen.
    fn found(&self) -> usize {
        self.paths.values().chain(self.glimpsed.values()).map(Vec::len).sum()
    }

    /// Whether all paths are known, with as many ports as wanted.
    fn is_complete(&self) -> bool {
        if !self.settings.wanted.is_empty() {
            let ports = |route: &Route| -> usize {
                let own = self.paths.iter().filter(|(hops, _)| route.matches(hops));
                own.map(|(_, ports)| ports.len()).sum()
            };
            return self.settings.wanted.iter().all(|route| ports(route) >= self.settings.depth);
        }
        let deep = self.paths.values().all(|ports| ports.len() >= self.settings.depth);
        match self.settings.paths {
            Some(paths) => self.paths.len() >= paths && deep,
            None => deep && !self.paths.is_empty() && self.looked_long_enough(),
        }
    }

    /// Whether what is wanted and not complete yet was taken by no port at all, though so many took others.
    fn is_absent(&self) -> bool {
        let ports = |route: &Route| {
            let own = self.paths.iter().filter(|(hops, _)| route.matches(hops));
            own.map(|(_, ports)| ports.len()).sum::<usize>()
        };
        let open: Vec<usize> =
            self.settings.wanted.iter().map(ports).filter(|own| *own < self.settings.depth).collect();
        !open.is_empty() && open.iter().all(|own| *own == 0) && self.found() >= ABSENT * (self.ways() + 1)
    }

    fn looked_long_enough(&self) -> bool {
        self.found() >= NOTHING_NEW as usize * self.ways()
    }

    /// Whether another port should be tried. Where nothing answers at all, a few are enough to know.
    fn wants_port(&self) -> bool {
        let hopeless = self.ways() == 0 && self.report.silent + self.report.lost >= 8;
        let room = self.candidates.len() < CANDIDATES && !self.untried.is_empty();
        // A path that so many ports do not take is not there, or nobody answers on it.
        let absent = self.report.ports as usize > MOST_PORTS_A_PATH * (self.ways() + 1) || self.is_absent();
        room && !hopeless && !absent && !self.is_complete()
    }

    fn earliest(&self) -> Option<u64> {
        self.flying.values().min().copied()
    }

    fn launch(&mut self, now_us: u64) -> Option<Probe> {
        let port = self.ready.pop_front().or_else(|| {
            self.report.ports += 1;
            self.untried.next()
        })?;
        let ttls = &self.settings.ttls;
        let heard = self.candidates.entry(port).or_default().hops.len();
        let probe = Probe { port, ttl: ttls[heard % ttls.len()] };
        self.flying.insert(probe, now_us + self.settings.timeout_us);
        self.report.probes += 1;
        self.due_us = now_us + self.pace_us;
        Some(probe)
    }

    /// Probes that nobody answered are repeated, more slowly: once for all that were sent at the same pace, since the answers that a limit
    /// swallows are many at once, and a pace that falls with each of them takes seconds to recover.
    fn expire(&mut self, now_us: u64) {
        let late = self.flying.iter().filter(|(_, until)| **until <= now_us);
        let late: Vec<(Probe, u64)> = late.map(|(probe, until)| (*probe, *until)).collect();
        if late.iter().any(|(_, until)| *until >= self.slowed_us + self.settings.timeout_us) {
            self.slowed_us = now_us;
            self.pace_us = (self.pace_us * 4).min(self.settings.slowest_us);
        }
        for (probe, _) in late {
            self.flying.remove(&probe);
            let Some(candidate) = self.candidates.get_mut(&probe.port) else { continue };
            candidate.tries += 1;
            if candidate.tries >= self.settings.tries {
                self.give_up(probe.port, |report| &mut report.silent);
            } else {
                self.ready.push_back(probe.port);
            }
        }
    }

    fn heard(&mut self, port: u16, hop: IpAddr) {
        let length = self.settings.ttls.len();
        let Some(candidate) = self.candidates.get_mut(&port) else { return };
        candidate.tries = 0;
        candidate.hops.push(hop);
        let at = candidate.hops.len() - 1;
        if at >= length && candidate.hops[at - length] != hop {
            self.give_up(port, |report| &mut report.unsteady);
        } else if candidate.hops.len() == length && !self.settings.wants(&candidate.hops) {
            if let Some(candidate) = self.candidates.remove(&port) {
                self.glimpsed.entry(candidate.hops).or_default().push(port);
            }
        } else if candidate.hops.len() < 2 * length {
            self.ready.push_front(port);
        } else if let Some(mut candidate) = self.candidates.remove(&port) {
            candidate.hops.truncate(length);
            self.paths.entry(candidate.hops).or_default().push(port);
        }
    }

    fn give_up(&mut self, port: u16, count: impl Fn(&mut Report) -> &mut u32) {
        if self.candidates.remove(&port).is_some() {
            *count(&mut self.report) += 1;
        }
    }
}

#[cfg(test)]
mod tests;
