//! Who is in what when a recording ends: the facts that [`super::waits`] follows, out of operations that never ended.
//!
//! In a recording nothing needs a threshold: an operation without an end never ended. What needs care is what the
//! absence of an operation says. A member that was not recorded, or whose record breaks off, is not accused. A member
//! that has *called* an operation need not have come to it, where only calls were recorded: if it still has an earlier
//! one open, it is there.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    recording::{Index, Operation, Process, Recording, Series, Transfer},
    waits::Meeting,
};

/// Operations looked at to tell whether a communicator's run in the background.
const LOOKED_AT: usize = 512;
/// Share of those with something else begun inside them from which on they do.
const IN_BACKGROUND: f64 = 0.3;

/// What an open meeting is, for a person.
#[derive(Clone, Debug)]
pub enum What {
    /// A collective: communicator and position.
    Collective {
        /// Index of the communicator.
        comm: usize,
        /// Position on it.
        sequence: u64,
    },
    /// A send or receive, as one rank sees it.
    Transfer {
        /// Index of that rank's process.
        process: usize,
        /// The other end's rank.
        peer: u32,
        /// Whether the process sends.
        is_send: bool,
        /// Whether the other end has come.
        met: bool,
    },
}

/// Everything that is open at the end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The meetings.
    pub meetings: Vec<Meeting>,
    /// What each of them is.
    pub what: Vec<What>,
    /// When the first of those inside came.
    pub since_ns: Vec<i64>,
    /// By process: the last moment at which it was recorded to do something new.
    pub last_sign_ns: Vec<Option<i64>>,
}

/// Looks at the end of a recording.
#[must_use]
pub fn facts(recording: &Recording, index: &Index) -> Facts {
    let mut facts =
        Facts { last_sign_ns: recording.processes.iter().map(last_sign).collect(), ..Facts::default() };
    let background = Background::of(recording);
    let pending = Pending::of(recording);
    for comm in 0..recording.comms.len() {
        collectives(recording, index, comm, &background, &pending, &mut facts);
    }
    transfers(recording, index, &mut facts);
    facts
}

fn last_sign(process: &Process) -> Option<i64> {
    let operations =
        process.series.iter().flat_map(|series| series.operations.last()).map(Operation::last_ns);
    let transfers = process.transfers.iter().map(|t| t.ended_ns.unwrap_or(t.entered_ns()));
    let computes = process.computes.iter().map(|c| c.end_ns.unwrap_or(c.start_ns));
    operations.chain(transfers).chain(computes).max()
}

/// What runs while its rank goes on: series by process and communicator, and transfers by process and direction.
#[derive(Debug, Default)]
pub struct Background {
    series: HashSet<(usize, usize)>,
    transfers: HashSet<(usize, bool)>,
}

impl Background {
    /// An operation is in the background if its rank begins another one elsewhere before it ends.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let mut found = Self::default();
        for (place, process) in recording.processes.iter().enumerate() {
            if recording.waits_unknown {
                continue;
            }
            for series in &process.series {
                let ended =
                    series.operations.iter().rev().filter_map(|op| Some((op.entered_ns(), op.ended_ns?)));
                if mostly(ended, |from, until| begins_inside(process, Some(series.comm), from, until)) {
                    found.series.insert((place, series.comm));
                }
            }
            for is_send in [false, true] {
                let transfers = process.transfers.iter().rev().filter(|t| t.is_send == is_send);
                let ended = transfers.filter_map(|t| Some((t.entered_ns(), t.ended_ns?)));
                if mostly(ended, |from, until| begins_inside(process, None, from, until)) {
                    found.transfers.insert((place, is_send));
                }
            }
        }
        found
    }

    /// Whether a process goes on while it is in a collective of a communicator.
    #[must_use]
    pub fn has(&self, process: usize, comm: usize) -> bool {
        self.series.contains(&(process, comm))
    }

    /// Whether a process goes on while it sends, or receives.
    #[must_use]
    pub fn transfers(&self, process: usize, is_send: bool) -> bool {
        self.transfers.contains(&(process, is_send))
    }
}

/// Whether it holds of many of the last operations that took any time.
fn mostly(ended: impl Iterator<Item = (i64, i64)>, inside: impl Fn(i64, i64) -> bool) -> bool {
    let (mut looked_at, mut held) = (0_u32, 0_u32);
    for (from, until) in ended.filter(|(from, until)| until > from).take(LOOKED_AT) {
        looked_at += 1;
        held += u32::from(inside(from, until));
    }
    looked_at > 0 && f64::from(held) >= f64::from(looked_at) * IN_BACKGROUND
}

/// Whether the rank begins a collective on another communicator, or a computation, strictly between two moments.
fn begins_inside(process: &Process, but: Option<usize>, from: i64, until: i64) -> bool {
    let collective = process.series.iter().filter(|series| Some(series.comm) != but).any(|series| {
        let at = series.operations.partition_point(|op| op.entered_ns() <= from);
        series.operations.get(at).is_some_and(|op| op.entered_ns() < until)
    });
    let at = process.computes.partition_point(|compute| compute.start_ns <= from);
    collective || process.computes.get(at).is_some_and(|compute| compute.start_ns < until)
}

/// By process: when its oldest open operation was called, if anything is open.
struct Pending(Vec<Option<(i64, usize)>>);

impl Pending {
    fn of(recording: &Recording) -> Self {
        let oldest = |process: &Process| {
            let open = process.series.iter().filter_map(|s| Some((s.open()?.enqueued_ns, s.comm)));
            let transfers = process.transfers.iter().filter(|t| t.ended_ns.is_none());
            open.chain(transfers.map(|t| (t.enqueued_ns, usize::MAX))).min()
        };
        Self(recording.processes.iter().map(oldest).collect())
    }

    /// Whether the process has something open that it called before this.
    fn earlier(&self, process: usize, comm: usize, called_ns: i64) -> bool {
        self.0[process].is_some_and(|(at, other)| other != comm && at < called_ns)
    }
}

/// The oldest open operation of a communicator, and the meetings of ranks that are further.
fn collectives(
    recording: &Recording,
    index: &Index,
    comm: usize,
    background: &Background,
    pending: &Pending,
    facts: &mut Facts,
) {
    let members = &index.members[comm];
    let series = |(process, number): &(usize, usize)| &recording.processes[*process].series[*number];
    let mut open: BTreeMap<u64, Vec<(usize, &Operation)>> = BTreeMap::new();
    for member in members {
        if let Some(operation) = series(member).open() {
            open.entry(operation.sequence).or_default().push((member.0, operation));
        }
    }
    let unheard = (recording.comms[comm].size as usize).saturating_sub(members.len());
    for (sequence, inside) in open {
        let mut meeting = Meeting { unseen: unheard, ..Meeting::default() };
        let mut left = false;
        let mut queued = Vec::new();
        for member in members {
            let series = series(member);
            if inside.iter().any(|(process, _)| *process == member.0) {
                continue;
            }
            match standing(series, sequence) {
                Standing::Past => left = true,
                Standing::NotCome => meeting.missing.push(member.0),
                Standing::Unknown => meeting.unseen += 1,
            }
        }
        if left && meeting.missing.is_empty() {
            // Some have left what others are still in: those are what holds up whatever comes next.
            continue;
        }
        for (process, operation) in &inside {
            let here = &recording.processes[*process];
            let begun = operation.started_ns.is_some();
            // Only called, while something called before is still open: it has not come to this one.
            let waits_before = !begun && pending.earlier(*process, comm, operation.enqueued_ns);
            let not_begun =
                here.kernel_events && !begun && inside.iter().any(|(_, op)| op.started_ns.is_some());
            if waits_before || not_begun {
                queued.push(*process);
            } else {
                meeting.inside.push((*process, !background.has(*process, comm)));
            }
        }
        if meeting.inside.is_empty() {
            // Everybody waits for something else first.
            continue;
        }
        meeting.missing.extend(queued);
        facts.since_ns.push(inside.iter().map(|(_, op)| op.entered_ns()).min().unwrap_or(0));
        facts.meetings.push(meeting);
        facts.what.push(What::Collective { comm, sequence });
    }
}

enum Standing {
    /// It has finished the operation, or one after it.
    Past,
    /// It has not called it.
    NotCome,
    /// It cannot be said.
    Unknown,
}

fn standing(series: &Series, sequence: u64) -> Standing {
    if series.finalized || series.entered() > sequence {
        return Standing::Past;
    }
    if series.breaks_off { Standing::Unknown } else { Standing::NotCome }
}

type Way = (u32, u32, bool, u64);

/// Sends and receives that never ended. Two ends that have both come wait for nobody but the network.
fn transfers(recording: &Recording, index: &Index, facts: &mut Facts) {
    // The furthest place that each rank has come to, by (rank, peer, direction, channel).
    let mut furthest: HashMap<Way, u64> = HashMap::new();
    for process in &recording.processes {
        let Some(rank) = process.info.rank else { continue };
        for transfer in &process.transfers {
            let way = (rank, transfer.peer, transfer.is_send, transfer.channel);
            let place = furthest.entry(way).or_insert(transfer.place);
            *place = (*place).max(transfer.place);
        }
    }
    let mut met = HashSet::new();
    for (place, process) in recording.processes.iter().enumerate() {
        let Some(rank) = process.info.rank else { continue };
        let mut seen = HashSet::new();
        let open: Vec<&Transfer> = process.transfers.iter().filter(|t| t.ended_ns.is_none()).collect();
        // Whoever is in a batch waits for those who have not come before the network is looked at.
        let comes = |t: &Transfer| {
            let other = furthest.get(&(t.peer, rank, !t.is_send, t.channel));
            other.is_some_and(|other| *other >= t.place)
        };
        let others_missing: HashSet<u32> = open.iter().filter(|t| !comes(t)).map(|t| t.batch).collect();
        for transfer in open {
            if !seen.insert((transfer.peer, transfer.is_send, transfer.channel)) {
                continue;
            }
            let here = comes(transfer);
            if here && others_missing.contains(&transfer.batch) {
                continue;
            }
            let mut meeting = Meeting { inside: vec![(place, true)], ..Meeting::default() };
            match index.by_rank.get(&transfer.peer) {
                None => meeting.unseen = 1,
                Some(peer) if here => {
                    let pair = (place.min(*peer), place.max(*peer), transfer.channel, transfer.place);
                    // Both ends tell of the same transfer.
                    if !met.insert((pair, transfer.is_send == (place < *peer))) {
                        continue;
                    }
                    if let Some(batch) = held_elsewhere(recording, *peer, rank, transfer) {
                        meeting.missing.push(batch);
                    } else {
                        meeting.inside.push((*peer, true));
                    }
                }
                Some(peer) => meeting.missing.push(*peer),
            }
            facts.since_ns.push(transfer.entered_ns());
            facts.meetings.push(meeting);
            facts.what.push(What::Transfer {
                process: place,
                peer: transfer.peer,
                is_send: transfer.is_send,
                met: here,
            });
        }
    }
}

/// The peer itself, if its end of the transfer has been left: it has finished what this rank is still in.
fn held_elsewhere(recording: &Recording, peer: usize, rank: u32, transfer: &Transfer) -> Option<usize> {
    let ends = recording.processes[peer].transfers.iter().filter(|t| {
        t.peer == rank
            && t.is_send != transfer.is_send
            && t.channel == transfer.channel
            && t.place == transfer.place
    });
    let mut ended = ends.map(|t| t.ended_ns.is_some());
    ended.next().unwrap_or(true).then_some(peer)
}
