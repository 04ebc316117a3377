//! The findings that operators, receivers and the policy see, with what was done about each.
//!
//! What the detector says is kept as it says it, but shown only while nothing contradicts the claims it rests on: a
//! finding about a rank that two processes claim is withheld until one of them is gone.
//!
//! They survive the controller; the detector's knowledge does not. A finding that was open is open again after a start, but
//! nothing follows from it until the detector finds the same anew, which then goes by the old name: nobody is told of one fault
//! twice, and what waited for an operator waits on. What is not found again, or is about an incarnation that is no more, ends.
//!
//! A restart ends what it is the answer to. One that fails has answered nothing: its finding is open again, until the job goes on.

use std::collections::{BTreeMap, BTreeSet};

use c4_detect::{
    finding::{Finding, FindingId, Kind},
    observation::{NodeName, Timestamp},
};
use serde::{Deserialize, Serialize};

use crate::store::{Store, StoreError, Write};

/// Cleared findings remembered.
const MAX_CLEARED: usize = 1000;
/// Sentences about actions remembered for each finding.
const MAX_ACTIONS: usize = 32;

/// A finding with what is known about it besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// As the detector said it last.
    pub finding: Finding,
    /// What was done or would have been done.
    pub actions: Vec<String>,
    /// Whether it has been shown to anybody.
    pub shown: bool,
}

/// How a finding changed for those who look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nobody is to know of it for now.
    Withheld,
    /// It is new.
    Opened,
    /// It was known and is different now.
    Updated,
    /// Its cause is gone.
    Cleared,
    /// Only numbers moved.
    Same,
}

/// The table of the store with findings, by id.
pub const TABLE: &str = "findings";

/// All of them.
#[derive(Debug, Default)]
pub struct Findings {
    records: BTreeMap<FindingId, Record>,
    /// Open ones from before the start that the detector has not found anew.
    recalled: BTreeSet<FindingId>,
    /// Open ones whose restart has failed, and when; the detector has done with them.
    unanswered: BTreeMap<FindingId, Timestamp>,
    /// What the detector calls those that it has, by its name for them.
    renamed: BTreeMap<FindingId, FindingId>,
    /// What is to be written, by id.
    unwritten: BTreeSet<FindingId>,
    version: u64,
}

impl Findings {
    /// What was known before.
    ///
    /// # Errors
    /// The store cannot be read, or holds what is no finding.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut findings = Self::default();
        for (id, value) in store.all(TABLE)? {
            let record: Record = serde_json::from_slice(&value)
                .map_err(|error| StoreError::Access(format!("{TABLE} {id}: {error}")))?;
            if record.finding.cleared.is_none() {
                findings.recalled.insert(record.finding.id.clone());
            }
            findings.records.insert(record.finding.id.clone(), record);
        }
        Ok(findings)
    }

    /// Rows to be written since this was last asked for.
    pub fn unwritten(&mut self) -> Vec<Write> {
        let ids = std::mem::take(&mut self.unwritten);
        let write = |id: FindingId| match self.records.get(&id) {
            Some(record) => Write::json(TABLE, id.0, record),
            None => Write::remove(TABLE, id.0),
        };
        ids.into_iter().map(write).collect()
    }

    /// A finding of the detector under the name that everybody knows it by.
    pub fn known_as(&mut self, mut finding: Finding) -> Finding {
        if !self.renamed.contains_key(&finding.id) {
            if self.records.contains_key(&finding.id) {
                // Paths have names that last.
                self.recalled.remove(&finding.id);
                return finding;
            }
            let same =
                |id: &&FindingId| self.records.get(*id).is_some_and(|old| is_same(&old.finding, &finding));
            // An incarnation dies once.
            let death = |id: &&FindingId| {
                let death = |old: &Finding| old.kind == Kind::ProcessDeath && is_same_run(old, &finding);
                self.records.get(*id).is_some_and(|old| death(&old.finding))
            };
            let recalled_death = || self.recalled.iter().find(death);
            let old = match finding.kind {
                // Whatever became of the finding.
                Kind::ProcessDeath => self.records.keys().find(same).or_else(recalled_death),
                // Whoever has lost a rank stands still.
                Kind::NonCommHang | Kind::CommHang => self.recalled.iter().find(same).or_else(recalled_death),
                _ => self.recalled.iter().find(same),
            };
            let Some(old) = old.cloned() else { return finding };
            self.recalled.remove(&old);
            self.renamed.insert(finding.id.clone(), old);
        }
        let Some(old) = self.renamed.get(&finding.id).and_then(|old| self.records.get(old)) else {
            return finding;
        };
        let old = &old.finding;
        if old.kind == Kind::ProcessDeath && finding.kind != old.kind {
            if finding.cleared.is_some() {
                // That it no longer shows does not bring the dead back.
                self.renamed.remove(&finding.id);
                self.recalled.insert(old.id.clone());
            }
            return old.clone();
        }
        // Who was first to die, and of what, may be known better now than before the start; or worse, by what is left of it.
        let other = first(old) != first(&finding);
        let worse = old.confidence > finding.confidence || (other && old.confidence >= finding.confidence);
        if finding.kind == Kind::ProcessDeath && worse {
            return Finding { cleared: finding.cleared, ..old.clone() };
        }
        finding.id = old.id.clone();
        finding.since = finding.since.min(old.since);
        finding.detected = finding.detected.min(old.detected);
        finding
    }

    /// Those from before the start that nothing is to follow from yet.
    #[must_use]
    pub fn recalled(&self) -> &BTreeSet<FindingId> {
        &self.recalled
    }

    /// Ends those of them for which `over` holds, and returns them.
    pub fn let_go(&mut self, over: impl Fn(&Finding) -> bool, now: Timestamp) -> Vec<Finding> {
        let gone = |id: &&FindingId| self.records.get(*id).is_none_or(|record| over(&record.finding));
        let gone = self.recalled.iter().filter(gone).cloned().collect();
        self.end(gone, now)
    }

    /// The restart that a finding was answered with has failed. Returns whether it is open again because of that.
    pub fn reopen(&mut self, id: &FindingId, now: Timestamp) -> bool {
        let Some(record) = self.records.get_mut(id) else { return false };
        if record.finding.cleared.take().is_none() {
            return false;
        }
        self.unanswered.insert(id.clone(), now);
        self.unwritten.insert(id.clone());
        self.version += 1;
        true
    }

    /// Ends those whose restart has failed and for which `over` holds, given when it failed; returns them.
    pub fn settle(&mut self, over: impl Fn(&Finding, Timestamp) -> bool, now: Timestamp) -> Vec<Finding> {
        let is_over = |(id, at): (&FindingId, &Timestamp)| {
            let record = self.records.get(id);
            record.is_none_or(|record| over(&record.finding, *at)).then(|| id.clone())
        };
        let settled = self.unanswered.iter().filter_map(is_over).collect();
        self.end(settled, now)
    }

    fn end(&mut self, ids: Vec<FindingId>, now: Timestamp) -> Vec<Finding> {
        let mut ended = Vec::new();
        for id in ids {
            self.recalled.remove(&id);
            self.unanswered.remove(&id);
            if let Some(record) = self.records.get_mut(&id) {
                record.finding.cleared = Some(now);
                ended.push(record.finding.clone());
            }
            self.unwritten.insert(id);
            self.version += 1;
        }
        self.forget_old();
        ended
    }

    /// Takes in what the detector said.
    pub fn take(&mut self, finding: Finding, contested: bool) -> Change {
        self.version += 1;
        let id = finding.id.clone();
        let Some(record) = self.records.get_mut(&id) else {
            if finding.cleared.is_some() {
                // Opened and cleared within one observation: nobody needs to know.
                return Change::Same;
            }
            let shown = !contested;
            self.records.insert(id.clone(), Record { finding, actions: Vec::new(), shown });
            self.unwritten.extend(shown.then_some(id));
            return if shown { Change::Opened } else { Change::Withheld };
        };
        let was_open = record.finding.cleared.is_none();
        let same = record.finding.summary == finding.summary && record.finding.cleared == finding.cleared;
        let cleared = finding.cleared.is_some();
        record.finding = finding;
        let change = match (record.shown, cleared) {
            (false, true) => {
                self.records.remove(&id);
                return Change::Withheld;
            }
            (false, false) if contested => return Change::Withheld,
            (false, false) => {
                record.shown = true;
                Change::Opened
            }
            (true, true) if was_open => Change::Cleared,
            (true, _) if same => Change::Same,
            (true, _) => Change::Updated,
        };
        if change == Change::Cleared {
            self.forget_old();
        }
        if matches!(change, Change::Opened | Change::Updated | Change::Cleared) {
            self.unwritten.insert(id);
        }
        change
    }

    /// Findings that were withheld and need not be any longer.
    pub fn release(&mut self, contested: impl Fn(&Finding) -> bool) -> Vec<FindingId> {
        let mut released = Vec::new();
        for (id, record) in self.records.iter_mut().filter(|(_, record)| !record.shown) {
            if !contested(&record.finding) {
                record.shown = true;
                self.version += 1;
                self.unwritten.insert(id.clone());
                released.push(id.clone());
            }
        }
        released
    }

    /// Something was done, or would have been done, about a finding.
    pub fn acted(&mut self, id: &FindingId, text: &str) -> bool {
        let Some(record) = self.records.get_mut(id) else { return false };
        if record.actions.last().is_some_and(|last| last == text) {
            return false;
        }
        if record.actions.len() >= MAX_ACTIONS {
            record.actions.remove(0);
        }
        record.actions.push(text.to_owned());
        self.unwritten.insert(id.clone());
        self.version += 1;
        true
    }

    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &FindingId) -> Option<&Record> {
        self.records.get(id).filter(|record| record.shown)
    }

    /// All that may be shown.
    pub fn shown(&self) -> impl Iterator<Item = &Record> {
        self.records.values().filter(|record| record.shown)
    }

    /// Those of them whose cause is still there.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.shown().map(|record| &record.finding).filter(|finding| finding.cleared.is_none())
    }

    fn forget_old(&mut self) {
        let mut cleared: Vec<_> =
            self.records.values().filter_map(|r| Some((r.finding.cleared?, &r.finding.id))).collect();
        if cleared.len() <= MAX_CLEARED {
            return;
        }
        cleared.sort();
        let old: Vec<_> =
            cleared[..cleared.len() - MAX_CLEARED].iter().map(|(_, id)| (*id).clone()).collect();
        for id in old {
            self.records.remove(&id);
            self.renamed.retain(|_, known| *known != id);
            self.unwritten.insert(id);
        }
    }
}

/// Whether two findings are about one fault. What began after the other was over is another one: a job that is run again under its
/// name has faults of its own.
fn is_same(old: &Finding, new: &Finding) -> bool {
    let part = |finding: &Finding| {
        let suspect = finding.suspects.first()?;
        Some((suspect.gpu, suspect.nic.clone(), suspect.link.clone()))
    };
    let same_part = !matches!(new.kind, Kind::Health | Kind::PathFault) || part(old) == part(new);
    let overlap = old.cleared.is_none_or(|cleared| new.since < cleared);
    is_same_run(old, new) && old.kind == new.kind && first(old) == first(new) && same_part && overlap
}

/// Who is suspected first.
fn first(finding: &Finding) -> Option<(Option<NodeName>, Option<u32>)> {
    finding.suspects.first().map(|first| (first.node.clone(), first.rank))
}

fn is_same_run(old: &Finding, new: &Finding) -> bool {
    (&old.job, old.incarnation) == (&new.job, new.incarnation)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use c4_detect::{
        finding::{Link, Suspect},
        observation::JobId,
    };

    use super::*;
    use crate::store::MemoryStore;

    fn finding(id: usize, cleared: Option<u64>) -> Finding {
        Finding {
            id: FindingId(format!("f{id:05}")),
            job: JobId("j".into()),
            incarnation: 0,
            kind: Kind::Desync,
            suspects: Vec::new(),
            confidence: 1.0,
            since: Timestamp(0),
            detected: Timestamp(0),
            cleared: cleared.map(Timestamp),
            summary: "s".into(),
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        }
    }

    #[test]
    fn a_contested_finding_is_withheld_until_the_contest_is_over() {
        let mut findings = Findings::default();
        assert_eq!(findings.take(finding(1, None), true), Change::Withheld);
        assert_eq!(findings.shown().count(), 0);
        assert!(findings.release(|_| true).is_empty());
        assert_eq!(findings.release(|_| false).len(), 1);
        assert_eq!(findings.open().count(), 1);
        // Once told, it is not taken back for a later contest; its end is told too.
        assert_eq!(findings.take(finding(1, Some(5)), true), Change::Cleared);
        assert_eq!(findings.take(finding(2, None), true), Change::Withheld);
        assert_eq!(findings.take(finding(2, Some(6)), true), Change::Withheld);
        assert!(findings.release(|_| false).is_empty(), "it cleared before anybody could know of it");
    }

    #[test]
    fn findings_survive_and_go_by_their_old_names() {
        let store = MemoryStore::default();
        let mut before = Findings::default();
        before.take(finding(1, None), false);
        before.take(finding(2, None), true);
        before.take(finding(3, None), false);
        before.take(finding(3, Some(9)), false);
        before.acted(&FindingId("f00001".into()), "would restart");
        store.apply(&before.unwritten()).expect("written");

        let mut after = Findings::load(&store).expect("read");
        let names =
            |findings: &Findings| findings.shown().map(|one| one.finding.id.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&after), ["f00001", "f00003"], "what was withheld was nobody's business");
        assert_eq!(after.recalled().len(), 1);
        // The detector finds the same again, and calls it something else.
        let again = after.known_as(finding(77, None));
        assert_eq!(again.id.0, "f00001");
        assert_eq!(after.take(again, false), Change::Same);
        assert!(after.recalled().is_empty());
        assert_eq!(after.get(&FindingId("f00001".into())).expect("there").actions, ["would restart"]);
        // Another one like it is another one.
        assert_eq!(after.known_as(finding(78, None)).id.0, "f00078");
        let cleared = after.known_as(finding(77, Some(20)));
        assert_eq!(after.take(cleared, false), Change::Cleared);

        // What nobody finds again ends.
        let mut alone = Findings::load(&store).expect("read");
        assert!(alone.let_go(|finding| finding.incarnation > 0, Timestamp(30)).is_empty());
        assert_eq!(alone.let_go(|_| true, Timestamp(30)).len(), 1);
        assert_eq!(alone.open().count(), 0);
        store.apply(&alone.unwritten()).expect("written");
        assert!(Findings::load(&store).expect("read").recalled().is_empty());
    }

    fn accusing(id: usize, kind: Kind, rank: u32, confidence: f64) -> Finding {
        let suspects = vec![Suspect { rank: Some(rank), ..Suspect::default() }];
        Finding { kind, suspects, confidence, ..finding(id, None) }
    }

    fn death(id: usize, rank: u32, confidence: f64) -> Finding {
        accusing(id, Kind::ProcessDeath, rank, confidence)
    }

    /// What the next leader knows, if the last one had told of the death of rank 4.
    fn after_a_death() -> Findings {
        let store = MemoryStore::default();
        let mut before = Findings::default();
        before.take(death(1, 4, 0.9), false);
        store.apply(&before.unwritten()).expect("written");
        Findings::load(&store).expect("read")
    }

    #[test]
    fn an_incarnation_dies_once_whoever_leads() {
        // The next leader hears of it in another order, and is surer.
        let mut after = after_a_death();
        let better = after.known_as(death(7, 5, 0.95));
        assert_eq!((better.id.0.as_str(), better.suspects[0].rank), ("f00001", Some(5)));
        assert_eq!(after.take(Finding { summary: "rank 5 died".into(), ..better }, false), Change::Updated);
        assert_eq!(after.shown().count(), 1);
        let next = Finding { incarnation: 1, ..death(8, 5, 0.9) };
        assert_eq!(after.known_as(next).id.0, "f00008", "the next incarnation has deaths of its own");
        // One that is no surer does not unsay it.
        let mut after = after_a_death();
        let doubtful = after.known_as(death(9, 2, 0.9));
        assert_eq!((doubtful.id.0.as_str(), doubtful.suspects[0].rank), ("f00001", Some(4)));
        assert_eq!(after.take(doubtful, false), Change::Same);
        assert!(after.recalled().is_empty(), "it died all the same");
        // Nor does one that knows less of how it died.
        let vague = Finding { summary: "rank 4 ended".into(), ..death(9, 4, 0.8) };
        assert_eq!(after_a_death().known_as(vague).summary, "s");
    }

    #[test]
    fn who_lost_a_rank_stands_still_because_of_that() {
        let mut after = after_a_death();
        let hang = |cleared| Finding { cleared, ..accusing(9, Kind::NonCommHang, 4, 0.9) };
        let known = after.known_as(hang(None));
        assert_eq!((known.id.0.as_str(), known.kind), ("f00001", Kind::ProcessDeath));
        assert_eq!(after.take(known, false), Change::Same);
        assert!(after.recalled().is_empty(), "now something may follow from it");
        let known = after.known_as(hang(Some(Timestamp(9))));
        assert_eq!(after.take(known, false), Change::Same, "the dead do not come back");
        assert_eq!(after.recalled().len(), 1);
        assert_eq!(after.known_as(death(10, 4, 0.95)).id.0, "f00001", "the death is told again after all");
    }

    #[test]
    fn a_job_that_is_run_again_dies_of_its_own() {
        let mut findings = Findings::default();
        findings.take(death(1, 4, 0.99), false);
        findings.take(Finding { cleared: Some(Timestamp(50)), ..death(1, 4, 0.99) }, false);
        let late = findings.known_as(Finding { since: Timestamp(40), ..death(2, 4, 0.9) });
        assert_eq!(late.id.0, "f00001", "told late, and known");
        let again = Finding { since: Timestamp(90_000), summary: "today".into(), ..death(3, 4, 0.9) };
        assert_eq!(findings.known_as(again.clone()), again);
        assert_eq!(findings.take(again, false), Change::Opened);
    }

    #[test]
    fn one_part_of_a_node_is_not_taken_for_another() {
        let link = |id, src: &str| {
            let link = Link { src: src.into(), dst: "spine-1".into() };
            let suspects = vec![Suspect { link: Some(link), ..Suspect::default() }];
            Finding { suspects, ..accusing(id, Kind::PathFault, 0, 0.9) }
        };
        let store = MemoryStore::default();
        let mut before = Findings::default();
        before.take(link(1, "leaf-1"), false);
        before.take(link(2, "leaf-2"), false);
        store.apply(&before.unwritten()).expect("written");
        let mut after = Findings::load(&store).expect("read");
        assert_eq!(after.known_as(link(9, "leaf-2")).id.0, "f00002");
        // One whose name lasts is found again under it.
        assert_eq!(after.known_as(link(1, "leaf-1")).id.0, "f00001");
        assert!(after.recalled().is_empty());
    }

    #[test]
    fn a_restart_that_failed_has_answered_nothing() {
        let mut findings = Findings::default();
        let id = FindingId("f00001".into());
        findings.take(death(1, 4, 0.99), false);
        assert!(!findings.reopen(&id, Timestamp(3)), "it is open");
        findings.take(Finding { cleared: Some(Timestamp(5)), ..death(1, 4, 0.99) }, false);
        assert!(findings.reopen(&id, Timestamp(9)));
        assert_eq!(findings.open().count(), 1);
        assert!(findings.settle(|_, at| at < Timestamp(9), Timestamp(10)).is_empty());
        assert_eq!(findings.settle(|_, at| at == Timestamp(9), Timestamp(11)).len(), 1);
        assert_eq!(findings.get(&id).expect("there").finding.cleared, Some(Timestamp(11)));
        assert!(findings.settle(|_, _| true, Timestamp(12)).is_empty(), "once");
    }

    #[test]
    fn cleared_findings_are_bounded() {
        let mut findings = Findings::default();
        for n in 0..MAX_CLEARED + 5 {
            assert_eq!(findings.take(finding(n, None), false), Change::Opened);
            assert_eq!(findings.take(finding(n, Some(n as u64)), false), Change::Cleared);
        }
        assert_eq!(findings.shown().count(), MAX_CLEARED);
        assert!(findings.get(&FindingId("f00004".into())).is_none());
        assert!(findings.get(&FindingId("f00005".into())).is_some());
    }
}
