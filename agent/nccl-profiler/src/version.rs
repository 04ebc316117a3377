//! NCCL's own version, asked of the library that called: the interface alone tells only the family.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::loaded::Loaded;
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
    // SAFETY: a name from the loader, a C string that lives as long as the library, which calls us.
    let name = unsafe { CStr::from_ptr(name) };
    let library = Loaded::find(name)?;
    let symbol = library.symbol(c"ncclGetVersion")?.as_ptr();
    belongs_to(symbol, name).then(|| call(symbol)).flatten()
}

/// Whether a symbol is the library's own and not one of its dependencies'.
fn belongs_to(symbol: *mut c_void, library: &CStr) -> bool {
    let mut place = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: as in `ask`.
    let found = unsafe { libc::dladdr(symbol, place.as_mut_ptr()) } != 0;
    // SAFETY: as in `ask`.
    let name = unsafe { place.assume_init() }.dli_fname;
    // SAFETY: a name from the loader, a C string that lives as long as its library is loaded.
    found && !name.is_null() && unsafe { CStr::from_ptr(name) } == library
}

fn call(symbol: *mut c_void) -> Option<u32> {
    // SAFETY: NCCL's public header declares `ncclResult_t ncclGetVersion(int *)` since 2.3; it only stores a constant.
    let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(symbol) };
    let mut version = 0;
    // SAFETY: as above; `version` is a valid place.
    let result = unsafe { get_version(&mut version) };
    u32::try_from(version).ok().filter(|version| result == 0 && (10_000..=9_999_999).contains(version))
}
