//! What really happened, and how what was told compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use c4_proto::v1;
use serde::Serialize;

/// What can happen to a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Fault {
    /// It is killed.
    Death,
    /// It stands still outside of its collectives.
    Hang,
    /// A real one is killed.
    RealDeath,
    /// A real one is stopped.
    RealStop,
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Self::Death => "simulated rank dies",
            Self::Hang => "simulated rank hangs",
            Self::RealDeath => "real rank is killed",
            Self::RealStop => "real rank is stopped",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Death | Self::RealDeath => "process_death",
            Self::Hang | Self::RealStop => "non_comm_hang",
        }
    }
}

/// What a rank suffered, by job: one fault each, since what follows from the first is no fault.
#[derive(Debug, Default)]
pub(super) struct Truth {
    faults: BTreeMap<String, (u32, Fault)>,
}

/// How one kind of fault was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many there were.
    pub injected: u32,
    /// Told once, with the right rank and kind.
    pub once: u32,
    /// Not told.
    pub missed: u32,
    /// Told more than once.
    pub doubled: u32,
}

/// What came of all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// By kind of fault.
    pub faults: BTreeMap<&'static str, Count>,
    /// Sentences about what was missed, doubled or false.
    pub wrong: Vec<String>,
    /// Findings about what had not happened.
    pub false_findings: u32,
    /// Accounts in the ledger of downtime that are not as they should be: one outage for each fault, none without.
    pub wrong_accounts: u32,
}

impl Truth {
    /// This happened.
    pub(super) fn add(&mut self, job: String, rank: u32, fault: Fault) {
        self.faults.insert(job, (rank, fault));
    }

    fn fault_of(&self, finding: &v1::Finding) -> Option<Fault> {
        let (rank, fault) = self.faults.get(&finding.job)?;
        let suspect = finding.suspects.first()?.rank?;
        (finding.kind == fault.kind() && suspect == *rank).then_some(*fault)
    }

    /// Compares. `outages` says how many each job's account has.
    pub(super) fn judge(&self, findings: &[v1::Finding], outages: &BTreeMap<String, usize>) -> Verdict {
        let mut verdict = Verdict::default();
        for finding in findings.iter().filter(|finding| self.fault_of(finding).is_none()) {
            verdict.false_findings += 1;
            let really = self.faults.get(&finding.job).map(|(rank, fault)| format!("rank {rank}: {fault:?}"));
            verdict.wrong.push(format!(
                "false: {} of {} {}: {} (really: {})",
                finding.kind,
                finding.job,
                finding.id,
                finding.summary,
                really.unwrap_or_else(|| "nothing".into())
            ));
        }
        for (job, (rank, fault)) in &self.faults {
            let told: Vec<&v1::Finding> =
                findings.iter().filter(|f| f.job == *job && self.fault_of(f).is_some()).collect();
            let count = verdict.faults.entry(fault.words()).or_default();
            count.injected += 1;
            match told.len() {
                0 => count.missed += 1,
                1 => count.once += 1,
                _ => count.doubled += 1,
            }
            if told.len() != 1 {
                let ids: Vec<&str> = told.iter().map(|finding| finding.id.as_str()).collect();
                verdict
                    .wrong
                    .push(format!("{job} rank {rank}, {fault:?}: told {} times {ids:?}", told.len()));
            }
        }
        let jobs: BTreeSet<&String> = outages.keys().chain(self.faults.keys()).collect();
        for job in jobs {
            let expected = usize::from(self.faults.contains_key(job));
            let found = outages.get(job).copied().unwrap_or(0);
            if found != expected {
                verdict.wrong_accounts += 1;
                verdict.wrong.push(format!("ledger of {job}: {found} outages instead of {expected}"));
            }
        }
        verdict
    }
}

impl Verdict {
    /// Whether everything was told once, and nothing else.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Faults altogether.
    #[must_use]
    pub fn injected(&self) -> u32 {
        self.faults.values().map(|count| count.injected).sum()
    }

    pub(super) fn table(&self) -> String {
        let mut text =
            format!("{:<24} {:>9} {:>6} {:>7} {:>8}\n", "fault", "injected", "once", "missed", "doubled");
        for (name, Count { injected, once, missed, doubled }) in &self.faults {
            let _ = writeln!(text, "{name:<24} {injected:>9} {once:>6} {missed:>7} {doubled:>8}");
        }
        let _ = writeln!(text, "false findings: {}", self.false_findings);
        let _ = writeln!(text, "accounts of the ledger that are wrong: {}", self.wrong_accounts);
        for wrong in &self.wrong {
            let _ = writeln!(text, "  {wrong}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(job: &str, rank: u32, kind: &str) -> v1::Finding {
        let suspects = vec![v1::Suspect { rank: Some(rank), ..Default::default() }];
        v1::Finding { job: job.into(), kind: kind.into(), suspects, ..Default::default() }
    }

    #[test]
    fn missed_doubled_and_false_are_told_apart() {
        let mut truth = Truth::default();
        for (job, rank, fault) in [("a", 1, Fault::Death), ("b", 2, Fault::Death), ("c", 3, Fault::Hang)] {
            truth.add(job.into(), rank, fault);
        }
        let mut told = vec![
            finding("a", 1, "process_death"),
            finding("b", 2, "process_death"),
            finding("b", 2, "process_death"),
            finding("b", 0, "process_death"),
            finding("c", 3, "process_death"),
            finding("d", 0, "comm_hang"),
        ];
        let outages = [("a", 1), ("b", 2), ("c", 1), ("d", 0)].map(|(job, n)| (job.to_owned(), n)).into();
        let verdict = truth.judge(&told, &outages);
        let death = Count { injected: 2, once: 1, missed: 0, doubled: 1 };
        let hang = Count { injected: 1, once: 0, missed: 1, doubled: 0 };
        assert_eq!(verdict.faults, [(Fault::Death.words(), death), (Fault::Hang.words(), hang)].into());
        assert_eq!((verdict.false_findings, verdict.wrong_accounts), (3, 1));
        assert!(!verdict.passes());
        told = vec![told[0].clone(), told[1].clone(), finding("c", 3, "non_comm_hang")];
        let outages = ["a", "b", "c"].map(|job| (job.to_owned(), 1)).into();
        assert!(truth.judge(&told, &outages).passes());
        assert!(!truth.judge(&told, &BTreeMap::new()).passes(), "the ledger is to know of it, too");
    }
}
