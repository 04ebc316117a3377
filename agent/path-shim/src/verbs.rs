//! RoCE: the source port of a queue pair's packets.
//!
//! A RoCE NIC derives the UDP source port, which ECMP hashes, from the flow label that a queue pair is given when it learns
//! of its peer (on the way to "ready to receive"). NCCL leaves the label at 0. So `ibv_modify_qp` is stood before: where
//! the table knows the peer, the label is set to one that makes the planned port, and in every other case, and to the
//! caller's eyes always, everything is as it was.
//!
//! Callers that link libibverbs find the function exported here. NCCL does not: it looks each function up in the library
//! that it has opened, by `dlvsym` with a version, which is why [`crate::lookups`] stands before that.

use std::{
    ffi::{c_int, c_void},
    mem::transmute,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use c4_path_table::Buffer;

use crate::{calls::aside, plan::Table, turns};

/// The UDP port that all RoCE packets go to.
const ROCE: u16 = 4791;
/// Source ports of RoCE packets: the upper two bits are set.
const PORTS: u16 = 0xC000;
const READY_TO_RECEIVE: c_int = 2;
/// Bits of a mask: the attribute holds an address.
const ADDRESS: c_int = 1 << 7;
const STATE: c_int = 1;

/// The beginning of `struct ibv_qp_attr`. It is only ever used where it lies, since its end differs between versions.
#[repr(C)]
pub(crate) struct Attributes {
    qp_state: c_int,
    /// Current state, MTU, migration state, key, two sequence numbers, the peer's number, access flags, capabilities.
    other: [u32; 13],
    dgid: [u8; 16],
    flow_label: u32,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    dlid: u16,
    sl: u8,
    src_path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port_num: u8,
}

const _: () = assert!(std::mem::offset_of!(Attributes, dgid) == 56);
const _: () = assert!(std::mem::offset_of!(Attributes, is_global) == 85);

/// `ibv_modify_qp`.
pub(crate) type ModifyQp = unsafe extern "C" fn(*mut c_void, *mut Attributes, c_int) -> c_int;

/// The library's own, as it was looked up.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Remembers the library's own function; what to hand out instead. A second library's is left alone.
pub(crate) fn stand_before(real: *mut c_void) -> *mut c_void {
    match REAL.compare_exchange(null_mut(), real, Relaxed, Relaxed) {
        Err(other) if other != real => real,
        _ => modify_qp as ModifyQp as *mut c_void,
    }
}

/// Replaces the library's function of this name for programs that are linked to it.
///
/// # Safety
/// As libibverbs'.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_modify_qp(qp: *mut c_void, attributes: *mut c_void, mask: c_int) -> c_int {
    if REAL.load(Relaxed).is_null() {
        // SAFETY: the name is NUL-terminated.
        let real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"ibv_modify_qp".as_ptr()) };
        if real.is_null() {
            return libc::ENOSYS;
        }
        stand_before(real);
    }
    // SAFETY: the caller's own arguments.
    unsafe { modify_qp(qp, attributes.cast(), mask) }
}

/// What callers get.
///
/// # Safety
/// As libibverbs'.
unsafe extern "C" fn modify_qp(qp: *mut c_void, attributes: *mut Attributes, mask: c_int) -> c_int {
    let real = REAL.load(Relaxed);
    if real.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: it was looked up by this function's name.
    let real = unsafe { transmute::<*mut c_void, ModifyQp>(real) };
    // SAFETY: the caller's attributes, readable as the library demands.
    let Some((label, turn)) = aside(|| unsafe { label(attributes, mask) }) else {
        // SAFETY: the caller's own arguments.
        return unsafe { real(qp, attributes, mask) };
    };
    // SAFETY: the library takes them by a pointer that is not const; nobody else uses them during the call.
    unsafe {
        let before = (*attributes).flow_label;
        (*attributes).flow_label = label;
        let result = real(qp, attributes, mask);
        (*attributes).flow_label = before;
        if result != libc::EINVAL {
            return result;
        }
        turns::back(turn);
        real(qp, attributes, mask)
    }
}

/// The flow label for a queue pair that learns of its peer, and the hash of the key whose turn was taken.
///
/// # Safety
/// `attributes` is null or readable as far as [`Attributes`] goes, if the mask says that there is an address.
unsafe fn label(attributes: *const Attributes, mask: c_int) -> Option<(u32, u64)> {
    if mask & (STATE | ADDRESS) != STATE | ADDRESS || attributes.is_null() {
        return None;
    }
    // SAFETY: the mask says that these are there.
    let (state, is_global, address, label) = unsafe {
        let attributes = &*attributes;
        (attributes.qp_state, attributes.is_global, attributes.dgid, attributes.flow_label)
    };
    // Who has chosen a label has chosen a path.
    if state != READY_TO_RECEIVE || is_global == 0 || label != 0 {
        return None;
    }
    let table = Table::open()?;
    let mut buffer = Buffer::default();
    let (key, ports) = table.find(address, ROCE, &mut buffer)?;
    let hash = key.hash();
    let port = ports.turn(turns::next(hash)).find(|port| *port >= PORTS);
    if port.is_none() {
        turns::back(hash);
    }
    port.map(|port| (label_for(port), hash))
}

/// A flow label that makes this source port: the lower fourteen bits are exclusive-ored with the upper six. It is not 0,
/// which would leave the choice to the driver.
fn label_for(port: u16) -> u32 {
    let low = u32::from(port & !PORTS);
    if low == 0 { 1 << 14 | 1 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel's `rdma_flow_label_to_udp_sport` does.
    fn port_of(label: u32) -> u16 {
        PORTS | ((label & 0x3FFF) ^ ((label & 0xF_C000) >> 14)) as u16
    }

    #[test]
    fn every_port_has_a_label_that_is_not_zero() {
        for port in PORTS..=u16::MAX {
            let label = label_for(port);
            assert!(label != 0 && label < 1 << 20);
            assert_eq!(port_of(label), port);
        }
    }
}
