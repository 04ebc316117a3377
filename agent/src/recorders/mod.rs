//! Reads every recorder of the node, ten times a second, and says what changed.
//!
//! [`Sampler`] is a state machine over a narrow source of recorders; it is handed the time. Windows close every second,
//! and at once when something cannot wait: a process ended or was stopped, or a collective has been in flight for
//! much longer than usual. Then *all* processes of the node report, since what the others do at that moment is
//! half of the diagnosis.

mod collectives;
mod communicator;
mod evidence;
mod exits;
mod files;
mod identity;
mod links;
mod look;
mod nics;
mod owner;
mod peers;
mod source;
mod tracked;
mod transfers;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub use collectives::Collectives;
pub use communicator::Overdue;
pub use evidence::Retention;
pub use exits::{ExitStatus, Exits, Known};
pub use files::RecorderDirectory;
pub use identity::{describe, named_job, process_id};
use look::Look;
use nics::Nics;
pub use nics::{HostNics, chosen as chosen_nics};
pub use owner::Origin;
use owner::Owners;
pub use peers::PeerSums;
pub use source::{RecorderHandle, RecorderSource, Sample, SourceError};
use tracing::{info, warn};
use tracked::Tracked;
use transfers::Transfers;

use crate::{
    report::{Report, TimeSteps},
    sensors::{Gpus, Spinning},
};

/// A recorder that cannot be read is reported after this time: one that is just being created is none of the bad ones.
const PATIENCE_NS: u64 = 1_000_000_000;

/// An unreadable file is tried again after this time.
const RETRY_NS: u64 = 10_000_000_000;
/// Who gave a sign of life so shortly before this agent began (a minute) ended while no agent looked, or with one: it may be
/// news to the controller. What ended before is not.
const FOUND_NS: u64 = 60_000_000_000;
/// A look that comes later after the one before than so many intervals does not tell when a process has ended: this agent stood still
/// meanwhile, or the whole node had too much to do.
const LATE_LOOK: u32 = 2;
/// Windows in one message at most: far more than a node has GPUs, far less than fills a message.
const MAX_TOGETHER: usize = 64;

/// Peers in one message.
const MAX_PEERS: usize = 4096;

/// How the sampler works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node it speaks for.
    pub node: String,
    /// Time from one look to the next.
    pub interval: Duration,
    /// Length of a window.
    pub window: Duration,
    /// When an operation is older than it should be.
    pub overdue: Overdue,
    /// What happens to recorders of the dead.
    pub retention: Retention,
    /// Where processes show: `/proc`.
    pub proc_root: PathBuf,
    /// Where NICs show: `/sys`.
    pub sys_root: PathBuf,
}

/// Figures for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Recorders of live processes.
    pub live: usize,
    /// Files that cannot be read.
    pub unreadable: usize,
    /// Of the live ones, those in which profiling is off.
    pub silent: usize,
    /// What found no room in a recorder, and operations overwritten before they were read, since the start.
    pub dropped: u64,
    /// See `dropped`.
    pub unread: u64,
    /// Looks that failed, since the start.
    pub errors: u64,
    /// Times that a process was asked to time all its network steps, since the start.
    pub step_requests: u64,
}

#[derive(Debug)]
struct Unreadable {
    since_ns: u64,
    next_try_ns: u64,
    reported: bool,
}

/// See the module.
pub struct Sampler<S: RecorderSource> {
    source: S,
    owners: Owners,
    nics: Nics,
    settings: Settings,
    exits: Exits,
    spinning: Spinning,
    gpus: Gpus,
    started_ns: u64,
    first_scan: bool,
    list_failed: bool,
    tracked: BTreeMap<String, Tracked<S::Recorder>>,
    transfers: Transfers,
    unreadable: BTreeMap<String, Unreadable>,
    evidence: evidence::Evidence,
    window_opened_ns: u64,
    looked_ns: u64,
    /// The look before this one, if this one is late.
    unwatched_since_ns: Option<u64>,
    errors: u64,
    step_requests: u64,
    /// What processes that are gone had lost: dropped, and unread.
    buried_losses: (u64, u64),
    /// Completed since somebody took them, by job.
    collectives: BTreeMap<String, Collectives>,
}

impl<S: RecorderSource> Sampler<S> {
    /// A sampler that has seen nothing yet. `now_ns` is the host's monotonic clock, as everywhere here.
    pub fn new(source: S, settings: Settings, exits: Exits, now_ns: u64) -> Self {
        Self {
            source,
            owners: Owners::new(&settings.proc_root),
            nics: Nics::new(&settings.sys_root),
            settings,
            exits,
            spinning: Spinning::default(),
            gpus: Gpus::default(),
            started_ns: now_ns,
            first_scan: true,
            list_failed: false,
            tracked: BTreeMap::new(),
            transfers: Transfers::default(),
            unreadable: BTreeMap::new(),
            evidence: evidence::Evidence::default(),
            window_opened_ns: now_ns,
            looked_ns: now_ns,
            unwatched_since_ns: None,
            errors: 0,
            step_requests: 0,
            buried_losses: (0, 0),
            collectives: BTreeMap::new(),
        }
    }

    /// The same, which tells of processes whose GPU spins.
    #[must_use]
    pub fn with_spinning(self, spinning: Spinning) -> Self {
        Self { spinning, ..self }
    }

    /// The same, which knows where the node's GPUs are.
    #[must_use]
    pub fn with_gpus(self, gpus: Gpus) -> Self {
        Self { gpus, ..self }
    }

    /// Figures for the metrics.
    pub fn figures(&self) -> Figures {
        let losses = self.tracked.values().map(Tracked::losses);
        let (dropped, unread) = losses.fold(self.buried_losses, |(dropped, unread), (more, most)| {
            (dropped.saturating_add(more), unread.saturating_add(most))
        });
        Figures {
            live: self.tracked.len(),
            unreadable: self.unreadable.len(),
            silent: self.tracked.values().filter(|tracked| tracked.is_silent()).count(),
            dropped,
            unread,
            errors: self.errors,
            step_requests: self.step_requests,
        }
    }

    /// Collectives that were seen to complete since the last call, by job.
    pub fn take_collectives(&mut self) -> BTreeMap<String, Collectives> {
        std::mem::take(&mut self.collectives)
    }

    /// Has all network steps of some processes timed, for a while: it ends by itself, whatever becomes of this agent or
    /// of the controller.
    pub fn time_steps(&mut self, wish: &TimeSteps, now_ns: u64) {
        let until_ns = match u64::try_from(wish.duration.as_nanos()) {
            Ok(0) => 0,
            length => now_ns.saturating_add(length.unwrap_or(u64::MAX)),
        };
        for (name, tracked) in &mut self.tracked {
            if !tracked.process.is_some_and(|process| wish.processes.contains(&process)) {
                continue;
            }
            match tracked.handle.request_all_steps(until_ns) {
                Ok(()) => self.step_requests += 1,
                Err(error) => {
                    self.errors += 1;
                    warn!(recorder = %name, %error, "cannot ask for all network steps");
                }
            }
        }
    }

    /// One look at everything. Reports are in the order in which they must be told.
    pub fn sample(&mut self, now_ns: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        let before_ns = std::mem::replace(&mut self.looked_ns, now_ns);
        let on_time_ns = u64::try_from((self.settings.interval * LATE_LOOK).as_nanos()).unwrap_or(u64::MAX);
        self.unwatched_since_ns =
            Some(before_ns).filter(|before_ns| now_ns.saturating_sub(*before_ns) > on_time_ns);
        self.scan(now_ns);
        let mut urgent = false;
        let mut ended = Vec::new();
        let mut alive: Vec<String> = self.tracked.keys().cloned().collect();
        loop {
            let mut ends = Vec::new();
            // All are read before any is looked at: when a receive has ended, its sender tells.
            let reads: Vec<_> = alive.iter().filter_map(|name| Some((name, self.read(name)?))).collect();
            for (name, read) in reads {
                match self.look(name, read, now_ns, &mut reports) {
                    Look::Alive { urgent: now } => urgent |= now,
                    Look::Ended => ends.push(name.clone()),
                }
            }
            let waits = |name: &String| self.tracked.get(name).is_some_and(|one| one.waited_for_exit);
            alive.retain(|name| !ends.contains(name) && !waits(name));
            let done = ends.is_empty();
            ended.extend(ends);
            // What one died of may have been looked at while it still lived: it is to be told together.
            if done || alive.is_empty() {
                break;
            }
        }
        urgent |= !ended.is_empty();
        ended.sort_by_key(|name| self.tracked.get(name).map(|dead| self.exits.order(dead.identity.pid)));
        let window_ns = u64::try_from(self.settings.window.as_nanos()).unwrap_or(u64::MAX);
        if urgent || now_ns.saturating_sub(self.window_opened_ns) >= window_ns {
            self.window_opened_ns = now_ns;
            self.transfers.retain(&self.tracked.values().flat_map(Tracked::memberships).collect());
            let rule = self.settings.overdue;
            let spins = self.spins(now_ns);
            let windows = self.tracked.values_mut().filter_map(|tracked| {
                let mut window = tracked.close_window(rule, now_ns)?;
                if let Some(own) = &mut window.own {
                    own.gpu_spins_us =
                        tracked.identity.gpu.and_then(|gpu| spins.get(&gpu)).copied().unwrap_or(0);
                }
                Some(window)
            });
            let windows: Vec<_> = windows.collect();
            reports.extend(windows.chunks(MAX_TOGETHER).map(|some| Report::Windows(some.to_vec())));
        }
        let peers: Vec<_> = self.tracked.values_mut().flat_map(|tracked| tracked.peers(now_ns)).collect();
        reports.extend(peers.chunks(MAX_PEERS).map(|some| Report::Traffic(some.to_vec())));
        for name in ended {
            reports.extend(self.bury(name, now_ns));
        }
        for name in self.evidence.expired(self.settings.retention, now_ns) {
            if let Err(error) = self.source.remove(&name) {
                warn!(recorder = %name, %error, "cannot remove the recorder of a dead process");
            }
        }
        self.first_scan = false;
        reports
    }

    /// For how long GPUs have spun, in microseconds. Of one that several processes use it is not known whose kernel it is.
    fn spins(&self, now_ns: u64) -> BTreeMap<u32, u64> {
        let mut users: BTreeMap<u32, usize> = BTreeMap::new();
        for gpu in self.tracked.values().filter_map(|tracked| tracked.identity.gpu) {
            *users.entry(gpu).or_default() += 1;
        }
        let alone = users.into_iter().filter(|(_, users)| *users == 1);
        let spins_us = |gpu| Some((gpu, now_ns.saturating_sub(self.spinning.since_ns(gpu, now_ns)?) / 1_000));
        alone.filter_map(|(gpu, _)| spins_us(gpu)).collect()
    }

    fn scan(&mut self, now_ns: u64) {
        let listed = match self.source.list() {
            Ok(listed) => listed,
            Err(error) => {
                if !std::mem::replace(&mut self.list_failed, true) {
                    warn!(%error, "cannot read the recorder directory");
                }
                self.errors += 1;
                return;
            }
        };
        if std::mem::replace(&mut self.list_failed, false) {
            info!("the recorder directory can be read again");
        }
        self.evidence.retain(&listed);
        self.unreadable.retain(|name, _| listed.contains(name));
        for name in listed {
            if !self.tracked.contains_key(&name) && !self.evidence.contains(&name) {
                self.open(name, now_ns);
            }
        }
        self.leave_replaced(now_ns);
    }

    /// Of one that was found ended nothing is told if another has taken its place: the job lives on.
    fn leave_replaced(&mut self, now_ns: u64) {
        let lives = |labels: &BTreeMap<String, String>| {
            self.tracked.values().any(|one| !one.found && one.identity.labels == *labels)
        };
        let replaced = self.tracked.iter().filter(|(_, one)| one.found && lives(&one.identity.labels));
        let replaced: Vec<String> = replaced.map(|(name, _)| name.clone()).collect();
        for name in replaced {
            self.tracked.remove(&name);
            self.evidence.add(name, now_ns);
        }
    }

    fn open(&mut self, name: String, now_ns: u64) {
        if self.unreadable.get(&name).is_some_and(|bad| now_ns < bad.next_try_ns) {
            return;
        }
        let owners = &self.owners;
        let opened = self.source.open(&name).and_then(|handle| Tracked::new(handle, owners, now_ns));
        let opened = opened.and_then(|mut tracked| Ok((tracked.handle.alive()?, tracked)));
        match opened {
            Ok((alive, mut tracked)) => {
                self.unreadable.remove(&name);
                tracked.found = !alive && (self.first_scan || tracked.identity.created_ns < self.started_ns);
                let lived_ns = if tracked.found { tracked.lived_until(now_ns) } else { now_ns };
                if self.started_ns.saturating_sub(lived_ns) < FOUND_NS {
                    self.tracked.insert(name, tracked);
                } else {
                    info!(recorder = %name, pid = tracked.identity.pid, "its process ended before this agent started");
                    self.evidence.add(name, now_ns);
                }
            }
            Err(error) => {
                self.errors += 1;
                let bad = self.unreadable.entry(name.clone()).or_insert(Unreadable {
                    since_ns: now_ns,
                    next_try_ns: now_ns,
                    reported: false,
                });
                if now_ns.saturating_sub(bad.since_ns) >= PATIENCE_NS {
                    bad.next_try_ns = now_ns + RETRY_NS;
                    if !std::mem::replace(&mut bad.reported, true) {
                        warn!(recorder = %name, %error, "cannot read this recorder");
                    }
                }
            }
        }
    }
}
