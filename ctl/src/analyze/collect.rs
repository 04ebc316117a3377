//! Operation traces as a [`Recording`]: takes lines in any order from any number of files, and only at the end says
//! who was on which communicator, since the line that tells may be the last.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use c4_detect::observation::{CommId, JobId, NodeName, OperationSignature, ProcessId, ProcessInfo};

mod moves;

use self::moves::Moves;
use super::{
    functions::{nccl_name, sizes_must_agree},
    problem::Problems,
    recording::{Comm, Operation, Process, Recording, Series},
    trace::{self, Collective, Line, Meta},
};

/// Operations held at once. What is analysed of a longer trace is its end: as much of it as fits, the same positions
/// of every rank.
const MOST_HELD: usize = 8_000_000;
/// Of each rank and communicator at least this much is kept.
const LEAST_OF_ONE: usize = 512;

/// Where a line came from.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// The line, from 1.
    pub line: u64,
}

#[derive(Debug, Default)]
struct Members {
    ranks: Vec<u32>,
    /// Each rank's place in `ranks`.
    places: HashMap<u32, u32>,
    declared: Option<Place>,
}

/// One operation as it was read; its name and communicator are interned.
#[derive(Debug)]
struct Read {
    sequence: u64,
    op: u32,
    bytes: Option<u64>,
    enqueued_ns: i64,
    start_ns: i64,
    end_ns: Option<i64>,
}

#[derive(Debug)]
struct Track {
    first: Place,
    operations: Vec<Read>,
}

/// Collects the lines of one job.
#[derive(Debug)]
pub struct Collector {
    meta: Option<Meta>,
    comm_ids: HashMap<String, u32>,
    members: HashMap<u32, Members>,
    op_ids: HashMap<String, u32>,
    ops: Vec<String>,
    tracks: BTreeMap<(u32, u32), Track>,
    moves: Moves,
    /// Where a rank was first heard of.
    first_heard: HashMap<u32, Place>,
    /// Operations held, and how many may be.
    held: usize,
    most_held: usize,
    /// Operations let go.
    let_go: u64,
    /// Lines that were understood.
    pub lines: u64,
}

impl Default for Collector {
    fn default() -> Self {
        Self::with_room_for(MOST_HELD)
    }
}

impl Collector {
    /// One that holds about so many operations at once.
    #[must_use]
    pub fn with_room_for(most_held: usize) -> Self {
        Self {
            meta: None,
            comm_ids: HashMap::new(),
            members: HashMap::new(),
            op_ids: HashMap::new(),
            ops: Vec::new(),
            tracks: BTreeMap::new(),
            moves: Moves::default(),
            first_heard: HashMap::new(),
            held: 0,
            most_held,
            let_go: 0,
            lines: 0,
        }
    }

    /// Takes one line.
    pub fn take(&mut self, line: Line<'_>, place: &Place, problems: &mut Problems) {
        self.lines += 1;
        match line {
            Line::Meta(meta) => match &self.meta {
                Some(known) if *known != meta => problems.add(
                    &place.file,
                    Some(place.line),
                    "a second meta line that differs from the first; all paths must be of one job",
                ),
                Some(_) => {}
                None => self.meta = Some(meta),
            },
            Line::Members { comm, ranks } => self.members(&comm, ranks, place, problems),
            Line::Collective(collective) => self.collective(&collective, place),
            Line::PointToPoint(line) => {
                self.heard(line.rank, place);
                self.moves.transfer(&line);
            }
            Line::Compute(line) => {
                self.heard(line.rank, place);
                self.moves.compute(&line);
            }
        }
        if self.held > self.most_held {
            self.trim();
        }
    }

    fn heard(&mut self, rank: u32, place: &Place) {
        self.held += 1;
        self.first_heard.entry(rank).or_insert_with(|| place.clone());
    }

    /// Lets the oldest operations go, the same positions of all ranks of a communicator: what is left must not look as
    /// if somebody had come where others had not.
    fn trim(&mut self) {
        let before = self.held;
        let number = self.tracks.len() + 2 * self.first_heard.len();
        let limit = (self.most_held / 2 / number.max(1)).max(LEAST_OF_ONE);
        let mut highest: HashMap<u32, u64> = HashMap::new();
        for ((_, comm), track) in &self.tracks {
            let last = track.operations.iter().map(|read| read.sequence).max().unwrap_or(0);
            let highest = highest.entry(*comm).or_default();
            *highest = (*highest).max(last);
        }
        let mut left = 0;
        for ((_, comm), track) in &mut self.tracks {
            let floor = highest.get(comm).map_or(0, |highest| highest.saturating_sub(limit as u64));
            let last = track.operations.iter().map(|read| read.sequence).max();
            // The last one stays: it says how far the rank came.
            track.operations.retain(|read| read.sequence >= floor || Some(read.sequence) == last);
            left += track.operations.len();
        }
        left += self.moves.trim(limit);
        self.let_go += (before - left.min(before)) as u64;
        self.held = left;
        // Where nothing can be let go (few operations of very many ranks), more must be held.
        self.most_held = self.most_held.max(left.saturating_mul(2));
    }

    fn members(&mut self, comm: &str, ranks: Vec<u32>, place: &Place, problems: &mut Problems) {
        let id = intern(&mut self.comm_ids, comm);
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            let what = format!("ranks of {comm} name a rank twice, expected each once");
            problems.add(&place.file, Some(place.line), what);
            return;
        }
        let members = self.members.entry(id).or_default();
        match &members.declared {
            Some(first) if members.ranks != ranks => {
                let what = format!(
                    "ranks of {comm} differ from those in {}:{}, which are kept",
                    first.file.display(),
                    first.line
                );
                problems.add(&place.file, Some(place.line), what);
            }
            Some(_) => {}
            None => {
                let places = places(&ranks);
                *members = Members { ranks, places, declared: Some(place.clone()) };
            }
        }
    }

    fn collective(&mut self, collective: &Collective<'_>, place: &Place) {
        let comm = intern(&mut self.comm_ids, &collective.comm);
        let op = intern(&mut self.op_ids, &collective.op);
        if op as usize == self.ops.len() {
            self.ops.push(collective.op.clone().into_owned());
        }
        self.held += 1;
        let track = self
            .tracks
            .entry((collective.rank, comm))
            .or_insert_with(|| Track { first: place.clone(), operations: Vec::new() });
        track.operations.push(Read {
            sequence: collective.sequence,
            op,
            bytes: collective.bytes,
            enqueued_ns: collective.enqueued_ns.unwrap_or(collective.start_ns),
            start_ns: collective.start_ns,
            end_ns: collective.end_ns,
        });
    }

    /// The recording of all that was taken.
    #[must_use]
    pub fn finish(mut self, problems: &mut Problems) -> Recording {
        self.drop_strangers(problems);
        for ((rank, _), track) in &mut self.tracks {
            drop_duplicates(*rank, track, problems);
        }
        let mut recording =
            Recording { never_finished: true, stands_for_itself: true, ..Recording::default() };
        if self.let_go > 0 {
            recording.notes.push(format!(
                "the trace is long: its first {} operations were read, but only what follows is analysed",
                self.let_go
            ));
        }
        recording.kinds_of_work = self.moves.names();
        let comms = self.comms(&mut recording);
        let mut signatures = Signatures::new(&self);
        let tracks = std::mem::take(&mut self.tracks);
        let known: HashMap<u32, &trace::Place> =
            self.meta.iter().flat_map(|meta| &meta.ranks).map(|place| (place.rank, place)).collect();
        let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
        for ((rank, comm), track) in tracks {
            let Some((index, members)) = comms.get(&comm) else { continue };
            let Some(comm_rank) = members.get(&rank).copied() else { continue };
            let operations = track
                .operations
                .iter()
                .map(|read| Operation {
                    sequence: read.sequence,
                    signature: signatures.of(comm, read, &mut recording.signatures),
                    bytes: read.bytes.unwrap_or(0),
                    enqueued_ns: read.enqueued_ns,
                    started_ns: Some(read.start_ns),
                    ended_ns: read.end_ns,
                })
                .collect::<Vec<_>>();
            let process =
                processes.entry(rank).or_insert_with(|| self.process(rank, known.get(&rank).copied()));
            process.series.push(Series {
                comm: *index,
                comm_rank,
                base: operations.first().map_or(0, |operation| operation.sequence),
                operations,
                ..Series::default()
            });
        }
        let moving: Vec<u32> = self.moves.ranks().collect();
        for rank in moving {
            let process =
                processes.entry(rank).or_insert_with(|| self.process(rank, known.get(&rank).copied()));
            (process.transfers, process.computes) = self.moves.take(rank);
        }
        let mut lowest: HashMap<usize, u64> = HashMap::new();
        for series in processes.values().flat_map(|process| &process.series) {
            let base = lowest.entry(series.comm).or_insert(series.base);
            *base = (*base).min(series.base);
        }
        // A rank that was recorded, but on one of its communicators never.
        for (index, members) in comms.values() {
            for (rank, comm_rank) in members {
                let Some(process) = processes.get_mut(rank) else { continue };
                if process.series.iter().all(|series| series.comm != *index) {
                    let base = lowest.get(index).copied().unwrap_or(0);
                    process.series.push(Series {
                        comm: *index,
                        comm_rank: *comm_rank,
                        base,
                        ..Series::default()
                    });
                }
            }
        }
        recording.processes = processes.into_values().collect();
        for process in &mut recording.processes {
            process.series.sort_by_key(|series| series.comm);
        }
        recording
    }

    /// Ranks that cannot be: beyond the world, or not on the communicator they operate on.
    fn drop_strangers(&mut self, problems: &mut Problems) {
        let world = self.meta.as_ref().and_then(|meta| meta.world_size);
        let moving: Vec<u32> = self.moves.ranks().collect();
        for rank in moving {
            let Some(world) = world.filter(|world| rank >= *world) else { continue };
            let number = self.moves.forget(rank);
            if let Some(place) = self.first_heard.get(&rank) {
                let what = format!(
                    "rank is {rank}, expected less than world_size {world}; its {number} operations without a \
                     communicator are left out"
                );
                problems.add(&place.file, Some(place.line), what);
            }
        }
        let names: HashMap<u32, &String> = self.comm_ids.iter().map(|(name, id)| (*id, name)).collect();
        let members = &self.members;
        self.tracks.retain(|(rank, comm), track| {
            let number = track.operations.len();
            let mut refuse = |why: String| {
                let what = format!("{why}; its {number} operations there are left out");
                problems.add(&track.first.file, Some(track.first.line), what);
                false
            };
            if let Some(world) = world
                && *rank >= world
            {
                return refuse(format!("rank is {rank}, expected less than world_size {world}"));
            }
            match members.get(comm) {
                Some(known) if !known.places.contains_key(rank) => refuse(format!(
                    "rank {rank} is not on {}, whose ranks are {}",
                    names.get(comm).map_or("its communicator", |name| name.as_str()),
                    crate::words::ranks(known.ranks.iter().copied())
                )),
                _ => true,
            }
        });
    }

    /// Communicators in the order of their names, with each member's rank on them.
    fn comms(&self, recording: &mut Recording) -> HashMap<u32, (usize, HashMap<u32, u32>)> {
        let mut seen: HashMap<u32, Vec<u32>> = HashMap::new();
        for (rank, comm) in self.tracks.keys() {
            seen.entry(*comm).or_default().push(*rank);
        }
        let mut names: Vec<(&String, &u32)> = self.comm_ids.iter().collect();
        names.sort();
        let mut comms = HashMap::new();
        for (name, id) in names {
            let Some(seen) = seen.remove(id) else { continue };
            let ranks = match self.members.get(id) {
                Some(members) => members.places.clone(),
                None => places(&seen),
            };
            if ranks.len() < 2 {
                recording
                    .notes
                    .push(format!("only one rank of {name} is known, so there is nothing to compare"));
                continue;
            }
            let index = recording.comms.len();
            recording.comms.push(Comm {
                id: CommId(index as u64 + 1),
                name: name.clone(),
                size: u32::try_from(ranks.len()).unwrap_or(u32::MAX),
            });
            comms.insert(*id, (index, ranks));
        }
        comms
    }

    fn process(&self, rank: u32, place: Option<&trace::Place>) -> Process {
        let meta = self.meta.as_ref();
        let node = place.and_then(|place| place.node.clone()).unwrap_or_default();
        Process {
            info: ProcessInfo {
                process: ProcessId(u64::from(rank) + 1),
                job: JobId(meta.and_then(|meta| meta.job.clone()).unwrap_or_else(|| "trace".to_owned())),
                incarnation: 0,
                rank: Some(rank),
                world_size: meta.and_then(|meta| meta.world_size),
                node: NodeName(node),
                gpu: place.and_then(|place| place.gpu),
                pid: 0,
                blind_spots: Vec::new(),
            },
            clock: rank,
            kernel_events: true,
            profiling: true,
            dropped: 0,
            ended: None,
            coords: coords(place),
            last_call: None,
            series: Vec::new(),
            transfers: Vec::new(),
            computes: Vec::new(),
        }
    }
}

fn coords(place: Option<&trace::Place>) -> BTreeMap<String, String> {
    let coords = place.into_iter().flat_map(|place| &place.coords);
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    coords.map(|(axis, value)| (axis.clone(), text(value))).collect()
}

/// Each rank's place in a list.
fn places(ranks: &[u32]) -> HashMap<u32, u32> {
    ranks.iter().copied().zip(0..).collect()
}

fn intern(ids: &mut HashMap<String, u32>, name: &str) -> u32 {
    if let Some(id) = ids.get(name) {
        return *id;
    }
    let id = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    ids.insert(name.to_owned(), id);
    id
}

/// Puts a track in order. The same operation twice is one; twice and different, the first counts.
fn drop_duplicates(rank: u32, track: &mut Track, problems: &mut Problems) {
    track.operations.sort_by_key(|read| read.sequence);
    let mut conflicts = 0;
    let mut example = 0;
    track.operations.dedup_by(|later, first| {
        let same = later.sequence == first.sequence;
        if same && (later.start_ns, later.end_ns, later.op) != (first.start_ns, first.end_ns, first.op) {
            conflicts += 1;
            example = first.sequence;
        }
        same
    });
    if conflicts > 0 {
        let what = format!(
            "rank {rank} has {conflicts} operations more than once and different, such as seq {example}; expected \
             each `seq` once on a communicator"
        );
        problems.add(&track.first.file, Some(track.first.line), what);
    }
}

/// Signatures, in which a size is only what every rank gave: one that some rank did not give cannot disagree.
struct Signatures {
    partly_sized: HashSet<(u32, u64)>,
    /// NCCL's names of operations, and whether their sizes must agree.
    names: Vec<(String, bool)>,
    known: HashMap<(u32, u64), u32>,
    distinct: HashMap<OperationSignature, u32>,
    /// The last one, which is often the next one as well.
    last: Option<((u32, u64), u32)>,
}

impl Signatures {
    fn new(collector: &Collector) -> Self {
        let partly_sized = collector
            .tracks
            .iter()
            .flat_map(|((_, comm), track)| track.operations.iter().map(|read| (*comm, read)))
            .filter(|(_, read)| read.bytes.is_none())
            .map(|(comm, read)| (comm, read.sequence))
            .collect();
        let names = collector.ops.iter().map(|op| (nccl_name(op).to_owned(), sizes_must_agree(op))).collect();
        Self { partly_sized, names, known: HashMap::new(), distinct: HashMap::new(), last: None }
    }

    fn of(&mut self, comm: u32, read: &Read, all: &mut Vec<OperationSignature>) -> u32 {
        let (name, agree) =
            self.names.get(read.op as usize).map_or(("", false), |(name, agree)| (name, *agree));
        let comparable =
            agree && (self.partly_sized.is_empty() || !self.partly_sized.contains(&(comm, read.sequence)));
        let key = (read.op, read.bytes.filter(|_| comparable).unwrap_or(0));
        if let Some((_, index)) = self.last.filter(|(last, _)| *last == key) {
            return index;
        }
        let index = *self.known.entry(key).or_insert_with(|| {
            let signature =
                OperationSignature { function: name.into(), count: key.1, datatype: "bytes".into(), root: 0 };
            // Two words of the trace may be one of NCCL's.
            *self.distinct.entry(signature).or_insert_with_key(|signature| {
                all.push(signature.clone());
                u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
            })
        });
        self.last = Some((key, index));
        index
    }
}

#[cfg(test)]
mod tests;
