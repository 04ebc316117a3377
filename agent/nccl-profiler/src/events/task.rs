//! Operations and their kernels.

use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::{Operation, operation_flag, operation_kind};
use c4_recorder::writer::OperationFacts;

use super::{Comm, strange_context};
use crate::abi::event;
use crate::describe;
use crate::handle::{Handle, KERNEL_INDEX, Kind, PAYLOAD, token};
use crate::state::State;
use crate::view::{Event, Task};

/// # Safety
/// The texts of `task` are null or C strings.
#[inline(always)]
pub(super) unsafe fn task_start<const IS_COLLECTIVE: bool, E: Event>(
    state: &State,
    cookie: u64,
    context: Handle,
    event: &E,
    task: Task,
) -> Handle {
    let Some(comm) = state.communicator(cookie, context) else {
        return strange_context(state, cookie, context);
    };
    let recorder = state.recorder();
    let enqueued = recorder.tick_source().now();
    if let Some(hash) = task.comm_hash {
        // SAFETY: the caller promises C strings.
        unsafe { describe::from_task(&comm, hash, task.comm_name, event.rank()) };
    }
    let names = [task.func, task.datatype, task.algo, task.proto];
    // SAFETY: as above, for all four.
    let numbers = unsafe { state.names.numbers(recorder, &comm.known.names, names) };
    let [function, datatype, algorithm, protocol, element_bytes, ..] = numbers;
    // SAFETY: as above.
    let kind = if IS_COLLECTIVE { operation_kind::COLLECTIVE } else { unsafe { p2p_kind(task.func) } };
    let root_or_peer = task.root_or_peer.cast_unsigned();
    let to_itself = !IS_COLLECTIVE && root_or_peer == comm.record.rank.load(Relaxed);
    let mut flags = 0;
    let call = call_of::<E>(cookie, event.parent());
    if call.is_some_and(|call| call & token::CAPTURED != 0) {
        flags |= operation_flag::GRAPH_CAPTURED;
    }
    if to_itself {
        flags |= operation_flag::UNOBSERVABLE;
        comm.record.p2p_is_unobservable();
    } else if has_kernel_bit::<E>(&comm, call) {
        flags |= operation_flag::KERNEL_EVENTS;
        if task.symmetric {
            // Its kernel events may come (2.31) or not: should they, the reader takes them for what they are.
            flags |= operation_flag::UNOBSERVABLE;
        }
    }
    // One that is captured is told of once, and runs with each replay.
    let is_counted = !IS_COLLECTIVE && !to_itself && flags & operation_flag::GRAPH_CAPTURED == 0;
    let is_send = kind == operation_kind::SEND;
    let peer_number = if is_counted { state.peers.next(comm.slot, root_or_peer, is_send) } else { 0 };
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
        sequence: comm.record.next_sequence(IS_COLLECTIVE),
        count: task.count as u64,
        bytes: (task.count as u64).saturating_mul(u64::from(element_bytes)),
        root_or_peer,
        peer_number,
        enqueued,
    };
    let index = recorder.next_operation();
    let record = recorder.operation(index);
    if record.is_in_flight() {
        recorder.live().lost_operations.0.fetch_add(1, Relaxed);
    }
    record.publish(index, &facts);
    recorder.expect_operation(index + 1);
    Handle::new(cookie, Kind::Operation, index & PAYLOAD)
}

/// What the call of an operation said of it, bits of a [`token`]. From v5 on, one of which there was nothing to say has no handle.
#[inline(always)]
fn call_of<E: Event>(cookie: u64, parent: Handle) -> Option<u64> {
    if E::API >= 5 && parent == Handle::NULL {
        return Some(0);
    }
    parent.is_ours(cookie, Kind::Token).then(|| parent.payload())
}

/// Whether kernel events were switched on for an operation: its call says so from v5 on; the mask has gone on since.
#[inline]
fn has_kernel_bit<E: Event>(comm: &Comm<'_>, call: Option<u64>) -> bool {
    match call.filter(|_| E::API >= 5) {
        Some(call) => call & token::KERNEL_EVENTS != 0,
        None => {
            let mask = comm.mask().map_or(0, |mask| mask.load(Relaxed));
            E::API >= 3 && mask & event::KERNEL_CH as i32 != 0
        }
    }
}

/// # Safety
/// `func` is null or a C string.
unsafe fn p2p_kind(func: *const std::ffi::c_char) -> u8 {
    // SAFETY: not null, so the caller promises at least a terminating NUL.
    let is_receive = !func.is_null() && unsafe { *func }.to_ne_bytes() == *b"R";
    if is_receive { operation_kind::RECEIVE } else { operation_kind::SEND }
}

#[inline]
pub(super) fn kernel_start(
    state: &State,
    cookie: u64,
    parent: Handle,
    (channel, gpu_ns): (u8, u64),
) -> Handle {
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
pub(super) fn is_collective(record: &Operation) -> bool {
    record.kind.load(Relaxed) == operation_kind::COLLECTIVE
}

/// Whether kernel events, not the network, tell the progress of an operation.
#[inline(always)]
pub(super) fn has_kernel_events(record: &Operation) -> bool {
    record.flags.load(Relaxed) & operation_flag::KERNEL_EVENTS != 0
}

pub(super) fn kernel_stop(state: &State, payload: u64) {
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
