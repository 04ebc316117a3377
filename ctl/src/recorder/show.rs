//! `c4ctl recorder show FILE`: one recorder for a person. Times are given as "ago", counted from the moment the file
//! was read while its process lives, else from the last record: the recorder's clock means nothing away from its host.

use std::{collections::BTreeMap, io, path::Path};

use c4_recorder::snapshot::{Communicator, Connection, Operation, OperationKind, Snapshot, StepState};

use super::{Seen, read};
use crate::{
    failure::{Exit, Failure},
    output::{Output, Style},
    table::{Align, Cell, Table},
    words::{bytes, duration_ns, printable},
};

pub(super) fn run(file: &Path, operations: usize, json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let seen = read(file)?;
    if json {
        out.json(&seen.snapshot)?;
    } else {
        print(&seen, operations, out)?;
    }
    Ok(Exit::Fine)
}

fn print(seen: &Seen, operations: usize, out: &mut Output) -> io::Result<()> {
    let snapshot = &seen.snapshot;
    let now = if seen.held { snapshot.taken_ns } else { last_record_ns(snapshot) };
    identity(seen, now, out)?;
    labels(&snapshot.identity.labels, out)?;
    heading("Communicators", out)?;
    communicators(&snapshot.communicators).print(out)?;
    in_flight(snapshot, now, out)?;
    last_operations(snapshot, operations, now, out)?;
    connections(snapshot, now, out)?;
    losses(snapshot, out)?;
    blind(snapshot, out)
}

/// The latest moment the recorder speaks of.
pub(crate) fn last_record_ns(snapshot: &Snapshot) -> u64 {
    let operations = snapshot.operations.iter().flat_map(|operation| {
        [Some(operation.enqueued_ns), operation.started_ns, operation.completed_ns].into_iter().flatten()
    });
    let connections = snapshot.connections.iter().map(|connection| connection.state_since_ns);
    operations.chain(connections).max().unwrap_or(0).max(snapshot.identity.created_ns)
}

fn heading(title: &str, out: &mut Output) -> io::Result<()> {
    out.line("")?;
    let title = out.paint(Style::Bold, title);
    out.line(title)
}

fn identity(seen: &Seen, now: u64, out: &mut Output) -> io::Result<()> {
    let Snapshot { identity, profiling, event_mask, .. } = &seen.snapshot;
    let process = match seen.held {
        true => out.paint(Style::Good, "alive"),
        false => out.paint(Style::Doubtful, "gone (or this is a copy)"),
    };
    let nccl = match (identity.nccl_version.as_str(), identity.profiler_api) {
        (_, 0) => "not initialised yet".to_owned(),
        ("", api) => format!("profiler API v{api}"),
        (version, api) => format!("{version}, profiler API v{api}"),
    };
    let profiling = match profiling {
        true => format!("on (event mask {event_mask:#x})"),
        false => out.paint(Style::Doubtful, "off: absence of operations means nothing"),
    };
    let gpu = match (identity.gpu_address, identity.gpu) {
        (Some(address), Some(gpu)) => format!("{gpu} by the environment, at {address}"),
        (Some(address), None) => format!("at {address}"),
        (None, gpu) => gpu.map_or_else(|| "unknown".to_owned(), |gpu| gpu.to_string()),
    };
    let facts = [
        ("Process", format!("pid {}, {process}", identity.pid)),
        ("Job", printable(&crate::analyze::job_of(&seen.snapshot)).into_owned()),
        ("Host", printable(&identity.host_id).into_owned()),
        ("GPU", gpu),
        ("NCCL", printable(&nccl).into_owned()),
        ("Profiling", profiling),
        ("Recorded for", duration_ns(now.saturating_sub(identity.created_ns))),
        ("Cookie", format!("{:016x}", identity.cookie)),
    ];
    for (name, value) in facts {
        out.line(format!("{name:<14}{value}"))?;
    }
    Ok(())
}

fn labels(labels: &BTreeMap<String, String>, out: &mut Output) -> io::Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    heading("Labels", out)?;
    for (name, value) in labels {
        out.line(format!("  {}={}", printable(name), printable(value)))?;
    }
    Ok(())
}

fn communicators(communicators: &[Communicator]) -> Table {
    let mut table = Table::new(&[
        ("SLOT", Align::Right),
        ("ID", Align::Left),
        ("RANK", Align::Right),
        ("ENQUEUED", Align::Right),
        ("STARTED", Align::Right),
        ("COMPLETED", Align::Right),
        ("P2P", Align::Right),
        ("STATE", Align::Left),
        ("NAME", Align::Left),
    ]);
    for comm in communicators {
        let behind = comm.completed < comm.enqueued || comm.p2p_completed < comm.p2p_enqueued;
        let state = match (comm.finalized, comm.observable, behind) {
            (true, _, _) => Cell::styled("finalised", Style::Dim),
            (false, false, _) => Cell::styled("ends not seen", Style::Dim),
            (false, true, true) => Cell::styled("busy", Style::Doubtful),
            (false, true, false) => "idle".into(),
        };
        table.row(vec![
            comm.slot.to_string().into(),
            format!("{:016x}", comm.id).into(),
            format!("{}/{}", comm.rank, comm.size).into(),
            comm.enqueued.to_string().into(),
            comm.started.to_string().into(),
            comm.completed.to_string().into(),
            format!("{}/{}", comm.p2p_completed, comm.p2p_enqueued).into(),
            state,
            (&comm.name).into(),
        ]);
    }
    table
}

fn in_flight(snapshot: &Snapshot, now: u64, out: &mut Output) -> io::Result<()> {
    heading("In flight", out)?;
    let open: Vec<&Operation> = snapshot.operations.iter().filter(|operation| is_open(operation)).collect();
    if open.is_empty() {
        return out.line("  nothing");
    }
    for operation in open {
        let age = match operation.started_ns {
            Some(started) => format!("started {} ago", duration_ns(now.saturating_sub(started))),
            None => {
                format!(
                    "enqueued {} ago, not started",
                    duration_ns(now.saturating_sub(operation.enqueued_ns))
                )
            }
        };
        out.line(format!("  {}: {age}", describe(operation, snapshot)))?;
    }
    Ok(())
}

/// Whether an operation is known to go on. Where no end can be seen, its absence says nothing.
pub(crate) fn is_open(operation: &Operation) -> bool {
    operation.completed_ns.is_none() && operation.observable
}

fn describe(operation: &Operation, snapshot: &Snapshot) -> String {
    let peer = match operation.kind {
        OperationKind::Collective => String::new(),
        OperationKind::Send => format!(" to {}", operation.root_or_peer),
        OperationKind::Receive => format!(" from {}", operation.root_or_peer),
    };
    let comm = comm_name(snapshot, operation.comm_slot, operation.comm_generation);
    let text =
        format!("{}{peer} #{} on {comm}, {}", operation.function, operation.sequence, bytes(operation.bytes));
    printable(&text).into_owned()
}

fn comm_name(snapshot: &Snapshot, slot: u32, generation: u32) -> String {
    let comm = snapshot.communicators.iter().find(|comm| comm.slot == slot && comm.generation == generation);
    match comm {
        Some(comm) if !comm.name.is_empty() => comm.name.clone(),
        Some(comm) => format!("{:016x}", comm.id),
        None => format!("an earlier communicator of slot {slot}"),
    }
}

fn last_operations(snapshot: &Snapshot, number: usize, now: u64, out: &mut Output) -> io::Result<()> {
    if number == 0 || snapshot.operations.is_empty() {
        return Ok(());
    }
    heading("Last operations", out)?;
    let mut table = Table::new(&[
        ("#", Align::Right),
        ("FUNCTION", Align::Left),
        ("BYTES", Align::Right),
        ("CH", Align::Right),
        ("BEGAN", Align::Right),
        ("TO START", Align::Right),
        ("TOOK", Align::Right),
        ("HOW", Align::Left),
        ("COMMUNICATOR", Align::Left),
    ]);
    let first = snapshot.operations.len().saturating_sub(number);
    for operation in &snapshot.operations[first..] {
        let begin = operation.started_ns.unwrap_or(operation.enqueued_ns);
        let graph = if operation.graph_captured { " graph" } else { "" };
        table.row(vec![
            operation.sequence.to_string().into(),
            (&operation.function).into(),
            bytes(operation.bytes).into(),
            operation.channels.to_string().into(),
            format!("-{}", duration_ns(now.saturating_sub(operation.enqueued_ns))).into(),
            operation
                .started_ns
                .map_or_else(|| "–".to_owned(), |ns| duration_ns(ns.saturating_sub(operation.enqueued_ns)))
                .into(),
            match operation.completed_ns {
                Some(ns) => duration_ns(ns.saturating_sub(begin)).into(),
                None if !operation.observable => Cell::styled("not seen", Style::Dim),
                None => Cell::styled("open", Style::Doubtful),
            },
            format!("{} {}{graph}", operation.algorithm, operation.protocol).trim().into(),
            comm_name(snapshot, operation.comm_slot, operation.comm_generation).into(),
        ]);
    }
    table.print(out)
}

fn connections(snapshot: &Snapshot, now: u64, out: &mut Output) -> io::Result<()> {
    if snapshot.connections.is_empty() {
        return Ok(());
    }
    heading("Connections (waits are over the timed steps)", out)?;
    let mut table = Table::new(&[
        ("PEER", Align::Left),
        ("CH", Align::Right),
        ("STEPS", Align::Right),
        ("BYTES", Align::Right),
        ("OPEN", Align::Right),
        ("NOW", Align::Left),
        ("FOR", Align::Right),
        ("TIMED", Align::Right),
        ("GPU", Align::Right),
        ("PEER WAIT", Align::Right),
        ("NETWORK", Align::Right),
        ("FLUSH", Align::Right),
        ("COMMUNICATOR", Align::Left),
    ]);
    for connection in &snapshot.connections {
        table.row(connection_row(connection, snapshot, now));
    }
    table.print(out)
}

fn connection_row(connection: &Connection, snapshot: &Snapshot, now: u64) -> Vec<Cell> {
    let direction = if connection.is_send { "to" } else { "from" };
    let idle = connection.state == StepState::Idle || connection.state_since_ns == 0;
    vec![
        format!("{direction} {}", connection.peer).into(),
        connection.channel.to_string().into(),
        connection.steps_done.to_string().into(),
        bytes(connection.bytes).into(),
        connection.operations_started.saturating_sub(connection.operations_done).to_string().into(),
        state_name(connection.state).into(),
        if idle { "".into() } else { duration_ns(now.saturating_sub(connection.state_since_ns)).into() },
        connection.timed_steps.to_string().into(),
        duration_ns(connection.gpu_wait_ns).into(),
        duration_ns(connection.peer_wait_ns).into(),
        duration_ns(connection.network_wait_ns).into(),
        duration_ns(connection.flush_wait_ns).into(),
        comm_name(snapshot, connection.comm_slot, connection.comm_generation).into(),
    ]
}

/// What a connection waits for, for a person.
fn state_name(state: StepState) -> &'static str {
    match state {
        StepState::Idle => "idle",
        StepState::SendGpuWait => "own GPU to fill",
        StepState::SendPeerWait => "peer's buffer",
        StepState::SendWait => "network (sending)",
        StepState::RecvWait => "network (receiving)",
        StepState::RecvFlushWait => "flush",
        StepState::RecvGpuWait => "own GPU to take",
    }
}

fn losses(snapshot: &Snapshot, out: &mut Output) -> io::Result<()> {
    let losses = &snapshot.losses;
    let counted = [
        ("operations overwritten in flight", losses.operations),
        ("communicators without a slot", losses.communicators),
        ("connections without a slot", losses.connections),
        ("events with outdated handles", losses.stale_handles),
        ("events of unknown type", losses.unknown_events),
        ("events of other processes (PXN)", losses.foreign_events),
    ];
    heading("Losses", out)?;
    let lost: Vec<_> = counted.into_iter().filter(|(_, number)| *number > 0).collect();
    if lost.is_empty() {
        return out.line("  none");
    }
    for (what, number) in lost {
        let number = out.paint(Style::Doubtful, number);
        out.line(format!("  {number} {what}"))?;
    }
    Ok(())
}

fn blind(snapshot: &Snapshot, out: &mut Output) -> io::Result<()> {
    let torn = snapshot.unreadable.iter().map(|torn| {
        format!("{} slot {} could not be read in one piece: {}", torn.table, torn.slot, torn.why)
    });
    let blind = snapshot.identity.blind_spots.iter().map(|spot| format!("not shown by this NCCL: {spot}"));
    let lines: Vec<String> = torn.chain(blind).collect();
    if lines.is_empty() {
        return Ok(());
    }
    heading("What cannot be seen", out)?;
    for line in lines {
        out.line(format!("  {}", printable(&line)))?;
    }
    Ok(())
}
