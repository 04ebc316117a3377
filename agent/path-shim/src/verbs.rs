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
    ffi::{CStr, c_int, c_void},
    mem::transmute,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use c4_path_table::Buffer;

use crate::{calls::aside, live, plan::Table, turns};

/// The UDP port that all RoCE packets go to.
pub(crate) const ROCE: u16 = 4791;
/// Source ports of RoCE packets: the upper two bits are set.
pub(crate) const PORTS: u16 = 0xC000;
/// States of a queue pair.
const RESET: c_int = 0;
const READY_TO_RECEIVE: c_int = 2;
const READY_TO_SEND: c_int = 3;
const ERROR: c_int = 6;
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
type ModifyQp = unsafe extern "C" fn(*mut c_void, *mut Attributes, c_int) -> c_int;
/// `ibv_destroy_qp`.
type DestroyQp = unsafe extern "C" fn(*mut c_void) -> c_int;

/// A function of the library, as it was looked up.
struct Real(AtomicPtr<c_void>);

static MODIFY: Real = Real(AtomicPtr::new(null_mut()));
static DESTROY: Real = Real(AtomicPtr::new(null_mut()));

impl Real {
    /// Remembers the library's own function; what to hand out instead. A second library's is left alone.
    fn stand_before(&self, real: *mut c_void, instead: *mut c_void) -> *mut c_void {
        match self.0.compare_exchange(null_mut(), real, Relaxed, Relaxed) {
            Err(other) if other != real => real,
            _ => instead,
        }
    }

    /// The library's own function, looked for behind this library if nobody has asked for it; null if there is none.
    fn get(&self, name: &CStr) -> *mut c_void {
        let mut real = self.0.load(Relaxed);
        if real.is_null() {
            // SAFETY: the name is NUL-terminated.
            real = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
            self.0.store(real, Relaxed);
        }
        real
    }
}

/// What to do with the library's function of this name, if it is stood before: remember it, and say what to hand out.
pub(crate) fn instead_of(name: &CStr) -> Option<fn(*mut c_void) -> *mut c_void> {
    match name.to_bytes() {
        b"ibv_modify_qp" => Some(|real| MODIFY.stand_before(real, modify_qp as ModifyQp as *mut c_void)),
        b"ibv_destroy_qp" => Some(|real| DESTROY.stand_before(real, destroy_qp as DestroyQp as *mut c_void)),
        _ => None,
    }
}

/// Replaces the library's function of this name for programs that are linked to it.
///
/// # Safety
/// As libibverbs'.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_modify_qp(qp: *mut c_void, attributes: *mut c_void, mask: c_int) -> c_int {
    // Such a program's `ibv_destroy_qp` is the one below.
    DESTROY.get(c"ibv_destroy_qp");
    MODIFY.get(c"ibv_modify_qp");
    // SAFETY: the caller's own arguments.
    unsafe { modify_qp(qp, attributes.cast(), mask) }
}

/// Replaces the library's function of this name for programs that are linked to it.
///
/// # Safety
/// As libibverbs'.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_qp(qp: *mut c_void) -> c_int {
    DESTROY.get(c"ibv_destroy_qp");
    // SAFETY: the caller's own argument.
    unsafe { destroy_qp(qp) }
}

/// What callers get.
///
/// # Safety
/// As libibverbs'.
unsafe extern "C" fn destroy_qp(qp: *mut c_void) -> c_int {
    aside(|| {
        live::gone(qp);
        None::<()>
    });
    let real = DESTROY.0.load(Relaxed);
    if real.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: it was looked up by this function's name, and the argument is the caller's.
    unsafe { transmute::<*mut c_void, DestroyQp>(real)(qp) }
}

/// What callers get.
///
/// # Safety
/// As libibverbs'.
unsafe extern "C" fn modify_qp(qp: *mut c_void, attributes: *mut Attributes, mask: c_int) -> c_int {
    let real = MODIFY.0.load(Relaxed);
    if real.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: it was looked up by this function's name.
    let real = unsafe { transmute::<*mut c_void, ModifyQp>(real) };
    // SAFETY: the caller's attributes, readable as the library demands.
    let peer = aside(|| unsafe { peer(attributes, mask) });
    let chosen = peer.and_then(|peer| aside(|| label(peer)));
    let mut port = 0;
    let result = match chosen {
        // SAFETY: the caller's own arguments.
        None => unsafe { real(qp, attributes, mask) },
        // SAFETY: the library takes the attributes by a pointer that is not const; nobody else uses them during the call.
        Some(Chosen { label, port: planned, turn }) => unsafe {
            let before = (*attributes).flow_label;
            (*attributes).flow_label = label;
            let result = real(qp, attributes, mask);
            (*attributes).flow_label = before;
            if result == libc::EINVAL {
                turns::back(turn);
                real(qp, attributes, mask)
            } else {
                port = planned;
                result
            }
        },
    };
    if result == 0 && mask & STATE != 0 {
        aside(|| {
            // SAFETY: the mask says that it is there.
            match (unsafe { (*attributes).qp_state }, peer) {
                // Only where its end will be heard of.
                (READY_TO_RECEIVE, Some(peer)) if !DESTROY.0.load(Relaxed).is_null() => {
                    live::note(qp, peer, port);
                }
                (READY_TO_SEND, _) => live::ready(qp),
                (RESET | ERROR, _) => live::gone(qp),
                _ => {}
            }
            None::<()>
        });
    }
    result
}

/// The peer of a queue pair that learns of it, where its path is open: who has chosen a label has chosen a path.
///
/// # Safety
/// `attributes` is null or readable as far as [`Attributes`] goes, if the mask says that there is an address.
unsafe fn peer(attributes: *const Attributes, mask: c_int) -> Option<[u8; 16]> {
    if mask & (STATE | ADDRESS) != STATE | ADDRESS || attributes.is_null() {
        return None;
    }
    // SAFETY: the mask says that these are there.
    let attributes = unsafe { &*attributes };
    let open =
        attributes.qp_state == READY_TO_RECEIVE && attributes.is_global != 0 && attributes.flow_label == 0;
    open.then_some(attributes.dgid)
}

/// What a queue pair gets.
struct Chosen {
    label: u32,
    port: u16,
    /// The hash of the key whose turn was taken.
    turn: u64,
}

/// The flow label for a queue pair to a peer.
fn label(peer: [u8; 16]) -> Option<Chosen> {
    let table = Table::open()?;
    let mut buffer = Buffer::default();
    let (key, ports) = table.find(peer, ROCE, &mut buffer)?;
    let turn = key.hash();
    let port = ports.turn(turns::next(turn)).find(|port| *port >= PORTS);
    if port.is_none() {
        turns::back(turn);
    }
    port.map(|port| Chosen { label: label_for(port), port, turn })
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
