//! NCCL has one profiler slot. `C4_CHAIN_PROFILER=/path/other.so` names a second plugin behind ours, and every call is
//! passed on to it.
//!
//! The second plugin speaks the version that NCCL took from us (NCCL translates for plugins, we do not). Its mask is merged
//! into ours, and it is called for what NCCL would call it for with that mask alone. The two plugins' handles are different
//! things: NCCL gets the number of an entry that holds both, and parents are translated for each. Entries live in rings, one for
//! each kind of event by how long its handles are in use, so the oldest are given up first; a parent that is gone reads
//! as none. A second plugin that is missing, too old or fails its init is left alone, and ours works on.
//!
//! Where no second plugin is named, all of this costs one load, and is out of the way of what is then called.

use std::env;
use std::ffi::{CStr, CString, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64};
use std::sync::{Mutex, PoisonError};

use crate::abi::{Logger, NcclResult, SUCCESS, symbol};
use crate::describe::Told;
use crate::events;
use crate::handle::{Handle, Kind};
use crate::log::Log;
use crate::state;
use crate::view::{Event, StateArgs};

mod mask;
mod rings;
mod tables;

use rings::{Pair, Ring, Rings};
pub use tables::Version;

static CHAIN: AtomicPtr<Chain> = AtomicPtr::new(ptr::null_mut());
static INIT: Mutex<()> = Mutex::new(());
static SAID: AtomicBool = AtomicBool::new(false);
/// The library was looked at, and does not speak what NCCL speaks.
static USELESS: AtomicBool = AtomicBool::new(false);

/// The second plugin. Made once, never freed: its library stays open, since its callbacks may be under way at any time.
struct Chain {
    /// Our own mark in handles; like the state's, but there without a state too.
    cookie: u64,
    library: *mut c_void,
    /// Version of `table`, 0 before the first init.
    version: AtomicU64,
    table: AtomicPtr<c_void>,
    /// What it asked for. It may change this while it runs, as it might NCCL's.
    mask: AtomicI32,
    rings: Rings,
}

/// Whether there is a second plugin.
#[inline(always)]
pub fn is_on() -> bool {
    !CHAIN.load(Relaxed).is_null()
}

fn get() -> Option<&'static Chain> {
    // SAFETY: null or published by `open` complete, and never freed.
    unsafe { CHAIN.load(Acquire).as_ref() }
}

/// A communicator is made: lets the second plugin in, and makes a context and a mask for both.
///
/// # Safety
/// As for [`crate::init::init`].
pub unsafe fn init(api: u32, told: &Told, logger: Logger, context: &mut Handle, mask: &mut c_int) {
    let log = Log(logger);
    let _guard = INIT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(chain) = get().or_else(|| open(api, log)) else { return };
    let theirs = match chain.table_of(api, log) {
        // SAFETY: as the caller promises; the table is of this version.
        Some(table) => unsafe { tables::init(api, table, told, chain.mask.as_ptr(), logger) },
        None => None,
    };
    if theirs.is_none() && chain.version.load(Relaxed) == u64::from(api) {
        log.warn_once(&SAID, "the chained plugin's init failed: going on without it");
    }
    let wanted = if theirs.is_some() { chain.mask.load(Relaxed) } else { 0 };
    if let Some(state) = state::get() {
        state.depth.chained_mask.fetch_or(wanted, Relaxed);
    }
    *mask |= wanted;
    let pair = Pair { ours: *context, theirs: theirs.unwrap_or(ptr::null_mut()), heard: theirs.is_some() };
    *context = chain.enter(&chain.rings.contexts, pair);
}

/// Loads the library.
fn open(api: u32, log: Log) -> Option<&'static Chain> {
    let path = env::var_os("C4_CHAIN_PROFILER").filter(|path| !path.is_empty())?;
    if USELESS.load(Relaxed) {
        return None;
    }
    let library = match load(&path) {
        Ok(library) => library,
        Err(problem) => {
            let path = path.to_string_lossy();
            log.warn_once(&SAID, &format!("cannot chain {path}: {problem}; going on without it"));
            return None;
        }
    };
    let cookie = state::get().map_or(0, |state| state.cookie.load(Relaxed));
    let cookie = if cookie == 0 { u64::from(std::process::id() | 1) << 48 } else { cookie };
    let chain = Box::new(Chain {
        cookie,
        library,
        version: AtomicU64::new(0),
        table: AtomicPtr::new(ptr::null_mut()),
        mask: AtomicI32::new(0),
        rings: Rings::new(),
    });
    if chain.table_of(api, log).is_none() {
        USELESS.store(true, Relaxed);
        return None;
    }
    let chain = Box::leak(chain);
    CHAIN.store(chain, Release);
    Some(chain)
}

fn load(path: &OsStr) -> Result<*mut c_void, String> {
    let path = CString::new(path.as_bytes()).map_err(|_| "its path has a NUL in it".to_owned())?;
    // SAFETY: a C string; the user named this library to be run here.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !library.is_null() {
        return Ok(library);
    }
    // SAFETY: dlerror gives null or a C string that is valid until the next call on this thread.
    let said = unsafe { libc::dlerror() };
    if said.is_null() {
        return Err("it cannot be loaded".to_owned());
    }
    // SAFETY: as above, and not null.
    Err(unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned())
}

impl Chain {
    /// Its table for a version. The first init decides; NCCL of another family in the same process goes without.
    fn table_of(&self, api: u32, log: Log) -> Option<*mut c_void> {
        let version = self.version.load(Acquire);
        let known = self.table.load(Relaxed);
        if version == u64::from(api) {
            return (!known.is_null()).then_some(known);
        }
        let symbol = symbol(api)?;
        // SAFETY: an open library and a C string.
        let table = unsafe { libc::dlsym(self.library, symbol.as_ptr()) };
        // SAFETY: not null, so the library's table of this version, by the name that NCCL would trust as well.
        if table.is_null() || !unsafe { tables::is_complete(table) } {
            let name = symbol.to_string_lossy();
            log.warn_once(&SAID, &format!("the chained plugin has no complete {name}: going on without it"));
            return None;
        }
        self.table.store(table, Relaxed);
        self.version.store(u64::from(api), Release);
        Some(table)
    }

    fn enter(&self, ring: &Ring, pair: Pair) -> Handle {
        Handle::new(self.cookie, Kind::Chained, ring.enter(pair))
    }

    /// What a handle of ours stands for; handles of others mean nothing to the second plugin.
    fn pair(&self, handle: Handle) -> Pair {
        if handle.is_ours(self.cookie, Kind::Chained) {
            self.rings.find(handle.payload()).unwrap_or(Pair { ours: Handle::NULL, ..Pair::NONE })
        } else {
            Pair { ours: handle, ..Pair::NONE }
        }
    }

    fn hears(&self, kind: u64) -> bool {
        mask::hears(self.mask.load(Relaxed).cast_unsigned(), kind)
    }
}

/// Starts an event for both.
///
/// # Safety
/// As for [`events::start`].
#[cold]
pub unsafe fn start<E: Event + Version>(context: Handle, event: &E) -> Handle {
    let Some(chain) = get() else { return Handle::NULL };
    let contexts = chain.pair(context);
    let mut pair = Pair::NONE;
    if let Some(state) = state::get() {
        let mut event = *event;
        event.replace_parents(|parent| chain.pair(parent).ours);
        // SAFETY: as the caller promises; the copy differs in its parents only.
        pair.ours = unsafe { events::start(state, contexts.ours, &event) };
    }
    if contexts.heard && chain.hears(event.kind()) && chain.version.load(Relaxed) == u64::from(E::API) {
        let mut event = *event;
        event.replace_parents(|parent| Handle(chain.pair(parent).theirs.addr() as u64));
        // SAFETY: the table is of the event's version and complete, the context is what its init gave out.
        pair.theirs = unsafe { event.start(chain.table.load(Relaxed), contexts.theirs) };
        pair.heard = !pair.theirs.is_null();
    }
    if pair.ours == Handle::NULL && !pair.heard {
        return Handle::NULL;
    }
    chain.enter(chain.rings.of(event.kind()), pair)
}

/// Stops an event for both.
#[cold]
pub fn stop(handle: Handle) {
    let Some(chain) = get() else { return };
    let pair = chain.pair(handle);
    if let Some(state) = state::get() {
        // A handle whose entry is gone is as stale as it looks.
        let ours = if pair.ours == Handle::NULL && !pair.heard { handle } else { pair.ours };
        events::stop(state, ours);
    }
    if pair.heard {
        // SAFETY: the table is complete and of the version the handle came from.
        unsafe { tables::stop(chain.table.load(Relaxed), pair.theirs) };
    }
}

/// A state for both.
///
/// # Safety
/// As for [`events::record`].
#[cold]
pub unsafe fn record<A: StateArgs>(handle: Handle, new_state: c_int, args: *mut A) {
    let Some(chain) = get() else { return };
    let pair = chain.pair(handle);
    if let Some(state) = state::get() {
        // SAFETY: as the caller promises.
        unsafe { events::record(state, pair.ours, new_state, args) };
    }
    if pair.heard {
        // SAFETY: the table is complete and of the version that the handle and the arguments came with.
        unsafe { tables::record(chain.table.load(Relaxed), pair.theirs, new_state, args.cast()) };
    }
}

/// A communicator goes. The context that ours gave out.
pub fn finalize(context: Handle) -> Handle {
    let Some(chain) = get() else { return context };
    let pair = chain.pair(context);
    if pair.heard {
        // SAFETY: the table is complete, the context is what its init gave out.
        unsafe { tables::finalize(chain.table.load(Relaxed), pair.theirs) };
        chain.rings.forget(context.payload());
    }
    pair.ours
}

/// Whether a call went well.
fn succeeded(result: NcclResult) -> bool {
    result == SUCCESS
}
