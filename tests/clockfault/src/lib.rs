//! `libc4_clockfault.so`: preloaded into a test process, it moves the process's wall clock by as many seconds as the file
//! `$C4_CLOCK_FILE` says at that moment (a whole number, `-7200` for two hours back; nothing: none). The machine's own clock
//! cannot be set without root, and would be set for everybody. Monotonic clocks are left alone, as by whoever sets a real one.
//!
//! And it makes the process's disk slow: until what was written is on the disk takes as many milliseconds more as the file
//! `$C4_DISK_FILE` says.

use std::{
    ffi::{CStr, c_int},
    mem::transmute,
    sync::OnceLock,
};

use libc::{clockid_t, timespec};

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type Sync = unsafe extern "C" fn(c_int) -> c_int;

/// libc's functions, and the paths of the files.
struct Real {
    clock_gettime: ClockGettime,
    fsync: Sync,
    fdatasync: Sync,
    clock: Option<&'static CStr>,
    disk: Option<&'static CStr>,
}

static REAL: OnceLock<Real> = OnceLock::new();

/// Where libc's function of that name is.
fn next(name: &CStr) -> *mut libc::c_void {
    // SAFETY: the name is NUL-terminated; RTLD_NEXT asks for the definition after this library's.
    let address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if address.is_null() {
        // SAFETY: ends the process; without libc's function nothing can go on.
        unsafe { libc::abort() };
    }
    address
}

/// What a variable of the environment says.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name is NUL-terminated. No test process changes its environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: what getenv found is NUL-terminated and lasts as long as the environment.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

fn real() -> &'static Real {
    REAL.get_or_init(|| Real {
        // SAFETY: the symbol is libc's function of that name, whose type this is.
        clock_gettime: unsafe { transmute::<*mut libc::c_void, ClockGettime>(next(c"clock_gettime")) },
        // SAFETY: likewise.
        fsync: unsafe { transmute::<*mut libc::c_void, Sync>(next(c"fsync")) },
        // SAFETY: likewise.
        fdatasync: unsafe { transmute::<*mut libc::c_void, Sync>(next(c"fdatasync")) },
        clock: variable(c"C4_CLOCK_FILE"),
        disk: variable(c"C4_DISK_FILE"),
    })
}

/// The number in a file, 0 if there is none. By system calls alone: any thread may ask for the time, holding any lock.
fn number(path: &CStr) -> i64 {
    let mut text = [0_u8; 24];
    // SAFETY: the path is NUL-terminated.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return 0;
    }
    // SAFETY: the buffer is as long as is said.
    let length = unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: the descriptor was opened above, and nobody else has it.
    unsafe { libc::close(file) };
    let read = text.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
    std::str::from_utf8(read).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let real = real();
    // SAFETY: the arguments are the caller's, who keeps to libc's contract.
    let result = unsafe { (real.clock_gettime)(clock, time) };
    if result == 0
        && clock == libc::CLOCK_REALTIME
        && let Some(path) = real.clock
    {
        // SAFETY: libc has just written there.
        unsafe { (*time).tv_sec += number(path) };
    }
    result
}

/// The disk takes its time.
fn stall(real: &Real) {
    let ms = real.disk.map_or(0, number);
    if ms > 0 {
        std::thread::sleep(std::time::Duration::from_millis(ms.unsigned_abs()));
    }
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(file: c_int) -> c_int {
    let real = real();
    stall(real);
    // SAFETY: the argument is the caller's.
    unsafe { (real.fsync)(file) }
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    let real = real();
    stall(real);
    // SAFETY: the argument is the caller's.
    unsafe { (real.fdatasync)(file) }
}
