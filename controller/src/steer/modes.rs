//! Who decides: the mode for the whole cluster, and exceptions for jobs, nodes and kinds of findings.
//!
//! Whatever is said of the job, the node and the kind holds before what is said of the cluster; where two of them
//! disagree, the more careful one wins. A kind that nobody has spoken of follows the cluster only if it is one that
//! has proved itself; any other is observed until somebody says otherwise.

use std::collections::BTreeMap;

use c4_detect::{
    finding::Kind,
    observation::{JobId, NodeName, Timestamp},
};
use serde::{Deserialize, Serialize};

use crate::config::{Mode, Modes as Configured};

/// What a mode is set for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "scope", content = "name", rename_all = "snake_case")]
pub enum Scope {
    /// Everything that has no mode of its own.
    Cluster,
    /// A job.
    Job(JobId),
    /// A node.
    Node(NodeName),
    /// A kind of finding.
    Kind(Kind),
}

impl Scope {
    /// "cluster", "job llm", "node n3", "kind comm_hang".
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Scope::Cluster => "cluster".into(),
            Scope::Job(job) => format!("job {}", job.0),
            Scope::Node(node) => format!("node {}", node.0),
            Scope::Kind(kind) => format!("kind {}", kind.name()),
        }
    }
}

/// A mode that an operator set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What for.
    pub scope: Scope,
    /// Which.
    pub mode: Mode,
    /// Who set it.
    pub by: String,
    /// When it ends; never if absent.
    pub until: Option<Timestamp>,
}

/// Kinds that are acted on by default as the cluster is.
const PROVEN: [Kind; 4] = [Kind::ProcessDeath, Kind::NonCommHang, Kind::CommHang, Kind::Desync];

/// All modes.
#[derive(Clone, Debug)]
pub struct Modes {
    cluster: Mode,
    configured: BTreeMap<Scope, Mode>,
    set: BTreeMap<Scope, Setting>,
}

impl Modes {
    /// The modes of a configuration.
    #[must_use]
    pub fn new(cluster: Mode, configured: &Configured) -> Self {
        let jobs = configured.jobs.iter().map(|(job, mode)| (Scope::Job(JobId(job.clone())), *mode));
        let nodes = configured.nodes.iter().map(|(node, mode)| (Scope::Node(NodeName(node.clone())), *mode));
        let kinds = configured.kinds.iter().map(|(kind, mode)| (Scope::Kind(*kind), *mode));
        Self { cluster, configured: jobs.chain(nodes).chain(kinds).collect(), set: BTreeMap::new() }
    }

    /// An operator sets a mode.
    pub fn set(&mut self, setting: Setting) {
        self.set.insert(setting.scope.clone(), setting);
    }

    /// What operators set for this ends. Returns whether there was anything.
    pub fn unset(&mut self, scope: &Scope) -> bool {
        self.set.remove(scope).is_some()
    }

    /// Settings whose time is over, which end.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Setting> {
        let over = |setting: &&Setting| setting.until.is_some_and(|until| until <= now);
        let ended: Vec<Setting> = self.set.values().filter(over).cloned().collect();
        for setting in &ended {
            self.set.remove(&setting.scope);
        }
        ended
    }

    /// What operators have set.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.set.values()
    }

    /// The cluster's mode.
    #[must_use]
    pub fn cluster(&self) -> Mode {
        self.of(&Scope::Cluster).unwrap_or(self.cluster)
    }

    /// The mode for an action about a finding of this kind, if known, on this job and this node, if any.
    #[must_use]
    pub fn effective(&self, kind: Option<Kind>, job: Option<&JobId>, node: Option<&NodeName>) -> Mode {
        let said = [
            job.and_then(|job| self.of(&Scope::Job(job.clone()))),
            node.and_then(|node| self.of(&Scope::Node(node.clone()))),
            kind.and_then(|kind| {
                self.of(&Scope::Kind(kind)).or((!PROVEN.contains(&kind)).then_some(Mode::Observe))
            }),
        ];
        said.into_iter().flatten().min().unwrap_or_else(|| self.cluster())
    }

    fn of(&self, scope: &Scope) -> Option<Mode> {
        self.set.get(scope).map(|setting| setting.mode).or_else(|| self.configured.get(scope).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_careful_of_the_particular_wins_over_the_cluster() {
        let configured = Configured {
            jobs: BTreeMap::from([("a".into(), Mode::Auto)]),
            nodes: BTreeMap::from([("n".into(), Mode::Approve)]),
            kinds: BTreeMap::new(),
        };
        let mut modes = Modes::new(Mode::Observe, &configured);
        let (job, node) = (JobId("a".into()), NodeName("n".into()));
        let death = Some(Kind::ProcessDeath);
        assert_eq!(modes.effective(death, None, None), Mode::Observe);
        assert_eq!(modes.effective(death, Some(&job), None), Mode::Auto);
        assert_eq!(modes.effective(death, Some(&job), Some(&node)), Mode::Approve);
        // New kinds of checks are observed, whatever the job's mode, until somebody says otherwise.
        assert_eq!(modes.effective(Some(Kind::CommSlow), Some(&job), None), Mode::Observe);
        let until = Some(Timestamp(50));
        let scope = Scope::Kind(Kind::CommSlow);
        modes.set(Setting { scope: scope.clone(), mode: Mode::Auto, by: "eve".into(), until });
        assert_eq!(modes.effective(Some(Kind::CommSlow), Some(&job), None), Mode::Auto);
        assert!(modes.expire(Timestamp(49)).is_empty());
        assert_eq!(modes.expire(Timestamp(50)).len(), 1);
        assert_eq!(modes.effective(Some(Kind::CommSlow), Some(&job), None), Mode::Observe);
        assert!(!modes.unset(&scope));
    }
}
