//! Who did what when, a lane a rank: for a finding the ranks it is about, those who wait for them at the end of the
//! longest chain, and their peers; over the time in which it shows. Text and images are drawn from the same lanes.

use std::collections::{BTreeSet, HashMap};

use c4_detect::{
    finding::{Finding, Kind},
    observation::Timestamp,
};

use crate::{
    analyze::{
        Diagnosis,
        recording::{Index, Process, Recording},
    },
    words::duration_ns,
};

/// Lanes at most; a picture of a thousand ranks shows nobody.
const LANES: usize = 16;
/// Bars in one lane at most.
const BARS: usize = 4_000;
/// Iterations shown of something that lasts.
const ITERATIONS: i64 = 2;
/// Columns of a lane in text.
const WIDTH: usize = 56;

/// What a rank does in a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doing {
    /// It computes, as far as that was recorded.
    Computes,
    /// It is in an operation with everybody else.
    Together,
    /// It is in an operation that others have not come to.
    Waits,
}

/// A piece of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Begin.
    pub from_ns: i64,
    /// End; beyond the lanes' end if there is none.
    pub until_ns: i64,
    /// What.
    pub doing: Doing,
    /// In what.
    pub label: String,
    /// Whether it never ended.
    pub open: bool,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Whose.
    pub name: String,
    /// Whether the finding suspects it.
    pub suspect: bool,
    /// By time.
    pub bars: Vec<Bar>,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Its first moment.
    pub from_ns: i64,
    /// Its last moment.
    pub until_ns: i64,
    /// By rank.
    pub lanes: Vec<Lane>,
}

/// The lanes of a finding; none if nothing was recorded of those it is about.
#[must_use]
pub fn lanes(diagnosis: &Diagnosis, finding: &Finding) -> Option<Lanes> {
    let recording = &diagnosis.recording;
    let index = recording.index();
    let shown = ranks(diagnosis, &index, finding);
    let (from_ns, until_ns) = range(diagnosis, finding)?;
    let entries = Entries::of(recording, &index, &shown);
    let suspects: BTreeSet<u32> = finding.suspects.iter().filter_map(|suspect| suspect.rank).collect();
    let lane = |place: &usize| {
        let process = &recording.processes[*place];
        let rank = process.info.rank;
        Lane {
            name: rank.map_or_else(|| format!("pid {}", process.info.pid), |rank| format!("rank {rank}")),
            suspect: rank.is_some_and(|rank| suspects.contains(&rank)),
            bars: bars(recording, process, &entries, from_ns, until_ns),
        }
    };
    let lanes: Vec<Lane> = shown.iter().map(lane).collect();
    lanes.iter().any(|lane| !lane.bars.is_empty()).then_some(Lanes { from_ns, until_ns, lanes })
}

/// Places of the processes to show: suspects, whoever waits for them, peers; by rank.
fn ranks(diagnosis: &Diagnosis, index: &Index, finding: &Finding) -> Vec<usize> {
    let recording = &diagnosis.recording;
    let mut shown: Vec<usize> = Vec::new();
    let mut add = |place: usize| {
        if shown.len() < LANES
            && !shown.contains(&place)
            && recording.processes[place].info.job == finding.job
        {
            shown.push(place);
        }
    };
    let suspects: Vec<usize> =
        finding.suspects.iter().filter_map(|suspect| index.by_rank.get(&suspect.rank?)).copied().collect();
    suspects.iter().take(LANES / 2).copied().for_each(&mut add);
    diagnosis.chains.get(&finding.id).into_iter().flatten().take(LANES / 2).copied().for_each(&mut add);
    for place in suspects.iter().take(LANES / 2) {
        let process = &recording.processes[*place];
        let peers = process.transfers.iter().rev().take(64).filter_map(|t| index.by_rank.get(&t.peer));
        peers.copied().collect::<BTreeSet<_>>().into_iter().take(4).for_each(&mut add);
        for series in &process.series {
            let members = index.members[series.comm].iter().map(|(place, _)| *place);
            members.take(8).for_each(&mut add);
        }
    }
    shown.sort_by_key(|place| recording.processes[*place].info.rank);
    shown
}

fn range(diagnosis: &Diagnosis, finding: &Finding) -> Option<(i64, i64)> {
    let (first, last) = diagnosis.recording.span()?;
    let ns = |at: Timestamp| {
        let us = i64::try_from(at.micros_since(diagnosis.start)).unwrap_or(0);
        first.saturating_add(us.saturating_mul(1_000)).min(last)
    };
    let job = diagnosis.jobs.iter().find(|job| job.job == finding.job);
    let iteration = job.and_then(|job| i64::try_from(job.iteration_ns?).ok());
    let iteration = iteration.unwrap_or((last - first) / 32).max(1);
    let since = ns(finding.since);
    if matches!(finding.kind, Kind::NonCommSlow | Kind::CommSlow | Kind::WorkloadImbalance) {
        // Some way in, where it has settled.
        let end = finding.cleared.map_or(last, ns);
        let from = since.saturating_add((end - since) / 4);
        return Some((from, from.saturating_add(iteration * ITERATIONS).min(last.max(from + 1))));
    }
    let from = since.saturating_sub(iteration).max(first);
    // Something that never ends is drawn some way beyond the last thing that happened.
    let until = last.max(since);
    Some((from, until.saturating_add(((until - from) / 4).max(1))))
}

/// When the last member came to each operation that is shown; absent if not all have.
struct Entries(HashMap<(usize, u64), Option<i64>>);

impl Entries {
    fn of(recording: &Recording, index: &Index, shown: &[usize]) -> Self {
        let comms: BTreeSet<usize> = shown
            .iter()
            .flat_map(|place| &recording.processes[*place].series)
            .map(|series| series.comm)
            .collect();
        let mut entries: HashMap<(usize, u64), (i64, usize)> = HashMap::new();
        for comm in &comms {
            for (_, series) in recording.members(index, *comm) {
                let from = series.operations.len().saturating_sub(BARS);
                for operation in &series.operations[from..] {
                    let entry = entries.entry((*comm, operation.sequence)).or_insert((i64::MIN, 0));
                    *entry = (entry.0.max(operation.entered_ns()), entry.1 + 1);
                }
            }
        }
        let all_in = |((comm, sequence), (last, number)): ((usize, u64), (i64, usize))| {
            let all = number >= recording.comms[comm].size as usize;
            ((comm, sequence), all.then_some(last))
        };
        Self(entries.into_iter().map(all_in).collect())
    }
}

fn bars(recording: &Recording, process: &Process, entries: &Entries, from: i64, until: i64) -> Vec<Bar> {
    let mut bars = Vec::new();
    let beyond = until.saturating_add(1);
    let mut add = |begin: i64, end: Option<i64>, doing: Doing, label: &str| {
        let until_ns = end.unwrap_or(beyond);
        if begin < until && until_ns > from && bars.len() < BARS {
            bars.push(Bar {
                from_ns: begin.max(from),
                until_ns,
                doing,
                label: label.to_owned(),
                open: end.is_none(),
            });
        }
    };
    for compute in &process.computes {
        let name = recording.kinds_of_work.get(compute.kind as usize).map_or("", String::as_str);
        add(compute.start_ns, compute.end_ns, Doing::Computes, name);
    }
    for series in &process.series {
        let label = recording.comms[series.comm].label();
        for operation in &series.operations {
            let begin = operation.entered_ns();
            if operation.ended_ns.is_some_and(|end| end < from) || begin > until {
                continue;
            }
            let function = recording.signatures.get(operation.signature as usize).map_or("", |s| &s.function);
            let label = format!("{function} #{} of {label}", operation.sequence);
            let all_in = entries.0.get(&(series.comm, operation.sequence)).copied().flatten();
            match all_in {
                Some(all_in) if all_in > begin => {
                    let together = operation.ended_ns.map_or(all_in, |end| all_in.min(end));
                    add(begin, Some(together), Doing::Waits, &label);
                    add(together, operation.ended_ns, Doing::Together, &label);
                }
                Some(_) => add(begin, operation.ended_ns, Doing::Together, &label),
                None => add(begin, operation.ended_ns, Doing::Waits, &label),
            }
        }
    }
    for transfer in &process.transfers {
        let label = match transfer.is_send {
            true => format!("send to rank {}", transfer.peer),
            false => format!("receive from rank {}", transfer.peer),
        };
        add(transfer.entered_ns(), transfer.ended_ns, Doing::Waits, &label);
    }
    bars.sort_by_key(|bar| (bar.from_ns, bar.until_ns));
    bars
}

/// The lanes as text, a line an entry.
#[must_use]
pub fn text(lanes: &Lanes) -> Vec<String> {
    let span = (lanes.until_ns - lanes.from_ns).max(1);
    let mut lines = vec![format!(
        "{} across (█ waits, ▒ all are in it, ░ computes, · in nothing, ▶ never over; * suspect)",
        duration_ns(span.unsigned_abs())
    )];
    let width = lanes.lanes.iter().map(|lane| lane.name.chars().count()).max().unwrap_or(0);
    for lane in &lanes.lanes {
        let mark = if lane.suspect { '*' } else { ' ' };
        let picture: String = (0..WIDTH).map(|column| glyph(lane, lanes.from_ns, span, column)).collect();
        let open = lane.bars.iter().rev().find(|bar| bar.open);
        let end = match open {
            Some(bar) if bar.doing == Doing::Computes => format!("▶ in {}, never ended", bar.label),
            Some(bar) => format!("▶ in {}", bar.label),
            None => String::new(),
        };
        let line = format!("{mark} {:<width$}  {picture}{end}", lane.name);
        lines.push(crate::words::printable(&line).trim_end().to_owned());
    }
    lines
}

/// What fills most of a column; what is waited for counts before what is computed meanwhile.
fn glyph(lane: &Lane, from_ns: i64, span: i64, column: usize) -> char {
    let edge = |column: usize| from_ns.saturating_add((span as f64 * column as f64 / WIDTH as f64) as i64);
    let (begin, end) = (edge(column), edge(column + 1).max(edge(column) + 1));
    let mut most: HashMap<Doing, i64> = HashMap::new();
    for bar in lane.bars.iter().filter(|bar| bar.from_ns < end && bar.until_ns > begin) {
        *most.entry(bar.doing).or_default() += bar.until_ns.min(end) - bar.from_ns.max(begin);
    }
    let half = (end - begin) / 2;
    match most.into_iter().filter(|(_, ns)| *ns >= half.max(1)).max_by_key(|(doing, ns)| (*ns, *doing)) {
        None => '·',
        Some((Doing::Computes, _)) => '░',
        Some((Doing::Together, _)) => '▒',
        Some((Doing::Waits, _)) => '█',
    }
}
