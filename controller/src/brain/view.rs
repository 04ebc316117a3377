//! What the brain shows: a picture of everything, made at most ten times a second and read by all interfaces.

use std::{collections::BTreeMap, sync::Arc};

use c4_detect::{
    finding::{FindingId, Verdict},
    observation::{JobId, Timestamp},
    scene::Scene,
    view::JobView,
};

use super::Brain;
use crate::{
    findings::Record,
    snapshot::{JobState, NodeState, Snapshot},
};

impl Brain {
    /// The picture at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let live = self.registry.live_by_node();
        let nodes = self.nodes.iter().map(|(name, node)| NodeState {
            name: name.clone(),
            ranks: live.get(name).copied().unwrap_or(0),
            node: node.clone(),
        });
        let jobs = self.detector.jobs().into_iter().map(|view| self.job(view, now));
        let jobs: BTreeMap<_, _> = jobs.map(|job| (job.view.job.clone(), job)).collect();
        Snapshot {
            taken: now,
            started: self.started,
            mode: self.steer.mode(),
            steer: self.shown_policy.view().clone(),
            evidence: self.evidence.clone(),
            nodes: Arc::new(nodes.collect()),
            accounts: Arc::new(self.ledger.accounts(|job| !jobs.contains_key(job))),
            jobs: Arc::new(jobs),
            findings: self.shown(),
            live: Arc::new(self.live(now)),
            kept: self.scenes.kept().clone(),
            paths: None,
        }
    }

    /// An earlier picture with the findings of now: what must not wait for a picture of a very large cluster.
    #[must_use]
    pub fn with_findings(&self, picture: &Snapshot) -> Snapshot {
        Snapshot {
            findings: self.shown(),
            kept: self.scenes.kept().clone(),
            steer: self.shown_policy.view().clone(),
            ..picture.clone()
        }
    }

    fn live(&self, now: Timestamp) -> BTreeMap<JobId, Arc<Scene>> {
        let scenes = self.scenes.looked_at(now).filter_map(|job| {
            let scene = self.detector.scene(job)?;
            Some((job.clone(), Arc::new(scene)))
        });
        scenes.collect()
    }

    fn shown(&self) -> BTreeMap<FindingId, Record> {
        self.findings.shown().map(|record| (record.finding.id.clone(), record.clone())).collect()
    }

    fn job(&self, view: JobView, now: Timestamp) -> JobState {
        let job = &view.job;
        let open = self.findings.open().filter(|finding| finding.job == *job).count();
        let conflicts = self.registry.conflicts(job);
        let (state, missing) = self.state(job, &view.verdict, conflicts, open);
        let (outages, downtime) = self.ledger.of(job, now);
        JobState {
            state,
            missing,
            open_findings: u32::try_from(open).unwrap_or(u32::MAX),
            restarts: self.steer.restarts(job),
            outages,
            downtime,
            account: self.ledger.summary(job, matches!(view.verdict, Verdict::Ended), now),
            view,
        }
    }

    fn state(
        &self,
        job: &JobId,
        verdict: &Verdict,
        conflicts: Vec<String>,
        open: usize,
    ) -> (&'static str, Vec<String>) {
        if self.steer.running(job).is_some() {
            return ("restarting", Vec::new());
        }
        if !conflicts.is_empty() {
            return ("unknown", conflicts);
        }
        match verdict {
            Verdict::Ended => ("ended", Vec::new()),
            _ if open > 0 => ("faulty", Vec::new()),
            Verdict::Learning => ("learning", Vec::new()),
            Verdict::Healthy => ("healthy", Vec::new()),
            Verdict::Faulty => ("faulty", Vec::new()),
            Verdict::Unknown { missing } => ("unknown", missing.clone()),
        }
    }
}
