//! Pictures of jobs: kept with findings, as the evidence was when it was told, and made anew for jobs that somebody looks
//! at. After a restart nothing else shows any more what the finding rested on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use c4_detect::{
    finding::FindingId,
    observation::{JobId, Timestamp},
    scene::Scene,
};

/// Findings whose scene is kept; one of a very large job takes some megabytes.
const MAX_KEPT: usize = 32;
/// A finding that is told again, with more evidence, gets a new scene at most this often.
const RENEW_US: u64 = 1_000_000;
/// Jobs that are drawn live; the one that was looked at longest ago goes first.
const MAX_LIVE: usize = 16;
/// How long a look lasts: those who go on looking say so more often.
const LOOK_US: u64 = 10_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Scenes {
    kept: BTreeMap<FindingId, Arc<Scene>>,
    order: VecDeque<FindingId>,
    looks: BTreeMap<JobId, Timestamp>,
}

impl Scenes {
    /// Somebody looks at a job.
    pub fn look(&mut self, job: JobId, now: Timestamp) {
        self.looks.insert(job, now);
        if self.looks.len() > MAX_LIVE
            && let Some(oldest) = self.looks.iter().min_by_key(|(_, at)| **at).map(|(job, _)| job.clone())
        {
            self.looks.remove(&oldest);
        }
    }

    /// Jobs that somebody looks at.
    pub fn looked_at(&self, now: Timestamp) -> impl Iterator<Item = &JobId> {
        self.looks.iter().filter(move |(_, at)| now.micros_since(**at) < LOOK_US).map(|(job, _)| job)
    }

    /// Whether a finding that was just told needs a scene.
    #[must_use]
    pub fn is_due(&self, finding: &FindingId, now: Timestamp) -> bool {
        self.kept.get(finding).is_none_or(|scene| now.micros_since(scene.taken) >= RENEW_US)
    }

    /// Keeps a scene with a finding.
    pub fn keep(&mut self, finding: FindingId, scene: Arc<Scene>) {
        if self.kept.insert(finding.clone(), scene).is_none() {
            self.order.push_back(finding);
        }
        while self.order.len() > MAX_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    /// Scenes of findings.
    #[must_use]
    pub fn kept(&self) -> &BTreeMap<FindingId, Arc<Scene>> {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::{config::Config, detector::Detector, observation::*};

    use super::*;

    fn job(n: usize) -> JobId {
        JobId(format!("job-{n:03}"))
    }

    fn scene(taken: u64) -> Arc<Scene> {
        let mut detector = Detector::new(Config::default());
        let info = ProcessInfo {
            process: ProcessId(1),
            job: job(0),
            incarnation: 0,
            rank: Some(0),
            world_size: Some(1),
            node: NodeName("n".into()),
            gpu: None,
            pid: 1,
            blind_spots: Vec::new(),
        };
        detector.observe(Observation::ProcessStarted(info), Timestamp(taken));
        Arc::new(detector.scene(&job(0)).expect("known"))
    }

    #[test]
    fn looks_end_and_are_bounded() {
        let mut scenes = Scenes::default();
        for n in 0..MAX_LIVE + 3 {
            scenes.look(job(n), Timestamp(n as u64));
        }
        assert_eq!(scenes.looked_at(Timestamp(20)).count(), MAX_LIVE);
        assert!(scenes.looked_at(Timestamp(20)).all(|seen| *seen >= job(3)));
        assert_eq!(scenes.looked_at(Timestamp(LOOK_US + 100)).count(), 0);
    }

    #[test]
    fn the_newest_findings_keep_their_scenes() {
        let mut scenes = Scenes::default();
        let id = |n: usize| FindingId(format!("f{n:03}"));
        for n in 0..MAX_KEPT + 5 {
            assert!(scenes.is_due(&id(n), Timestamp(0)));
            scenes.keep(id(n), scene(0));
            scenes.keep(id(n), scene(10));
        }
        assert_eq!(scenes.kept().len(), MAX_KEPT);
        assert!(!scenes.kept().contains_key(&id(4)) && scenes.kept().contains_key(&id(5)));
        assert!(
            !scenes.is_due(&id(5), Timestamp(RENEW_US)) && scenes.is_due(&id(5), Timestamp(RENEW_US + 10))
        );
    }
}
