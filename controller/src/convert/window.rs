//! Windows: the bulk of what agents send.

use c4_detect::observation::{
    Before, Block, CommId, CommWindow, Edge, InFlight, Iteration, LinkTime, OwnTime, PendingPeer,
    ProcessState, StepState, Window,
};
use c4_proto::v1;

use super::{
    Invalid,
    limits::{self, at_most, between},
    process,
    shared::{Shared, operation},
};

/// The windows of a node.
pub(super) fn windows(message: v1::Windows) -> Result<Vec<Window>, Invalid> {
    at_most("windows", message.windows.len() as u64, limits::WINDOWS)?;
    let shared = Shared::new(message.operations, message.signatures, message.block_columns)?;
    let windows = message.windows.into_iter().enumerate();
    let place = |index: usize| move |invalid: Invalid| invalid.within(&format!("windows[{index}]"));
    windows.map(|(index, m)| window(m, &shared).map_err(place(index))).collect()
}

/// What one process did.
pub(super) fn window(message: v1::Window, shared: &Shared) -> Result<Window, Invalid> {
    let state = match message.state() {
        v1::ProcessState::Unknown => ProcessState::Unknown,
        v1::ProcessState::Running => ProcessState::Running,
        v1::ProcessState::Sleeping => ProcessState::Sleeping,
        v1::ProcessState::DiskWait => ProcessState::DiskWait,
        v1::ProcessState::Stopped => ProcessState::Stopped,
        v1::ProcessState::Zombie => ProcessState::Zombie,
    };
    at_most("comms", message.comms.len() as u64, limits::COMMS)?;
    let mut comms = Vec::with_capacity(message.comms.len());
    for (index, comm) in message.comms.into_iter().enumerate() {
        let place = |invalid: Invalid| invalid.within(&format!("comms[{index}]"));
        let comm = comm_window(comm, shared).map_err(place)?;
        if comms.iter().any(|other: &CommWindow| other.comm == comm.comm) {
            return Err(place(Invalid::new("comm", format!("{:x} appears twice", comm.comm.0))));
        }
        comms.push(comm);
    }
    Ok(Window {
        process: process("process", message.process)?,
        duration_us: at_most("duration_us", message.duration_us, limits::AGE_US)?,
        state,
        kernel_events: message.kernel_events,
        profiling: message.profiling,
        dropped: at_most("dropped", message.dropped, limits::COUNT)?,
        unread: at_most("unread", message.unread, limits::COUNT)?,
        own: message.own.map(|m| own_time(m).map_err(within("own"))).transpose()?,
        comms,
    })
}

fn own_time(message: v1::OwnTime) -> Result<OwnTime, Invalid> {
    Ok(OwnTime {
        now_us: at_most("now_us", message.now_us, limits::AGE_US)?,
        longest_us: at_most("longest_us", message.longest_us, limits::AGE_US)?,
        gpu_spins_us: at_most("gpu_spins_us", message.gpu_spins_us, limits::AGE_US)?,
    })
}

/// Puts an error where it belongs. Paths are made when something is wrong, not for every field that is right.
fn within(place: &'static str) -> impl Fn(Invalid) -> Invalid {
    move |invalid| invalid.within(place)
}

fn comm_window(message: v1::CommWindow, shared: &Shared) -> Result<CommWindow, Invalid> {
    let enqueued = at_most("enqueued", message.enqueued, limits::COUNT)?;
    let (started, completed) = (message.started, message.completed);
    if started > enqueued {
        return Err(Invalid::new("started", format!("is {started}, more than the {enqueued} enqueued")));
    }
    if completed > started {
        return Err(Invalid::new("completed", format!("is {completed}, more than the {started} started")));
    }
    for (field, length) in [
        ("blocks", message.blocks.len()),
        ("edges", message.edges.len()),
        ("iterations", message.iterations.len()),
        ("pending_peers", message.pending_peers.len()),
        ("links", message.links.len()),
    ] {
        at_most(field, length as u64, limits::ENTRIES)?;
    }
    let in_flight = message.in_flight.map(|m| in_flight(m, enqueued, shared)).transpose();
    let rows = shared.rows(&message.packed_blocks)?;
    let mut blocks = Vec::with_capacity(message.blocks.len() + rows.size_hint().0);
    for wire in message.blocks {
        blocks.push(block(wire, enqueued).map_err(within("blocks"))?);
    }
    for row in rows {
        let unpacked = shared.unpack(row?).and_then(|wire| block(wire, enqueued));
        blocks.push(unpacked.map_err(within("packed_blocks"))?);
    }
    let edges = message.edges.into_iter().map(|m| edge(m).map_err(within("edges")));
    let iterations =
        message.iterations.into_iter().map(|m| iteration(m, enqueued).map_err(within("iterations")));
    let pending_peers =
        message.pending_peers.into_iter().map(|m| pending_peer(&m).map_err(within("pending_peers")));
    let links = message.links.into_iter().map(|m| link(&m).map_err(within("links")));
    Ok(CommWindow {
        links: links.collect::<Result<_, _>>()?,
        pending_peers: pending_peers.collect::<Result<_, _>>()?,
        comm: CommId(message.comm),
        enqueued,
        started,
        completed,
        in_flight: in_flight.map_err(within("in_flight"))?,
        idle_us: at_most("idle_us", message.idle_us, limits::AGE_US)?,
        unseen_us: at_most("unseen_us", message.unseen_us, limits::AGE_US)?,
        blocks,
        edges: edges.collect::<Result<_, _>>()?,
        iterations: iterations.collect::<Result<_, _>>()?,
    })
}

fn in_flight(message: v1::InFlight, enqueued: u64, shared: &Shared) -> Result<InFlight, Invalid> {
    if message.sequence >= enqueued {
        let problem = format!("is {}, but only {enqueued} operations were enqueued", message.sequence);
        return Err(Invalid::new("sequence", problem));
    }
    let signature = match (message.signature, message.operation) {
        (Some(signature), _) => operation(signature).map_err(within("signature"))?,
        (None, 0) => return Err(Invalid::new("signature", "is missing")),
        (None, number) => shared.operation(number)?,
    };
    Ok(InFlight {
        sequence: message.sequence,
        signature,
        started: message.started,
        age_us: at_most("age_us", message.age_us, limits::AGE_US)?,
        started_age_us: at_most("started_age_us", message.started_age_us, limits::AGE_US)?,
        before: message
            .before
            .map(|m| before(&m, shared).map(Box::new).map_err(within("before")))
            .transpose()?,
    })
}

fn before(message: &v1::Before, shared: &Shared) -> Result<Before, Invalid> {
    Ok(Before {
        signature: shared.operation(message.operation)?,
        usual: message.usual,
        usual_before: message.usual_before,
    })
}

fn block(message: v1::Block, enqueued: u64) -> Result<Block, Invalid> {
    let (first, length) = (message.first, u64::from(message.length));
    between("length", length, 1, limits::BLOCK)?;
    if !length.is_power_of_two() {
        return Err(Invalid::new("length", format!("is {length}, expected a power of two")));
    }
    if first % length != 0 {
        return Err(Invalid::new("first", format!("is {first}, expected a multiple of the length {length}")));
    }
    if first.checked_add(length).is_none_or(|end| end > enqueued) {
        let problem = format!("{first} with length {length} ends after the {enqueued} operations enqueued");
        return Err(Invalid::new("first", problem));
    }
    for (field, value) in [
        ("wait_ns", message.wait_ns),
        ("min_wait_ns", message.min_wait_ns),
        ("max_wait_ns", message.max_wait_ns),
        ("span_ns", message.span_ns),
        ("gap_ns", message.gap_ns),
        ("own_ns", message.own_ns.unwrap_or(0)),
        ("silent_ns", message.silent_ns.unwrap_or(0)),
        ("longest_own_ns", message.longest_own_ns.unwrap_or(0)),
    ] {
        at_most(field, value, limits::SPAN_NS)?;
    }
    if message.min_wait_ns > message.max_wait_ns || message.max_wait_ns > message.wait_ns {
        let problem = format!(
            "min {} <= max {} <= sum {} does not hold",
            message.min_wait_ns, message.max_wait_ns, message.wait_ns
        );
        return Err(Invalid::new("wait_ns", problem));
    }
    Ok(Block {
        first,
        length: message.length,
        signature: message.signature,
        wait_ns: message.wait_ns,
        min_wait_ns: message.min_wait_ns,
        max_wait_ns: message.max_wait_ns,
        span_ns: message.span_ns,
        gap_ns: message.gap_ns,
        bytes: at_most("bytes", message.bytes, limits::BYTES)?,
        own_ns: message.own_ns,
        silent_ns: message.silent_ns.or(message.own_ns),
        longest_own_ns: message.longest_own_ns,
        beside: message.beside.min(message.length),
        awaited: message.awaited.min(message.length),
    })
}

fn pending_peer(message: &v1::PendingPeer) -> Result<PendingPeer, Invalid> {
    at_most("peer", message.peer.into(), limits::RANKS - 1)?;
    Ok(PendingPeer {
        peer: message.peer,
        is_send: message.is_send,
        started: message.started,
        age_us: at_most("age_us", message.age_us, limits::AGE_US)?,
        position: at_most("position", message.position, limits::COUNT)?,
    })
}

fn link(message: &v1::LinkTime) -> Result<LinkTime, Invalid> {
    at_most("peer", message.peer.into(), limits::RANKS - 1)?;
    between("channels", message.channels.into(), 1, limits::CHANNELS)?;
    between("steps", message.steps, 1, limits::COUNT)?;
    for (field, value) in [
        ("network_ns", message.network_ns),
        ("gpu_ns", message.gpu_ns),
        ("peer_ns", message.peer_ns),
        ("flush_ns", message.flush_ns),
    ] {
        at_most(field, value, limits::SPAN_NS)?;
    }
    Ok(LinkTime {
        peer: message.peer,
        is_send: message.is_send,
        channels: message.channels,
        steps: message.steps,
        bytes: at_most("bytes", message.bytes, limits::BYTES)?,
        network_ns: message.network_ns,
        gpu_ns: message.gpu_ns,
        peer_ns: message.peer_ns,
        flush_ns: message.flush_ns,
    })
}

fn edge(message: v1::Edge) -> Result<Edge, Invalid> {
    let state = match message.state() {
        v1::StepState::Unknown => StepState::Unknown,
        v1::StepState::SendGpuWait => StepState::SendGpuWait,
        v1::StepState::SendPeerWait => StepState::SendPeerWait,
        v1::StepState::SendWait => StepState::SendWait,
        v1::StepState::RecvWait => StepState::RecvWait,
        v1::StepState::RecvFlushWait => StepState::RecvFlushWait,
        v1::StepState::RecvGpuWait => StepState::RecvGpuWait,
        v1::StepState::Idle => StepState::Idle,
    };
    at_most("peer", message.peer.into(), limits::RANKS - 1)?;
    at_most("channel", message.channel.into(), limits::CHANNELS)?;
    Ok(Edge {
        peer: message.peer,
        channel: message.channel,
        is_send: message.is_send,
        state,
        state_age_us: at_most("state_age_us", message.state_age_us, limits::AGE_US)?,
        steps_done: at_most("steps_done", message.steps_done, limits::COUNT)?,
        bytes: at_most("bytes", message.bytes, limits::BYTES)?,
    })
}

fn iteration(message: v1::Iteration, enqueued: u64) -> Result<Iteration, Invalid> {
    between("operations", message.operations.into(), 1, limits::BLOCK)?;
    if message.first > enqueued {
        return Err(Invalid::new(
            "first",
            format!("is {}, but only {enqueued} were enqueued", message.first),
        ));
    }
    Ok(Iteration {
        first: message.first,
        operations: message.operations,
        duration_ns: at_most("duration_ns", message.duration_ns, limits::SPAN_NS)?,
        // Agents that know of no other number than one say nothing.
        count: u32::try_from(at_most("count", message.count.into(), limits::BLOCK)?).unwrap_or(1).max(1),
    })
}
