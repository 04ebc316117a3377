//! Shows a recording to the detector, window by window, as agents would have shown the job: the same detector as
//! online, on a clock made of the recording's own times.
//!
//! At each window's end every rank's state follows from its operations' times alone. A recording in which open
//! operations *never* finished goes on after its last line, with nothing happening, until the detector has had time to
//! make up its mind; a recording that is only a moment stops at that moment.

use std::collections::BTreeMap;

use c4_detect::{
    aggregate::{Aggregator, CompletedOperation},
    detector::{Config, Detector},
    finding::{Finding, FindingId, Kind},
    observation::{
        CommWindow, Edge, InFlight, Membership, Observation, ProcessEnd, ProcessState, Timestamp, Window,
    },
    view::JobView,
};

use super::recording::{Operation, Process, Recording, Series};

/// Windows are as long as the agent's, unless the recording is so short that it would be over in a few.
const LONGEST_WINDOW_NS: i64 = 1_000_000_000;
const SHORTEST_WINDOW_NS: i64 = 20_000_000;
const WINDOWS_IN_SHORT_RECORDING: i64 = 50;
/// Silence that is shown in full; longer silence of the whole job is cut, or one wrong time would make it endless.
const LONGEST_SILENCE_WINDOWS: i64 = 300;
/// Windows shown after the end of a recording whose open operations never finished.
const WINDOWS_AFTER_END: i64 = 300;
/// Of those, windows shown after the verdict.
const WINDOWS_AFTER_VERDICT: u32 = 10;

/// What the detector made of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every finding, in its last form, in the order of detection.
    pub findings: Vec<Finding>,
    /// The jobs at the end.
    pub jobs: Vec<JobView>,
    /// The recording's first moment, on the clock of the findings.
    pub start: Timestamp,
}

/// Shows all of it.
#[must_use]
pub fn replay(recording: &Recording, config: Config) -> Outcome {
    let Some((first, last)) = recording.span() else { return Outcome::default() };
    let last = recording.until_ns.map_or(last, |until| until.max(first));
    let step = ((last - first) / WINDOWS_IN_SHORT_RECORDING).clamp(SHORTEST_WINDOW_NS, LONGEST_WINDOW_NS);
    let mut show = Show::new(recording, config, first, step);
    show.begin();
    let mut now = first;
    while now < last {
        now = show.next_boundary(now).min(last);
        show.window(now);
    }
    let open =
        recording.processes.iter().flat_map(|process| &process.series).any(|series| series.open().is_some());
    if recording.never_finished && open {
        let mut told = 0;
        for _ in 0..WINDOWS_AFTER_END {
            now = now.saturating_add(LONGEST_WINDOW_NS);
            show.window(now);
            // Once somebody is said to hang nothing new can come, but the evidence may yet grow.
            told += u32::from(show.hangs());
            if told > WINDOWS_AFTER_VERDICT {
                break;
            }
        }
    }
    show.outcome.findings.sort_by(|a, b| (a.detected, &a.id).cmp(&(b.detected, &b.id)));
    show.outcome.jobs = show.detector.jobs();
    show.outcome.start = show.timestamp(first);
    show.outcome
}

struct Show<'a> {
    recording: &'a Recording,
    detector: Detector,
    players: Vec<Player<'a>>,
    /// An operation of each signature, to be filled in.
    completed: Vec<CompletedOperation>,
    /// Added to a time to make it positive on the detector's clock.
    shift_ns: i64,
    step: i64,
    first: i64,
    before: i64,
    outcome: Outcome,
    places: BTreeMap<FindingId, usize>,
}

struct Player<'a> {
    process: &'a Process,
    cursors: Vec<Cursor<'a>>,
    ended: bool,
}

struct Cursor<'a> {
    series: &'a Series,
    /// The recording's first moment: the aggregator wants times that are not negative.
    origin_ns: i64,
    entered: usize,
    started: usize,
    completed: usize,
    aggregator: Aggregator,
}

impl<'a> Show<'a> {
    fn new(recording: &'a Recording, config: Config, first: i64, step: i64) -> Self {
        let epoch_ns = recording.epoch_us.unwrap_or(0).saturating_mul(1_000);
        let shift_ns = if first.saturating_add(epoch_ns) >= 0 { epoch_ns } else { first.saturating_neg() };
        let ranks = u32::try_from(recording.processes.len()).unwrap_or(u32::MAX);
        let players = recording
            .processes
            .iter()
            .map(|process| Player {
                process,
                cursors: process.series.iter().map(|series| Cursor::new(series, first, ranks)).collect(),
                ended: false,
            })
            .collect();
        let completed = recording
            .signatures
            .iter()
            .map(|signature| CompletedOperation {
                sequence: 0,
                signature: signature.clone(),
                start_ns: 0,
                end_ns: 0,
                bytes: 0,
            })
            .collect();
        Self {
            recording,
            detector: Detector::new(config),
            players,
            completed,
            shift_ns,
            step,
            first,
            before: first,
            outcome: Outcome::default(),
            places: BTreeMap::new(),
        }
    }

    fn timestamp(&self, ns: i64) -> Timestamp {
        Timestamp(nanos(ns.saturating_add(self.shift_ns), 0) / 1_000)
    }

    fn observe(&mut self, observation: Observation, now_ns: i64) {
        let now = self.timestamp(now_ns);
        for finding in self.detector.observe(observation, now) {
            match self.places.get(&finding.id) {
                Some(place) => self.outcome.findings[*place] = finding,
                None => {
                    self.places.insert(finding.id.clone(), self.outcome.findings.len());
                    self.outcome.findings.push(finding);
                }
            }
        }
    }

    fn begin(&mut self) {
        let recording = self.recording;
        let first = self.before;
        let mut nodes: Vec<_> = recording.processes.iter().map(|process| &process.info.node).collect();
        nodes.sort();
        nodes.dedup();
        for node in nodes {
            self.observe(Observation::NodeSeen { node: node.clone(), nic_class: None }, first);
        }
        for process in &recording.processes {
            self.observe(Observation::ProcessStarted(process.info.clone()), first);
        }
        for process in &recording.processes {
            for series in &process.series {
                let comm = &recording.comms[series.comm];
                let membership = Membership {
                    process: process.info.process,
                    comm: comm.id,
                    name: comm.name.clone(),
                    size: comm.size,
                    comm_rank: series.comm_rank,
                };
                self.observe(Observation::CommunicatorJoined(membership), first);
            }
        }
    }

    /// The end of the window after `now`; a silence of the whole job that is too long to show is jumped over.
    fn next_boundary(&self, now: i64) -> i64 {
        let next = now.saturating_add(self.step);
        let cursors = self.players.iter().flat_map(|player| &player.cursors);
        let event = cursors.filter_map(Cursor::next_event).min();
        let shown = self.step.saturating_mul(LONGEST_SILENCE_WINDOWS);
        let silent = self.silent_for(now) > shown;
        match event {
            Some(event) if silent && event.saturating_sub(now) > shown => event,
            // What may still come is no collective, and no window shows it: to the end.
            None if silent => i64::MAX,
            _ => next,
        }
    }

    fn hangs(&self) -> bool {
        let standing = |finding: &Finding| {
            finding.cleared.is_none()
                && matches!(finding.kind, Kind::NonCommHang | Kind::CommHang | Kind::Desync)
        };
        self.outcome.findings.iter().any(standing)
    }

    fn silent_for(&self, now: i64) -> i64 {
        let last =
            self.players.iter().flat_map(|player| &player.cursors).filter_map(Cursor::last_event).max();
        now.saturating_sub(last.unwrap_or(self.first))
    }

    fn window(&mut self, now: i64) {
        let duration_us = u64::try_from((now - self.before) / 1_000).unwrap_or(0);
        let recording = self.recording;
        let mut observations = Vec::new();
        for player in &mut self.players {
            if player.ended {
                continue;
            }
            observations.push(Observation::Window(player.window(
                recording,
                &mut self.completed,
                now,
                duration_us,
            )));
            if let Some((at, finalized)) = player.process.ended
                && at <= now
            {
                player.ended = true;
                observations.push(Observation::ProcessEnded(ProcessEnd {
                    found: false,
                    process: player.process.info.process,
                    ago_us: micros(now, at),
                    finalized,
                    exit_code: None,
                    signal: None,
                }));
            }
        }
        observations.push(Observation::Tick);
        for observation in observations {
            self.observe(observation, now);
        }
        self.before = now;
    }
}

impl Player<'_> {
    fn window(
        &mut self,
        recording: &Recording,
        completed: &mut [CompletedOperation],
        now: i64,
        duration_us: u64,
    ) -> Window {
        let last_record =
            self.cursors.iter().filter_map(|c| c.series.operations.last()).map(Operation::last_ns).max();
        let at_rest = last_record.is_none_or(|last| last <= now);
        let mut broken_off = false;
        let mut comms = Vec::new();
        for cursor in &mut self.cursors {
            cursor.advance(recording, completed, now);
            let over = cursor.completed == cursor.series.operations.len();
            broken_off |= cursor.series.breaks_off && over;
            let window = cursor.window(recording, now, at_rest);
            // As an agent: one last window tells of the last operations, then the communicator is no longer there.
            if !(cursor.series.finalized && over && window.blocks.is_empty() && window.iterations.is_empty())
            {
                comms.push(window);
            }
        }
        Window {
            process: self.process.info.process,
            duration_us,
            state: ProcessState::Unknown,
            kernel_events: self.process.kernel_events,
            profiling: self.process.profiling && !broken_off,
            dropped: self.process.dropped,
            unread: 0,
            own: None,
            comms,
        }
    }
}

impl<'a> Cursor<'a> {
    fn new(series: &'a Series, origin_ns: i64, ranks: u32) -> Self {
        let aggregator = Aggregator::in_job_of(Some(ranks));
        Self { series, origin_ns, entered: 0, started: 0, completed: 0, aggregator }
    }

    fn next_event(&self) -> Option<i64> {
        let operations = &self.series.operations;
        let enqueued = operations.get(self.entered).map(|operation| operation.enqueued_ns);
        let started = operations.get(self.started).and_then(|operation| operation.started_ns);
        let ended = operations.get(self.completed).and_then(|operation| operation.ended_ns);
        [enqueued, started, ended].into_iter().flatten().min()
    }

    fn last_event(&self) -> Option<i64> {
        let operations = &self.series.operations;
        let entered = self.entered.checked_sub(1).map(|index| operations[index].enqueued_ns);
        let started = self.started.checked_sub(1).and_then(|index| operations[index].started_ns);
        let ended = self.completed.checked_sub(1).and_then(|index| operations[index].ended_ns);
        [entered, started, ended].into_iter().flatten().max()
    }

    fn advance(&mut self, recording: &Recording, completed: &mut [CompletedOperation], now: i64) {
        let operations = &self.series.operations;
        while operations.get(self.entered).is_some_and(|operation| operation.enqueued_ns <= now) {
            self.entered += 1;
        }
        let started = |operation: &Operation| operation.started_ns.is_some_and(|ns| ns <= now);
        while self.started < self.entered && started(&operations[self.started]) {
            self.started += 1;
        }
        while self.completed < self.entered {
            let operation = &operations[self.completed];
            let Some(end) = operation.ended_ns.filter(|end| *end <= now) else { break };
            self.completed += 1;
            self.started = self.started.max(self.completed);
            if recording.waits_unknown {
                continue;
            }
            // One for each signature is made once: millions of operations have the same few.
            let Some(completed) = completed.get_mut(operation.signature as usize) else { continue };
            completed.sequence = operation.sequence;
            completed.start_ns = nanos(operation.entered_ns(), self.origin_ns);
            completed.end_ns = nanos(end, self.origin_ns);
            completed.bytes = operation.bytes;
            self.aggregator.push(completed);
        }
    }

    fn window(&mut self, recording: &Recording, now: i64, at_rest: bool) -> CommWindow {
        let (blocks, iterations) = self.aggregator.take();
        let series = self.series;
        let position = |count: usize| match count.checked_sub(1) {
            Some(index) => series.operations[index].sequence.saturating_add(1),
            None => series.base,
        };
        let oldest = series.operations[..self.entered].get(self.completed);
        let in_flight = oldest.map(|operation| {
            let started_ns = operation.started_ns.filter(|started| *started <= now);
            InFlight {
                sequence: operation.sequence,
                signature: recording.signatures[operation.signature as usize].clone(),
                started: started_ns.is_some(),
                age_us: micros(now, operation.enqueued_ns),
                started_age_us: started_ns.map_or(0, |started| micros(now, started)),
                before: self.aggregator.before(operation.sequence).map(Box::new),
            }
        });
        let idle_us = match (in_flight.is_some(), self.last_event()) {
            (false, Some(last)) => micros(now, last),
            _ => 0,
        };
        let edges = if at_rest && in_flight.is_some() { edges(series, now) } else { Vec::new() };
        CommWindow {
            pending_peers: Vec::new(),
            links: Vec::new(),
            comm: recording.comms[series.comm].id,
            enqueued: position(self.entered),
            started: position(self.started),
            completed: position(self.completed),
            in_flight,
            idle_us,
            unseen_us: 0,
            blocks,
            edges,
            iterations,
        }
    }
}

fn edges(series: &Series, now: i64) -> Vec<Edge> {
    let known = series.edges.iter().filter(|edge| edge.since_ns <= now);
    known
        .map(|edge| Edge {
            peer: edge.peer,
            channel: edge.channel,
            is_send: edge.is_send,
            state: edge.state,
            state_age_us: micros(now, edge.since_ns),
            steps_done: edge.steps_done,
            bytes: edge.bytes,
        })
        .collect()
}

fn micros(later: i64, earlier: i64) -> u64 {
    nanos(later, earlier) / 1_000
}

fn nanos(later: i64, earlier: i64) -> u64 {
    u64::try_from(later.saturating_sub(earlier)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
