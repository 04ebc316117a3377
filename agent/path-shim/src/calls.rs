//! The calls that are stood before.

use std::{
    ffi::{CStr, c_int, c_void},
    mem::transmute,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed},
};

use c4_path_table::Buffer;
use libc::{sockaddr, socklen_t};

use crate::{
    plan::Table,
    sockets::{Bind, Local, bind_to_one, internet, is_tcp, option},
    turns,
};

/// How many ports of a path are tried.
const TRIES: usize = 512;

/// The next definition of a function with `connect`'s and `bind`'s signature.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

static CONNECT: Next = Next { name: c"connect", address: AtomicPtr::new(null_mut()) };
static BIND: Next = Next { name: c"bind", address: AtomicPtr::new(null_mut()) };

impl Next {
    fn get(&self) -> Option<Bind> {
        let mut address = self.address.load(Relaxed);
        if address.is_null() {
            // SAFETY: the name is NUL-terminated.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Relaxed);
        }
        // SAFETY: a function of libc's name has libc's signature, which `connect` and `bind` share.
        (!address.is_null()).then(|| unsafe { transmute::<*mut c_void, Bind>(address) })
    }
}

/// Looked up when the library is loaded: what looks symbols up may take locks.
extern "C" fn load() {
    CONNECT.get();
    BIND.get();
}

#[used]
// SAFETY: the loader calls what stands in .init_array with C's convention; extra arguments are ignored.
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;

/// Does something on the side: no panic leaves it, and errno is as it was.
pub(crate) fn aside<T>(call: impl FnOnce() -> Option<T>) -> Option<T> {
    // SAFETY: errno is this thread's own.
    let before = unsafe { *libc::__errno_location() };
    let result = catch_unwind(AssertUnwindSafe(call)).ok().flatten();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = before };
    result
}

/// Replaces libc's function of this name.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(socket: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller's address, readable as libc demands.
    let turn = aside(|| unsafe { steer(socket, address, length) });
    let Some(connect) = CONNECT.get() else {
        // SAFETY: the caller's own arguments.
        return unsafe { libc::syscall(libc::SYS_connect, socket, address, length) as c_int };
    };
    // SAFETY: the caller's own arguments.
    let result = unsafe { connect(socket, address, length) };
    if let Some(hash) = turn
        && result != 0
    {
        aside(|| {
            // SAFETY: errno is this thread's own; `aside` has not touched it.
            let error = unsafe { *libc::__errno_location() };
            if error != libc::EINPROGRESS && error != libc::EINTR {
                turns::back(hash);
            }
            None::<()>
        });
    }
    result
}

/// Binds a socket to the port that the plan has for its destination. The hash of the key, if a turn was taken.
///
/// # Safety
/// `address` is null or readable for `length` bytes.
unsafe fn steer(socket: c_int, address: *const sockaddr, length: socklen_t) -> Option<u64> {
    // SAFETY: as the caller promises.
    let (address, port) = unsafe { internet(address, length) }?;
    let table = Table::open()?;
    let mut buffer = Buffer::default();
    let (key, ports) = table.find(address, port, &mut buffer)?;
    let local = Local::of(socket)?;
    // A port means: the program chose it, or this connection is under way already.
    if !is_tcp(socket) || local.port() != Some(0) {
        return None;
    }
    let hash = key.hash();
    let turn = turns::next(hash);
    let bound = bind_to_one(socket, local, ports.turn(turn).take(TRIES), BIND.get()?);
    if bound.is_none() {
        turns::back(hash);
    }
    bound.map(|_| hash)
}

/// Replaces libc's function of this name.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(socket: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller's address, readable as libc demands.
    if aside(|| unsafe { settle(socket, address, length) }).is_some() {
        return 0;
    }
    match BIND.get() {
        // SAFETY: the caller's own arguments.
        Some(bind) => unsafe { bind(socket, address, length) },
        // SAFETY: the caller's own arguments.
        None => unsafe { libc::syscall(libc::SYS_bind, socket, address, length) as c_int },
    }
}

/// Binds a TCP socket that wants any port to one of those for listening.
///
/// # Safety
/// `address` is null or readable for `length` bytes.
unsafe fn settle(socket: c_int, address: *const sockaddr, length: socklen_t) -> Option<u16> {
    static START: AtomicU32 = AtomicU32::new(0);
    // SAFETY: as the caller promises.
    if unsafe { internet(address, length) }?.1 != 0 {
        return None;
    }
    let range = Table::open()?.listen()?;
    // Who wants an address but no port yet is about to connect.
    let client = option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) == Some(1);
    if client || !is_tcp(socket) {
        return None;
    }
    // SAFETY: as the caller promises.
    let local = unsafe { Local::copy(address, length) }?;
    // Processes that start together do not all begin with the same port.
    // SAFETY: getpid has no preconditions.
    let start = START.fetch_add(1, Relaxed).wrapping_add(unsafe { libc::getpid() } as u32);
    let count = range.len() as u32;
    let ports = (0..count).map(|n| range.start + (start.wrapping_add(n) % count) as u16);
    bind_to_one(socket, local, ports.take(TRIES), BIND.get()?)
}
