//! Windows: the bulk of what agents send.

use c4_detect::observation::{
    Block, CommId, CommWindow, Edge, InFlight, Iteration, LinkTime, OperationSignature, PendingPeer,
    ProcessState, StepState, Window,
};
use c4_proto::v1;

use super::{
    Invalid,
    limits::{self, at_most, between, flat},
    process,
};

pub(super) fn window(message: v1::Window) -> Result<Window, Invalid> {
    let state = match message.state() {
        v1::ProcessState::Unknown => ProcessState::Unknown,
        v1::ProcessState::Running => ProcessState::Running,
        v1::ProcessState::Sleeping => ProcessState::Sleeping,
        v1::ProcessState::DiskWait => ProcessState::DiskWait,
        v1::ProcessState::Stopped => ProcessState::Stopped,
        v1::ProcessState::Zombie => ProcessState::Zombie,
    };
    at_most("window.comms", message.comms.len() as u64, limits::COMMS)?;
    let mut comms = Vec::with_capacity(message.comms.len());
    for (index, comm) in message.comms.into_iter().enumerate() {
        let place = format!("window.comms[{index}]");
        let comm = comm_window(&place, comm)?;
        if comms.iter().any(|other: &CommWindow| other.comm == comm.comm) {
            return Err(Invalid::new(format!("{place}.comm"), format!("{:x} appears twice", comm.comm.0)));
        }
        comms.push(comm);
    }
    Ok(Window {
        process: process("window.process", message.process)?,
        duration_us: at_most("window.duration_us", message.duration_us, limits::AGE_US)?,
        state,
        kernel_events: message.kernel_events,
        profiling: message.profiling,
        dropped: at_most("window.dropped", message.dropped, limits::COUNT)?,
        unread: at_most("window.unread", message.unread, limits::COUNT)?,
        comms,
    })
}

fn comm_window(place: &str, message: v1::CommWindow) -> Result<CommWindow, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    let enqueued = at_most(&at("enqueued"), message.enqueued, limits::COUNT)?;
    let (started, completed) = (message.started, message.completed);
    if started > enqueued {
        return Err(Invalid::new(at("started"), format!("is {started}, more than the {enqueued} enqueued")));
    }
    if completed > started {
        return Err(Invalid::new(
            at("completed"),
            format!("is {completed}, more than the {started} started"),
        ));
    }
    for (field, length) in [
        ("blocks", message.blocks.len()),
        ("edges", message.edges.len()),
        ("iterations", message.iterations.len()),
        ("pending_peers", message.pending_peers.len()),
        ("links", message.links.len()),
    ] {
        at_most(&at(field), length as u64, limits::ENTRIES)?;
    }
    let in_flight = message.in_flight.map(|m| in_flight(&at("in_flight"), m, enqueued)).transpose()?;
    let blocks = message.blocks.into_iter().map(|m| block(&at("blocks"), m, enqueued));
    let edges = message.edges.into_iter().map(|m| edge(&at("edges"), m));
    let iterations = message.iterations.into_iter().map(|m| iteration(&at("iterations"), m, enqueued));
    let pending_peers = message.pending_peers.into_iter().map(|m| pending_peer(&at("pending_peers"), &m));
    let links = message.links.into_iter().map(|m| link(&at("links"), &m));
    Ok(CommWindow {
        links: links.collect::<Result<_, _>>()?,
        pending_peers: pending_peers.collect::<Result<_, _>>()?,
        comm: CommId(message.comm),
        enqueued,
        started,
        completed,
        in_flight,
        idle_us: at_most(&at("idle_us"), message.idle_us, limits::AGE_US)?,
        blocks: blocks.collect::<Result<_, _>>()?,
        edges: edges.collect::<Result<_, _>>()?,
        iterations: iterations.collect::<Result<_, _>>()?,
    })
}

fn in_flight(place: &str, message: v1::InFlight, enqueued: u64) -> Result<InFlight, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    if message.sequence >= enqueued {
        let problem = format!("is {}, but only {enqueued} operations were enqueued", message.sequence);
        return Err(Invalid::new(at("sequence"), problem));
    }
    let signature = message.signature.ok_or_else(|| Invalid::new(at("signature"), "is missing"))?;
    Ok(InFlight {
        sequence: message.sequence,
        signature: OperationSignature {
            function: flat(&at("signature.function"), signature.function)?,
            count: at_most(&at("signature.count"), signature.count, limits::BYTES)?,
            datatype: flat(&at("signature.datatype"), signature.datatype)?,
            root: signature.root,
        },
        started: message.started,
        age_us: at_most(&at("age_us"), message.age_us, limits::AGE_US)?,
        started_age_us: at_most(&at("started_age_us"), message.started_age_us, limits::AGE_US)?,
    })
}

fn block(place: &str, message: v1::Block, enqueued: u64) -> Result<Block, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    let (first, length) = (message.first, u64::from(message.length));
    between(&at("length"), length, 1, limits::BLOCK)?;
    if !length.is_power_of_two() {
        return Err(Invalid::new(at("length"), format!("is {length}, expected a power of two")));
    }
    if first % length != 0 {
        return Err(Invalid::new(
            at("first"),
            format!("is {first}, expected a multiple of the length {length}"),
        ));
    }
    if first.checked_add(length).is_none_or(|end| end > enqueued) {
        let problem = format!("{first} with length {length} ends after the {enqueued} operations enqueued");
        return Err(Invalid::new(at("first"), problem));
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
        at_most(&at(field), value, limits::SPAN_NS)?;
    }
    if message.min_wait_ns > message.max_wait_ns || message.max_wait_ns > message.wait_ns {
        let problem = format!(
            "min {} <= max {} <= sum {} does not hold",
            message.min_wait_ns, message.max_wait_ns, message.wait_ns
        );
        return Err(Invalid::new(at("wait_ns"), problem));
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
        bytes: at_most(&at("bytes"), message.bytes, limits::BYTES)?,
        own_ns: message.own_ns,
        silent_ns: message.silent_ns.or(message.own_ns),
        longest_own_ns: message.longest_own_ns,
    })
}

fn pending_peer(place: &str, message: &v1::PendingPeer) -> Result<PendingPeer, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    at_most(&at("peer"), message.peer.into(), limits::RANKS - 1)?;
    Ok(PendingPeer {
        peer: message.peer,
        is_send: message.is_send,
        started: message.started,
        age_us: at_most(&at("age_us"), message.age_us, limits::AGE_US)?,
        position: at_most(&at("position"), message.position, limits::COUNT)?,
    })
}

fn link(place: &str, message: &v1::LinkTime) -> Result<LinkTime, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    at_most(&at("peer"), message.peer.into(), limits::RANKS - 1)?;
    between(&at("channels"), message.channels.into(), 1, limits::CHANNELS)?;
    between(&at("steps"), message.steps, 1, limits::COUNT)?;
    for (field, value) in [
        ("network_ns", message.network_ns),
        ("gpu_ns", message.gpu_ns),
        ("peer_ns", message.peer_ns),
        ("flush_ns", message.flush_ns),
    ] {
        at_most(&at(field), value, limits::SPAN_NS)?;
    }
    Ok(LinkTime {
        peer: message.peer,
        is_send: message.is_send,
        channels: message.channels,
        steps: message.steps,
        bytes: at_most(&at("bytes"), message.bytes, limits::BYTES)?,
        network_ns: message.network_ns,
        gpu_ns: message.gpu_ns,
        peer_ns: message.peer_ns,
        flush_ns: message.flush_ns,
    })
}

fn edge(place: &str, message: v1::Edge) -> Result<Edge, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
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
    at_most(&at("peer"), message.peer.into(), limits::RANKS - 1)?;
    at_most(&at("channel"), message.channel.into(), limits::CHANNELS)?;
    Ok(Edge {
        peer: message.peer,
        channel: message.channel,
        is_send: message.is_send,
        state,
        state_age_us: at_most(&at("state_age_us"), message.state_age_us, limits::AGE_US)?,
        steps_done: at_most(&at("steps_done"), message.steps_done, limits::COUNT)?,
        bytes: at_most(&at("bytes"), message.bytes, limits::BYTES)?,
    })
}

fn iteration(place: &str, message: v1::Iteration, enqueued: u64) -> Result<Iteration, Invalid> {
    let at = |field: &str| format!("{place}.{field}");
    between(&at("operations"), message.operations.into(), 1, limits::BLOCK)?;
    if message.first > enqueued {
        return Err(Invalid::new(
            at("first"),
            format!("is {}, but only {enqueued} were enqueued", message.first),
        ));
    }
    Ok(Iteration {
        first: message.first,
        operations: message.operations,
        duration_ns: at_most(&at("duration_ns"), message.duration_ns, limits::SPAN_NS)?,
        // Agents that know of no other number than one say nothing.
        count: u32::try_from(at_most(&at("count"), message.count.into(), limits::BLOCK)?).unwrap_or(1).max(1),
    })
}
