//! How a recording's end is told: who waits in what, by which way it leads to a root, and what a rank did last.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use c4_detect::{
    finding::Suspect,
    observation::{ProcessId, Timestamp},
};

use super::Story;
use crate::{
    analyze::{
        blocked::What,
        recording::{Operation, Process},
        waits::{Cause, Root},
    },
    words::{count, duration_ns},
};

/// Symptoms listed.
pub(super) const MAX_SYMPTOMS: usize = 12;
/// Links of the chain that are shown.
const MAX_CHAIN: usize = 12;

/// The way of a rank to a root: the meeting it waits in, and who is missing there.
pub(super) type Step = (usize, Option<usize>);

impl Story<'_> {
    /// For every rank that leads to these, the step that does.
    pub(super) fn steps(&self, roots: &[usize]) -> BTreeMap<usize, Step> {
        let mut holds: HashMap<usize, Vec<usize>> = HashMap::new();
        for (number, meeting) in self.facts.meetings.iter().enumerate() {
            for rank in &meeting.missing {
                holds.entry(*rank).or_default().push(number);
            }
        }
        let mut steps = BTreeMap::new();
        let known: HashSet<usize> = roots.iter().copied().collect();
        let mut queue: VecDeque<usize> = roots.iter().copied().collect();
        while let Some(rank) = queue.pop_front() {
            for number in holds.remove(&rank).unwrap_or_default() {
                for (inside, _) in &self.facts.meetings[number].inside {
                    if !known.contains(inside) && !steps.contains_key(inside) {
                        steps.insert(*inside, (number, Some(rank)));
                        queue.push_back(*inside);
                    }
                }
            }
        }
        steps
    }

    /// The processes along the longest way to a cause.
    pub(super) fn longest_way(&self, cause: &Cause) -> Vec<usize> {
        let roots = match &cause.root {
            Root::Rank(rank) => vec![*rank],
            Root::Cycle { ranks, .. } => ranks.clone(),
            Root::Meeting(number) | Root::Unseen(number) => {
                self.facts.meetings[*number].inside.iter().map(|(rank, _)| *rank).collect()
            }
        };
        let steps = self.steps(&roots);
        let mut shown = way(&steps);
        // And whoever waits for the root itself.
        shown.extend(roots.iter().take(4));
        let direct = steps.iter().filter(|(_, (_, next))| next.is_some_and(|next| roots.contains(&next)));
        shown.extend(direct.map(|(rank, _)| *rank).take(6));
        shown
    }

    /// The same in words.
    pub(super) fn chain(&self, steps: &BTreeMap<usize, Step>) -> Vec<String> {
        let say = |rank: &usize| match steps.get(rank) {
            Some((number, _)) => {
                format!("{} waits in {}", self.name(*rank), self.label_for(*number, *rank))
            }
            None => format!("{} waits in nothing", self.name(*rank)),
        };
        let way = way(steps);
        way[way.len().saturating_sub(MAX_CHAIN)..].iter().map(say).collect()
    }

    pub(super) fn symptoms(&self, steps: &BTreeMap<usize, Step>, but: Option<usize>) -> Vec<String> {
        let mut meetings: Vec<usize> = steps.values().map(|(number, _)| *number).collect();
        meetings.sort_unstable();
        meetings.dedup();
        let told = meetings.iter().filter(|number| Some(**number) != but);
        told.take(MAX_SYMPTOMS).map(|number| self.symptom(*number)).collect()
    }

    pub(super) fn symptom(&self, number: usize) -> String {
        let inside: Vec<usize> = self.facts.meetings[number].inside.iter().map(|(rank, _)| *rank).collect();
        let verb = if inside.len() == 1 { "waits" } else { "wait" };
        format!(
            "{} {verb} in {}",
            self.names(&inside),
            self.label_for(number, inside.first().copied().unwrap_or(0))
        )
    }

    /// Of several meetings, the one in which somebody began to wait first: the others may follow from it.
    pub(super) fn first(&self, meetings: impl Iterator<Item = usize>) -> Option<usize> {
        meetings.min_by_key(|number| {
            (self.facts.since_ns[*number], std::cmp::Reverse(self.facts.meetings[*number].inside.len()))
        })
    }

    pub(super) fn label(&self, number: usize) -> String {
        match &self.facts.what[number] {
            What::Transfer { process, .. } => self.label_for(number, *process),
            What::Collective { comm, sequence } => {
                format!(
                    "{} #{sequence} of {}",
                    self.function(*comm, *sequence),
                    self.recording.comms[*comm].label()
                )
            }
        }
    }

    /// The same, as a rank in it sees it.
    pub(super) fn label_for(&self, number: usize, rank: usize) -> String {
        match &self.facts.what[number] {
            What::Collective { .. } => self.label(number),
            What::Transfer { process, peer, is_send, .. } => {
                let own = self.recording.processes[*process].info.rank.unwrap_or(0);
                let (is_send, peer) = if rank == *process { (*is_send, *peer) } else { (!*is_send, own) };
                if is_send { format!("a send to rank {peer}") } else { format!("a receive from rank {peer}") }
            }
        }
    }

    pub(super) fn function(&self, comm: usize, sequence: u64) -> &str {
        let mut members = self.index.members[comm].iter().filter_map(|(process, series)| {
            find(&self.recording.processes[*process].series[*series].operations, sequence)
        });
        let signature = members.next().and_then(|op| self.recording.signatures.get(op.signature as usize));
        signature.map_or("operation", |signature| &signature.function)
    }

    pub(super) fn last_operation(&self, rank: usize) -> String {
        let process = &self.recording.processes[rank];
        let last = process
            .series
            .iter()
            .filter_map(|series| Some((series.operations.last()?, series.comm)))
            .max_by_key(|(operation, _)| operation.last_ns());
        match last {
            Some((operation, comm)) => format!(
                "{} #{} of {}",
                self.function(comm, operation.sequence),
                operation.sequence,
                self.recording.comms[comm].label()
            ),
            None => "none recorded".to_owned(),
        }
    }

    /// What a rank does that waits in nothing.
    pub(super) fn idle(&self, rank: usize) -> String {
        let process = &self.recording.processes[rank];
        if let Some(work) = open_work(process) {
            let kind = self.recording.kinds_of_work.get(work as usize).map_or("", String::as_str);
            return format!("it is in a computation that never ended ({kind})");
        }
        let last_ns = self.recording.span().map_or(0, |(_, last)| last);
        let silent = self.facts.last_sign_ns[rank].map(|sign| last_ns.saturating_sub(sign).unsigned_abs());
        match silent.filter(|ns| *ns >= 1_000_000) {
            Some(ns) => format!("it waits for nobody, and did nothing in the last {}", duration_ns(ns)),
            None => "it waits for nobody".to_owned(),
        }
    }

    pub(super) fn suspect(&self, rank: usize, score: f64) -> Suspect {
        let info = &self.recording.processes[rank].info;
        Suspect {
            rank: info.rank,
            node: Some(info.node.clone()).filter(|node| !node.0.is_empty()),
            gpu: info.gpu,
            score,
            ..Suspect::default()
        }
    }

    pub(super) fn name(&self, rank: usize) -> String {
        let info = &self.recording.processes[rank].info;
        match info.rank {
            Some(rank) => format!("rank {rank}"),
            None if info.pid > 0 => format!("process {}", info.pid),
            None => format!("process {}", process_number(info.process)),
        }
    }

    pub(super) fn names(&self, ranks: &[usize]) -> String {
        let numbers: Option<Vec<u32>> =
            ranks.iter().map(|rank| self.recording.processes[*rank].info.rank).collect();
        match (ranks, numbers) {
            ([], _) => "nobody".to_owned(),
            ([one], _) => self.name(*one),
            (_, Some(numbers)) if numbers.len() <= 64 => format!("ranks {}", crate::words::ranks(numbers)),
            _ => count(ranks.len() as u64, "rank"),
        }
    }

    pub(super) fn timestamp(&self, ns: i64) -> Timestamp {
        self.start.after(u64::try_from(ns.saturating_sub(self.first_ns)).unwrap_or(0) / 1_000)
    }
}

/// From the rank that is furthest from a root to that root.
fn way(steps: &BTreeMap<usize, Step>) -> Vec<usize> {
    let next = |rank: usize| steps.get(&rank).and_then(|(_, next)| *next);
    let mut depth: HashMap<usize, usize> = HashMap::new();
    let mut furthest: Option<(usize, usize)> = None;
    for start in steps.keys() {
        let mut unknown = Vec::new();
        let mut at = Some(*start);
        while let Some(rank) = at.filter(|rank| !depth.contains_key(rank)) {
            unknown.push(rank);
            at = next(rank);
        }
        let mut known = at.and_then(|rank| depth.get(&rank).copied()).unwrap_or(0);
        for rank in unknown.into_iter().rev() {
            known += 1;
            depth.insert(rank, known);
        }
        let own = depth.get(start).copied().unwrap_or(0);
        if furthest.is_none_or(|(most, _)| own > most) {
            furthest = Some((own, *start));
        }
    }
    let mut at = furthest.map(|(_, start)| start);
    let mut way = Vec::new();
    // Steps lead nearer to a root, so this ends.
    while let Some(rank) = at {
        way.push(rank);
        at = next(rank);
    }
    way
}

fn process_number(process: ProcessId) -> u64 {
    process.0
}

fn open_work(process: &Process) -> Option<u32> {
    process.computes.iter().rev().find(|compute| compute.end_ns.is_none()).map(|compute| compute.kind)
}

pub(super) fn find(operations: &[Operation], sequence: u64) -> Option<&Operation> {
    let place = operations.binary_search_by_key(&sequence, |operation| operation.sequence).ok()?;
    operations.get(place)
}
