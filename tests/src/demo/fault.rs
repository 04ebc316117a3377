//! The demo's faults: how each is made, and what C4 must say about it.

use clap::ValueEnum;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    cluster::{Spec, suspect_rank},
    faults::{FaultDir, NetMode, WorkerFault, inject},
};

/// How much later a slow rank comes, in microseconds: an iteration's length.
const SLOW_US: u64 = 100_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// A rank's process is killed.
    Kill,
    /// A rank's process is stopped, as by a debugger or a stuck driver.
    Stop,
    /// A rank computes twice as long as the others.
    Slow,
    /// A rank leaves out a collective.
    Skip,
    /// What a rank sends to the next no longer arrives.
    Link,
}

impl Fault {
    /// All faults, the one that needs no restart first.
    pub const TOUR: [Self; 5] = [Self::Slow, Self::Kill, Self::Stop, Self::Skip, Self::Link];
}

/// A fault with its place.
#[derive(Clone, Copy, Debug)]
pub struct Injected {
    /// What.
    pub fault: Fault,
    /// Rank that is broken; for a link the one that sends.
    pub rank: u32,
    /// Rank after it in the ring.
    pub next: u32,
}

impl Injected {
    /// A fault at a rank of a job.
    #[must_use]
    pub fn new(fault: Fault, rank: u32, spec: &Spec) -> Self {
        Self { fault, rank, next: (rank + 1) % spec.world_size() }
    }

    /// What happens, in words.
    #[must_use]
    pub fn describe(&self, spec: &Spec) -> String {
        let node = spec.node_of(self.rank).unwrap_or("nowhere");
        let Self { rank, next, .. } = self;
        match self.fault {
            Fault::Kill => format!("the process of rank {rank} on {node} is killed"),
            Fault::Stop => format!("the process of rank {rank} on {node} is stopped"),
            Fault::Slow => format!("rank {rank} on {node} computes twice as long as the others"),
            Fault::Skip => format!("rank {rank} on {node} leaves out a collective"),
            Fault::Link => format!("what rank {rank} on {node} sends to rank {next} no longer arrives"),
        }
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// When the worker is not there or the fault directory cannot be written.
    pub fn inject(&self, dir: &FaultDir) -> anyhow::Result<()> {
        match self.fault {
            Fault::Kill => inject::signal(dir, self.rank, Signal::KILL),
            Fault::Stop => inject::signal(dir, self.rank, Signal::STOP),
            Fault::Slow => {
                let fault = WorkerFault::Sleep { us: SLOW_US, until_iteration: None };
                inject::misbehave(dir, self.rank, &fault)
            }
            Fault::Skip => inject::misbehave(dir, self.rank, &WorkerFault::Skip { once: true }),
            Fault::Link => inject::break_link(dir, self.rank, self.next, NetMode::Block, 0, false),
        }
    }

    /// Takes it back, where a restart does not.
    ///
    /// # Errors
    /// When the fault directory cannot be written.
    pub fn take_back(&self, dir: &FaultDir) -> anyhow::Result<()> {
        if self.fault == Fault::Slow { inject::behave(dir, self.rank) } else { Ok(()) }
    }

    /// Whether the job must be restarted to go on.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.fault != Fault::Slow
    }

    /// Kinds of finding that are right. A process is stopped at any moment: before it has entered the collective (most
    /// of the time) or inside of it, which is a hang of the other kind.
    #[must_use]
    pub fn kinds(&self) -> &'static [&'static str] {
        match self.fault {
            Fault::Kill => &["process_death"],
            Fault::Stop => &["non_comm_hang", "comm_hang"],
            Fault::Slow => &["non_comm_slow"],
            Fault::Skip => &["desync"],
            Fault::Link => &["comm_hang"],
        }
    }

    /// Whether a finding is the right one.
    #[must_use]
    pub fn is_found_by(&self, finding: &Value) -> bool {
        let kind = finding["kind"].as_str().unwrap_or_default();
        let rank = suspect_rank(finding) == Some(self.rank.into());
        let link = &finding["suspects"][0]["link"];
        let direction =
            link["src"] == format!("rank {}", self.rank) && link["dst"] == format!("rank {}", self.next);
        self.kinds().contains(&kind) && (rank || self.fault == Fault::Link && direction)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finding_is_right_by_kind_and_first_suspect() {
        let spec = Spec::eight_ranks("demo");
        let kill = Injected::new(Fault::Kill, 5, &spec);
        assert!(kill.is_found_by(&json!({"kind": "process_death", "suspects": [{"rank": 5}, {"rank": 4}]})));
        assert!(!kill.is_found_by(&json!({"kind": "process_death", "suspects": [{"rank": 4}, {"rank": 5}]})));
        assert!(!kill.is_found_by(&json!({"kind": "comm_hang", "suspects": [{"rank": 5}]})));
        assert!(!kill.is_found_by(&json!({"kind": "process_death", "suspects": []})));
        let link = Injected::new(Fault::Link, 7, &spec);
        let ends = |src, dst| json!({"kind": "comm_hang", "suspects": [{"link": {"src": src, "dst": dst}}]});
        assert!(link.is_found_by(&ends("rank 7", "rank 0")));
        assert!(!link.is_found_by(&ends("rank 0", "rank 7")));
    }
}
