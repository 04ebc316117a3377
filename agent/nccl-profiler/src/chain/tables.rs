//! Calls into the second plugin's table of a version.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::succeeded;
use crate::abi::{Finalize, Logger, RecordEventState, StopEvent, Table, v1, v2, v3, v4, v5, v6, v7};
use crate::describe::Told;

/// A descriptor that knows its version's table.
pub trait Version: Sized {
    /// Starts the event there; null if the plugin gives no handle.
    ///
    /// # Safety
    /// `table` is a complete table of this version, `context` what its init gave out.
    unsafe fn start(&mut self, table: *mut c_void, context: *mut c_void) -> *mut c_void;
}

macro_rules! version {
    ($($version:ident),*) => {$(
        impl Version for $version::Descriptor {
            unsafe fn start(&mut self, table: *mut c_void, context: *mut c_void) -> *mut c_void {
                // SAFETY: the caller says that it is this version's table.
                let table = unsafe { &*table.cast::<$version::Table>() };
                let mut handle = ptr::null_mut();
                if let Some(start) = table.start_event {
                    // SAFETY: the plugin's own function, called as NCCL would.
                    let result = unsafe { start(context, &mut handle, self) };
                    if !succeeded(result) {
                        return ptr::null_mut();
                    }
                }
                handle
            }
        }
    )*};
}
version!(v1, v2, v3, v4, v5, v6, v7);

/// What all versions have in the same place: `name`, `init`, `startEvent` and then these. (Pointers to functions are all alike in size.)
type Common = Table<unsafe extern "C" fn(), c_void, c_void>;

/// # Safety
/// `table` points at a table of some version.
unsafe fn common<'a>(table: *mut c_void) -> &'a Common {
    // SAFETY: all versions are a name and five nullable function pointers; only those whose type is the same in all, or that
    // differ in the type a pointer points at, are called through this.
    unsafe { &*table.cast::<Common>() }
}

/// # Safety
/// `table` points at a table of some version.
pub(super) unsafe fn is_complete(table: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    let table = unsafe { common(table) };
    table.init.is_some()
        && table.start_event.is_some()
        && table.stop_event.is_some()
        && table.record_event_state.is_some()
        && table.finalize.is_some()
}

/// The context that the plugin gives out; `None` if its init fails.
///
/// # Safety
/// `table` is a complete table of this version; `told` and `mask` are as NCCL gives them.
pub(super) unsafe fn init(
    api: u32,
    table: *mut c_void,
    told: &Told,
    mask: *mut c_int,
    logger: Logger,
) -> Option<*mut c_void> {
    let mut context = ptr::null_mut();
    let &Told { id, name, nodes, ranks, rank } = told;
    // SAFETY: as the caller promises; v1 to v3 share the type of init, and so do v5 to v7.
    let result = unsafe {
        match api {
            1..=3 => (*table.cast::<v1::Table>()).init.map(|init| init(&mut context, mask)),
            4 => (*table.cast::<v4::Table>())
                .init
                .map(|init| init(&mut context, mask, name, id, nodes, ranks, rank, logger)),
            _ => (*table.cast::<v5::Table>())
                .init
                .map(|init| init(&mut context, id, mask, name, nodes, ranks, rank, logger)),
        }
    };
    result.is_some_and(succeeded).then_some(context)
}

/// # Safety
/// `table` is a complete table, `handle` one of its plugin's.
pub(super) unsafe fn stop(table: *mut c_void, handle: *mut c_void) {
    // SAFETY: as the caller promises.
    let stop: Option<StopEvent> = unsafe { common(table) }.stop_event;
    if let Some(stop) = stop {
        // SAFETY: as the caller promises.
        unsafe { stop(handle) };
    }
}

/// # Safety
/// `table` is a complete table of the version that `args` are of, `handle` one of its plugin's.
pub(super) unsafe fn record(table: *mut c_void, handle: *mut c_void, new_state: c_int, args: *mut c_void) {
    // SAFETY: as the caller promises; the versions differ in what `args` points at only.
    let record: Option<RecordEventState<c_void>> = unsafe { common(table) }.record_event_state;
    if let Some(record) = record {
        // SAFETY: as the caller promises.
        unsafe { record(handle, new_state, args) };
    }
}

/// # Safety
/// `table` is a complete table, `context` what its init gave out.
pub(super) unsafe fn finalize(table: *mut c_void, context: *mut c_void) {
    // SAFETY: as the caller promises.
    let finalize: Option<Finalize> = unsafe { common(table) }.finalize;
    if let Some(finalize) = finalize {
        // SAFETY: as the caller promises.
        unsafe { finalize(context) };
    }
}
