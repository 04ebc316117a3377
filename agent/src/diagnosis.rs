//! What was wrong with a job that nobody but this agent watches: the same detector that a controller has, fed with what
//! this node sees, and its answer in words at the end.
//!
//! Pure: reports and the time in, findings and text out.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, FindingId, Verdict},
    observation::{HealthEvent, JobId, NodeName, Observation, ProcessInfo, Timestamp},
    view::JobView,
    words,
};

use crate::report::{GroupState, Health, ProcessStart, Report, TimeSteps};

/// See the module.
pub struct Diagnosis {
    node: NodeName,
    detector: Detector,
    /// Every finding ever made, as it was last, or as it was when the job was ended.
    findings: BTreeMap<FindingId, Finding>,
    /// What the jobs were like when they were last well looked at: at the end all ranks are gone.
    jobs: BTreeMap<JobId, JobView>,
    /// The job is being ended, or has ended: what clears from now on clears because of that.
    ending: bool,
}

impl Diagnosis {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: NodeName(node.to_owned()),
            detector: Detector::new(Config::default()),
            findings: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ending: false,
        }
    }

    /// The node is in sight.
    pub fn begin(&mut self, now: Timestamp) {
        self.observe(Observation::NodeSeen { node: self.node.clone(), nic_class: None }, now);
    }

    /// Takes in a report that was made `age_us` ago. Returns findings that are new.
    pub fn take(&mut self, report: Report, age_us: u64, now: Timestamp) -> Vec<Finding> {
        match report {
            Report::ProcessStarted(start) => self.observe(Observation::ProcessStarted(self.info(start)), now),
            Report::CommunicatorJoined { membership, .. } => {
                self.observe(Observation::CommunicatorJoined(membership), now)
            }
            Report::Windows(windows) => {
                let mut news = Vec::new();
                for window in windows {
                    news.extend(self.observe(Observation::Window(window), now));
                }
                news
            }
            Report::ProcessEnded(mut end) => {
                end.ago_us = end.ago_us.saturating_add(age_us);
                self.observe(Observation::ProcessEnded(end), now)
            }
            Report::Health(health) => {
                self.observe(Observation::Health(event(&self.node, health, age_us)), now)
            }
            Report::Group(status) => {
                let (job, incarnation) = (JobId(status.job), status.incarnation);
                if status.state == GroupState::Stopping && !self.ending {
                    self.remember();
                    self.ending = true;
                    return self.observe(Observation::JobStopping { job, incarnation }, now);
                }
                Vec::new()
            }
            // Whom processes send to, and by which way, accuses nobody; nor does what was saved.
            Report::CommandResult { .. }
            | Report::Traffic(_)
            | Report::Paths(_)
            | Report::Ways(_)
            | Report::Explored(_)
            | Report::Evidence { .. }
            | Report::Wish(_) => Vec::new(),
        }
    }

    /// Time has passed. Returns findings that are new.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Finding> {
        self.remember();
        self.observe(Observation::Tick, now)
    }

    /// Processes whose network steps should all be timed for a while.
    pub fn wishes(&mut self) -> Vec<TimeSteps> {
        let wishes = self.detector.wishes().into_iter();
        let steps = wishes.map(|wish| TimeSteps {
            processes: wish.processes,
            duration: Duration::from_micros(wish.duration_us),
        });
        steps.collect()
    }

    /// What was found, for the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for view in self.jobs.values() {
            // Writing to a string does not fail, here and below.
            let _ = writeln!(text, "C4 watched {}.", subject(view));
        }
        if self.jobs.is_empty() {
            text.push_str(
                "C4 saw no communication: no process loaded its plugin into NCCL. Does the job use NCCL at all (gloo and MPI \
                 are not seen), is NCCL_PROFILER_PLUGIN set to something else, or NCCL older than 2.23?\n",
            );
        }
        let (gone, open): (Vec<&Finding>, Vec<&Finding>) =
            self.findings.values().partition(|finding| finding.cleared.is_some());
        for finding in &open {
            tell(&mut text, finding);
        }
        for finding in &gone {
            let _ = writeln!(
                text,
                "  {}, but that went away by itself: {}",
                finding.kind.name(),
                finding.summary
            );
        }
        if open.is_empty() && !self.jobs.is_empty() {
            let missing: Vec<&String> = self.jobs.values().filter_map(missing).flatten().collect();
            match missing.is_empty() {
                true if gone.is_empty() => text.push_str("  Nothing was wrong with it.\n"),
                true => text.push_str("  Nothing was wrong with it at its end.\n"),
                false => text.push_str("  Whether it was well cannot be said:\n"),
            }
            for what in missing {
                let _ = writeln!(text, "  - {what}");
            }
        }
        for change in self.jobs.values().flat_map(|view| &view.changes) {
            let _ = writeln!(text, "  {}", change.sentence());
        }
        text
    }

    fn info(&self, start: ProcessStart) -> ProcessInfo {
        ProcessInfo {
            process: start.process,
            job: JobId(start.job),
            incarnation: start.incarnation,
            rank: start.rank,
            world_size: start.world_size,
            node: self.node.clone(),
            gpu: start.gpu,
            pid: start.pid,
            blind_spots: start.blind_spots,
        }
    }

    fn remember(&mut self) {
        if !self.ending {
            for view in self.detector.jobs().into_iter().filter(|view| view.verdict != Verdict::Ended) {
                self.jobs.insert(view.job.clone(), view);
            }
        }
    }

    fn observe(&mut self, observation: Observation, now: Timestamp) -> Vec<Finding> {
        let mut news = Vec::new();
        for finding in self.detector.observe(observation, now) {
            let known = self.findings.contains_key(&finding.id);
            if self.ending && (finding.cleared.is_some() || !known) {
                continue;
            }
            if !known && finding.cleared.is_none() {
                news.push(finding.clone());
            }
            if known || finding.cleared.is_none() {
                self.findings.insert(finding.id.clone(), finding);
            }
        }
        news
    }
}

fn event(node: &NodeName, health: Health, age_us: u64) -> HealthEvent {
    HealthEvent {
        node: node.clone(),
        gpu: health.gpu,
        nic: health.nic,
        code: health.code,
        detail: health.detail,
        severity: health.severity,
        cleared: health.cleared,
        ago_us: age_us,
    }
}

fn missing(view: &JobView) -> Option<&Vec<String>> {
    match &view.verdict {
        Verdict::Unknown { missing } => Some(missing),
        _ => None,
    }
}

/// "job gpt: 8 ranks, 120 iterations of usually 81 ms".
fn subject(view: &JobView) -> String {
    let mut text = format!("job {}: {}", view.job.0, words::count(view.ranks.len(), "rank"));
    if let Some(ns) = view.iteration_ns.filter(|_| view.iterations > 0) {
        let iterations = words::count(usize::try_from(view.iterations).unwrap_or(usize::MAX), "iteration");
        let _ = write!(text, ", {iterations} of usually {}", words::duration(ns / 1_000));
    }
    text
}

fn tell(text: &mut String, finding: &Finding) {
    let _ = writeln!(text, "  {}: {}", finding.kind.name(), finding.summary);
    let _ = writeln!(text, "    how sure: {:.0} %", finding.confidence * 100.0);
    for what in &finding.explains {
        let _ = writeln!(text, "    it explains: {what}");
    }
    if !finding.refuted_by.is_empty() {
        let _ = writeln!(text, "    it would be wrong if: {}", finding.refuted_by);
    }
}
