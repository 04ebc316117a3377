//! What happens at each event. No panic, no allocation, no lock, no system call and no waiting here.
//!
//! Between two operations of a job so much else runs that little of this is still near the processor, so what an operation costs is the
//! lines of code and data that it touches more than what is done with them. So what comes with each operation is inlined into
//! one function, and what does not is kept out of it.
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

use c4_recorder::layout::{Communicator, Operation, step_state};
use c4_recorder::writer::StepKey;

use crate::abi::{event, state};
use crate::depth::KERNEL;
use crate::handle::{Handle, KERNEL_INDEX, Kind, ProxyOp, token};
use crate::state::{Known, State};
use crate::view::{Event, StateArgs};

mod network;
mod task;

use network::{proxy_op_moves, proxy_op_start, proxy_op_stop, step_start};
use task::{kernel_start, kernel_stop, task_start};

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
    /// What is known of it.
    pub known: &'a Known,
    /// Its record.
    pub record: &'a Communicator,
}

impl Comm<'_> {
    /// Its mask, if it told one.
    #[inline]
    pub fn mask(&self) -> Option<&AtomicI32> {
        let mask = self.known.mask.load(Relaxed);
        // SAFETY: null, or what NCCL gave to init: a static of libnccl, which is aligned, and is loaded while it calls us. NCCL
        // reads it atomically.
        unsafe { mask.cast::<AtomicI32>().as_ref() }
    }
}

impl State {
    /// The communicator that a context of this process means.
    #[inline(always)]
    pub fn communicator(&self, cookie: u64, context: Handle) -> Option<Comm<'_>> {
        if !context.is_ours(cookie, Kind::Communicator) {
            return None;
        }
        let (slot, generation) = ((context.payload() >> 16) as usize, context.payload() & 0xFFFF);
        let known = self.comms.get(slot)?;
        let live = known.live.load(Relaxed);
        (live != 0 && u64::from(live & 0xFFFF) == generation).then(|| Comm {
            slot,
            generation: live,
            known,
            record: self.recorder().communicator(slot),
        })
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
#[inline(always)]
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
        // SAFETY: the caller says so.
        _ => unsafe { launch_start(state, cookie, context, event) },
    }
}

/// Starts what comes from launching threads, and events of which nothing is kept.
///
/// # Safety
/// As for [`start`].
#[inline(never)]
unsafe fn launch_start<E: Event>(state: &State, cookie: u64, context: Handle, event: &E) -> Handle {
    match event.kind() {
        // SAFETY: for each, the type was just looked at.
        event::COLL => unsafe { task_start::<true, E>(state, cookie, context, event, event.coll()) },
        // SAFETY: as above.
        event::P2P => unsafe { task_start::<false, E>(state, cookie, context, event, event.p2p()) },
        event::GROUP_API => group_start::<E>(state, cookie, context),
        event::GROUP if E::API < 5 => group_start::<E>(state, cookie, context),
        // SAFETY: as above.
        event::COLL_API => call_start(state, cookie, context, unsafe { event.coll_api_captures() }, true),
        // SAFETY: as above.
        event::P2P_API => call_start(state, cookie, context, unsafe { event.p2p_api_captures() }, false),
        event::GROUP
        | event::PROXY_CTRL
        | event::NET_PLUGIN
        | event::KERNEL_LAUNCH
        | event::CE_COLL
        | event::CE_SYNC
        | event::CE_BATCH
        | event::KERNEL_PHASE => nothing::<E>(cookie),
        _ => {
            state.count_unknown();
            Handle::NULL
        }
    }
}

/// For an event of which nothing is kept. Without a handle NCCL does not call for it again; below v5 it would hide the children, too.
#[inline(always)]
fn nothing<E: Event>(cookie: u64) -> Handle {
    if E::API >= 5 { Handle::NULL } else { Handle::new(cookie, Kind::Token, 0) }
}

#[inline(always)]
fn group_start<E: Event>(state: &State, cookie: u64, context: Handle) -> Handle {
    if let Some(comm) = state.communicator(cookie, context) {
        let uses_network = comm.known.networked.load(Relaxed);
        state.depth.group_begins(state.recorder(), comm.record, comm.mask(), uses_network);
    }
    nothing::<E>(cookie)
}

/// The call of an operation: NCCL has read the mask for it, and will next read it for the one after. Its handle is what there is to say of
/// it, none if there is nothing.
#[inline(always)]
fn call_start(state: &State, cookie: u64, context: Handle, captures: bool, is_collective: bool) -> Handle {
    let mut token = if captures { token::CAPTURED } else { 0 };
    if let Some(comm) = state.communicator(cookie, context)
        && let Some(mask) = comm.mask()
    {
        let now = mask.load(Relaxed);
        if now & KERNEL != 0 {
            token |= token::KERNEL_EVENTS;
        }
        if state.runs.follow.load(Relaxed) && state.depth.has_for_itself(now, KERNEL) {
            let networked = || state.comms.iter().any(|known| known.networked.load(Relaxed));
            let wanted = if captures || state.depth.wants_all() {
                Some(true)
            } else {
                state.runs.call(comm.slot, is_collective, || state.recorder().now_ns(), networked)
            };
            let wanted = wanted.map_or(now, |wanted| if wanted { now | KERNEL } else { now & !KERNEL });
            if wanted != now {
                mask.store(wanted, Relaxed);
            }
        }
    }
    if token == 0 { Handle::NULL } else { Handle::new(cookie, Kind::Token, token) }
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

/// The connection and key of a step's handle.
#[inline(always)]
fn step_of(handle: Handle) -> (usize, StepKey) {
    let payload = handle.payload();
    ((payload >> StepKey::BITS) as usize, StepKey::from_bits(payload))
}

/// Stops an event.
#[inline(always)]
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
