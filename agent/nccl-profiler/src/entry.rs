//! The functions that NCCL calls, and the tables it finds them in: one for each version, which NCCL tries from the newest
//! it knows downwards. Each function checks its pointers, stops panics and always says success.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::abi::{Logger, NcclResult, SUCCESS, v1, v2, v3, v4, v5, v6, v7};
use crate::chain;
use crate::describe::Told;
use crate::events;
use crate::handle::Handle;
use crate::init;
use crate::log::Log;
use crate::state;
use crate::view::{Event, StateArgs};

const NAME: *const c_char = c"C4".as_ptr();

/// Nothing unwinds into NCCL. Costs nothing unless something panics, and nothing here should.
#[inline(always)]
fn guarded(call: impl FnOnce()) -> NcclResult {
    // What a panic leaves behind are counters; they may be off, which readers tolerate.
    let _ = catch_unwind(AssertUnwindSafe(call));
    SUCCESS
}

#[inline(always)]
fn as_pointer(handle: Handle) -> *mut c_void {
    ptr::without_provenance_mut(handle.0 as usize)
}

#[inline(always)]
fn as_handle(pointer: *mut c_void) -> Handle {
    Handle(pointer.addr() as u64)
}

/// # Safety
/// The pointers are null or as NCCL's interface has them.
unsafe fn init(
    api: u32,
    context: *mut *mut c_void,
    mask: *mut c_int,
    told: &Told,
    logger: Logger,
) -> NcclResult {
    guarded(|| {
        let log = Log(logger);
        // SAFETY: as the caller promises.
        let (mut ours, mut bits) = unsafe { init::init(api, told, mask, log) };
        // SAFETY: as the caller promises.
        unsafe { chain::init(api, told, logger, &mut ours, &mut bits) };
        if !context.is_null() {
            // SAFETY: not null, so NCCL's place for the context.
            unsafe { *context = as_pointer(ours) };
        }
        if !mask.is_null() {
            // SAFETY: not null, so NCCL's mask.
            unsafe { *mask = bits };
        }
    })
}

unsafe extern "C" fn init_v1<const API: u32>(context: *mut *mut c_void, mask: *mut c_int) -> NcclResult {
    let told = Told { id: 0, name: ptr::null(), nodes: 0, ranks: 0, rank: 0 };
    // SAFETY: NCCL's pointers; see `init`.
    unsafe { init(API, context, mask, &told, None) }
}

unsafe extern "C" fn init_v4(
    context: *mut *mut c_void,
    mask: *mut c_int,
    name: *const c_char,
    id: u64,
    nodes: c_int,
    ranks: c_int,
    rank: c_int,
    logger: Logger,
) -> NcclResult {
    // SAFETY: NCCL's pointers; see `init`.
    unsafe { init(4, context, mask, &Told { id, name, nodes, ranks, rank }, logger) }
}

unsafe extern "C" fn init_v5<const API: u32>(
    context: *mut *mut c_void,
    id: u64,
    mask: *mut c_int,
    name: *const c_char,
    nodes: c_int,
    ranks: c_int,
    rank: c_int,
    logger: Logger,
) -> NcclResult {
    // SAFETY: NCCL's pointers; see `init`.
    unsafe { init(API, context, mask, &Told { id, name, nodes, ranks, rank }, logger) }
}

unsafe extern "C" fn start_event<E: Event + chain::Version>(
    context: *mut c_void,
    handle: *mut *mut c_void,
    descriptor: *mut E,
) -> NcclResult {
    guarded(|| {
        if handle.is_null() {
            return;
        }
        let mut started = Handle::NULL;
        // SAFETY: null, or NCCL's descriptor, which is valid for the call.
        if let Some(event) = unsafe { descriptor.as_ref() } {
            if chain::is_on() {
                // SAFETY: a descriptor of NCCL's, by the version of this table.
                started = unsafe { chain::start(as_handle(context), event) };
            } else if let Some(state) = state::get() {
                // SAFETY: as above.
                started = unsafe { events::start(state, as_handle(context), event) };
            }
        }
        // Always: what is not written here NCCL may stop later, whatever it was before.
        // SAFETY: not null, so NCCL's place for the handle.
        unsafe { *handle = as_pointer(started) };
    })
}

unsafe extern "C" fn stop_event(handle: *mut c_void) -> NcclResult {
    guarded(|| {
        if chain::is_on() {
            chain::stop(as_handle(handle));
        } else if let Some(state) = state::get() {
            events::stop(state, as_handle(handle));
        }
    })
}

unsafe extern "C" fn record_event_state<A: StateArgs>(
    handle: *mut c_void,
    new_state: c_int,
    args: *mut A,
) -> NcclResult {
    guarded(|| {
        if chain::is_on() {
            // SAFETY: null or NCCL's arguments, by the version of this table.
            unsafe { chain::record(as_handle(handle), new_state, args) };
        } else if let Some(state) = state::get() {
            // SAFETY: as above.
            unsafe { events::record(state, as_handle(handle), new_state, args.cast_const()) };
        }
    })
}

unsafe extern "C" fn finalize(context: *mut c_void) -> NcclResult {
    guarded(|| init::finalize(chain::finalize(as_handle(context))))
}

macro_rules! table {
    ($symbol:ident, $version:ident, $init:expr) => {
        /// NCCL looks this up by its name.
        // The name is NCCL's.
        #[allow(non_upper_case_globals)]
        // SAFETY: no other library of the process is searched for this name but through its own handle.
        #[unsafe(no_mangle)]
        pub static $symbol: $version::Table = $version::Table {
            name: NAME,
            init: Some($init),
            start_event: Some(start_event::<$version::Descriptor>),
            stop_event: Some(stop_event),
            record_event_state: Some(record_event_state::<$version::StateArgs>),
            finalize: Some(finalize),
        };
    };
}

table!(ncclProfiler_v1, v1, init_v1::<1>);
table!(ncclProfiler_v2, v2, init_v1::<2>);
table!(ncclProfiler_v3, v3, init_v1::<3>);
table!(ncclProfiler_v4, v4, init_v4);
table!(ncclProfiler_v5, v5, init_v5::<5>);
table!(ncclProfiler_v6, v6, init_v5::<6>);
table!(ncclProfiler_v7, v7, init_v5::<7>);
