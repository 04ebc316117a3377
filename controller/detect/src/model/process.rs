//! A training process: who it is, whether it can be seen, and how it ended.

use super::memberships::Memberships;
use crate::{
    config::Config,
    nodes::Nodes,
    observation::{OwnTime, ProcessInfo, ProcessState, Timestamp, Window},
};

/// Windows in which a rank that lost events must be level with its peers before its positions count again.
pub(super) const LEVEL_WINDOWS: u32 = 5;

/// A GPU has spun for so long if two looks of its sensor, a second apart, show it.
const SPINS_US: u64 = 1_500_000;

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    /// When the detector learned of it.
    pub(crate) told: Timestamp,
    pub(crate) finalized: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Whether `at` is only when it was last known to live.
    pub(crate) found: bool,
    pub(crate) fate: Fate,
}

/// What the detector made of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not decided.
    Pending,
    /// A proper end, unless others turn out to need it.
    Orderly,
    /// A death, or the consequence of another fault.
    Death,
}

/// One training process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) info: ProcessInfo,
    /// Communicators it is in, with its rank there.
    pub(crate) memberships: Memberships,
    pub(crate) first_seen: Timestamp,
    /// When its last window was taken.
    pub(crate) seen: Option<Timestamp>,
    pub(crate) state: ProcessState,
    /// Since when all its windows have shown it asleep.
    pub(crate) asleep: Option<Timestamp>,
    /// When it was first told, without a break, that it has ended and is not reaped.
    pub(crate) zombie: Option<Timestamp>,
    pub(crate) kernel_events: bool,
    pub(crate) profiling: bool,
    dropped: u64,
    unread: u64,
    /// Windows in which it was level with its peers since it last lost events; absent if it never did.
    pub(crate) level_since_loss: Option<u32>,
    pub(crate) end: Option<End>,
    /// When it was by itself, as its last window tells.
    pub(crate) own: Option<OwnTime>,
    /// When it last showed progress.
    pub(crate) progressed: Option<Timestamp>,
}

impl Process {
    pub(super) fn new(info: ProcessInfo, now: Timestamp) -> Self {
        Self {
            info,
            memberships: Memberships::default(),
            first_seen: now,
            seen: None,
            state: ProcessState::Unknown,
            asleep: None,
            zombie: None,
            kernel_events: false,
            profiling: false,
            dropped: 0,
            unread: 0,
            level_since_loss: None,
            end: None,
            own: None,
            progressed: None,
        }
    }

    pub(crate) fn alive(&self) -> bool {
        self.end.is_none()
    }

    /// Whether its GPU has been busy for a while with a kernel that waits or does not end, whatever its host does.
    pub(crate) fn gpu_spins(&self) -> bool {
        self.own.is_some_and(|own| own.gpu_spins_us >= SPINS_US)
    }

    /// Takes in a window that ended at `taken`.
    pub(super) fn take(&mut self, window: &Window, taken: Timestamp, now: Timestamp) {
        self.seen = Some(taken);
        self.zombie = (window.state == ProcessState::Zombie).then(|| self.zombie.unwrap_or(now));
        self.state = window.state;
        self.asleep = (window.state == ProcessState::Sleeping).then(|| self.asleep.unwrap_or(taken));
        self.kernel_events = window.kernel_events;
        self.own = window.own;
        self.profiling = window.profiling;
        if window.dropped > self.dropped || window.unread > self.unread {
            self.level_since_loss = Some(0);
        }
        self.dropped = self.dropped.max(window.dropped);
        self.unread = self.unread.max(window.unread);
    }

    /// Why the absence of events from this process says nothing at the moment, if so.
    pub(crate) fn blind_because(&self, nodes: &Nodes, config: &Config, now: Timestamp) -> Option<String> {
        if !self.alive() {
            return None;
        }
        let node = &self.info.node.0;
        if nodes.is_lost(&self.info.node) {
            return Some(format!("the agent of {node} is out of sight"));
        }
        let since = self.seen.unwrap_or(self.first_seen);
        if now.micros_since(since) > config.stale_ms.saturating_mul(1_000) {
            return Some(format!("nothing was heard of it from the agent of {node} for a while"));
        }
        if self.seen.is_some() && !self.profiling {
            return Some("profiling is off in it".to_owned());
        }
        match self.level_since_loss {
            Some(level) if level < LEVEL_WINDOWS => Some("its events were dropped".to_owned()),
            _ => None,
        }
    }
}
