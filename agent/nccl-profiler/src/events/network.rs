//! Network operations and their steps, on the proxy thread.

use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::Operation;
use c4_recorder::writer::StepKey;

use super::strange_context;
use super::task::{has_kernel_events, is_collective};
use crate::connections::Key;
use crate::handle::{Handle, Kind, NO_CONNECTION, PAYLOAD, PROXY_INDEX, ProxyOp, proxy_flag};
use crate::state::State;
use crate::view::Event;

/// # Safety
/// `event` is a `PROXY_OP`.
#[inline]
pub(super) unsafe fn proxy_op_start<E: Event>(
    state: &State,
    cookie: u64,
    context: Handle,
    event: &E,
) -> Handle {
    // SAFETY: the caller says so.
    let op = unsafe { event.proxy_op() };
    if op.pid != state.pid.load(Relaxed) || !context.is_of(cookie) {
        state.count_foreign();
        return Handle::new(cookie, Kind::Foreign, 0);
    }
    let Some(comm) = state.communicator(cookie, context) else {
        return strange_context(state, cookie, context);
    };
    let parent = event.parent();
    let has_parent = parent.is_ours(cookie, Kind::Operation);
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
    let slot = record.comm_slot.load(Relaxed) as usize;
    if let Some(known) = state.comms.get(slot) {
        known.networked.store(true, Relaxed);
    }
    let comm = state.recorder().communicator(slot);
    comm.observed.store(1, Relaxed);
    if !has_kernel_events(record) {
        comm.operation_started(is_collective(record), record.sequence.load(Relaxed));
    }
}

#[inline]
pub(super) fn step_start(state: &State, cookie: u64, parent: Handle, step: c_int) -> Handle {
    if !parent.is_ours(cookie, Kind::ProxyOp) {
        if parent.is_ours(cookie, Kind::Foreign) || (parent != Handle::NULL && !parent.is_of(cookie)) {
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

pub(super) fn proxy_op_stop(state: &State, op: ProxyOp) {
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

pub(super) fn proxy_op_moves(state: &State, op: ProxyOp) {
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
