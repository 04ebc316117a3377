//! The reading side. Nothing that is read is trusted: sizes, versions, counts, states, positions and texts are checked, and what
//! is wrong comes back as an error that says where and what was expected. A record that is being written is read again;
//! one that stays torn (its writer died inside it) is listed as unreadable, by name.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

mod blind_spots;
mod bytes;
mod decode;
mod error;
mod progress;
mod source;

pub use error::ReadError;

use crate::clock::{Calibration, TickSource, monotonic_now_ns};
use crate::layout::{self, Header, Live};
use crate::lock;
use crate::snapshot::{
    Communicator, Connection, Identity, Losses, Operation, Snapshot, StepState, Unreadable,
};
use bytes::Record;
use decode::{RawConnection, RawHeader, RawLive, RawOperation};
use progress::{Context, GpuClocks, Order};
use source::Source;

/// Whether the writer of a recorder lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its lock is held.
    Alive,
    /// Its lock is gone, and so is it.
    Dead,
}

/// What changed since a cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Poll {
    /// Whether the event mask is set.
    pub profiling: bool,
    /// The event mask in force.
    pub event_mask: u32,
    /// All communicators.
    pub communicators: Vec<Communicator>,
    /// All connections.
    pub connections: Vec<Connection>,
    /// Operations from the cursor on that are complete; those that this reader saw open before and that have completed
    /// since; and all that are open. So each is told as complete once.
    pub operations: Vec<Operation>,
    /// Cursor for the next poll.
    pub next_cursor: u64,
    /// Operations from the cursor on that were overwritten before they could be read.
    pub overwritten: u64,
    /// What the plugin lost, since the process started.
    pub losses: Losses,
    /// Records that could not be read in one piece this time.
    pub unreadable: Vec<Unreadable>,
}

/// An open recorder.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    header: RawHeader,
    /// The same clock as the writer's, if this is the same boot of the same machine.
    ticks: Option<TickSource>,
    names: Vec<String>,
    /// Operations that were open (or not yet published) at the last poll.
    pending: BTreeSet<u64>,
    gpu: GpuClocks,
}

impl Reader {
    /// Opens a recorder and validates what never changes.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let source = Source::open(path)?;
        let header = read_header(&source)?;
        let here = crate::writer::boot_id().is_some_and(|boot| boot == header.boot_id);
        let ticks = if here { TickSource::of_kind(header.clock_kind) } else { None };
        let (names, pending) = (Vec::new(), BTreeSet::new());
        Ok(Self { source, header, ticks, names, pending, gpu: GpuClocks::default() })
    }

    /// Whether the writer lives. Needs no /proc and works across PID namespaces. A process that asks about a recorder of its own
    /// gets `Dead`: the kernel shows nobody their own locks.
    pub fn liveness(&self) -> Result<Liveness, ReadError> {
        match self.lock_holder()? {
            Some(_) => Ok(Liveness::Alive),
            None => Ok(Liveness::Dead),
        }
    }

    /// The process that writes it, as the kernel tells; `None` if it is dead or not in sight.
    pub fn holder(&self) -> Result<Option<u32>, ReadError> {
        Ok(self.lock_holder()?.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0))
    }

    fn lock_holder(&self) -> Result<Option<libc::pid_t>, ReadError> {
        lock::holder(&self.source.file).map_err(|error| self.source.io("test the lock of", error))
    }

    /// The user whose file it is.
    pub fn owner(&self) -> Result<u32, ReadError> {
        let metadata = self.source.file.metadata();
        metadata.map(|file| file.uid()).map_err(|error| self.source.io("stat", error))
    }

    /// Everything.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        self.source.check_size()?;
        if read_header(&self.source)? != self.header {
            return Err(ReadError::Overwritten);
        }
        let mut unreadable = Vec::new();
        let live = self.live()?;
        let mut communicators = self.communicators(&live, &mut unreadable)?;
        let kept = live.operations.min(layout::OPERATIONS as u64);
        let raws = self.operations(live.operations - kept..live.operations, &mut unreadable)?;
        let names = self.read_names()?;
        let clock = self.calibration(&live);
        let mut gpu = GpuClocks::default();
        gpu.learn(&raws, &clock);
        gpu.doubt(&raws, &clock);
        let taken_ns = monotonic_now_ns();
        let kernel_events = live.has_kernel_events();
        let context = Context { clock, gpu: &gpu, names: &names, now_ns: taken_ns, kernel_events };
        let order = Order::new(&communicators, &raws, &context);
        order.correct(&mut communicators, &raws, &context);
        let mut operations: Vec<_> = raws.iter().map(|raw| order.operation(raw, &context)).collect();
        operations.sort_by_key(|operation| operation.index);
        Ok(Snapshot {
            identity: self.identity(&live, &clock),
            taken_ns,
            profiling: live.profiling,
            event_mask: live.event_mask,
            communicators,
            operations,
            connections: self.connections(&live, &clock, &mut unreadable)?,
            losses: live.losses,
            unreadable,
        })
    }

    /// What changed since `cursor`, which is 0 or the last poll's `next_cursor`. Costs a dozen system calls and some
    /// microseconds, whatever the size of the tables.
    pub fn poll(&mut self, cursor: u64) -> Result<Poll, ReadError> {
        self.source.check_size()?;
        let mut unreadable = Vec::new();
        let live = self.live()?;
        let mut communicators = self.communicators(&live, &mut unreadable)?;
        let clock = self.calibration(&live);
        let head = live.operations;
        let oldest = head.saturating_sub(layout::OPERATIONS as u64);
        let start = cursor.clamp(oldest, head);
        let mut overwritten = oldest.saturating_sub(cursor);
        let mut wanted: BTreeSet<u64> = self.pending.range(oldest..start).copied().collect();
        wanted.extend(start..head);
        let mut raws = Vec::new();
        for range in runs(&wanted) {
            raws.extend(self.operations(range, &mut unreadable)?);
        }
        if self.names.len() != live.names.max(1) {
            self.names = self.read_names()?;
        }
        let now_ns = monotonic_now_ns();
        self.gpu.learn(&raws, &clock);
        self.gpu.doubt(&raws, &clock);
        self.gpu.forget(now_ns, &communicators);
        let kernel_events = live.has_kernel_events();
        let context = Context { clock, gpu: &self.gpu, names: &self.names, now_ns, kernel_events };
        let order = Order::new(&communicators, &raws, &context);
        order.correct(&mut communicators, &raws, &context);
        let mut operations = Vec::with_capacity(raws.len());
        let mut pending = wanted;
        for raw in &raws {
            if !pending.contains(&raw.index) {
                continue;
            }
            let operation = order.operation(raw, &context);
            if operation.completed_ns.is_some() {
                pending.remove(&raw.index);
            }
            operations.push(operation);
        }
        operations.sort_by_key(|operation| operation.index);
        // What is neither read nor in its slot any more is gone.
        let now_oldest = self.live()?.operations.saturating_sub(layout::OPERATIONS as u64);
        let gone = pending.range(..now_oldest).filter(|index| **index >= start).count() as u64;
        overwritten += gone;
        self.pending = pending.split_off(&now_oldest);
        let connections = self.connections(&live, &clock, &mut unreadable)?;
        Ok(Poll {
            profiling: live.profiling,
            event_mask: live.event_mask,
            communicators,
            connections,
            operations,
            next_cursor: head,
            overwritten,
            losses: live.losses,
            unreadable,
        })
    }

    /// Asks the plugin to time the network steps of every operation until `until_ns` (CLOCK_MONOTONIC, at most ten minutes
    /// ahead; 0 takes the request back). The only thing that is ever written to a recorder from outside.
    pub fn request_all_steps(&self, until_ns: u64) -> Result<(), ReadError> {
        let file = File::options()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.source.path)
            .map_err(|error| self.source.io("open for the request", error))?;
        let same = |file: &File| file.metadata().map(|data| (data.dev(), data.ino())).ok();
        if same(&file) != same(&self.source.file) {
            return Err(ReadError::Overwritten);
        }
        self.source.check_size()?;
        file.write_all_at(&until_ns.to_le_bytes(), layout::REQUEST_AT as u64)
            .map_err(|error| self.source.io("write the request into", error))
    }

    fn live(&self) -> Result<RawLive, ReadError> {
        let bytes = self.source.read(layout::LIVE_AT, size_of::<Live>())?;
        decode::live(Record { table: "live", slot: 0, offset: layout::LIVE_AT, bytes: &bytes })
    }

    /// The rate is measured here and now where the same clock runs; the writer's own serves elsewhere.
    fn calibration(&self, live: &RawLive) -> Calibration {
        let base = (self.header.base_ticks, self.header.base_ns);
        let measured = self.ticks.and_then(|ticks| Calibration::rate(base, ticks.pair()));
        // Both rates are good to 100 ppm; if they differ by more than a hundredth, the base is not what it says.
        let agrees = |rate: &u64| rate.abs_diff(live.ns_per_tick) < live.ns_per_tick / 100;
        let ns_per_tick = measured.filter(agrees).unwrap_or(live.ns_per_tick);
        Calibration { base_ticks: base.0, base_ns: base.1, ns_per_tick }
    }

    fn identity(&self, live: &RawLive, clock: &Calibration) -> Identity {
        let header = &self.header;
        Identity {
            cookie: header.cookie,
            pid: header.pid,
            start_ticks: header.start_ticks,
            host_id: header.host_id.clone(),
            nccl_version: blind_spots::nccl_version(live.nccl_version, live.api),
            profiler_api: live.api,
            gpu: header.gpu,
            gpu_address: header.gpu_address,
            created_ns: clock.ns(header.base_ticks),
            labels: header.labels.clone(),
            blind_spots: blind_spots::of(live.api, live.event_mask),
        }
    }

    fn read_names(&self) -> Result<Vec<String>, ReadError> {
        // The table is read after the operations that refer to it, and with its length of now.
        let used = self.live()?.names;
        decode::names(&self.source.read(layout::NAMES_AT, layout::NAMES * layout::NAME_BYTES)?, used)
    }

    fn communicators(
        &self,
        live: &RawLive,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Vec<Communicator>, ReadError> {
        let mut communicators = Vec::new();
        self.source.records(&decode::COMMUNICATORS, 0..live.communicators, unreadable, |record| {
            communicators.extend(decode::communicator(record)?);
            Ok(())
        })?;
        Ok(communicators)
    }

    fn operations(
        &self,
        range: Range<u64>,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Vec<RawOperation>, ReadError> {
        let mut operations = Vec::new();
        for slots in ring_slots(range) {
            self.source.records(&decode::OPERATIONS, slots, unreadable, |record| {
                operations.extend(decode::operation(record)?);
                Ok(())
            })?;
        }
        Ok(operations)
    }

    fn connections(
        &self,
        live: &RawLive,
        clock: &Calibration,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Vec<Connection>, ReadError> {
        let mut connections = Vec::new();
        self.source.records(&decode::CONNECTIONS, 0..live.connections, unreadable, |record| {
            connections.extend(decode::connection(record)?.map(|raw| connection(&raw, clock)));
            Ok(())
        })?;
        Ok(connections)
    }
}

fn read_header(source: &Source) -> Result<RawHeader, ReadError> {
    let all = source.read(layout::HEADER_AT, layout::CHECKED_TO)?;
    let bytes = all.get(..size_of::<Header>()).unwrap_or_default();
    let record = Record { table: "header", slot: 0, offset: layout::HEADER_AT, bytes };
    let checked = all.get(layout::CHECKED_FROM..).unwrap_or_default();
    decode::header(record, checked, all.get(layout::LABELS_AT..).unwrap_or_default())
}

/// Slots of consecutive operations: one range, or two round the end of the ring.
fn ring_slots(range: Range<u64>) -> impl Iterator<Item = Range<usize>> {
    let ring = layout::OPERATIONS;
    let length = (range.end.saturating_sub(range.start)).min(ring as u64) as usize;
    let start = (range.start % ring as u64) as usize;
    let first = length.min(ring - start);
    [start..start + first, 0..length - first].into_iter().filter(|slots| !slots.is_empty())
}

/// Runs of consecutive numbers; short gaps are bridged, since reading is cheaper than asking twice.
fn runs(numbers: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some(run) if number - run.end < 16 => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

fn connection(raw: &RawConnection, clock: &Calibration) -> Connection {
    let [_, send_gpu, send_peer, send, recv, flush, recv_gpu] = raw.waits.map(|ticks| clock.span_ns(ticks));
    let (state, since) = raw.oldest.map_or((StepState::Idle, 0), |(state, since)| (step_state(state), since));
    Connection {
        comm_slot: raw.comm_slot,
        comm_generation: raw.comm_generation,
        peer: raw.peer,
        channel: u32::from(raw.channel),
        is_send: raw.is_send,
        bytes: raw.bytes,
        steps_done: raw.steps_done,
        operations_started: raw.operations_started,
        operations_done: raw.operations_done,
        state,
        state_since_ns: clock.ns(since),
        timed_steps: raw.timed_steps,
        timed_bytes: raw.timed_bytes,
        gpu_wait_ns: send_gpu.saturating_add(recv_gpu),
        peer_wait_ns: send_peer,
        network_wait_ns: send.saturating_add(recv),
        flush_wait_ns: flush,
    }
}

fn step_state(state: u8) -> StepState {
    use layout::step_state;
    match state {
        step_state::SEND_GPU_WAIT => StepState::SendGpuWait,
        step_state::SEND_PEER_WAIT => StepState::SendPeerWait,
        step_state::SEND_WAIT => StepState::SendWait,
        step_state::RECV_WAIT => StepState::RecvWait,
        step_state::RECV_FLUSH_WAIT => StepState::RecvFlushWait,
        step_state::RECV_GPU_WAIT => StepState::RecvGpuWait,
        _ => StepState::Idle,
    }
}
