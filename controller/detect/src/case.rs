//! Findings that are open, and the rule that one cause has one finding.
//!
//! Each cause has a slot; opening a slot twice amends what is there. A finding is told again only when something
//! changed that a reader would act upon, so that numbers which grow by themselves make no noise.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    finding::{Finding, FindingId, Kind, Suspect, certainty},
    observation::{CommId, JobId, NodeName, ProcessId, Timestamp},
    signature::{fnv, fnv_start},
};

/// Open findings of one job, at most; more than that is not a diagnosis.
const MAX_OPEN: usize = 256;
/// Symptoms listed with a finding.
const MAX_EXPLAINS: usize = 32;
/// Changes of confidence below this are not worth telling.
const CONFIDENCE_STEP: f64 = 0.1;

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// The first death of the job.
    Death,
    /// A stall of the job.
    Hang,
    /// Another stall beside it, with a cause of its own.
    Beside(u8),
    /// Ranks that disagree without a stall.
    Desync(CommId),
    /// A slow rank.
    Slow(ProcessId),
    /// Slow links with a common cause, by number.
    Network(u64),
    /// A workload that is unbalanced.
    Imbalance(CommId),
    /// A broken component that nobody suffers from.
    Health(NodeName, Option<u32>, String),
}

/// A finding without its bookkeeping.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) suspects: Vec<Suspect>,
    /// The processes among the suspects, in the same order, to follow what becomes of them.
    pub(crate) accused: Vec<ProcessId>,
    pub(crate) confidence: f64,
    pub(crate) since: Timestamp,
    pub(crate) summary: String,
    pub(crate) evidence: BTreeMap<String, Value>,
    pub(crate) explains: Vec<String>,
    pub(crate) refuted_by: &'static str,
    /// The communicator and the operation in which it shows.
    pub(crate) place: Option<(CommId, u64)>,
}

/// An open finding.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) finding: Finding,
    pub(crate) accused: Vec<ProcessId>,
    pub(crate) place: Option<(CommId, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Cases {
    open: BTreeMap<Slot, Case>,
}

impl Cases {
    pub(crate) fn get(&self, slot: &Slot) -> Option<&Case> {
        self.open.get(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Slot, &Case)> {
        self.open.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Open stalls of the job.
    pub(crate) fn hangs(&self) -> impl Iterator<Item = (&Slot, &Case)> {
        self.iter().filter(|(slot, _)| matches!(slot, Slot::Hang | Slot::Beside(_)))
    }

    /// Opens the slot, or amends what is open there. A finding whose kind changes is a new one that explains the old.
    pub(crate) fn tell(
        &mut self,
        slot: Slot,
        mut draft: Draft,
        job: &JobId,
        incarnation: u32,
        now: Timestamp,
        out: &mut Vec<Finding>,
    ) {
        if self.open.get(&slot).is_some_and(|case| case.finding.kind != draft.kind)
            && let Some(old) = self.clear(&slot, now, out)
        {
            draft.since = draft.since.min(old.since);
            draft.explains.extend(old.explains);
            draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
        }
        draft.explains.truncate(MAX_EXPLAINS);
        if let Some(case) = self.open.get_mut(&slot) {
            case.amend(draft, out);
            return;
        }
        if self.open.len() >= MAX_OPEN {
            return;
        }
        let finding = Finding {
            id: id(job, incarnation, &slot, now),
            job: job.clone(),
            incarnation,
            kind: draft.kind,
            suspects: draft.suspects,
            confidence: draft.confidence,
            since: draft.since.min(now),
            detected: now,
            cleared: None,
            summary: draft.summary,
            evidence: draft.evidence,
            explains: draft.explains,
            refuted_by: draft.refuted_by.to_owned(),
        };
        out.push(finding.clone());
        self.open.insert(slot, Case { finding, accused: draft.accused, place: draft.place });
    }

    /// Adds a symptom to an open finding.
    pub(crate) fn explain(&mut self, slot: &Slot, symptom: String, out: &mut Vec<Finding>) {
        let Some(case) = self.open.get_mut(slot) else { return };
        let explains = &mut case.finding.explains;
        if explains.len() < MAX_EXPLAINS && !explains.contains(&symptom) {
            explains.push(symptom);
            out.push(case.finding.clone());
        }
    }

    /// All open findings, to add to them; what `change` returns true for is told again.
    pub(crate) fn amend_where(&mut self, out: &mut Vec<Finding>, mut change: impl FnMut(&mut Case) -> bool) {
        out.extend(self.open.values_mut().filter_map(|case| change(case).then(|| case.finding.clone())));
    }

    /// Clears a finding and returns it.
    pub(crate) fn clear(&mut self, slot: &Slot, now: Timestamp, out: &mut Vec<Finding>) -> Option<Finding> {
        let mut finding = self.open.remove(slot)?.finding;
        finding.cleared = Some(now);
        out.push(finding.clone());
        Some(finding)
    }

    /// Clears all findings whose slot is in question.
    pub(crate) fn clear_where(
        &mut self,
        now: Timestamp,
        out: &mut Vec<Finding>,
        mut gone: impl FnMut(&Slot, &Case) -> bool,
    ) {
        let slots: Vec<Slot> =
            self.open.iter().filter(|(slot, case)| gone(slot, case)).map(|(slot, _)| slot.clone()).collect();
        for slot in slots {
            self.clear(&slot, now, out);
        }
    }
}

impl Case {
    fn amend(&mut self, draft: Draft, out: &mut Vec<Finding>) {
        let finding = &mut self.finding;
        let new_symptoms: Vec<String> =
            draft.explains.into_iter().filter(|symptom| !finding.explains.contains(symptom)).collect();
        let others = self.accused != draft.accused
            || finding.suspects.iter().map(|s| &s.link).ne(draft.suspects.iter().map(|s| &s.link));
        let news = |name: &str| draft.evidence.contains_key(name) && !finding.evidence.contains_key(name);
        let joined = news("health") || news("cause");
        let surer = (finding.confidence - draft.confidence).abs() >= CONFIDENCE_STEP
            || (finding.certainty() - certainty(draft.confidence, &draft.evidence)).abs() >= CONFIDENCE_STEP;
        if !others && !joined && !surer && new_symptoms.is_empty() {
            return;
        }
        self.accused = draft.accused;
        self.place = draft.place;
        finding.suspects = draft.suspects;
        finding.confidence = draft.confidence;
        finding.summary = draft.summary;
        finding.evidence = draft.evidence;
        finding.since = finding.since.min(draft.since);
        finding.explains.extend(new_symptoms);
        finding.explains.truncate(MAX_EXPLAINS);
        out.push(finding.clone());
    }
}

/// The same whenever the same run is replayed, and different across jobs, incarnations, slots and times.
fn id(job: &JobId, incarnation: u32, slot: &Slot, now: Timestamp) -> FindingId {
    let text = format!("{}\0{incarnation}\0{slot:?}\0{}", job.0, now.0);
    FindingId(format!("c4-{:012x}", fnv(fnv_start(), text.as_bytes()) & 0xffff_ffff_ffff))
}
