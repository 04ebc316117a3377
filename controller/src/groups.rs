//! Process groups that agents supervise: the parts of jobs that can be stopped and started.
//!
//! The brain keeps this table and publishes it whole whenever it changes; the local actuator only reads it. So the
//! actuator never asks the brain anything, and can be late or die without harm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use c4_detect::observation::{JobId, NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    convert::{CommandResult, GroupReport, GroupState},
    nodes::{SessionKey, StreamId},
    steer::placement::{Layout, Place},
};

#[cfg(test)]
mod tests;

/// Command results remembered.
const MAX_RESULTS: usize = 4096;
/// Groups of one job at most (each takes a session): more are not believed.
const MAX_GROUPS: usize = 65_536;

/// A process group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What its agent last said of it.
    pub report: GroupReport,
    /// The stream of that agent, while it is connected.
    pub stream: Option<StreamId>,
}

/// Newest checkpoint that a job has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Iteration.
    pub iteration: u64,
    /// When it was left.
    pub at: Timestamp,
    /// How long it kept the job from its work, in microseconds, where it says so.
    #[serde(default)]
    pub took_us: Option<u64>,
}

/// All groups, by job and agent session.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    jobs: BTreeMap<JobId, BTreeMap<SessionKey, Group>>,
    sessions: BTreeMap<SessionKey, StreamId>,
    results: VecDeque<(SessionKey, CommandResult)>,
    version: u64,
}

impl Groups {
    /// Takes in a report; returns the checkpoint it tells of.
    pub fn report(
        &mut self,
        key: &SessionKey,
        stream: StreamId,
        report: GroupReport,
        captured: Timestamp,
    ) -> Option<Checkpoint> {
        let took_us = report.checkpoint_took_us;
        let checkpoint = report.checkpoint.map(|(iteration, age_us)| Checkpoint {
            iteration,
            at: captured.before(age_us),
            took_us,
        });
        let groups = self.jobs.entry(report.job.clone()).or_default();
        if groups.len() < MAX_GROUPS || groups.contains_key(key) {
            groups.insert(key.clone(), Group { report, stream: Some(stream) });
            self.version += 1;
        }
        checkpoint
    }

    /// Takes in the outcome of a command.
    pub fn result(&mut self, key: &SessionKey, result: CommandResult) {
        if self.results.len() >= MAX_RESULTS {
            self.results.pop_front();
        }
        self.results.push_back((key.clone(), result));
        self.version += 1;
    }

    /// The agent speaks through another stream now, or through none.
    pub fn set_stream(&mut self, key: &SessionKey, stream: Option<StreamId>) {
        match stream {
            Some(stream) => self.sessions.insert(key.clone(), stream),
            None => self.sessions.remove(key),
        };
        self.version += 1;
        for group in self.jobs.values_mut().filter_map(|groups| groups.get_mut(key)) {
            group.stream = stream;
        }
    }

    /// The agent is gone for good, and its groups with it.
    pub fn forget(&mut self, key: &SessionKey) {
        for groups in self.jobs.values_mut() {
            self.version += u64::from(groups.remove(key).is_some());
        }
        self.jobs.retain(|_, groups| !groups.is_empty());
    }

    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The groups of a job.
    pub fn of<'a>(&'a self, job: &JobId) -> impl Iterator<Item = (&'a SessionKey, &'a Group)> {
        self.jobs.get(job).into_iter().flatten()
    }

    /// The newest incarnation of the job that its groups tell of.
    #[must_use]
    pub fn incarnation(&self, job: &JobId) -> Option<u32> {
        self.of(job).map(|(_, group)| group.report.incarnation).max()
    }

    /// The session's answer to a command, if it has come.
    #[must_use]
    pub fn answer(&self, key: &SessionKey, command: &str) -> Option<&CommandResult> {
        self.results
            .iter()
            .rev()
            .find(|(session, result)| session == key && result.id == command)
            .map(|(_, r)| r)
    }

    /// The groups of a job that run a part of it, or did.
    pub fn parts<'a>(&'a self, job: &JobId) -> impl Iterator<Item = (&'a SessionKey, &'a Group)> {
        self.of(job).filter(|(_, group)| group.report.state != GroupState::Standby)
    }

    /// Where a job runs, in the order of ranks, and who stands by for it.
    #[must_use]
    pub fn layout(&self, job: &JobId) -> Layout {
        let place = |(key, group): (&SessionKey, &Group)| Place {
            node: key.node.clone(),
            first_rank: group.report.ranks.first().copied().unwrap_or(0),
            ranks: group.report.ranks.len() as u32,
        };
        let mut places: Vec<Place> = self.parts(job).map(place).collect();
        places.sort_by(|a, b| (a.first_rank, &a.node).cmp(&(b.first_rank, &b.node)));
        let standing_by = |(key, group): (&SessionKey, &Group)| {
            (group.report.state == GroupState::Standby && group.stream.is_some()).then(|| key.node.clone())
        };
        Layout {
            places,
            spares: self.of(job).filter_map(standing_by).collect(),
            least_ranks: self.parts(job).map(|(_, group)| group.report.least_ranks).max().unwrap_or(0),
        }
    }

    /// Why a job is to be left alone, if it is.
    #[must_use]
    pub fn opted_out(&self, job: &JobId) -> Option<String> {
        self.of(job).find_map(|(_, group)| group.report.opted_out.clone())
    }

    /// The stream of one of a node's agents, if one is connected.
    #[must_use]
    pub fn stream_of(&self, node: &NodeName) -> Option<StreamId> {
        self.sessions.iter().find(|(key, _)| key.node == *node).map(|(_, stream)| *stream)
    }

    /// What any of a node's agents answered to a command, if one did.
    #[must_use]
    pub fn node_answer(&self, node: &NodeName, command: &str) -> Option<&CommandResult> {
        let answers =
            |(session, result): &&(SessionKey, CommandResult)| session.node == *node && result.id == command;
        self.results.iter().rev().find(answers).map(|(_, result)| result)
    }

    /// Whether the groups make up the whole job, which runs on `nodes`. If not, says why it cannot be restarted.
    pub fn supervised(&self, job: &JobId, nodes: impl FnOnce() -> BTreeSet<NodeName>) -> Result<(), String> {
        let groups: Vec<_> = self.parts(job).collect();
        if groups.is_empty() {
            return Err("no actuator: nobody supervises this job".into());
        }
        let with_group: BTreeSet<_> = groups.iter().map(|(key, _)| &key.node).collect();
        if let Some(without) = nodes().iter().find(|node| !with_group.contains(node)) {
            return Err(format!("no actuator: nobody supervises this job's processes on {}", without.0));
        }
        let mut seen = BTreeSet::new();
        for (key, group) in &groups {
            if let Some(rank) = group.report.ranks.iter().find(|rank| !seen.insert(**rank)) {
                return Err(format!("rank {rank} is supervised twice, the second time by {}", key.node.0));
            }
        }
        let world = groups.iter().map(|(_, group)| group.report.world_size).max().unwrap_or(0) as usize;
        let named = groups.iter().all(|(_, group)| !group.report.ranks.is_empty());
        if named && seen.len() < world {
            return Err(format!("no actuator: only {} of {world} ranks are supervised", seen.len()));
        }
        Ok(())
    }
}

/// Whether a group in this state has no processes any more.
#[must_use]
pub fn at_rest(state: GroupState) -> bool {
    matches!(state, GroupState::Stopped | GroupState::Finished | GroupState::Failed)
}
