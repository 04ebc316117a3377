//! Entries of libmlx5 that move a queue pair while it runs. The library is the one that libibverbs has loaded for its NICs; it
//! is never loaded for us.

use std::{
    ffi::{CStr, c_int, c_void},
    mem::transmute,
};

type Supported = unsafe extern "C" fn(*mut c_void) -> bool;
type SourcePort = unsafe extern "C" fn(*mut c_void, u16) -> c_int;
type BondPort = unsafe extern "C" fn(*mut c_void, u8) -> c_int;

/// The library's functions.
#[derive(Clone, Copy)]
pub(crate) struct Mlx5 {
    supported: Supported,
    source_port: SourcePort,
    bond_port: Option<BondPort>,
}

impl Mlx5 {
    /// The library, if the program has it and it can move queue pairs.
    pub(crate) fn loaded() -> Option<Self> {
        // SAFETY: the name is NUL-terminated; with RTLD_NOLOAD nothing is loaded and no code runs.
        let library = unsafe { libc::dlopen(c"libmlx5.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if library.is_null() {
            return None;
        }
        let find = |name: &CStr| {
            // SAFETY: a library's handle and a NUL-terminated name.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        // SAFETY: functions of these names have these signatures.
        let found = unsafe {
            find(c"mlx5dv_is_supported").zip(find(c"mlx5dv_modify_qp_udp_sport")).map(
                |(supported, source)| Self {
                    supported: transmute::<*mut c_void, Supported>(supported),
                    source_port: transmute::<*mut c_void, SourcePort>(source),
                    bond_port: find(c"mlx5dv_modify_qp_lag_port")
                        .map(|bond| transmute::<*mut c_void, BondPort>(bond)),
                },
            )
        };
        // SAFETY: the handle's own count goes down again; libibverbs holds the library as long as there are queue pairs.
        unsafe { libc::dlclose(library) };
        found
    }

    /// Gives a queue pair a port of its bond (unless 0) and a source port; whether it has them now.
    ///
    /// # Safety
    /// `qp` is a queue pair of libibverbs that nobody destroys meanwhile.
    pub(crate) unsafe fn place(&self, qp: *mut c_void, bond: u16, port: u16) -> bool {
        // `struct ibv_qp` begins with its context, and that with its device.
        // SAFETY: as the caller promises.
        let device = unsafe { *(*qp.cast::<*mut *mut c_void>()) };
        // SAFETY: a device of libibverbs.
        if !unsafe { (self.supported)(device) } {
            return false;
        }
        let bonded = match (u8::try_from(bond), self.bond_port) {
            (Ok(0), _) => true,
            // SAFETY: as the caller promises; the library says so if there is no bond.
            (Ok(bond), Some(set)) => unsafe { set(qp, bond) == 0 },
            _ => false,
        };
        // SAFETY: as the caller promises.
        bonded && unsafe { (self.source_port)(qp, port) == 0 }
    }
}
