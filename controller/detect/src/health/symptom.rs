//! One finding, and the events about those it suspects: which of them are shown, and which is the cause.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Value, json};

use super::{concerns, explains, is_its_own, sentence, value};
use crate::{
    catalogue::{self, Entry, Origin, Part},
    config::Config,
    finding::{Kind, Suspect},
    model::Job,
    names,
    nodes::{Heard, Nodes},
    observation::{ProcessId, Severity, Timestamp},
};

/// Suspects whose events are looked at; with more of them nobody is meant.
const MAX_SUSPECTS: usize = 64;
/// Events shown with a finding.
const MAX_SHOWN: usize = 8;
/// Suspects within this much of the best one may be singled out by an event.
const CLOSE: f64 = 0.15;
/// What a cause adds to the confidence.
const SURER: f64 = 0.1;
/// Score of a suspect whom only its event singles out.
const SINGLED_OUT: f64 = 0.7;
/// Signals that somebody else sends: hang-up, interrupt, kill, terminate.
const ASKED_TO_END: [i64; 4] = [1, 2, 9, 15];
/// Least time between a fault of a program on the GPU and its end; deaths are seen within this time.
const DYING_US: u64 = 100_000;
/// A death and the event that caused it may be told in either order, so close to each other.
const SAME_TIME_US: u64 = 2_000_000;

/// The part of a finding, open or to be opened, that an event changes.
pub(super) struct Symptom<'a> {
    pub(super) kind: Kind,
    pub(super) since: Timestamp,
    pub(super) suspects: &'a mut Vec<Suspect>,
    pub(super) accused: &'a mut Vec<ProcessId>,
    pub(super) confidence: &'a mut f64,
    pub(super) summary: &'a mut String,
    pub(super) evidence: &'a mut BTreeMap<String, Value>,
}

/// An event about somebody who may be at fault.
struct Candidate<'a> {
    /// Which of the suspects; none for the far end of a suspected link.
    index: Option<usize>,
    suspect: Suspect,
    process: Option<ProcessId>,
    heard: &'a Heard,
    entry: Option<Entry>,
}

impl Symptom<'_> {
    /// Events about the suspects and about the far ends of the links that are suspected.
    fn candidates<'a>(
        &self,
        job: &Job,
        nodes: &'a Nodes,
        config: &Config,
        now: Timestamp,
    ) -> Vec<Candidate<'a>> {
        let from = self.since.before(config.health_join_ms.saturating_mul(1_000));
        let mut found = Vec::new();
        let mut look = |index: Option<usize>, suspect: &Suspect, process: Option<ProcessId>| {
            let Some(node) = &suspect.node else { return };
            for heard in
                nodes.events(node).filter(|heard| heard.within(from, now) && concerns(&heard.event, suspect))
            {
                let entry = catalogue::entry(&heard.event.code, &heard.event.detail);
                let program = entry
                    .is_some_and(|entry| entry.origin == Origin::Application && entry.part != Part::Host);
                if program && !is_its_own(job, suspect, heard) {
                    continue;
                }
                found.push(Candidate { index, suspect: suspect.clone(), process, heard, entry });
            }
        };
        for (index, suspect) in self.suspects.iter().take(MAX_SUSPECTS).enumerate() {
            look(Some(index), suspect, None);
        }
        for suspect in self.suspects.iter().take(MAX_SHOWN) {
            let Some(link) = &suspect.link else { continue };
            let ranks =
                [&link.src, &link.dst].into_iter().filter_map(|end| end.strip_prefix("rank ")?.parse().ok());
            let far: Vec<ProcessId> = ranks.filter_map(|rank: u32| job.by_rank.get(&rank)).copied().collect();
            for process in far {
                let mut end = names::suspect(job, process, suspect.score);
                if end.rank != suspect.rank {
                    end.link = Some(link.clone());
                    look(None, &end, Some(process));
                }
            }
        }
        found
    }

    /// Whether a candidate can be the cause, and how good a one: the least is the best.
    fn rank(&self, candidate: &Candidate<'_>) -> Option<(bool, Reverse<Severity>, usize, Timestamp)> {
        let entry = candidate.entry.filter(|entry| explains(self.kind, entry))?;
        let at = candidate.heard.at;
        let program = entry.origin == Origin::Application && entry.part != Part::Host;
        // A program that fails takes its time to die; one that was killed leaves the same errors behind.
        let killed =
            self.evidence.get("signal").and_then(Value::as_i64).is_some_and(|s| ASKED_TO_END.contains(&s));
        let latest = match (program, self.kind) {
            (true, Kind::ProcessDeath) if killed => Timestamp(0),
            (true, Kind::ProcessDeath) => self.since.before(DYING_US),
            (true, _) | (false, Kind::ProcessDeath) => self.since.after(SAME_TIME_US),
            (false, _) => Timestamp(u64::MAX),
        };
        // A far end is only told of by the network.
        let fits = candidate.index.is_some() || matches!(entry.part, Part::Nic | Part::Fabric | Part::Pcie);
        let first = candidate.index.unwrap_or(0);
        let likely = candidate.suspect.score >= self.top() - CLOSE;
        (at <= latest && fits && likely).then_some((
            entry.origin == Origin::Application,
            Reverse(candidate.heard.event.severity),
            first,
            at,
        ))
    }

    /// Adds what sensors said. Returns whether a cause was found.
    pub(super) fn join(&mut self, job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) -> bool {
        let candidates = self.candidates(job, nodes, config, now);
        let worth = |candidate: &&Candidate<'_>| {
            candidate.heard.event.severity >= Severity::Warning
                || candidate.entry.is_some_and(|entry| entry.origin == Origin::Application)
        };
        let mut shown: Vec<Value> = Vec::new();
        for candidate in candidates.iter().filter(worth) {
            let value = value(&candidate.heard.event, candidate.heard.at);
            if shown.len() < MAX_SHOWN && !shown.contains(&value) {
                shown.push(value);
            }
        }
        if !shown.is_empty() {
            self.evidence.insert("health".into(), Value::Array(shown));
        }
        let ranked = candidates.into_iter().filter_map(|c| Some((self.rank(&c)?, c)));
        let Some((_, cause)) = ranked.min_by(|(a, _), (b, _)| a.cmp(b)) else { return false };
        self.blame(&cause);
        true
    }

    /// How much the most suspected one is.
    fn top(&self) -> f64 {
        self.suspects.iter().map(|suspect| suspect.score).fold(0.0, f64::max)
    }

    /// Makes an event the cause: its suspect comes first, and the sentence begins with it.
    fn blame(&mut self, cause: &Candidate<'_>) {
        let event = &cause.heard.event;
        let (crowd, top) = (self.suspects.len() > 1, self.top());
        let mut suspect = match cause.index {
            Some(index) => self.suspects.remove(index),
            None => cause.suspect.clone(),
        };
        if crowd && cause.index.is_some() {
            suspect.score = suspect.score.max(SINGLED_OUT);
        }
        suspect.score = suspect.score.max(top);
        if suspect.nic.is_none() {
            suspect.nic.clone_from(&event.nic);
        }
        match (cause.index, cause.process) {
            (Some(index), _) if self.accused.len() == self.suspects.len() + 1 => {
                let process = self.accused.remove(index);
                self.accused.insert(0, process);
            }
            (None, Some(process)) => self.accused.insert(0, process),
            _ => {}
        }
        *self.summary = format!("{}: {}", sentence(event, suspect.rank, cause.heard.at), self.summary);
        self.suspects.insert(0, suspect);
        self.evidence.insert("cause".into(), value(event, cause.heard.at));
        if let Some(entry) = cause.entry {
            self.evidence.insert("recommended_action".into(), json!(entry.action.words()));
            if entry.origin != Origin::Application {
                *self.confidence = (*self.confidence + SURER).min(0.99);
            }
        }
    }
}
