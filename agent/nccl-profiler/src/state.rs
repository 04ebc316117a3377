//! What the plugin knows in this process, in memory that a forked child finds empty.
//!
//! PyTorch's data loaders are forked children: they inherit the library, its statics and the mapping of the recorder. They
//! must not write a word. Checking the process id at every event would cost a system call, so the whole state lives in
//! pages that the kernel zeroes in a child (`MADV_WIPEONFORK`), the cookie with it, and a handle that does not carry the cookie is
//! ignored. Where the kernel cannot do that, a fork handler clears the cookie.
//!
//! The state is made by the first init and stays until the process ends: NCCL may close and open the library in between,
//! and events may still be under way.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64};

use c4_recorder::layout;
use c4_recorder::writer::Recorder;

use crate::connections::Connections;
use crate::depth::Depth;
use crate::names::{LastNames, NameCache};
use crate::peers::Peers;
use crate::runs::Runs;

/// What is known of a communicator: what each of its operations needs, in one line of a processor's cache.
#[repr(C, align(64))]
pub struct Known {
    /// Its generation, 0 if it is not live.
    pub live: AtomicU32,
    /// Whether a network operation of it was seen to move.
    pub networked: AtomicBool,
    /// Where NCCL keeps its event mask (in truth one place for all).
    pub mask: AtomicPtr<i32>,
    /// Names of its last operation.
    pub names: LastNames,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(ptr::null_mut());

/// State of the plugin. Made in zeroed memory, so zeroes are valid for every field but the recorder.
#[repr(C)]
pub struct State {
    /// The process's cookie in the highest 16 bits; 0 in a forked child.
    pub cookie: AtomicU64,
    /// Process id, as NCCL tells it with network operations.
    pub pid: AtomicI32,
    recorder: MaybeUninit<Recorder>,
    /// How much is recorded.
    pub depth: Depth,
    /// Which operations have kernel events.
    pub runs: Runs,
    /// What is known of communicators, by slot.
    pub comms: [Known; layout::COMMUNICATORS],
    /// Numbers of names.
    pub names: NameCache,
    /// Connections by what they connect.
    pub connections: Connections,
    /// Sends and receives by peer.
    pub peers: Peers,
}

/// The state, if there is one. In a forked child it is there, but empty.
#[inline(always)]
pub fn get() -> Option<&'static State> {
    let state = STATE.load(Acquire);
    // SAFETY: the pointer is null or was published by `make` after the state was complete, and the state is never freed or
    // unmapped. A forked child sees zeroes in it, which are valid for all fields that can be reached without the cookie.
    unsafe { state.as_ref() }
}

impl State {
    /// The recorder. Only for callers that have seen a cookie other than 0, which is stored after the recorder.
    #[inline(always)]
    pub fn recorder(&self) -> &Recorder {
        debug_assert!(self.cookie.load(Relaxed) != 0);
        // SAFETY: `make` wrote it before it stored the cookie. In a forked child the cookie is 0 and no caller comes here:
        // handles are compared with the cookie first, and init asks `is_forked_child`.
        unsafe { self.recorder.assume_init_ref() }
    }

    /// Whether this is a forked child of the process that made the state.
    pub fn is_forked_child(&self) -> bool {
        self.cookie.load(Relaxed) == 0
    }

    /// Puts a recorder into a new state and publishes it. Callers make sure that there is none yet.
    pub fn make(recorder: Recorder) -> io::Result<&'static Self> {
        let state = zeroed_and_wiped_on_fork()?;
        let cookie = recorder.cookie() << 48;
        // SAFETY: `state` is fresh, zeroed memory of the right size and alignment that nobody else knows of.
        unsafe { (&raw mut (*state).recorder).write(MaybeUninit::new(recorder)) };
        // SAFETY: all fields are valid now (see the type), and the memory is never freed.
        let made = unsafe { &*state };
        made.pid.store(std::process::id().cast_signed(), Relaxed);
        made.connections.clear();
        made.cookie.store(cookie, Release);
        STATE.store(state, Release);
        Ok(made)
    }

    /// Counts an event with an unknown or outdated handle.
    #[cold]
    pub fn count_stale(&self) {
        self.recorder().live().stale_handles.0.fetch_add(1, Relaxed);
    }

    /// Counts an event of another process.
    #[cold]
    pub fn count_foreign(&self) {
        self.recorder().live().foreign_events.0.fetch_add(1, Relaxed);
    }

    /// Counts an event of an unknown type.
    #[cold]
    pub fn count_unknown(&self) {
        self.recorder().live().unknown_events.0.fetch_add(1, Relaxed);
    }
}

fn zeroed_and_wiped_on_fork() -> io::Result<*mut State> {
    let bytes = size_of::<State>().next_multiple_of(4096);
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE);
    // SAFETY: a fresh private mapping at an address of the kernel's choice; page alignment is more than `State` needs.
    let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(memory, bytes, libc::MADV_WIPEONFORK) } != 0 {
        clear_cookie_in_children();
    }
    Ok(memory.cast())
}

/// For kernels before 4.14.
fn clear_cookie_in_children() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    extern "C" fn in_child() {
        if let Some(state) = get() {
            state.cookie.store(0, Relaxed);
        }
    }
    if !ONCE.swap(true, Relaxed) {
        // SAFETY: the library is never unloaded, so the handler stays; it only stores a word.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}
