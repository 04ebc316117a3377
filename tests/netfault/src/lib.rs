//! `libc4_netfault.so`: preloaded into a test process, it slows or blocks what the process sends to some ports.
//!
//! A broken link between two ranks cannot be made without root by the network's own means, so it is made between the
//! program and its sockets. The file `$C4_FAULT_DIR/net-<pid>.json` says what suffers:
//! `{"peer_ports":[…],"mode":"block"|"slow","bytes_per_second":…,"receive":false}`. It is looked at every
//! 20 ms while sockets are used; without it a call costs one clock reading more than before.
//!
//! A held-back call on a non-blocking socket (or with `MSG_DONTWAIT`, as in NCCL's socket transport) fails with
//! `EAGAIN`; on a blocking one it waits. Connections themselves stay up: only the bytes stop.

mod rules;

use std::{
    ffi::{c_int, c_void},
    mem::transmute_copy,
    sync::atomic::{AtomicPtr, Ordering},
};

use libc::{iovec, msghdr, size_t, ssize_t};
use rules::Verdict;

/// How long a blocking call that is held back sleeps before it tries again.
const RETRY_NS: libc::c_long = 2_000_000;

/// libc's function behind one of ours, looked up at first use.
struct Next {
    name: &'static std::ffi::CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static std::ffi::CStr) -> Self {
        Self { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The function as `F`, which must be the type that libc declares for it.
    fn get<F: Copy>(&self) -> F {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            // SAFETY: the name is NUL-terminated; RTLD_NEXT asks for the definition after this library's.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            if address.is_null() {
                // SAFETY: ends the process; without libc's function nothing can go on.
                unsafe { libc::abort() };
            }
            self.address.store(address, Ordering::Relaxed);
        }
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the address is that of the function whose type the caller names; sizes are equal.
        unsafe { transmute_copy(&address) }
    }
}

/// Whether a call on `fd` must not block.
fn must_not_block(fd: c_int, flags: c_int) -> bool {
    // SAFETY: fcntl with F_GETFL takes no pointer and fails on a bad descriptor.
    flags & libc::MSG_DONTWAIT != 0 || unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_NONBLOCK != 0
}

/// Asks the rules about a call until it may pass: how many bytes, or `None` if it is to fail with EAGAIN.
fn admit(fd: c_int, flags: c_int, bytes: usize, receiving: bool) -> Option<usize> {
    loop {
        match rules::judge(fd, bytes, receiving) {
            Verdict::Pass(bytes) => return Some(bytes),
            Verdict::Hold if must_not_block(fd, flags) => {
                // SAFETY: errno is this thread's own.
                unsafe { *libc::__errno_location() = libc::EAGAIN };
                return None;
            }
            Verdict::Hold => {
                let pause = libc::timespec { tv_sec: 0, tv_nsec: RETRY_NS };
                // SAFETY: the pointer is valid for the call, the other may be null.
                unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
            }
        }
    }
}

/// Bytes in a vector of buffers.
///
/// # Safety
/// `vector` must point at `count` valid entries.
unsafe fn total(vector: *const iovec, count: usize) -> usize {
    // SAFETY: the caller's promise, which is the system call's own requirement.
    (0..count).map(|index| unsafe { (*vector.add(index)).iov_len }).sum()
}

/// The vector cut to at most `bytes`: its first non-empty buffer, shortened. A partial transfer is always allowed.
///
/// # Safety
/// As for [`total`].
unsafe fn cut(vector: *const iovec, count: usize, bytes: usize) -> iovec {
    // SAFETY: as for `total`.
    let first = (0..count).map(|index| unsafe { *vector.add(index) }).find(|buffer| buffer.iov_len > 0);
    let first = first.unwrap_or(iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });
    iovec { iov_base: first.iov_base, iov_len: first.iov_len.min(bytes) }
}

/// Replaces a libc function that moves one buffer.
macro_rules! one_buffer {
    ($name:ident, $text:literal, $receiving:literal, $pointer:ty, ($($arg:ident: $type:ty),*), $flags:expr) => {
        /// Replaces libc's function of this name.
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, buffer: $pointer, length: size_t $(, $arg: $type)*) -> ssize_t {
            static NEXT: Next = Next::new($text);
            let next: unsafe extern "C" fn(c_int, $pointer, size_t $(, $type)*) -> ssize_t = NEXT.get();
            match admit(fd, $flags, length, $receiving) {
                // SAFETY: the caller's own arguments, the length not larger.
                Some(bytes) => unsafe { next(fd, buffer, bytes $(, $arg)*) },
                None => -1,
            }
        }
    };
}

one_buffer!(send, c"send", false, *const c_void, (flags: c_int), flags);
one_buffer!(recv, c"recv", true, *mut c_void, (flags: c_int), flags);
one_buffer!(write, c"write", false, *const c_void, (), 0);
one_buffer!(read, c"read", true, *mut c_void, (), 0);
one_buffer!(sendto, c"sendto", false, *const c_void,
    (flags: c_int, address: *const libc::sockaddr, size: libc::socklen_t), flags);
one_buffer!(recvfrom, c"recvfrom", true, *mut c_void,
    (flags: c_int, address: *mut libc::sockaddr, size: *mut libc::socklen_t), flags);

/// Replaces a libc function that moves a vector of buffers.
macro_rules! vector {
    ($name:ident, $text:literal, $receiving:literal) => {
        /// Replaces libc's function of this name.
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
            static NEXT: Next = Next::new($text);
            let next: unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t = NEXT.get();
            let entries = usize::try_from(count).unwrap_or(0);
            // SAFETY: the caller's vector.
            let wanted = unsafe { total(vector, entries) };
            match admit(fd, 0, wanted, $receiving) {
                // SAFETY: the caller's own arguments.
                Some(bytes) if bytes >= wanted => unsafe { next(fd, vector, count) },
                Some(bytes) => {
                    // SAFETY: the caller's vector; the shortened one lives through the call.
                    unsafe { next(fd, &cut(vector, entries, bytes), 1) }
                }
                None => -1,
            }
        }
    };
}

vector!(writev, c"writev", false);
vector!(readv, c"readv", true);

/// A message header whose vector is `buffer` alone.
fn with_vector(header: &msghdr, buffer: &mut iovec) -> msghdr {
    let mut header = *header;
    header.msg_iov = buffer;
    header.msg_iovlen = 1;
    header
}

/// Replaces libc's function of this name.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    static NEXT: Next = Next::new(c"sendmsg");
    let next: unsafe extern "C" fn(c_int, *const msghdr, c_int) -> ssize_t = NEXT.get();
    // SAFETY: the caller's message.
    let (header, wanted) = unsafe { (&*message, total((*message).msg_iov, (*message).msg_iovlen)) };
    match admit(fd, flags, wanted, false) {
        // SAFETY: the caller's own arguments.
        Some(bytes) if bytes >= wanted => unsafe { next(fd, message, flags) },
        Some(bytes) => {
            // SAFETY: the caller's vector; header and buffer live through the call.
            unsafe {
                let mut buffer = cut(header.msg_iov, header.msg_iovlen, bytes);
                next(fd, &with_vector(header, &mut buffer), flags)
            }
        }
        None => -1,
    }
}

/// Replaces libc's function of this name.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    static NEXT: Next = Next::new(c"recvmsg");
    let next: unsafe extern "C" fn(c_int, *mut msghdr, c_int) -> ssize_t = NEXT.get();
    // SAFETY: the caller's message.
    let wanted = unsafe { total((*message).msg_iov, (*message).msg_iovlen) };
    match admit(fd, flags, wanted, true) {
        // SAFETY: the caller's own arguments. A rate only delays a received message, it does not cut it: the header's
        // output fields would be lost.
        Some(_) => unsafe { next(fd, message, flags) },
        None => -1,
    }
}
