//! What happens at each event. No panic, no allocation, no lock, no system call and no waiting here.
//!
//! Threads: groups, operations and API events come from the launching thread of their communicator; network operations and
//! steps from its proxy thread; kernel events from the proxy thread too, or from NCCL 2.31 on from a thread of their own. Each
//! writes words of its own in the recorder.
//!
//! *Stop* of an operation means that it was enqueued, so nothing is done then. Its progress comes from its children,
//! which start later: `c4_recorder`'s reader has the rules for when they make it complete.

use std::ffi::c_int;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::{Communicator, Operation, operation_flag, operation_kind, step_state};
use c4_recorder::writer::{OperationFacts, StepKey};

use crate::abi::{event, state};
use crate::connections::Key;
use crate::describe;
use crate::handle::{Handle, KERNEL_INDEX, Kind, NO_CONNECTION, PAYLOAD, PROXY_INDEX, ProxyOp, proxy_flag};
use crate::state::State;
use crate::view::{Event, StateArgs, Task};

/// Slot of a communicator that found no room.
pub const NO_COMMUNICATOR: u64 = 0xFFFF;

/// Context for NCCL: never null, or NCCL would not finalise.
pub fn context(cookie: u64, slot: u64, generation: u32) -> Handle {
    Handle::new(cookie, Kind::Communicator, slot << 16 | u64::from(generation & 0xFFFF))
}

/// A communicator of this process that is live.
pub struct Comm<'a> {
    /// Slot.
    pub slot: usize,
    /// Generation of the slot.
    pub generation: u32,
    /// Its record.
    pub record: &'a Communicator,
}

impl State {
    /// The communicator that a context of this process means.
    #[inline]
    pub fn communicator(&self, context: Handle) -> Option<Comm<'_>> {
        if !context.is(Kind::Communicator) {
            return None;
        }
        let (slot, generation) = ((context.payload() >> 16) as usize, context.payload() & 0xFFFF);
        let live = self.live.get(slot)?.load(Relaxed);
        (live != 0 && u64::from(live & 0xFFFF) == generation).then(|| Comm {
            slot,
            generation: live,
            record: self.recorder().communicator(slot),
        })
    }

    /// The mask of a communicator, if it told one.
    #[inline]
    pub fn mask(&self, slot: usize) -> Option<&AtomicI32> {
        let mask = self.masks.get(slot)?.load(Relaxed);
        // SAFETY: null, or what NCCL gave to init: a static of libnccl, which is aligned, and is loaded while it calls us. NCCL
        // reads it atomically.
        unsafe { mask.cast::<AtomicI32>().as_ref() }
    }

    /// The operation with these low bits of its index, if its slot still holds it.
    #[inline]
    fn operation(&self, index: u64, bits: u64) -> Option<&Operation> {
        let record = self.recorder().operation(index);
        let number = record.number.load(Relaxed);
        (number != 0 && number.wrapping_sub(1) & bits == index).then_some(record)
    }
}

/// Starts an event: the handle to give to NCCL.
///
/// # Safety
/// `event` is a descriptor as NCCL makes them: its type says which member is valid, texts are null or C strings.
#[inline]
pub unsafe fn start<E: Event>(state: &State, context: Handle, event: &E) -> Handle {
    let cookie = state.cookie.load(Relaxed);
    if cookie == 0 {
        return Handle::NULL;
    }
    match event.kind() {
        // SAFETY: for each, the type was just looked at.
        event::PROXY_STEP => step_start(state, cookie, event.parent(), unsafe { event.step() }),
        // SAFETY: as above.
        event::PROXY_OP => unsafe { proxy_op_start(state, cookie, context, event) },
        // SAFETY: as above.
        event::KERNEL_CH => kernel_start(state, cookie, event.parent(), unsafe { event.kernel() }),
        // SAFETY: as above.
        event::COLL => unsafe { task_start(state, cookie, context, event, event.coll(), true) },
        // SAFETY: as above.
        event::P2P => unsafe { task_start(state, cookie, context, event, event.p2p(), false) },
        event::GROUP_API => group_start(state, cookie, context),
        event::GROUP if E::API < 5 => group_start(state, cookie, context),
        // SAFETY: as above.
        event::COLL_API => Handle::new(cookie, Kind::Token, u64::from(unsafe { event.coll_api_captures() })),
        // SAFETY: as above.
        event::P2P_API => Handle::new(cookie, Kind::Token, u64::from(unsafe { event.p2p_api_captures() })),
        event::GROUP
        | event::PROXY_CTRL
        | event::NET_PLUGIN
        | event::KERNEL_LAUNCH
        | event::CE_COLL
        | event::CE_SYNC
        | event::CE_BATCH
        | event::KERNEL_PHASE => Handle::new(cookie, Kind::Token, 0),
        _ => {
            state.count_unknown();
            Handle::NULL
        }
    }
}

fn group_start(state: &State, cookie: u64, context: Handle) -> Handle {
    if context.is_of(cookie)
        && let Some(comm) = state.communicator(context)
    {
        state.depth.group_begins(state.recorder(), comm.record, state.mask(comm.slot));
    }
    Handle::new(cookie, Kind::Token, 0)
}

/// Of a context that is not a live communicator of ours.
#[cold]
fn strange_context(state: &State, cookie: u64, context: Handle) -> Handle {
    if !context.is_of(cookie) {
        state.count_foreign();
        return Handle::new(cookie, Kind::Foreign, 0);
    }
    if context.payload() >> 16 != NO_COMMUNICATOR {
        state.count_stale();
    }
    Handle::new(cookie, Kind::Token, 0)
}

/// # Safety
/// The texts of `task` are null or C strings.
#[inline]
unsafe fn task_start<E: Event>(
    state: &State,
    cookie: u64,
    context: Handle,
    event: &E,
    task: Task,
    is_collective: bool,
) -> Handle {
    let comm = if context.is_of(cookie) { state.communicator(context) } else { None };
    let Some(comm) = comm else { return strange_context(state, cookie, context) };
    let recorder = state.recorder();
    let enqueued = recorder.tick_source().now();
    if let Some(hash) = task.comm_hash {
        // SAFETY: the caller promises C strings.
        unsafe { describe::from_task(&comm, hash, task.comm_name, event.rank()) };
    }
    // SAFETY: as above, for all four.
    let [function, datatype, algorithm, protocol] = [task.func, task.datatype, task.algo, task.proto]
        .map(|name| unsafe { state.names.number(recorder, name) });
    // SAFETY: as above.
    let kind = if is_collective { operation_kind::COLLECTIVE } else { unsafe { p2p_kind(task.func) } };
    let mask = state.mask(comm.slot).map_or(0, |mask| mask.load(Relaxed));
    let to_itself = !is_collective && task.root_or_peer.cast_unsigned() == comm.record.rank.load(Relaxed);
    let mut flags = 0;
    let parent = event.parent();
    if parent.is_of(cookie) && parent.is(Kind::Token) && parent.payload() & 1 != 0 {
        flags |= operation_flag::GRAPH_CAPTURED;
    }
    if to_itself {
        flags |= operation_flag::UNOBSERVABLE;
    } else if E::API >= 3 && mask & event::KERNEL_CH as i32 != 0 {
        flags |= operation_flag::KERNEL_EVENTS;
    }
    if task.channels == 0 || !task.channels_exact {
        flags |= operation_flag::CHANNELS_UNKNOWN;
    }
    let facts = OperationFacts {
        comm_slot: comm.slot as u32,
        comm_generation: comm.generation,
        kind,
        function,
        datatype,
        algorithm,
        protocol,
        flags,
        channels: u16::from(task.channels),
        sequence: comm.record.next_sequence(is_collective),
        count: task.count as u64,
        bytes: (task.count as u64).saturating_mul(state.names.element_bytes(datatype)),
        root_or_peer: task.root_or_peer.cast_unsigned(),
        enqueued,
    };
    let index = recorder.next_operation();
    let record = recorder.operation(index);
    if record.is_in_flight() {
        recorder.live().lost_operations.0.fetch_add(1, Relaxed);
    }
    record.publish(index, &facts);
    Handle::new(cookie, Kind::Operation, index & PAYLOAD)
}

/// # Safety
/// `func` is null or a C string.
unsafe fn p2p_kind(func: *const std::ffi::c_char) -> u8 {
    // SAFETY: not null, so the caller promises at least a terminating NUL.
    let is_receive = !func.is_null() && unsafe { *func }.to_ne_bytes() == *b"R";
    if is_receive { operation_kind::RECEIVE } else { operation_kind::SEND }
}

#[inline]
fn kernel_start(state: &State, cookie: u64, parent: Handle, (channel, gpu_ns): (u8, u64)) -> Handle {
    if !parent.is_of(cookie) {
        // A parent of NULL is one whose start we were not told of.
        if parent != Handle::NULL {
            state.count_foreign();
        }
        return Handle::new(cookie, Kind::Token, 0);
    }
    if !parent.is(Kind::Operation) {
        return Handle::new(cookie, Kind::Token, 0);
    }
    let index = parent.payload();
    let Some(record) = state.operation(index, PAYLOAD) else {
        state.count_stale();
        return Handle::new(cookie, Kind::Token, 0);
    };
    let recorder = state.recorder();
    if record.kernel_started(channel, gpu_ns, recorder.tick_source()) {
        let comm = recorder.communicator(record.comm_slot.load(Relaxed) as usize);
        comm.observed.store(1, Relaxed);
        comm.operation_started(is_collective(record), record.sequence.load(Relaxed));
    }
    Handle::new(cookie, Kind::Kernel, (index & KERNEL_INDEX) << 8 | u64::from(channel))
}

#[inline(always)]
fn is_collective(record: &Operation) -> bool {
    record.kind.load(Relaxed) == operation_kind::COLLECTIVE
}

/// Whether kernel events, not the network, tell the progress of an operation.
#[inline(always)]
fn has_kernel_events(record: &Operation) -> bool {
    record.flags.load(Relaxed) & operation_flag::KERNEL_EVENTS != 0
}

/// # Safety
/// `event` is a `PROXY_OP`.
#[inline]
unsafe fn proxy_op_start<E: Event>(state: &State, cookie: u64, context: Handle, event: &E) -> Handle {
    // SAFETY: the caller says so.
    let op = unsafe { event.proxy_op() };
    if op.pid != state.pid.load(Relaxed) || !context.is_of(cookie) {
        state.count_foreign();
        return Handle::new(cookie, Kind::Foreign, 0);
    }
    let Some(comm) = state.communicator(context) else { return strange_context(state, cookie, context) };
    let parent = event.parent();
    let has_parent = parent.is_of(cookie) && parent.is(Kind::Operation);
    let record = if has_parent { state.operation(parent.payload(), PAYLOAD) } else { None };
    if has_parent && record.is_none() {
        state.count_stale();
        return Handle::new(cookie, Kind::Token, 0);
    }
    let recorder = state.recorder();
    let slot = state.connections.find(
        recorder,
        Key {
            comm_slot: comm.slot as u32,
            comm_generation: comm.generation,
            peer: op.peer.cast_unsigned(),
            channel: op.channel_id,
            is_send: op.is_send != 0,
        },
    );
    if let Some(connection) = recorder.connection(slot) {
        connection.operation_started();
    }
    let Some(record) = record else {
        let flags = proxy_flag::ORPHAN | proxy_flag::TIMED;
        let op = ProxyOp { connection: slot, operation: 0, flags };
        return Handle::new(cookie, Kind::ProxyOp, op.pack());
    };
    let mut flags = if is_collective(record) { 0 } else { proxy_flag::P2P };
    if state.depth.times(record.sequence.load(Relaxed)) {
        flags |= proxy_flag::TIMED;
    }
    if state.connections.is_silent(slot) {
        flags |= proxy_flag::UNCOUNTED;
    } else {
        // Until v3 nobody tells when a network operation begins to move: its start must do.
        let began = E::API < 4;
        if record.proxy_started(began, recorder.tick_source()) {
            proxy_began(state, record);
        }
    }
    let operation = parent.payload() & PROXY_INDEX;
    Handle::new(cookie, Kind::ProxyOp, ProxyOp { connection: slot, operation, flags }.pack())
}

/// The first network operation of an operation moves.
fn proxy_began(state: &State, record: &Operation) {
    let comm = state.recorder().communicator(record.comm_slot.load(Relaxed) as usize);
    comm.observed.store(1, Relaxed);
    if !has_kernel_events(record) {
        comm.operation_started(is_collective(record), record.sequence.load(Relaxed));
    }
}

#[inline]
fn step_start(state: &State, cookie: u64, parent: Handle, step: c_int) -> Handle {
    if !parent.is_of(cookie) || !parent.is(Kind::ProxyOp) {
        if parent.is_of(cookie) && parent.is(Kind::Foreign)
            || (parent != Handle::NULL && !parent.is_of(cookie))
        {
            state.count_foreign();
            return Handle::new(cookie, Kind::Foreign, 0);
        }
        return Handle::new(cookie, Kind::Token, 0);
    }
    let op = ProxyOp::unpack(parent.payload());
    let key = StepKey::new(op.operation, step.cast_unsigned());
    if let Some(connection) = state.recorder().connection(op.connection) {
        connection.step_begin(key, op.flags & proxy_flag::TIMED != 0);
    }
    Handle::new(cookie, Kind::Step, (op.connection as u64) << StepKey::BITS | key.bits())
}

/// The connection and key of a step's handle.
#[inline(always)]
fn step_of(handle: Handle) -> (usize, StepKey) {
    let payload = handle.payload();
    ((payload >> StepKey::BITS) as usize, StepKey::from_bits(payload))
}

/// Stops an event.
#[inline]
pub fn stop(state: &State, handle: Handle) {
    let cookie = state.cookie.load(Relaxed);
    if !handle.is_of(cookie) || cookie == 0 {
        // NULL is allowed: NCCL stops what was never given to it (network plugins).
        if cookie != 0 && handle != Handle::NULL {
            state.count_stale();
        }
        return;
    }
    if handle.is(Kind::Step) {
        let (slot, key) = step_of(handle);
        if let Some(connection) = state.recorder().connection(slot)
            && !connection.step_end(key, state.recorder().tick_source())
        {
            state.count_stale();
        }
    } else if handle.is(Kind::ProxyOp) {
        match ProxyOp::checked(handle.payload()) {
            Some(op) => proxy_op_stop(state, op),
            None => state.count_stale(),
        }
    } else if handle.is(Kind::Kernel) {
        kernel_stop(state, handle.payload());
    }
}

fn proxy_op_stop(state: &State, op: ProxyOp) {
    let recorder = state.recorder();
    let orphan = op.flags & proxy_flag::ORPHAN != 0;
    let is_p2p = op.flags & proxy_flag::P2P != 0;
    if op.connection != NO_CONNECTION {
        if !orphan && !state.connections.ends(op.connection, op.operation, is_p2p) {
            state.count_stale();
            return;
        }
        if let Some(connection) = recorder.connection(op.connection)
            && !connection.operation_done()
        {
            state.count_stale();
            return;
        }
        state.connections.moved(op.connection);
    }
    if orphan || op.flags & proxy_flag::UNCOUNTED != 0 {
        return;
    }
    let Some(record) = state.operation(op.operation, PROXY_INDEX) else {
        state.count_stale();
        return;
    };
    if record.proxy_stopped(recorder.tick_source()) && !has_kernel_events(record) {
        let comm = recorder.communicator(record.comm_slot.load(Relaxed) as usize);
        comm.operation_completed(!is_p2p, record.sequence.load(Relaxed));
    }
}

fn kernel_stop(state: &State, payload: u64) {
    let Some(record) = state.operation(payload >> 8, KERNEL_INDEX) else {
        state.count_stale();
        return;
    };
    let recorder = state.recorder();
    match record.kernel_stopped(payload as u8, recorder.tick_source()) {
        Some(true) => {
            let comm = recorder.communicator(record.comm_slot.load(Relaxed) as usize);
            comm.operation_completed(is_collective(record), record.sequence.load(Relaxed));
        }
        Some(false) => {}
        None => state.count_stale(),
    }
}

/// An event changes its state.
///
/// # Safety
/// `args` is null or the arguments that belong to `new_state`.
#[inline]
pub unsafe fn record<A: StateArgs>(state: &State, handle: Handle, new_state: c_int, args: *const A) {
    let cookie = state.cookie.load(Relaxed);
    if !handle.is_of(cookie) || cookie == 0 {
        if cookie != 0 && handle != Handle::NULL {
            state.count_stale();
        }
        return;
    }
    // SAFETY: null, or the caller promises arguments.
    let args = unsafe { args.as_ref() };
    if handle.is(Kind::Step) {
        let Some((step_state, tells_bytes)) = step_state_of(new_state) else { return };
        // SAFETY: a step's handle comes with a step's state, so these are a step's arguments.
        let bytes = if tells_bytes { args.map_or(0, |args| unsafe { args.step_bytes() }) } else { 0 };
        let (slot, key) = step_of(handle);
        if let Some(connection) = state.recorder().connection(slot)
            && !connection.step_state(key, step_state, bytes, state.recorder().tick_source())
        {
            state.count_stale();
        }
    } else if handle.is(Kind::ProxyOp) && new_state == state::PROXY_OP_IN_PROGRESS {
        match ProxyOp::checked(handle.payload()) {
            Some(op) => proxy_op_moves(state, op),
            None => state.count_stale(),
        }
    } else if handle.is(Kind::Kernel) && new_state == state::KERNEL_CH_STOP {
        let Some(record) = state.operation(handle.payload() >> 8, KERNEL_INDEX) else { return };
        // SAFETY: a kernel's state comes with a kernel's arguments.
        let gpu_ns = args.map_or(0, |args| unsafe { args.kernel_stop() });
        record.kernel_stop_time(handle.payload() as u8, gpu_ns);
    }
}

fn proxy_op_moves(state: &State, op: ProxyOp) {
    if op.connection != NO_CONNECTION {
        state.connections.moved(op.connection);
    }
    if op.flags & (proxy_flag::ORPHAN | proxy_flag::UNCOUNTED) != 0 {
        return;
    }
    if let Some(record) = state.operation(op.operation, PROXY_INDEX)
        && record.proxy_active(state.recorder().tick_source())
    {
        proxy_began(state, record);
    }
}

/// A step's state, and whether it comes with bytes to be trusted.
#[inline(always)]
fn step_state_of(new_state: c_int) -> Option<(u8, bool)> {
    Some(match new_state {
        state::SEND_GPU_WAIT => (step_state::SEND_GPU_WAIT, false),
        state::SEND_PEER_WAIT => (step_state::SEND_PEER_WAIT, false),
        state::SEND_WAIT => (step_state::SEND_WAIT, true),
        state::RECV_WAIT => (step_state::RECV_WAIT, false),
        state::RECV_FLUSH_WAIT => (step_state::RECV_FLUSH_WAIT, true),
        state::RECV_GPU_WAIT => (step_state::RECV_GPU_WAIT, false),
        _ => return None,
    })
}
