//! What the plugin says through NCCL's logger, kept so that a test can read it (and printed, as NCCL_DEBUG would).

use std::ffi::{CStr, c_char, c_int, c_ulong};
use std::sync::{Mutex, PoisonError};

use nccl_profiler_c4::abi::Logger;

/// One line the plugin logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Level, one of `abi::log_level`.
    pub level: c_int,
    /// The text. Only "%s" is expanded; any other format is given as it is.
    pub text: String,
}

static LOG: Mutex<Vec<LogLine>> = Mutex::new(Vec::new());

/// Takes what was logged so far in this process.
pub fn take_log() -> Vec<LogLine> {
    std::mem::take(&mut LOG.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The function NCCL would pass as `ncclDebugLog`.
pub(super) fn logger() -> Logger {
    type Fixed = unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, *const c_char);
    type Variadic = unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, ...);
    let fixed: Fixed = receive;
    // SAFETY: both are function pointers of one size. On the Linux ABIs of x86-64 and AArch64 a variadic call passes its
    // first integer and pointer arguments in the registers a fixed signature reads them from, so the sixth
    // parameter is the first variadic argument, or garbage if there was none, and is looked at only for the format "%s".
    Some(unsafe { std::mem::transmute::<Fixed, Variadic>(fixed) })
}

/// Receives a line.
unsafe extern "C" fn receive(
    level: c_int,
    _flags: c_ulong,
    _file: *const c_char,
    _line: c_int,
    format: *const c_char,
    first: *const c_char,
) {
    if format.is_null() {
        return;
    }
    // SAFETY: the logger's contract: `format` is a NUL-terminated string.
    let format = unsafe { CStr::from_ptr(format) };
    let text = if format == c"%s" && !first.is_null() {
        // SAFETY: "%s" takes one NUL-terminated string.
        unsafe { CStr::from_ptr(first) }
    } else {
        format
    };
    let text = text.to_string_lossy().into_owned();
    eprintln!("NCCL {level} {text}");
    LOG.lock().unwrap_or_else(PoisonError::into_inner).push(LogLine { level, text });
}
