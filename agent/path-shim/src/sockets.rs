//! What a socket is, and giving it a port.

use std::{
    ffi::{c_int, c_void},
    mem::zeroed,
};

use libc::{sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};

/// libc's own `bind`.
pub(crate) type Bind = unsafe extern "C" fn(c_int, *const sockaddr, socklen_t) -> c_int;

/// Address (IPv4 as mapped IPv6) and port of a socket address of the internet; none for others.
///
/// # Safety
/// `address` is null or readable for `length` bytes.
pub(crate) unsafe fn internet(address: *const sockaddr, length: socklen_t) -> Option<([u8; 16], u16)> {
    let length = length as usize;
    if address.is_null() || length < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: readable for a family; its place needs no alignment to be read so.
    let family = unsafe { (&raw const (*address).sa_family).read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET if length >= size_of::<sockaddr_in>() => {
            // SAFETY: long enough for one, and read without alignment.
            let address = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            let mut mapped = [0; 16];
            mapped[10..12].fill(0xff);
            mapped[12..].copy_from_slice(&address.sin_addr.s_addr.to_ne_bytes());
            Some((mapped, u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 if length >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above.
            let address = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            Some((address.sin6_addr.s6_addr, u16::from_be(address.sin6_port)))
        }
        _ => None,
    }
}

/// A socket's own address.
#[derive(Clone, Copy)]
pub(crate) struct Local {
    address: sockaddr_storage,
    length: socklen_t,
}

impl Local {
    /// A copy of an address; none when it is longer than any.
    ///
    /// # Safety
    /// `address` is readable for `length` bytes.
    pub(crate) unsafe fn copy(address: *const sockaddr, length: socklen_t) -> Option<Self> {
        // SAFETY: consists of integers.
        let mut copy = Self { address: unsafe { zeroed() }, length };
        if length as usize > size_of::<sockaddr_storage>() {
            return None;
        }
        let to = (&raw mut copy.address).cast::<u8>();
        // SAFETY: both are good for so many bytes and do not overlap.
        unsafe { to.copy_from_nonoverlapping(address.cast::<u8>(), length as usize) };
        Some(copy)
    }

    /// The address that a socket has.
    pub(crate) fn of(socket: c_int) -> Option<Self> {
        // SAFETY: consists of integers.
        let nothing: sockaddr_storage = unsafe { zeroed() };
        let mut local = Self { address: nothing, length: size_of::<sockaddr_storage>() as socklen_t };
        let address = (&raw mut local.address).cast::<sockaddr>();
        // SAFETY: the pointers are valid, and the length says for how much.
        let result = unsafe { libc::getsockname(socket, address, &mut local.length) };
        (result == 0).then_some(local)
    }

    /// Its port; none when it is not of the internet.
    pub(crate) fn port(&self) -> Option<u16> {
        // SAFETY: readable for its length, which is at most its size.
        unsafe { internet((&raw const self.address).cast(), self.length) }.map(|(_, port)| port)
    }

    /// Binds a socket to this address with another port; the error's number if that fails.
    pub(crate) fn bind(mut self, socket: c_int, port: u16, bind: Bind) -> Result<(), c_int> {
        // The port stands at the same place in both kinds of address.
        // SAFETY: the storage is aligned for and larger than any socket address.
        let address = unsafe { &mut *(&raw mut self.address).cast::<sockaddr_in>() };
        address.sin_port = port.to_be();
        // SAFETY: libc's bind with a valid address.
        match unsafe { bind(socket, (&raw const self.address).cast(), self.length) } {
            0 => Ok(()),
            // SAFETY: errno is this thread's own.
            _ => Err(unsafe { *libc::__errno_location() }),
        }
    }
}

/// A socket's option of type int.
pub(crate) fn option(socket: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let (mut value, mut length): (c_int, _) = (0, size_of::<c_int>() as socklen_t);
    // SAFETY: the pointers are valid, and the length says for how much.
    let result =
        unsafe { libc::getsockopt(socket, level, name, (&raw mut value).cast::<c_void>(), &mut length) };
    (result == 0).then_some(value)
}

fn set_reuse(socket: c_int, value: c_int) {
    let size = size_of::<c_int>() as socklen_t;
    // SAFETY: the pointer is valid for so many bytes. If it fails, so will what depends on it.
    unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const value).cast(), size)
    };
}

/// Whether this is a TCP socket.
pub(crate) fn is_tcp(socket: c_int) -> bool {
    option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

/// Binds a socket to the first of some ports that is free. Ports that only `SO_REUSEADDR` would give it are not: the
/// connection, or the listening, could fail where it would not have without us.
pub(crate) fn bind_to_one(
    socket: c_int,
    local: Local,
    ports: impl Iterator<Item = u16>,
    bind: Bind,
) -> Option<u16> {
    let reuse = option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    if reuse != 0 {
        set_reuse(socket, 0);
    }
    let mut bound = None;
    for port in ports {
        match local.bind(socket, port, bind) {
            Ok(()) => {
                bound = Some(port);
                break;
            }
            Err(libc::EADDRINUSE) => {}
            Err(_) => break,
        }
    }
    if reuse != 0 {
        set_reuse(socket, reuse);
    }
    bound
}
