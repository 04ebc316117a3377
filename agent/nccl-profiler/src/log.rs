//! Says things through NCCL's own logger, where it has handed one out (API v4 and later), else on standard error. Never on a
//! hot path: only init speaks.

use std::ffi::CString;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::abi::{Logger, log_level, log_subsystem};

/// NCCL's logger, or none.
#[derive(Clone, Copy)]
pub struct Log(pub Logger);

impl Log {
    /// Something the user should know.
    pub fn warn(self, message: &str) {
        self.say(log_level::WARN, message);
    }

    /// Something for those who look.
    pub fn info(self, message: &str) {
        self.say(log_level::INFO, message);
    }

    /// A warning that is said once in the life of the process.
    pub fn warn_once(self, said: &AtomicBool, message: &str) {
        if !said.swap(true, Relaxed) {
            self.warn(message);
        }
    }

    fn say(self, level: std::ffi::c_int, message: &str) {
        let Some(log) = self.0 else {
            if level <= log_level::WARN {
                // Nobody is left to tell if standard error is gone.
                let _ = writeln!(std::io::stderr(), "c4: {message}");
            }
            return;
        };
        let Ok(text) = CString::new(format!("C4: {message}")) else { return };
        // SAFETY: NCCL's logger takes a printf format and its arguments; the format has one %s, for which a C string that
        // lives through the call is given. The logger is the one handed to the init that is calling.
        unsafe { log(level, log_subsystem::INIT, c"c4".as_ptr(), 0, c"%s".as_ptr(), text.as_ptr()) };
    }
}
