//! `libc4_clockfault.so`: preloaded into a test process, it moves the process's wall clock by as many seconds as the file
//! `$C4_CLOCK_FILE` says at that moment (a whole number, `-7200` for two hours back; nothing: none). The machine's own clock
//! cannot be set without root, and would be set for everybody. Monotonic clocks are left alone, as by whoever sets a real one.

use std::{
    ffi::{CStr, c_int},
    mem::transmute,
    sync::OnceLock,
};

use libc::{clockid_t, timespec};

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;

/// libc's function, and the path of the file.
struct Real {
    clock_gettime: ClockGettime,
    path: Option<&'static CStr>,
}

static REAL: OnceLock<Real> = OnceLock::new();

fn real() -> &'static Real {
    REAL.get_or_init(|| {
        // SAFETY: the name is NUL-terminated; RTLD_NEXT asks for the definition after this library's.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        if address.is_null() {
            // SAFETY: ends the process; without libc's function nothing can go on.
            unsafe { libc::abort() };
        }
        // SAFETY: the symbol is libc's function of that name, whose type this is.
        let clock_gettime = unsafe { transmute::<*mut libc::c_void, ClockGettime>(address) };
        // SAFETY: the name is NUL-terminated. No test process changes its environment.
        let path = unsafe { libc::getenv(c"C4_CLOCK_FILE".as_ptr()) };
        // SAFETY: what getenv found is NUL-terminated and lasts as long as the environment.
        let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
        Real { clock_gettime, path }
    })
}

/// Seconds by which the clock is wrong. By system calls alone: any thread may ask for the time, holding any lock.
fn seconds_off(path: &CStr) -> i64 {
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
        && let Some(path) = real.path
    {
        // SAFETY: libc has just written there.
        unsafe { (*time).tv_sec += seconds_off(path) };
    }
    result
}
