//! A profiler plugin that only counts.
//!
//! The chain tests put it behind ours (`C4_CHAIN_PROFILER`) and read its counters; the benchmark takes it as the floor under
//! what any plugin costs. Its handles carry a mark, so it can tell whether what it is handed back is its own: a chain
//! that mixes up the two plugins' handles shows as [`count::ALIEN`].
//!
//! Environment, read at `init`:
//! - `C4_CHAINED_MASK=N` the mask it asks for (default: everything)
//! - `C4_CHAINED_INIT=fail` its init returns an error
//! - `C4_CHAINED_COST=heavy` every event allocates and makes a system call: the counter-example for the test that ours
//!   does neither

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::{INTERNAL_ERROR, Logger, NcclResult, SUCCESS, StartEvent, Table, v1, v2, v3, v4, v5, v6, v7};

// The source and not the crate: linked as a crate, it would bring its own tables, of the same names, into this library.
#[path = "../../../agent/nccl-profiler/src/abi/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod abi;

/// Mark in the upper bits of its contexts and handles.
const MARK: usize = 0xC4C4 << 48;
/// Events it numbers before it starts again.
const NUMBERS: u64 = 0xFFFF_FFFF;

/// Which number [`c4_chained_count`] gives. Below 64 it is how many events were started of the type with that bit.
pub mod count {
    /// Calls of init.
    pub const INITS: usize = 64;
    /// Calls of finalize.
    pub const FINALIZES: usize = 65;
    /// Events stopped.
    pub const STOPS: usize = 66;
    /// States recorded.
    pub const STATES: usize = 67;
    /// Contexts, handles or parents that were neither null nor its own.
    pub const ALIEN: usize = 68;
    /// API version of the last init.
    pub const VERSION: usize = 69;
    /// How many numbers there are.
    pub const END: usize = 70;
}

static COUNTS: [AtomicU64; count::END] = [const { AtomicU64::new(0) }; count::END];
static NEXT: AtomicU64 = AtomicU64::new(1);
static HEAVY: AtomicBool = AtomicBool::new(false);

/// One of this library's numbers, see [`count`]; 0 for one that is not there.
#[unsafe(no_mangle)]
pub extern "C" fn c4_chained_count(which: usize) -> u64 {
    COUNTS.get(which).map_or(0, |count| count.load(Ordering::Relaxed))
}

fn add(which: usize) {
    COUNTS[which].fetch_add(1, Ordering::Relaxed);
}

fn own(pointer: *mut c_void) -> bool {
    pointer.is_null() || pointer.addr() & (0xFFFF << 48) == MARK
}

fn check(pointer: *mut c_void) {
    if !own(pointer) {
        add(count::ALIEN);
    }
    if HEAVY.load(Ordering::Relaxed) {
        std::hint::black_box(Box::new(pointer.addr()));
        // Anything that is surely a system call.
        std::hint::black_box(std::fs::metadata("/").is_ok());
    }
}

fn number() -> *mut c_void {
    let number = NEXT.fetch_add(1, Ordering::Relaxed) & NUMBERS;
    std::ptr::without_provenance_mut(MARK | number as usize)
}

unsafe fn begin(version: u64, context: *mut *mut c_void, mask: *mut c_int) -> NcclResult {
    add(count::INITS);
    COUNTS[count::VERSION].store(version, Ordering::Relaxed);
    let variable = |name: &str| std::env::var(name).ok();
    HEAVY.store(variable("C4_CHAINED_COST").as_deref() == Some("heavy"), Ordering::Relaxed);
    if variable("C4_CHAINED_INIT").as_deref() == Some("fail") {
        return INTERNAL_ERROR;
    }
    let wanted = variable("C4_CHAINED_MASK").and_then(|mask| mask.parse().ok()).unwrap_or(0xFFFF);
    // SAFETY: init's caller passes two valid pointers.
    unsafe {
        *mask = wanted;
        *context = number();
    }
    SUCCESS
}

unsafe extern "C" fn init_v1<const V: u64>(context: *mut *mut c_void, mask: *mut c_int) -> NcclResult {
    // SAFETY: passed on.
    unsafe { begin(V, context, mask) }
}

unsafe extern "C" fn init_v4(
    context: *mut *mut c_void,
    mask: *mut c_int,
    _name: *const c_char,
    _hash: u64,
    _nodes: c_int,
    _ranks: c_int,
    _rank: c_int,
    _log: Logger,
) -> NcclResult {
    // SAFETY: passed on.
    unsafe { begin(4, context, mask) }
}

unsafe extern "C" fn init_v5<const V: u64>(
    context: *mut *mut c_void,
    _id: u64,
    mask: *mut c_int,
    _name: *const c_char,
    _nodes: c_int,
    _ranks: c_int,
    _rank: c_int,
    _log: Logger,
) -> NcclResult {
    // SAFETY: passed on.
    unsafe { begin(V, context, mask) }
}

unsafe fn started(
    context: *mut c_void,
    handle: *mut *mut c_void,
    kind: u64,
    parent: *mut c_void,
) -> NcclResult {
    check(context);
    check(parent);
    add(kind.trailing_zeros() as usize % 64);
    // SAFETY: startEvent's caller passes a valid place for the handle.
    unsafe { *handle = number() };
    SUCCESS
}

unsafe extern "C" fn stop(handle: *mut c_void) -> NcclResult {
    check(handle);
    add(count::STOPS);
    SUCCESS
}

unsafe extern "C" fn record<A>(handle: *mut c_void, _state: c_int, _args: *mut A) -> NcclResult {
    check(handle);
    add(count::STATES);
    SUCCESS
}

unsafe extern "C" fn finalize(context: *mut c_void) -> NcclResult {
    check(context);
    add(count::FINALIZES);
    SUCCESS
}

macro_rules! export {
    ($symbol:ident, $version:ident, $init:expr) => {
        /// The table for this version.
        #[unsafe(no_mangle)]
        pub static $symbol: $version::Table = {
            unsafe extern "C" fn start(
                context: *mut c_void,
                handle: *mut *mut c_void,
                descriptor: *mut $version::Descriptor,
            ) -> NcclResult {
                // SAFETY: the descriptor is valid for the call.
                let (kind, parent) = unsafe { ((*descriptor).kind, (*descriptor).parent) };
                // SAFETY: passed on.
                unsafe { started(context, handle, u64::from(kind), parent) }
            }
            let start: StartEvent<$version::Descriptor> = start;
            Table {
                name: c"c4-chained".as_ptr(),
                init: Some($init),
                start_event: Some(start),
                stop_event: Some(stop),
                record_event_state: Some(record::<$version::StateArgs>),
                finalize: Some(finalize),
            }
        };
    };
}

export!(ncclProfiler_v1, v1, init_v1::<1>);
export!(ncclProfiler_v2, v2, init_v1::<2>);
export!(ncclProfiler_v3, v3, init_v1::<3>);
export!(ncclProfiler_v4, v4, init_v4);
export!(ncclProfiler_v5, v5, init_v5::<5>);
export!(ncclProfiler_v6, v6, init_v5::<6>);
export!(ncclProfiler_v7, v7, init_v5::<7>);
