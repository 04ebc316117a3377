//! What the environment says, read once, when the library is loaded: later the program may change it in another thread.

use std::{
    ffi::{CStr, c_char},
    sync::OnceLock,
};

use c4_path_table::ANY_RANK;

/// Where the agent keeps the table, unless `C4_PATH_TABLE` says otherwise.
const DEFAULT: &CStr = c"/dev/shm/c4/paths";
const LONGEST: usize = 512;

/// Settings of the process.
#[derive(Debug)]
pub(crate) struct Settings {
    path: [u8; LONGEST],
    /// Of this process in its job; [`ANY_RANK`] if it has none.
    pub(crate) rank: u32,
    /// Whether queue pairs may be moved while they run (`C4_PATH_LIVE=off` forbids it).
    pub(crate) live: bool,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// The settings; none when steering is switched off (`C4_PATH=off`).
pub(crate) fn get() -> Option<&'static Settings> {
    SETTINGS.get()
}

impl Settings {
    /// Path of the table.
    pub(crate) fn table(&self) -> *const c_char {
        // Ends with a NUL: it was copied with one.
        self.path.as_ptr().cast()
    }
}

/// A variable of the environment.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name is NUL-terminated. Only the constructor asks, before the program's threads could change anything.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: getenv answers null or a NUL-terminated string.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

extern "C" fn load() {
    if variable(c"C4_PATH").is_some_and(|value| value.to_bytes() == b"off") {
        return;
    }
    let table = variable(c"C4_PATH_TABLE").unwrap_or(DEFAULT).to_bytes_with_nul();
    let mut path = [0; LONGEST];
    let Some(start) = path.get_mut(..table.len()) else { return };
    start.copy_from_slice(table);
    let rank = variable(c"RANK").or_else(|| variable(c"SLURM_PROCID"));
    let rank = rank.and_then(|rank| rank.to_str().ok()?.parse().ok()).unwrap_or(ANY_RANK);
    // Loaded once; a second time would change nothing.
    let live = variable(c"C4_PATH_LIVE").is_none_or(|value| value.to_bytes() != b"off");
    let _ = SETTINGS.set(Settings { path, rank, live });
}

#[used]
// SAFETY: the loader calls what stands in .init_array with C's convention; extra arguments are ignored.
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;
