//! From the wait-for graph of a recording's end to findings: who holds the job up, and what of it is only a symptom.
//!
//! The detector, which watches running jobs, needs time to be sure that somebody hangs, and sees one communicator's
//! collectives at a time. A recording that ends in operations which never ended needs no patience, and has sends and
//! receives as well. So this is the word on what stands still at its end; where the detector says the same, its
//! finding is kept, since it may know more about the suspect, and where it says otherwise this one takes its place:
//! one cause, one finding.

mod words;

use std::collections::{BTreeMap, HashMap, HashSet};

use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::Timestamp,
};
use serde_json::{Value, json};

use super::{
    blocked::{self, Facts, What},
    order,
    recording::{Index, Recording},
    waits::{self, Cause, Root},
};
use crate::words::count;
use words::{MAX_SYMPTOMS, find};

/// Findings of causes that have nothing to do with each other.
const MAX_FINDINGS: usize = 4;
/// Suspects of one finding.
const MAX_SUSPECTS: usize = 16;

/// What stands still at the end of a recording.
#[derive(Clone, Debug, Default)]
pub struct Stuck {
    /// Why, as far as it can be told.
    pub findings: Vec<Finding>,
    /// What stands still without anybody seen to be the cause.
    pub unknown: Vec<String>,
    /// Whether anything stands still at all.
    pub any: bool,
    /// For findings above, by their place: the processes along the longest way to the root, and those at its end.
    pub chains: Vec<Vec<usize>>,
}

/// Looks at the end of a recording whose first moment is `start` on the findings' clock.
#[must_use]
pub fn stuck(recording: &Recording, index: &Index, start: Timestamp) -> Stuck {
    if !recording.never_finished {
        return Stuck::default();
    }
    let facts = blocked::facts(recording, index);
    let Some((first_ns, _)) = recording.span() else { return Stuck::default() };
    let story = Story { recording, index, facts: &facts, start, first_ns };
    let mut out = Stuck { any: !facts.meetings.is_empty(), ..Stuck::default() };
    if let Some(finding) = story.desync() {
        out.findings.push(finding);
        out.chains.push(Vec::new());
        return out;
    }
    let causes = waits::causes(recording.processes.len(), &facts.meetings);
    let (hidden, mut known): (Vec<Cause>, Vec<Cause>) =
        causes.into_iter().partition(|cause| matches!(cause.root, Root::Unseen(_)));
    // A rank that nobody holds up explains better than an operation that all are in.
    known.sort_by_key(|cause| {
        (matches!(cause.root, Root::Meeting(_)), std::cmp::Reverse(cause.dependents.len()))
    });
    while !known.is_empty() && out.findings.len() < MAX_FINDINGS {
        let first = known.remove(0);
        let held: HashSet<usize> = first.dependents.iter().copied().collect();
        let shares = |cause: &Cause| cause.dependents.iter().any(|rank| held.contains(rank));
        let (with, rest): (Vec<Cause>, Vec<Cause>) = known.into_iter().partition(|cause| shares(cause));
        known = rest;
        let unseen = hidden.iter().any(shares);
        out.chains.push(story.longest_way(&first));
        out.findings.push(story.tell(first, with, unseen));
    }
    for cause in hidden {
        let Root::Unseen(number) = cause.root else { continue };
        if out.findings.is_empty() {
            out.unknown.push(format!("{}, and who holds them up was not recorded", story.symptom(number)));
        }
    }
    out
}

/// Joins what stands still with what the detector said.
#[must_use]
pub fn join(
    found: Vec<Finding>,
    stuck: Stuck,
    notes: &mut Vec<String>,
    chains: &mut HashMap<FindingId, Vec<usize>>,
) -> Vec<Finding> {
    if !stuck.any {
        return found;
    }
    let standing = |finding: &Finding| {
        let kind = matches!(finding.kind, Kind::NonCommHang | Kind::CommHang | Kind::Desync);
        kind && finding.cleared.is_none()
    };
    let (theirs, mut others): (Vec<Finding>, Vec<Finding>) = found.into_iter().partition(standing);
    for what in &stuck.unknown {
        notes.push(what.clone());
    }
    for (own, chain) in stuck.findings.into_iter().zip(stuck.chains) {
        let first = |finding: &Finding| finding.suspects.first().and_then(|suspect| suspect.rank);
        let same = theirs.iter().find(|their| their.kind == own.kind && first(their) == first(&own));
        let mut finding = match same {
            Some(their) => Finding { id: their.id.clone(), detected: their.detected, ..own },
            None => own,
        };
        if let Some(their) = same {
            for (key, value) in &their.evidence {
                finding.evidence.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        chains.insert(finding.id.clone(), chain);
        others.push(finding);
    }
    others
}

struct Story<'a> {
    recording: &'a Recording,
    index: &'a Index,
    facts: &'a Facts,
    start: Timestamp,
    first_ns: i64,
}

impl Story<'_> {
    fn tell(&self, cause: Cause, with: Vec<Cause>, unseen: bool) -> Finding {
        match cause.root {
            Root::Rank(rank) => {
                let more = with.iter().filter_map(|cause| match cause.root {
                    Root::Rank(rank) => Some(rank),
                    _ => None,
                });
                let ranks: Vec<usize> = std::iter::once(rank).chain(more).collect();
                self.absent(ranks, &cause, &with, unseen)
            }
            Root::Cycle { ref ranks, ref meetings } => self.cycle(ranks, meetings, &cause),
            Root::Meeting(number) | Root::Unseen(number) => self.all_in(number, &cause, unseen),
        }
    }

    /// Ranks that others wait for and that wait for nobody.
    fn absent(&self, mut ranks: Vec<usize>, cause: &Cause, with: &[Cause], unseen: bool) -> Finding {
        let dependents: HashMap<usize, usize> = std::iter::once(cause)
            .chain(with)
            .filter_map(|cause| match cause.root {
                Root::Rank(rank) => Some((rank, cause.dependents.len())),
                _ => None,
            })
            .collect();
        // Of several, the one that most wait for, and then the one that fell silent first.
        ranks.sort_by_key(|rank| {
            (std::cmp::Reverse(dependents.get(rank).copied()), self.facts.last_sign_ns[*rank], *rank)
        });
        let steps = self.steps(&ranks);
        let held: Vec<usize> = (0..self.facts.meetings.len())
            .filter(|number| self.facts.meetings[*number].missing.iter().any(|rank| ranks.contains(rank)))
            .collect();
        let first = ranks[0];
        let direct =
            self.first(held.iter().copied().filter(|n| self.facts.meetings[*n].missing.contains(&first)));
        let who = self.names(&ranks);
        let has = if ranks.len() == 1 { "has" } else { "have" };
        let (summary, what) = match direct {
            Some(number) => {
                let waiting: Vec<usize> =
                    self.facts.meetings[number].inside.iter().map(|(rank, _)| *rank).collect();
                let behind = steps.len().saturating_sub(waiting.len());
                let behind = match behind {
                    0 => String::new(),
                    1 => "; one more rank waits behind".to_owned(),
                    n => format!("; {n} more ranks wait behind"),
                };
                let verb = if waiting.len() == 1 { "waits" } else { "wait" };
                let why = match self.facts.what[number] {
                    What::Collective { .. } => {
                        format!(
                            "{who} {has} not come to {}, in which {} {verb}",
                            self.label(number),
                            self.names(&waiting)
                        )
                    }
                    What::Transfer { is_send, met: true, .. } => format!(
                        "{who} {has} left the {} {} is still in",
                        if is_send { "receive whose send" } else { "send whose receive" },
                        self.names(&waiting)
                    ),
                    What::Transfer { is_send, .. } => format!(
                        "{who} {has} not {} what {} {verb} to {}",
                        if is_send { "received" } else { "sent" },
                        self.names(&waiting),
                        if is_send { "send" } else { "receive" },
                    ),
                };
                (format!("{why}{behind}; {}", self.idle(first)), Some(number))
            }
            None => (format!("{who} {has} gone no further; {}", self.idle(first)), None),
        };
        let base = if ranks.len() == 1 { 0.9 } else { 0.7 };
        let confidence = if unseen { base - 0.25 } else { base };
        let suspects = ranks
            .iter()
            .enumerate()
            .take(MAX_SUSPECTS)
            .map(|(place, rank)| self.suspect(*rank, confidence * if place == 0 { 1.0 } else { 0.6 }));
        let mut finding = self.finding(Kind::NonCommHang, suspects.collect(), confidence, summary, &held);
        self.add_operation(&mut finding, what);
        finding.evidence.insert("ranks_waiting".into(), json!(steps.len()));
        finding.evidence.insert("chain".into(), json!(self.chain(&steps)));
        if let Some(call) = &self.recording.processes[first].last_call {
            finding.evidence.insert("last_called_at".into(), json!(call));
        }
        finding.evidence.insert("last_operation".into(), json!(self.last_operation(first)));
        finding.explains = self.symptoms(&steps, what);
        finding.refuted_by = "the suspect was in an operation that was not recorded".into();
        finding
    }

    /// All have come and nobody leaves.
    fn all_in(&self, number: usize, cause: &Cause, unseen: bool) -> Finding {
        let inside: Vec<usize> = self.facts.meetings[number].inside.iter().map(|(rank, _)| *rank).collect();
        let what = self.label(number);
        let (mut suspects, confidence, summary) = match self.facts.what[number] {
            What::Transfer { process, is_send, .. } => {
                let other = inside.iter().copied().find(|rank| *rank != process).unwrap_or(process);
                let (sender, receiver) = if is_send { (process, other) } else { (other, process) };
                let mut first = self.suspect(sender, 0.6);
                first.link = Some(Link { src: self.name(sender), dst: self.name(receiver) });
                let text = format!(
                    "{} and {} are both in the transfer from one to the other, and it does not end",
                    self.name(sender),
                    self.name(receiver)
                );
                (vec![first, self.suspect(receiver, 0.5)], 0.6, text)
            }
            What::Collective { .. } => {
                let share = 1.0 / inside.len().max(1) as f64;
                let all = inside.iter().map(|rank| self.suspect(*rank, share)).collect();
                let text = format!(
                    "all {} are in {what} and none leaves; nothing recorded tells which GPU or connection is at fault",
                    count(inside.len() as u64, "rank"),
                );
                (all, 0.4, text)
            }
        };
        suspects.truncate(MAX_SUSPECTS);
        let confidence = if unseen { confidence - 0.2 } else { confidence };
        let mut finding = self.finding(Kind::CommHang, suspects, confidence, summary, &[number]);
        self.add_operation(&mut finding, Some(number));
        finding.evidence.insert("ranks_waiting".into(), json!(cause.dependents.len()));
        let steps = self.steps(&inside);
        finding.explains = self.symptoms(&steps, Some(number));
        finding.refuted_by = "one of the ranks turns out not to be in the operation".into();
        finding
    }

    /// The program waits for itself.
    fn cycle(&self, ranks: &[usize], meetings: &[usize], cause: &Cause) -> Finding {
        let side = |number: &usize| {
            let meeting = &self.facts.meetings[*number];
            let inside: Vec<usize> = meeting.inside.iter().map(|(rank, _)| *rank).collect();
            format!("{} in {} for {}", self.names(&inside), self.label(*number), self.names(&meeting.missing))
        };
        let sides: Vec<String> = meetings.iter().map(side).collect();
        let shown = sides.iter().take(4).cloned().collect::<Vec<_>>().join("; ");
        let summary = format!(
            "the program waits for itself: {shown}; these operations are called in another order on different ranks"
        );
        // Whoever came to where it waits by a way it never took before has left its own order.
        let (strays, others): (Vec<usize>, Vec<usize>) =
            ranks.iter().partition(|rank| order::strays(&self.recording.processes[**rank]));
        let told = !strays.is_empty() && !others.is_empty();
        let share = 1.0 / ranks.len().max(1) as f64;
        let score = |rank: &usize| match strays.contains(rank) {
            true if told => 0.8 / strays.len() as f64,
            _ => share * if told { 0.4 } else { 1.0 },
        };
        let suspects = strays.iter().chain(&others).take(MAX_SUSPECTS);
        let suspects = suspects.map(|rank| self.suspect(*rank, score(rank))).collect();
        let mut finding = self.finding(Kind::Desync, suspects, 0.8, summary, meetings);
        if told {
            finding.evidence.insert("left_its_usual_order".into(), json!(self.names(&strays)));
        }
        finding.evidence.insert("cycle".into(), json!(sides.iter().take(MAX_SYMPTOMS).collect::<Vec<_>>()));
        finding.evidence.insert("ranks_waiting".into(), json!(cause.dependents.len()));
        let steps = self.steps(ranks);
        finding.explains = self.symptoms(&steps, None);
        finding.refuted_by = "one of the operations was not waited for when it was called".into();
        finding
    }

    /// Ranks that stand in one operation and mean different things by it.
    fn desync(&self) -> Option<Finding> {
        let mut earliest: Option<(i64, usize, BTreeMap<u32, Vec<usize>>)> = None;
        for (number, what) in self.facts.what.iter().enumerate() {
            let What::Collective { comm, sequence } = what else { continue };
            let mut sides: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (process, series) in &self.index.members[*comm] {
                let operation =
                    find(&self.recording.processes[*process].series[*series].operations, *sequence);
                if let Some(operation) = operation {
                    sides.entry(operation.signature).or_default().push(*process);
                }
            }
            let since = self.facts.since_ns[number];
            if sides.len() > 1 && earliest.as_ref().is_none_or(|(at, _, _)| since < *at) {
                earliest = Some((since, number, sides));
            }
        }
        let (_, number, sides) = earliest?;
        let most = sides.values().map(Vec::len).max().unwrap_or(0);
        let tied = sides.values().filter(|ranks| ranks.len() == most).count() > 1;
        let accused: Vec<usize> =
            sides.values().filter(|ranks| tied || ranks.len() < most).flatten().copied().collect();
        let said = |signature: &u32| {
            let signature = &self.recording.signatures[*signature as usize];
            match signature.count {
                0 => signature.function.to_string(),
                n => format!("{} of {n} {}", signature.function, signature.datatype),
            }
        };
        let mut parts: Vec<(&u32, &Vec<usize>)> = sides.iter().collect();
        parts.sort_by_key(|(_, ranks)| ranks.len());
        let words: Vec<String> = parts
            .iter()
            .take(4)
            .map(|(signature, ranks)| format!("{} called {}", self.names(ranks), said(signature)))
            .collect();
        let What::Collective { comm, sequence } = self.facts.what[number] else { return None };
        let label = self.recording.comms[comm].label();
        let summary = format!(
            "ranks disagree at position {sequence} of {label}: {}; a collective was skipped, or called with other \
             arguments",
            words.join(", ")
        );
        let confidence = if tied { 0.7 } else { 0.95 };
        let score = if tied { 1.0 / accused.len().max(1) as f64 } else { confidence };
        let suspects = accused.iter().take(MAX_SUSPECTS).map(|rank| self.suspect(*rank, score)).collect();
        let mut finding = self.finding(Kind::Desync, suspects, confidence, summary, &[number]);
        self.add_operation(&mut finding, Some(number));
        finding.evidence.insert("sides".into(), json!(words));
        let everybody: Vec<usize> = sides.into_values().flatten().collect();
        finding.explains = self.symptoms(&self.steps(&everybody), Some(number));
        finding.refuted_by =
            "operations of one of the ranks were not recorded, so that its positions are off".into();
        Some(finding)
    }

    fn finding(
        &self,
        kind: Kind,
        suspects: Vec<Suspect>,
        confidence: f64,
        summary: String,
        meetings: &[usize],
    ) -> Finding {
        let since_ns =
            meetings.iter().map(|number| self.facts.since_ns[*number]).min().unwrap_or(self.first_ns);
        let last_ns = self.recording.span().map_or(self.first_ns, |(_, last)| last);
        let process = suspects.first().and_then(|suspect| self.index.by_rank.get(&suspect.rank?));
        let process = process.or(self.index.by_rank.values().next()).copied().unwrap_or(0);
        let info = &self.recording.processes[process].info;
        let id = suspects.first().and_then(|suspect| suspect.rank).map_or(0, |rank| rank);
        Finding {
            id: FindingId(format!("end-{}-{id}", kind.name().replace('_', "-"))),
            job: info.job.clone(),
            incarnation: info.incarnation,
            kind,
            suspects,
            confidence,
            since: self.timestamp(since_ns),
            detected: self.timestamp(last_ns),
            cleared: None,
            summary,
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        }
    }

    fn add_operation(&self, finding: &mut Finding, number: Option<usize>) {
        let Some(number) = number else { return };
        let mut add = |key: &str, value: Value| drop(finding.evidence.insert(key.to_owned(), value));
        match &self.facts.what[number] {
            What::Collective { comm, sequence } => {
                add("communicator", json!(self.recording.comms[*comm].label()));
                add("operation", json!(sequence));
                add("function", json!(self.function(*comm, *sequence)));
                add("ranks", json!(self.recording.comms[*comm].size));
            }
            What::Transfer { process, peer, is_send, .. } => {
                let own = self.recording.processes[*process].info.rank;
                let (src, dst) = if *is_send { (own, Some(*peer)) } else { (Some(*peer), own) };
                add("transfer", json!({ "src": src, "dst": dst }));
            }
        }
        add("waiting", json!(self.facts.meetings[number].inside.len()));
        let unseen = self.facts.meetings[number].unseen;
        if unseen > 0 {
            add(
                "not_seen",
                json!([format!("{} of the operation were not recorded", count(unseen as u64, "rank"))]),
            );
        }
    }
}
