//! NCCL's own version, asked of the library that called: the interface alone tells only the family.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::log::Log;

/// Stores the version as NCCL's code, if the logger's library has `ncclGetVersion`.
pub fn of_library(log: Log, version: &AtomicU32) {
    if let Some(found) = log.0.and_then(|logger| ask(logger as *const c_void)) {
        version.store(found, Relaxed);
    }
}

fn ask(inside: *const c_void) -> Option<u32> {
    let mut place = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is only looked up, and `place` is a valid place for the answer.
    if unsafe { libc::dladdr(inside, place.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: zeroed above, which is valid for a structure of pointers, and filled in by the call.
    let name = unsafe { place.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: `name` is the name of a library that is loaded, since it calls us; NOLOAD opens nothing new.
    let library = unsafe { libc::dlopen(name, libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if library.is_null() {
        return None;
    }
    // SAFETY: an open library and a C string.
    let symbol = unsafe { libc::dlsym(library, c"ncclGetVersion".as_ptr()) };
    let version = (!symbol.is_null() && belongs_to(symbol, name)).then(|| call(symbol)).flatten();
    // SAFETY: opened above; it stays loaded, others hold it.
    unsafe { libc::dlclose(library) };
    version
}

/// Whether a symbol is the library's own and not one of its dependencies'.
fn belongs_to(symbol: *mut c_void, library: *const std::ffi::c_char) -> bool {
    let mut place = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: as in `ask`.
    let found = unsafe { libc::dladdr(symbol, place.as_mut_ptr()) } != 0;
    // SAFETY: as in `ask`.
    let name = unsafe { place.assume_init() }.dli_fname;
    // SAFETY: both are names from the loader, C strings that live as long as their libraries are loaded.
    found && !name.is_null() && unsafe { CStr::from_ptr(name) == CStr::from_ptr(library) }
}

fn call(symbol: *mut c_void) -> Option<u32> {
    // SAFETY: NCCL's public header declares `ncclResult_t ncclGetVersion(int *)` since 2.3; it only stores a constant.
    let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(symbol) };
    let mut version = 0;
    // SAFETY: as above; `version` is a valid place.
    let result = unsafe { get_version(&mut version) };
    u32::try_from(version).ok().filter(|version| result == 0 && (10_000..=9_999_999).contains(version))
}
