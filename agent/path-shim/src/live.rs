//! Queue pairs that are connected: when the plan changes, those on mlx5 get the source ports of the new one while they run.
//!
//! Queue pairs are noted on their way to "ready to receive", where the peer's address is told, and forgotten when they are
//! destroyed or reset. A thread of this library looks at the table's generation twice a second, since no call that the
//! program makes while it computes passes through here. When it has changed, the queue pairs to each address are dealt out
//! over the planned paths again: as many stay where they are as the plan allows, the others are moved by an entry of libmlx5.
//! Where the program has not loaded that, there is nothing to move, and no thread.
//!
//! A queue pair is only touched under the lock that its destruction takes, too: nobody moves what is gone. The lock is held
//! for one move.

use std::{
    ffi::c_void,
    mem::zeroed,
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

use c4_path_table::{Buffer, Ports};

use crate::{
    calls::aside,
    mlx5::Mlx5,
    plan::Table,
    settings,
    verbs::{PORTS, ROCE},
};

/// Queue pairs that are known at the same time; more stay where they are.
const MOST: usize = 4096;
/// Paths of one destination that queue pairs are dealt out over; a plan with more is not followed while they run.
const MOST_PATHS: usize = 512;
/// Time between two looks at the table.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 500_000_000 };
/// Stack of the thread: a record of the table, and room to spare.
const STACK: usize = 256 << 10;

/// A queue pair, by its address in this process.
#[derive(Clone, Copy)]
struct Pair {
    qp: usize,
    to: [u8; 16],
    /// Its source port, 0 if nobody has chosen.
    port: u16,
    /// Its port of a bond, 0 if nobody has chosen.
    bond: u16,
    /// Ready to send, and so to be moved.
    ready: bool,
    /// The last round of looks in which it was dealt out.
    round: u32,
}

struct Pairs {
    pairs: [Pair; MOST],
    count: usize,
    round: u32,
    /// Some have become ready since the last look.
    news: bool,
    watched: bool,
}

const NOBODY: Pair = Pair { qp: 0, to: [0; 16], port: 0, bond: 0, ready: false, round: 0 };
static PAIRS: Mutex<Pairs> =
    Mutex::new(Pairs { pairs: [NOBODY; MOST], count: 0, round: 0, news: false, watched: false });
/// The process that they are of. A child has its parent's memory, but not its thread, and perhaps its lock, held for ever.
static OWNER: AtomicI32 = AtomicI32::new(0);

fn pairs() -> Option<MutexGuard<'static, Pairs>> {
    // SAFETY: getpid has no preconditions.
    let own = unsafe { libc::getpid() };
    let is_own = OWNER.compare_exchange(0, own, Relaxed, Relaxed).unwrap_or_else(|other| other) == own;
    (is_own || OWNER.load(Relaxed) == own).then(|| PAIRS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Pairs {
    fn known(&mut self) -> &mut [Pair] {
        &mut self.pairs[..self.count]
    }

    fn find(&mut self, qp: usize) -> Option<&mut Pair> {
        self.known().iter_mut().find(|pair| pair.qp == qp)
    }

    fn forget(&mut self, qp: usize) {
        if let Some(place) = self.known().iter().position(|pair| pair.qp == qp) {
            self.count -= 1;
            // The order of those to one address decides nothing but who stays.
            self.pairs[place] = self.pairs[self.count];
        }
    }

    /// The address of a ready queue pair that was not dealt out in this round.
    fn undealt(&mut self) -> Option<[u8; 16]> {
        let round = self.round;
        self.known().iter().find(|pair| pair.ready && pair.round != round).map(|pair| pair.to)
    }
}

/// A queue pair has learned of its peer; `port` is the source port that it was given, or 0.
pub(crate) fn note(qp: *mut c_void, to: [u8; 16], port: u16) {
    if !settings::get().is_some_and(|settings| settings.live) {
        return;
    }
    let Some(mut pairs) = pairs() else { return };
    let pair = Pair { qp: qp as usize, to, port, ..NOBODY };
    if let Some(known) = pairs.find(pair.qp) {
        *known = pair;
    } else if pairs.count < MOST {
        let place = pairs.count;
        pairs.pairs[place] = pair;
        pairs.count += 1;
    }
    if !pairs.watched && Mlx5::loaded().is_some() {
        pairs.watched = start();
    }
}

/// A queue pair may send.
pub(crate) fn ready(qp: *mut c_void) {
    let Some(mut pairs) = pairs() else { return };
    if let Some(pair) = pairs.find(qp as usize) {
        pair.ready = true;
        pairs.news = true;
    }
}

/// A queue pair is about to be destroyed, or is of no use any more.
pub(crate) fn gone(qp: *mut c_void) {
    if let Some(mut pairs) = pairs() {
        pairs.forget(qp as usize);
    }
}

/// Starts the thread, which gets none of the program's signals. It ends with the process.
fn start() -> bool {
    // SAFETY: plain data, filled by the calls below; the thread's function has the signature that is asked for.
    unsafe {
        let (mut attributes, mut all, mut before) = (zeroed(), zeroed(), zeroed());
        let mut thread = zeroed();
        if libc::pthread_attr_init(&mut attributes) != 0 {
            return false;
        }
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        libc::pthread_attr_setstacksize(&mut attributes, STACK);
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = libc::pthread_create(&mut thread, &attributes, watch, null_mut());
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        libc::pthread_attr_destroy(&mut attributes);
        result == 0
    }
}

extern "C" fn watch(_: *mut c_void) -> *mut c_void {
    // SAFETY: the name is NUL-terminated and short enough.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"c4-path".as_ptr()) };
    let mut followed = 0;
    loop {
        // SAFETY: the pointer is valid for the call.
        unsafe { libc::nanosleep(&LOOK, null_mut()) };
        aside(|| look(&mut followed));
    }
}

/// Follows the table if it is another than the one that is followed, or if there is somebody new.
fn look(followed: &mut u64) -> Option<()> {
    let table = Table::open()?;
    let generation = table.generation();
    {
        let mut pairs = pairs()?;
        if generation == *followed && !pairs.news {
            return None;
        }
        pairs.news = false;
        pairs.round = pairs.round.wrapping_add(1);
    }
    let mlx5 = Mlx5::loaded()?;
    *followed = generation;
    let mut buffer = Buffer::default();
    loop {
        let mut pairs = pairs()?;
        let to = pairs.undealt()?;
        let round = pairs.round;
        pairs.known().iter_mut().filter(|pair| pair.to == to).for_each(|pair| pair.round = round);
        drop(pairs);
        // What is not planned any more stays where it is.
        if let Some((_, ports)) = table.find(to, ROCE, &mut buffer) {
            while step(&to, ports, &mlx5) {}
        }
    }
}

/// Moves one queue pair to where there are too few; false when all are where they should be.
fn step(to: &[u8; 16], ports: Ports<'_>, mlx5: &Mlx5) -> bool {
    let Some(mut pairs) = pairs() else { return false };
    let mut wanted = [0u16; MOST_PATHS];
    let count = pairs.known().iter().filter(|pair| pair.ready && pair.to == *to).count();
    for turn in 0..count {
        match wanted.get_mut(ports.path(turn as u32)) {
            Some(wanted) => *wanted += 1,
            None => return false,
        }
    }
    let mut misplaced = None;
    for pair in pairs.known().iter().filter(|pair| pair.ready && pair.to == *to) {
        let fits = |path: &usize| {
            let bond = ports.bond(*path);
            wanted[*path] > 0
                && (bond == 0 || bond == pair.bond)
                && ports.of(*path).any(|port| port == pair.port)
        };
        match (0..MOST_PATHS.min(ports.paths())).find(fits) {
            Some(path) => wanted[path] -= 1,
            None => misplaced = misplaced.or(Some(pair.qp)),
        }
    }
    let Some(qp) = misplaced else { return false };
    let free = (0..MOST_PATHS).find(|path| wanted[*path] > 0);
    let place = free.and_then(|path| Some((ports.bond(path), ports.of(path).find(|port| *port >= PORTS)?)));
    let moved = place.filter(|(bond, port)| {
        // SAFETY: it is known, so it was not destroyed, and whoever would destroy it waits for the lock.
        unsafe { mlx5.place(qp as *mut c_void, *bond, *port) }
    });
    match (moved, pairs.find(qp)) {
        (Some((bond, port)), Some(pair)) => (pair.bond, pair.port) = (bond, port),
        // It stays where it is, and is not tried again.
        _ => pairs.forget(qp),
    }
    true
}
