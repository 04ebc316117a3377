//! From the copied bytes of a record to values, each field validated.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::offset_of;
use std::ops::RangeInclusive;

use super::ReadError;
use super::blind_spots::KERNEL_CH;
use super::bytes::Record;
use super::source::Table;
use crate::GpuAddress;
use crate::layout::{
    self, Communicator, Connection, Header, Live, NAME_BYTES, NAMES, Operation, RANKS, communicator_state,
    operation_flag, operation_kind, step_state,
};
use crate::snapshot::{Losses, OperationKind};

pub(super) const COMMUNICATORS: Table = Table {
    name: "communicators",
    at: layout::COMMUNICATORS_AT,
    stride: size_of::<Communicator>(),
    whole: offset_of!(Communicator, enqueued),
    versions: &[offset_of!(Communicator, version)],
};

pub(super) const OPERATIONS: Table = Table {
    name: "operations",
    at: layout::OPERATIONS_AT,
    stride: size_of::<Operation>(),
    whole: size_of::<Operation>(),
    versions: &[offset_of!(Operation, kernel_version), offset_of!(Operation, proxy_version)],
};

pub(super) const CONNECTIONS: Table = Table {
    name: "connections",
    at: layout::CONNECTIONS_AT,
    stride: size_of::<Connection>(),
    whole: size_of::<Connection>(),
    versions: &[offset_of!(Connection, version)],
};

/// Counters beyond this are garbage: at a million a second it takes a century.
const COUNTS: RangeInclusive<u64> = 0..=(1 << 52);

/// A number that people compare bit by bit. (What was expected is written out only where something is wrong: nothing is
/// formatted for records in order.)
struct Hex(u64);

impl fmt::Display for Hex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#018x}", self.0)
    }
}

/// The static part, without the labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RawHeader {
    pub checksum: u64,
    pub cookie: u64,
    pub pid: u32,
    pub start_ticks: u64,
    pub clock_kind: u32,
    pub gpu: Option<u32>,
    pub gpu_address: Option<GpuAddress>,
    pub base_ticks: u64,
    pub base_ns: u64,
    pub boot_id: [u8; 16],
    pub host_id: String,
    pub labels: BTreeMap<String, String>,
}

pub(super) fn header(record: Record<'_>, checked: &[u8], labels: &[u8]) -> Result<RawHeader, ReadError> {
    let at = offset_of!(Header, magic);
    let magic = record.u64(at);
    let hex = |value: u64| Hex(value);
    record.demand(magic == layout::MAGIC, "magic", at, hex(layout::MAGIC), hex(magic))?;
    let (at, version) = (offset_of!(Header, version), record.u32(offset_of!(Header, version)));
    record.demand(version == layout::VERSION, "version", at, layout::VERSION, version)?;
    let at = offset_of!(Header, checksum);
    let (checksum, actual) = (record.u64(at), layout::checksum(checked));
    record.demand(checksum == actual, "checksum", at, hex(actual), hex(checksum))?;
    let (at, bytes) = (offset_of!(Header, file_bytes), record.u64(offset_of!(Header, file_bytes)));
    record.demand(bytes == layout::FILE_BYTES as u64, "file_bytes", at, layout::FILE_BYTES, bytes)?;
    let (at, kind) = (offset_of!(Header, clock_kind), record.u32(offset_of!(Header, clock_kind)));
    record.demand(kind <= layout::clock_kind::CNTVCT, "clock_kind", at, "0, 1 or 2", kind)?;
    let (at, cookie) = (offset_of!(Header, cookie), record.u64(offset_of!(Header, cookie)));
    record.demand(cookie != 0, "cookie", at, "not 0", cookie)?;
    let (at, used) = (offset_of!(Header, label_bytes), record.u32(offset_of!(Header, label_bytes)) as usize);
    record.demand(used <= labels.len(), "label_bytes", at, format_args!("at most {}", labels.len()), used)?;
    let gpu = record.u32(offset_of!(Header, gpu));
    Ok(RawHeader {
        checksum,
        cookie,
        pid: record.u32(offset_of!(Header, pid)),
        start_ticks: record.u64(offset_of!(Header, start_ticks)),
        clock_kind: kind,
        gpu: (gpu != u32::MAX).then_some(gpu),
        gpu_address: GpuAddress::from_bits(record.u32(offset_of!(Header, gpu_address))),
        base_ticks: record.u64(offset_of!(Header, base_ticks)),
        base_ns: record.u64(offset_of!(Header, base_ns)),
        boot_id: record.raw(offset_of!(Header, boot_id), 16).try_into().unwrap_or_default(),
        host_id: record.text("host_id", offset_of!(Header, host_id), 64)?.to_owned(),
        labels: decode_labels(labels.get(..used).unwrap_or_default())?,
    })
}

fn decode_labels(bytes: &[u8]) -> Result<BTreeMap<String, String>, ReadError> {
    let mut labels = BTreeMap::new();
    let mut at = 0;
    for (number, label) in bytes.split_inclusive(|&byte| byte == 0).enumerate() {
        let record = Record { table: "labels", slot: number, offset: layout::LABELS_AT + at, bytes: label };
        let expected = "KEY=value in UTF-8 and a NUL";
        let wrong = || record.wrong("text", 0, expected, label.escape_ascii());
        let text = std::str::from_utf8(label).map_err(|_| wrong())?;
        let (key, value) = text.strip_suffix('\0').and_then(|text| text.split_once('=')).ok_or_else(wrong)?;
        labels.insert(key.to_owned(), value.to_owned());
        at += label.len();
    }
    Ok(labels)
}

/// The words about the whole process.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawLive {
    pub api: u32,
    pub event_mask: u32,
    pub profiling: bool,
    pub nccl_version: u32,
    pub ns_per_tick: u64,
    pub names: usize,
    pub communicators: usize,
    pub connections: usize,
    pub operations: u64,
    pub losses: Losses,
}

impl RawLive {
    pub(super) fn has_kernel_events(&self) -> bool {
        self.event_mask & KERNEL_CH != 0
    }
}

pub(super) fn live(record: Record<'_>) -> Result<RawLive, ReadError> {
    let limited = |field: &'static str, at, limit: u64| {
        let value = u64::from(record.u32(at));
        record
            .demand(value <= limit, field, at, format_args!("at most {limit}"), value)
            .map(|()| value as u32)
    };
    let counted = |field: &'static str, at| {
        let value = record.u64(at);
        record.demand(COUNTS.contains(&value), field, at, format_args!("at most {}", COUNTS.end()), value)?;
        Ok::<_, ReadError>(value)
    };
    let at = offset_of!(Live, ns_per_tick);
    let rates = crate::clock::Calibration::RATES;
    let rate = record.u64(at);
    let fits = rates.contains(&rate);
    record.demand(fits, "ns_per_tick", at, format_args!("{} to {}", rates.start(), rates.end()), rate)?;
    Ok(RawLive {
        api: limited("api", offset_of!(Live, api), 7)?,
        event_mask: record.u32(offset_of!(Live, event_mask)),
        profiling: limited("profiling", offset_of!(Live, profiling), 1)? == 1,
        nccl_version: limited("nccl_version", offset_of!(Live, nccl_version), 9_999_999)?,
        ns_per_tick: record.u64(at),
        names: limited("names", offset_of!(Live, names), NAMES as u64)? as usize,
        communicators: limited(
            "communicators",
            offset_of!(Live, communicators),
            layout::COMMUNICATORS as u64,
        )? as usize,
        connections: limited("connections", offset_of!(Live, connections), layout::CONNECTIONS as u64)?
            as usize,
        operations: counted("operations", offset_of!(Live, operations))?,
        losses: Losses {
            operations: counted("lost_operations", offset_of!(Live, lost_operations))?,
            communicators: counted("lost_communicators", offset_of!(Live, lost_communicators))?,
            connections: counted("lost_connections", offset_of!(Live, lost_connections))?,
            stale_handles: counted("stale_handles", offset_of!(Live, stale_handles))?,
            unknown_events: counted("unknown_events", offset_of!(Live, unknown_events))?,
            foreign_events: counted("foreign_events", offset_of!(Live, foreign_events))?,
        },
    })
}

pub(super) fn names(bytes: &[u8], used: usize) -> Result<Vec<String>, ReadError> {
    let mut names = vec![String::new()];
    for (slot, bytes) in bytes.chunks_exact(NAME_BYTES).enumerate().take(used).skip(1) {
        let record = Record { table: "names", slot, offset: layout::NAMES_AT + slot * NAME_BYTES, bytes };
        names.push(record.text("text", 0, NAME_BYTES)?.to_owned());
    }
    Ok(names)
}

pub(super) fn communicator(record: Record<'_>) -> Result<Option<crate::snapshot::Communicator>, ReadError> {
    let (at, state) = (offset_of!(Communicator, state), record.u32(offset_of!(Communicator, state)));
    record.demand(state <= communicator_state::FINALIZED, "state", at, "0, 1 or 2", state)?;
    if state == communicator_state::FREE {
        return Ok(None);
    }
    let count = |field: &'static str, at| {
        let value = record.u64(at);
        record
            .demand(COUNTS.contains(&value), field, at, format_args!("at most {}", COUNTS.end()), value)
            .map(|()| value)
    };
    let (at, size) = (offset_of!(Communicator, size), record.u32(offset_of!(Communicator, size)));
    record.demand(size <= RANKS, "size", at, format_args!("at most {RANKS}"), size)?;
    let (at, rank) = (offset_of!(Communicator, rank), record.u32(offset_of!(Communicator, rank)));
    // Old interfaces do not tell the size: it is 0 then.
    let limit = if size == 0 { RANKS } else { size };
    record.demand(rank < limit, "rank", at, format_args!("less than its size, {limit}"), rank)?;
    let completed = count("completed", offset_of!(Communicator, completed))?;
    let started = count("started", offset_of!(Communicator, started))?.max(completed);
    let unseen = count("p2p_unobservable", offset_of!(Communicator, p2p_unobservable))?;
    let p2p_completed = unseen + count("p2p_completed", offset_of!(Communicator, p2p_completed))?;
    let p2p_started = unseen + count("p2p_started", offset_of!(Communicator, p2p_started))?;
    let p2p_started = p2p_started.max(p2p_completed);
    Ok(Some(crate::snapshot::Communicator {
        slot: record.slot as u32,
        generation: record.u32(offset_of!(Communicator, generation)),
        id: record.u64(offset_of!(Communicator, id)),
        name: record.text("name", offset_of!(Communicator, name), 64)?.to_owned(),
        size,
        rank,
        nodes: record.u32(offset_of!(Communicator, nodes)),
        finalized: state == communicator_state::FINALIZED,
        observable: count("observed", offset_of!(Communicator, observed))? != 0,
        // The words are read one after the other while they grow: none may seem behind one that follows it.
        enqueued: count("enqueued", offset_of!(Communicator, enqueued))?.max(started),
        started,
        completed,
        p2p_enqueued: count("p2p_enqueued", offset_of!(Communicator, p2p_enqueued))?.max(p2p_started),
        p2p_started,
        p2p_completed,
    }))
}

/// An operation as it was recorded, before it is known what that means.
#[derive(Clone, Debug)]
pub(super) struct RawOperation {
    pub index: u64,
    pub comm_slot: u32,
    pub comm_generation: u32,
    pub kind: OperationKind,
    pub function: u8,
    pub datatype: u8,
    pub algorithm: u8,
    pub protocol: u8,
    pub flags: u8,
    pub channels: u16,
    pub sequence: u64,
    pub count: u64,
    pub bytes: u64,
    pub root_or_peer: u32,
    pub peer_number: u32,
    pub enqueued: u64,
    pub kernel_started: u64,
    pub gpu_start: u64,
    pub gpu_stop: u64,
    pub host_start: u64,
    pub host_stop: u64,
    pub proxy_started: u32,
    pub proxy_stopped: u32,
    pub proxy_first: u64,
    pub proxy_last: u64,
}

pub(super) fn operation(record: Record<'_>) -> Result<Option<RawOperation>, ReadError> {
    let (at, number) = (offset_of!(Operation, number), record.u64(offset_of!(Operation, number)));
    let Some(index) = number.checked_sub(1) else { return Ok(None) };
    let home = (index % layout::OPERATIONS as u64) as usize;
    record.demand(
        COUNTS.contains(&number),
        "number",
        at,
        format_args!("at most {}", COUNTS.end()),
        number,
    )?;
    record.demand(home == record.slot, "number", at, "one that belongs into this slot", number)?;
    let (at, kind) = (offset_of!(Operation, kind), record.u8(offset_of!(Operation, kind)));
    let kind = match kind {
        operation_kind::COLLECTIVE => OperationKind::Collective,
        operation_kind::SEND => OperationKind::Send,
        operation_kind::RECEIVE => OperationKind::Receive,
        other => return Err(record.wrong("kind", at, "1, 2 or 3", other)),
    };
    let name = |field: &'static str, at| {
        let value = record.u8(at);
        record
            .demand(usize::from(value) < NAMES, field, at, format_args!("less than {NAMES}"), value)
            .map(|()| value)
    };
    let (at, slot) = (offset_of!(Operation, comm_slot), record.u32(offset_of!(Operation, comm_slot)));
    let limit = layout::COMMUNICATORS as u32;
    record.demand(slot < limit, "comm_slot", at, format_args!("less than {limit}"), slot)?;
    let (at, flags) = (offset_of!(Operation, flags), record.u8(offset_of!(Operation, flags)));
    let known = operation_flag::GRAPH_CAPTURED
        | operation_flag::KERNEL_EVENTS
        | operation_flag::CHANNELS_UNKNOWN
        | operation_flag::UNOBSERVABLE;
    record.demand(
        flags & !known == 0,
        "flags",
        at,
        format_args!("bits of {known:#x}"),
        format_args!("{flags:#x}"),
    )?;
    let (at, channels) = (offset_of!(Operation, channels), record.u16(offset_of!(Operation, channels)));
    record.demand(channels <= 255, "channels", at, "at most 255", channels)?;
    let (at, sequence) = (offset_of!(Operation, sequence), record.u64(offset_of!(Operation, sequence)));
    let is_count = COUNTS.contains(&sequence);
    record.demand(is_count, "sequence", at, format_args!("at most {}", COUNTS.end()), sequence)?;
    let (at, peer) = (offset_of!(Operation, root_or_peer), record.u32(offset_of!(Operation, root_or_peer)));
    let is_rank = kind == OperationKind::Collective || peer < RANKS;
    record.demand(is_rank, "root_or_peer", at, format_args!("less than {RANKS}"), peer)?;
    let kernel_started = record.u64(offset_of!(Operation, kernel_started));
    let (at, kernel_stopped) =
        (offset_of!(Operation, kernel_stopped), record.u64(offset_of!(Operation, kernel_stopped)));
    let fits = kernel_stopped & !kernel_started == 0;
    record.demand(fits, "kernel_stopped", at, Hex(kernel_started), Hex(kernel_stopped))?;
    Ok(Some(RawOperation {
        index,
        comm_slot: slot,
        comm_generation: record.u32(offset_of!(Operation, comm_generation)),
        kind,
        function: name("function", offset_of!(Operation, function))?,
        datatype: name("datatype", offset_of!(Operation, datatype))?,
        algorithm: name("algorithm", offset_of!(Operation, algorithm))?,
        protocol: name("protocol", offset_of!(Operation, protocol))?,
        flags,
        channels,
        sequence,
        // What a program calls NCCL with is its own affair.
        count: record.u64(offset_of!(Operation, count)).min(*COUNTS.end()),
        bytes: record.u64(offset_of!(Operation, bytes)).min(*COUNTS.end()),
        root_or_peer: peer,
        peer_number: record.u32(offset_of!(Operation, peer_number)),
        enqueued: record.u64(offset_of!(Operation, enqueued)),
        kernel_started,
        gpu_start: record.u64(offset_of!(Operation, gpu_start)),
        gpu_stop: record.u64(offset_of!(Operation, gpu_stop)),
        host_start: record.u64(offset_of!(Operation, host_start)),
        host_stop: record.u64(offset_of!(Operation, host_stop)),
        proxy_started: record.u32(offset_of!(Operation, proxy_started)),
        proxy_stopped: record.u32(offset_of!(Operation, proxy_stopped)),
        proxy_first: record.u64(offset_of!(Operation, proxy_first)),
        proxy_last: record.u64(offset_of!(Operation, proxy_last)),
    }))
}

/// A connection as it was recorded.
#[derive(Clone, Debug)]
pub(super) struct RawConnection {
    pub comm_slot: u32,
    pub comm_generation: u32,
    pub peer: u32,
    pub channel: u16,
    pub is_send: bool,
    pub operations_started: u64,
    pub operations_done: u64,
    pub steps_done: u64,
    pub bytes: u64,
    pub timed_bytes: u64,
    pub timed_steps: u64,
    /// Ticks by state, 1 to 7.
    pub waits: [u64; 7],
    /// Oldest open step: its state, and since when in ticks (0 if not timed).
    pub oldest: Option<(u8, u64)>,
}

pub(super) fn connection(record: Record<'_>) -> Result<Option<RawConnection>, ReadError> {
    let flag = |field: &'static str, at| {
        let value = record.u8(at);
        record.demand(value <= 1, field, at, "0 or 1", value).map(|()| value == 1)
    };
    if !flag("used", offset_of!(Connection, used))? {
        return Ok(None);
    }
    let (at, slot) = (offset_of!(Connection, comm_slot), record.u32(offset_of!(Connection, comm_slot)));
    let limit = layout::COMMUNICATORS as u32;
    record.demand(slot < limit, "comm_slot", at, format_args!("less than {limit}"), slot)?;
    let (at, channel) = (offset_of!(Connection, channel), record.u16(offset_of!(Connection, channel)));
    record.demand(channel <= 255, "channel", at, "at most 255", channel)?;
    let (at, peer) = (offset_of!(Connection, peer), record.u32(offset_of!(Connection, peer)));
    record.demand(peer < RANKS, "peer", at, format_args!("less than {RANKS}"), peer)?;
    let started = record.u64(offset_of!(Connection, operations_started));
    let (at, done) =
        (offset_of!(Connection, operations_done), record.u64(offset_of!(Connection, operations_done)));
    record.demand(done <= started, "operations_done", at, format_args!("at most {started}"), done)?;
    let steps = record.u64(offset_of!(Connection, steps_done));
    let (at, timed) = (offset_of!(Connection, timed_steps), record.u64(offset_of!(Connection, timed_steps)));
    record.demand(timed <= steps, "timed_steps", at, format_args!("at most {steps}"), timed)?;
    let is_send = flag("is_send", offset_of!(Connection, is_send))?;
    let mut waits = [0; 7];
    for (place, wait) in waits.iter_mut().enumerate() {
        *wait = record.u64(offset_of!(Connection, waits) + place * 8);
    }
    Ok(Some(RawConnection {
        comm_slot: slot,
        comm_generation: record.u32(offset_of!(Connection, comm_generation)),
        peer,
        channel,
        is_send,
        operations_started: started,
        operations_done: done,
        steps_done: steps,
        bytes: record.u64(offset_of!(Connection, bytes)),
        timed_bytes: record.u64(offset_of!(Connection, timed_bytes)),
        timed_steps: timed,
        waits,
        oldest: oldest_step(record)?,
    }))
}

/// The oldest step that has a state worth telling: by operation, then by number, both of which wrap.
fn oldest_step(record: Record<'_>) -> Result<Option<(u8, u64)>, ReadError> {
    let mut oldest: Option<(u64, u8, u64)> = None;
    for place in 0..layout::STEPS {
        let at = offset_of!(Connection, steps) + place * 8;
        let tag = record.u64(at);
        let (key, state) = (tag >> 8, tag as u8 & !step_state::TIMED);
        let well_formed = state <= step_state::RECV_GPU_WAIT && key >> 33 == 0;
        let placed = tag == 0 || (key & 7) as usize == place;
        let expected = "a key of this place and a state from 0 to 7";
        record.demand(well_formed && placed, "steps", at, expected, Hex(tag))?;
        if state <= step_state::BEGUN {
            continue;
        }
        // Distance on the circle of 33-bit keys: newer is ahead by less than half.
        let is_newer = |than: u64| (key.wrapping_sub(than) << 31) as i64 > 0;
        if oldest.is_none_or(|(than, ..)| key != than && !is_newer(than)) {
            let since = record.u64(offset_of!(Connection, since) + place * 8);
            oldest = Some((key, state, since));
        }
    }
    Ok(oldest.map(|(_, state, since)| (state, since)))
}
