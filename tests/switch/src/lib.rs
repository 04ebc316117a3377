//! A profiler plugin that is another one, behind a switch.
//!
//! What a plugin costs an all-reduce of a few kilobytes is less than how much two processes differ, whatever they run. So cost
//! is measured within one process, by switching NCCL's event mask, which NCCL reads anew for every operation: with
//! [`c4_profiler_switch`]`(0)` NCCL calls the plugin for nothing, with `(1)` as it asked to be called. To know where NCCL keeps the
//! mask, this library stands between the two and passes on every call, which adds one indirect call to each event.
//!
//! `C4_SWITCHED_PROFILER=/path/libnccl-profiler-c4.so` names the plugin. Version 5 of the interface only: NCCL 2.28 speaks it, and
//! later ones translate.

use std::ffi::{CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed};

use abi::v5::{Descriptor, StateArgs, Table};
use abi::{Logger, NcclResult, SUCCESS};

// The source and not the crate: linked as a crate, it would bring its own tables, of the same names, into this library.
#[path = "../../../agent/nccl-profiler/src/abi/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod abi;

/// Where NCCL keeps its event mask.
static MASK: AtomicPtr<AtomicI32> = AtomicPtr::new(std::ptr::null_mut());
/// What the plugin last asked for.
static WANTED: AtomicI32 = AtomicI32::new(0);

/// Lets NCCL call the plugin for everything it asked for (1) or for nothing (0); returns the mask that NCCL has now, or -1
/// before the first communicator.
#[unsafe(no_mangle)]
pub extern "C" fn c4_profiler_switch(on: c_int) -> c_int {
    // SAFETY: null, or NCCL's own integer, which stays where it is as long as NCCL is loaded.
    let Some(mask) = (unsafe { MASK.load(Relaxed).as_ref() }) else { return -1 };
    mask.store(if on == 0 { 0 } else { WANTED.load(Relaxed) }, Relaxed);
    mask.load(Relaxed)
}

/// The table of the plugin behind the switch, `None` where there is none.
fn plugin() -> Option<&'static Table> {
    static PLUGIN: OnceLock<Option<&'static Table>> = OnceLock::new();
    *PLUGIN.get_or_init(|| {
        let path = std::env::var_os("C4_SWITCHED_PROFILER")?;
        let table = open(&path);
        if table.is_none() {
            eprintln!("c4-profiler-switch: {} is no profiler plugin of version 5", path.display());
        }
        table
    })
}

fn open(path: &OsStr) -> Option<&'static Table> {
    let path = CString::new(path.as_bytes()).ok()?;
    // SAFETY: both strings are NUL-terminated. The library is never closed.
    let table = unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if library.is_null() {
            return None;
        }
        libc::dlsym(library, c"ncclProfiler_v5".as_ptr())
    };
    // SAFETY: null, or what the symbol of this name is by the interface, for as long as the library is open.
    unsafe { table.cast::<Table>().as_ref() }
}

unsafe extern "C" fn init(
    context: *mut *mut c_void,
    id: u64,
    mask: *mut c_int,
    name: *const c_char,
    nodes: c_int,
    ranks: c_int,
    rank: c_int,
    log: Logger,
) -> NcclResult {
    let Some(init) = plugin().and_then(|table| table.init) else {
        // SAFETY: init's caller passes a valid pointer.
        unsafe { *mask = 0 };
        return SUCCESS;
    };
    // SAFETY: passed on as it came.
    let result = unsafe { init(context, id, mask, name, nodes, ranks, rank, log) };
    // SAFETY: init's caller passes a valid pointer.
    WANTED.store(unsafe { *mask }, Relaxed);
    // An atomic integer has the layout of the plain one.
    MASK.store(mask.cast(), Relaxed);
    result
}

unsafe extern "C" fn start(
    context: *mut c_void,
    handle: *mut *mut c_void,
    descriptor: *mut Descriptor,
) -> NcclResult {
    match plugin().and_then(|table| table.start_event) {
        // SAFETY: passed on as it came.
        Some(start) => unsafe { start(context, handle, descriptor) },
        None => SUCCESS,
    }
}

unsafe extern "C" fn stop(handle: *mut c_void) -> NcclResult {
    match plugin().and_then(|table| table.stop_event) {
        // SAFETY: passed on as it came.
        Some(stop) => unsafe { stop(handle) },
        None => SUCCESS,
    }
}

unsafe extern "C" fn record(handle: *mut c_void, state: c_int, arguments: *mut StateArgs) -> NcclResult {
    match plugin().and_then(|table| table.record_event_state) {
        // SAFETY: passed on as it came.
        Some(record) => unsafe { record(handle, state, arguments) },
        None => SUCCESS,
    }
}

unsafe extern "C" fn finalize(context: *mut c_void) -> NcclResult {
    match plugin().and_then(|table| table.finalize) {
        // SAFETY: passed on as it came.
        Some(finalize) => unsafe { finalize(context) },
        None => SUCCESS,
    }
}

/// The table that NCCL looks for.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static ncclProfiler_v5: Table = Table {
    name: c"c4-profiler-switch".as_ptr(),
    init: Some(init),
    start_event: Some(start),
    stop_event: Some(stop),
    record_event_state: Some(record),
    finalize: Some(finalize),
};
