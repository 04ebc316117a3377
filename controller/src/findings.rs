//! The findings that operators, receivers and the policy see, with what was done about each.
//!
//! What the detector says is kept as it says it, but shown only while nothing contradicts the claims it rests on: a
//! finding about a rank that two processes claim is withheld until one of them is gone.

use std::collections::BTreeMap;

use c4_detect::finding::{Finding, FindingId};

/// Cleared findings remembered.
const MAX_CLEARED: usize = 1000;
/// Sentences about actions remembered for each finding.
const MAX_ACTIONS: usize = 32;

/// A finding with what is known about it besides.
#[derive(Clone, Debug, PartialEq)]
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

/// All of them.
#[derive(Debug, Default)]
pub struct Findings {
    records: BTreeMap<FindingId, Record>,
    version: u64,
}

impl Findings {
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
            self.records.insert(id, Record { finding, actions: Vec::new(), shown });
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
        change
    }

    /// Findings that were withheld and need not be any longer.
    pub fn release(&mut self, contested: impl Fn(&Finding) -> bool) -> Vec<FindingId> {
        let mut released = Vec::new();
        for (id, record) in self.records.iter_mut().filter(|(_, record)| !record.shown) {
            if !contested(&record.finding) {
                record.shown = true;
                self.version += 1;
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use c4_detect::{
        finding::Kind,
        observation::{JobId, Timestamp},
    };

    use super::*;

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
