//! The layout as a table, for people and for readers in other languages. The offsets are the compiler's; a test checks that the
//! fields tile their records without a gap and that `LAYOUT.md` is this table.

use std::fmt::Write;
use std::mem::offset_of;

use super::{
    COMMUNICATORS, COMMUNICATORS_AT, CONNECTIONS, CONNECTIONS_AT, Communicator, Connection, FILE_BYTES,
    HEADER_AT, Header, LABEL_BYTES, LABELS_AT, LIVE_AT, Live, NAME_BYTES, NAMES, NAMES_AT, OPERATIONS,
    OPERATIONS_AT, Operation, REQUEST_AT, Request, VERSION,
};

/// One field of a record.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Offset in the record.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
    /// What it says.
    pub meaning: &'static str,
}

/// A table of equal records.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Offset in the file.
    pub at: usize,
    /// Records.
    pub count: usize,
    /// Bytes of a record.
    pub stride: usize,
    /// Its fields, in order; none for plain text.
    pub fields: &'static [Field],
    /// What it is.
    pub meaning: &'static str,
}

const fn bytes_of<R, F>(_field: fn(&R) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! fields {
    ($record:ident: $($field:ident $meaning:literal),* $(,)?) => {
        &[$(Field {
            name: stringify!($field),
            offset: offset_of!($record, $field),
            bytes: bytes_of(|record: &$record| &record.$field),
            meaning: $meaning,
        }),*]
    };
}

const HEADER: &[Field] = fields!(Header:
    magic "\"C4FLIGHT\"",
    checksum "over the bytes from `version` to the end of the labels",
    version "of this layout",
    pid "process id in its own PID namespace",
    file_bytes "size of the file",
    cookie "random; also in the file's name",
    start_ticks "start of the process in clock ticks since boot, 0 if unknown",
    clock_kind "clock of all tick fields: 0 ns of CLOCK_MONOTONIC, 1 x86 TSC, 2 ARM CNTVCT",
    gpu "GPU index as the environment tells it, 2^32-1 if it does not",
    base_ticks "a moment in ticks",
    base_ns "the same moment in ns of CLOCK_MONOTONIC",
    boot_id "kernel's boot id",
    label_bytes "bytes of labels in use",
    gpu_address "PCI address of the GPU: domain (16 bits), bus (8), device (8); 0 if unknown",
    host_id "host name or NCCL_HOSTID, NUL-padded UTF-8",
);

const REQUEST: &[Field] = fields!(Request:
    all_steps_until_ns "time all network steps until then (CLOCK_MONOTONIC, at most 10 minutes ahead)",
);

const LIVE: &[Field] = fields!(Live:
    api "profiler API that NCCL took, 0 before the first init",
    event_mask "event mask in force (NCCL's bits)",
    profiling "1 while a communicator is profiled",
    nccl_version "NCCL's own version code, 0 if unknown",
    ns_per_tick "nanoseconds per tick times 2^32",
    names "names in use, counting the empty name 0",
    communicators "communicator slots ever used",
    connections "connection slots ever used",
    reserved "0",
    operations "operations ever begun; operation i is in slot i mod 4096",
    lost_operations "operations overwritten while in flight",
    lost_communicators "communicators without a slot",
    lost_connections "connections without a slot",
    stale_handles "events with an unknown or outdated handle",
    unknown_events "events of an unknown type",
    foreign_events "events of other processes",
);

const COMMUNICATOR: &[Field] = fields!(Communicator:
    version "of the fields up to `created`: odd while they are written",
    state "0 free, 1 live, 2 finalised",
    generation "how often the slot has been used",
    size "ranks, 0 if not told",
    rank "own rank",
    nodes "nodes, 0 if not told",
    id "NCCL's id or hash",
    name "NUL-padded UTF-8",
    created "in ticks",
    reserved "0",
    enqueued "collectives enqueued",
    p2p_enqueued "point-to-point operations enqueued",
    groups "groups launched",
    p2p_unobservable "point-to-point operations whose end cannot be seen; they count as started and completed",
    reserved_launch "0",
    started "one more than the sequence of the latest collective that started",
    completed "one more than the sequence of the latest collective that completed",
    p2p_started "point-to-point operations that started",
    p2p_completed "point-to-point operations that completed",
    observed "1 once a kernel event or network operation was seen",
    reserved_progress "0",
);

const OPERATION: &[Field] = fields!(Operation:
    number "index plus one; 0 while the slot is rewritten or unused",
    comm_slot "communicator's slot",
    comm_generation "communicator's generation",
    kind "1 collective, 2 send, 3 receive",
    function "number of a name",
    datatype "number of a name",
    algorithm "number of a name",
    protocol "number of a name",
    flags "1 graph captured, 2 kernel events, 4 channels not exact, 8 end not observable",
    channels "channels",
    sequence "position among the collectives, or point-to-point operations, of the communicator",
    count "elements",
    bytes "bytes",
    root_or_peer "rank",
    peer_number "which one of the sends to, or receives from, its peer on the communicator, from 1; 0 if not counted",
    enqueued "in ticks",
    kernel_version "of the fields up to `kernel_reserved2`: odd while they are written",
    kernel_reserved "0",
    kernel_started "channels whose kernel started, as bits",
    kernel_stopped "channels whose kernel stopped, as bits",
    gpu_start "earliest start in ns of the GPU's timer, 0 if not told",
    gpu_stop "latest stop in ns of the GPU's timer, 0 if not told",
    host_start "when the first start was heard of, in ticks",
    host_stop "when the last stop was heard of, in ticks; 0 before",
    kernel_reserved2 "0",
    proxy_version "of the fields after it: odd while they are written",
    proxy_started "network operations started",
    proxy_active "network operations that began to progress",
    proxy_stopped "network operations that ended",
    proxy_first "when the first began to progress, in ticks; 0 before",
    proxy_last "when the last ended, in ticks; 0 before",
    proxy_told "1 once its end was counted",
    proxy_reserved "0",
    proxy_reserved2 "0",
);

const CONNECTION: &[Field] = fields!(Connection:
    version "of the record: odd while it is written",
    comm_slot "communicator's slot",
    comm_generation "communicator's generation",
    peer "peer's rank",
    channel "channel",
    is_send "1 if this process sends",
    used "1 if the slot is in use",
    generation "how often the slot has been used",
    operations_started "network operations started",
    operations_done "network operations ended",
    steps_done "steps ended",
    bytes "bytes of them",
    timed_bytes "bytes of the timed ones",
    timed_steps "timed steps ended",
    waits "ticks of timed steps in states 1 to 7 (begun; send: GPU, peer, network; receive: network, flush, GPU)",
    steps "open steps by number mod 8: operation's index (16 bits), step (17), timed (1), state (7)",
    since "since when the timed ones are in their state, in ticks",
);

macro_rules! section {
    ($name:literal, $at:expr, $count:expr, $stride:expr, $fields:expr, $meaning:literal) => {
        Section { name: $name, at: $at, count: $count, stride: $stride, fields: $fields, meaning: $meaning }
    };
}

/// The file, from its beginning to its end.
pub const SECTIONS: &[Section] = &[
    section!(
        "header",
        HEADER_AT,
        1,
        size_of::<Header>(),
        HEADER,
        "Facts that never change. Written before the file gets its name."
    ),
    section!("labels", LABELS_AT, 1, LABEL_BYTES, &[], "`KEY=value` in UTF-8 and a NUL, repeated."),
    section!("request", REQUEST_AT, 1, size_of::<Request>(), REQUEST, "The only part that the agent writes."),
    section!(
        "live",
        LIVE_AT,
        1,
        size_of::<Live>(),
        LIVE,
        "Words about the process that change, each by itself."
    ),
    section!(
        "names",
        NAMES_AT,
        NAMES,
        NAME_BYTES,
        &[],
        "NCCL's names of functions, element types, algorithms and protocols, NUL-padded. Name 0 is empty."
    ),
    section!(
        "communicators",
        COMMUNICATORS_AT,
        COMMUNICATORS,
        size_of::<Communicator>(),
        COMMUNICATOR,
        "Communicators. The counters from `enqueued` on stand alone."
    ),
    section!(
        "operations",
        OPERATIONS_AT,
        OPERATIONS,
        size_of::<Operation>(),
        OPERATION,
        "The last operations: one cache line each for the launching thread, the kernel and the network."
    ),
    section!(
        "connections",
        CONNECTIONS_AT,
        CONNECTIONS,
        size_of::<Connection>(),
        CONNECTION,
        "One direction to a peer on a channel."
    ),
];

/// The table as Markdown.
pub fn markdown() -> String {
    let mut text = format!(
        "# Layout of a flight recorder, version {VERSION}\n\nA file of {FILE_BYTES} bytes, little-endian. \
         Made from `src/layout/table.rs`; `C4_REWRITE=1 cargo test -p c4-recorder --test layout` writes it anew.\n\n\
         | section | offset | records | bytes each |\n|---|---|---|---|\n"
    );
    // Writing to a String cannot fail.
    for Section { name, at, count, stride, .. } in SECTIONS {
        let _ = writeln!(text, "| {name} | {at:#x} | {count} | {stride} |");
    }
    for section in SECTIONS {
        let _ = writeln!(text, "\n## {}\n{}", section.name, section.meaning);
        if !section.fields.is_empty() {
            text.push_str("\n| offset | bytes | field | meaning |\n|---|---|---|---|\n");
        }
        for Field { name, offset, bytes, meaning } in section.fields {
            let _ = writeln!(text, "| {offset} | {bytes} | `{name}` | {meaning} |");
        }
    }
    text
}
