//! The seven versions of the interface as one: what the plugin wants to know of a descriptor, and where each version has it.
//! Everything is inlined into the entry points of its version, so the difference costs nothing at run time.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use crate::abi::{event, payload, v1, v2, v3, v4, v5, v6, v7};
use crate::handle::Handle;
use crate::names;

/// A collective or point-to-point operation.
#[derive(Clone, Copy)]
pub struct Task {
    /// Communicator's name, where `init` did not tell it.
    pub comm_name: *const c_char,
    /// Communicator's hash, where `init` did not tell it.
    pub comm_hash: Option<u64>,
    /// Function.
    pub func: *const c_char,
    /// Element type.
    pub datatype: *const c_char,
    /// Algorithm, may be null.
    pub algo: *const c_char,
    /// Protocol, may be null.
    pub proto: *const c_char,
    /// Elements.
    pub count: usize,
    /// Root or peer.
    pub root_or_peer: c_int,
    /// Channels, 0 if not told.
    pub channels: u8,
    /// Whether that many are used, not at most.
    pub channels_exact: bool,
    /// Whether it runs as a symmetric kernel.
    pub symmetric: bool,
}

/// A descriptor of some version.
pub trait Event: Copy {
    /// The version.
    const API: u32;
    /// Event type: one bit.
    fn kind(&self) -> u64;
    /// Handle of the parent.
    fn parent(&self) -> Handle;
    /// Rank.
    fn rank(&self) -> c_int;
    /// Replaces the handles in it: the parent, and the group that operations name besides it from v5 on.
    fn replace_parents(&mut self, replace: impl Fn(Handle) -> Handle);
    /// The collective.
    ///
    /// # Safety
    /// The event is a `COLL`.
    unsafe fn coll(&self) -> Task;
    /// The point-to-point operation.
    ///
    /// # Safety
    /// The event is a `P2P`.
    unsafe fn p2p(&self) -> Task;
    /// The network operation.
    ///
    /// # Safety
    /// The event is a `PROXY_OP`.
    unsafe fn proxy_op(&self) -> payload::ProxyOp;
    /// The number of the step.
    ///
    /// # Safety
    /// The event is a `PROXY_STEP`.
    unsafe fn step(&self) -> c_int;
    /// Channel and GPU time (0 if not told) of a kernel event.
    ///
    /// # Safety
    /// The event is a `KERNEL_CH`.
    unsafe fn kernel(&self) -> (u8, u64);
    /// Whether a graph is being captured.
    ///
    /// # Safety
    /// The event is a `COLL_API`.
    unsafe fn coll_api_captures(&self) -> bool;
    /// Whether a graph is being captured.
    ///
    /// # Safety
    /// The event is a `P2P_API`.
    unsafe fn p2p_api_captures(&self) -> bool;
}

/// State arguments of some version.
pub trait StateArgs {
    /// Bytes of a step, where they are told.
    ///
    /// # Safety
    /// They are those of a step.
    unsafe fn step_bytes(&self) -> u64;
    /// GPU time of a kernel's stop.
    ///
    /// # Safety
    /// They are those of a kernel event.
    unsafe fn kernel_stop(&self) -> u64;
}

fn task_v4(coll: &payload::CollV4) -> Task {
    Task {
        comm_name: ptr::null(),
        comm_hash: None,
        func: coll.func,
        datatype: coll.datatype,
        algo: coll.algo,
        proto: coll.proto,
        count: coll.count,
        root_or_peer: coll.root,
        channels: coll.n_channels,
        channels_exact: true,
        symmetric: false,
    }
}

fn task_p2p_v4(p2p: &payload::P2pV4) -> Task {
    Task {
        comm_name: ptr::null(),
        comm_hash: None,
        func: p2p.func,
        datatype: p2p.datatype,
        algo: ptr::null(),
        proto: ptr::null(),
        count: p2p.count,
        root_or_peer: p2p.peer,
        channels: p2p.n_channels,
        channels_exact: true,
        symmetric: false,
    }
}

fn task_p2p_v2(p2p: &payload::P2pV2) -> Task {
    Task {
        comm_name: p2p.name,
        comm_hash: Some(p2p.comm_hash),
        func: p2p.func,
        datatype: p2p.datatype,
        algo: ptr::null(),
        proto: ptr::null(),
        count: p2p.count,
        root_or_peer: p2p.peer,
        channels: 0,
        channels_exact: false,
        symmetric: false,
    }
}

/// v2 and v3 have the same fields by different types; `n_max_channels` is an upper bound there, not the number in use.
macro_rules! task_v2 {
    ($coll:expr) => {{
        let coll = $coll;
        Task {
            comm_name: coll.name,
            comm_hash: Some(coll.comm_hash),
            func: coll.func,
            datatype: coll.datatype,
            algo: coll.algo,
            proto: coll.proto,
            count: coll.count,
            root_or_peer: coll.root,
            channels: coll.n_max_channels,
            channels_exact: false,
            symmetric: false,
        }
    }};
}

fn task_v1(coll: &v1::Coll) -> Task {
    Task {
        comm_name: coll.name,
        comm_hash: Some(coll.comm_hash),
        func: names::of_v1(names::V1_FUNCTIONS, coll.func),
        datatype: names::of_v1(names::V1_DATATYPES, coll.datatype),
        algo: names::of_v1(names::V1_ALGORITHMS, coll.algo),
        proto: names::of_v1(names::V1_PROTOCOLS, coll.proto),
        count: coll.count,
        root_or_peer: coll.root,
        channels: coll.n_max_channels,
        channels_exact: false,
        symmetric: false,
    }
}

fn task_p2p_v1(p2p: &v1::P2p) -> Task {
    Task {
        comm_name: p2p.name,
        comm_hash: Some(p2p.comm_hash),
        func: names::of_v1(names::V1_FUNCTIONS, p2p.func),
        datatype: names::of_v1(names::V1_DATATYPES, p2p.datatype),
        algo: ptr::null(),
        proto: ptr::null(),
        count: p2p.count,
        root_or_peer: p2p.peer,
        channels: 0,
        channels_exact: false,
        symmetric: false,
    }
}

fn pointer(handle: Handle) -> *mut c_void {
    ptr::without_provenance_mut(handle.0 as usize)
}

/// Where an operation names its group.
macro_rules! groups {
    ($($field:ident).+) => {
        |event| match event.kind {
            // SAFETY: the type says that this is the valid member.
            event::COLL => Some(unsafe { &mut event.detail.coll.$($field).+ }),
            // SAFETY: as above.
            event::P2P => Some(unsafe { &mut event.detail.p2p.$($field).+ }),
            _ => None,
        }
    };
}

/// One version's descriptor. The arguments are the version, its number, and how it tells what the versions tell differently.
macro_rules! event {
    ($version:ident, $api:literal, $groups:expr, $coll:expr, $p2p:expr, $kernel:expr, $coll_api:expr, $p2p_api:expr) => {
        impl Event for $version::Descriptor {
            const API: u32 = $api;
            #[inline(always)]
            fn kind(&self) -> u64 {
                u64::from(self.kind)
            }
            #[inline(always)]
            fn parent(&self) -> Handle {
                Handle(self.parent.addr() as u64)
            }
            #[inline(always)]
            fn rank(&self) -> c_int {
                self.rank
            }
            fn replace_parents(&mut self, replace: impl Fn(Handle) -> Handle) {
                self.parent = pointer(replace(Handle(self.parent.addr() as u64)));
                let groups: fn(&mut Self) -> Option<&mut *mut c_void> = $groups;
                if let Some(group) = groups(self) {
                    *group = pointer(replace(Handle(group.addr() as u64)));
                }
            }
            #[inline(always)]
            unsafe fn coll(&self) -> Task {
                // SAFETY: the caller says that this is the valid member.
                $coll(unsafe { &self.detail.coll })
            }
            #[inline(always)]
            unsafe fn p2p(&self) -> Task {
                // SAFETY: as above.
                $p2p(unsafe { &self.detail.p2p })
            }
            #[inline(always)]
            unsafe fn proxy_op(&self) -> payload::ProxyOp {
                // SAFETY: as above.
                unsafe { self.detail.proxy_op }
            }
            #[inline(always)]
            unsafe fn step(&self) -> c_int {
                // SAFETY: as above.
                unsafe { self.detail.proxy_step.step }
            }
            #[inline(always)]
            unsafe fn kernel(&self) -> (u8, u64) {
                $kernel(&self.detail)
            }
            #[inline(always)]
            unsafe fn coll_api_captures(&self) -> bool {
                $coll_api(&self.detail)
            }
            #[inline(always)]
            unsafe fn p2p_api_captures(&self) -> bool {
                $p2p_api(&self.detail)
            }
        }
    };
}

event!(
    v1,
    1,
    |_| None,
    task_v1,
    task_p2p_v1,
    |_: &v1::Detail| (0, 0),
    |_: &v1::Detail| false,
    |_: &v1::Detail| false
);
event!(
    v2,
    2,
    |_| None,
    |coll: &v2::Coll| task_v2!(coll),
    task_p2p_v2,
    |_: &v2::Detail| (0, 0),
    |_: &v2::Detail| false,
    |_: &v2::Detail| false
);
event!(
    v3,
    3,
    |_| None,
    |coll: &v3::Coll| task_v2!(coll),
    task_p2p_v2,
    // SAFETY: called for kernel events only, whose member this is.
    |detail: &v3::Detail| (unsafe { detail.kernel_ch.channel_id }, 0),
    |_: &v3::Detail| false,
    |_: &v3::Detail| false
);
event!(
    v4,
    4,
    |_| None,
    task_v4,
    task_p2p_v4,
    // SAFETY: as for v3.
    |detail: &v4::Detail| unsafe { (detail.kernel_ch.channel_id, detail.kernel_ch.p_timer) },
    |_: &v4::Detail| false,
    |_: &v4::Detail| false
);
event!(
    v5,
    5,
    groups!(parent_group),
    |coll: &payload::CollV5| task_v4(&coll.base),
    |p2p: &payload::P2pV5| task_p2p_v4(&p2p.base),
    // SAFETY: as for v3; the next two are called for API events only, whose members these are.
    |detail: &v5::Detail| unsafe { (detail.kernel_ch.channel_id, detail.kernel_ch.p_timer) },
    // SAFETY: see above.
    |detail: &v5::Detail| unsafe { detail.coll_api.graph_captured } != 0,
    // SAFETY: see above.
    |detail: &v5::Detail| unsafe { detail.p2p_api.graph_captured } != 0
);
event!(
    v6,
    6,
    groups!(parent_group),
    |coll: &payload::CollV5| task_v4(&coll.base),
    |p2p: &payload::P2pV5| task_p2p_v4(&p2p.base),
    // SAFETY: as for v5.
    |detail: &v6::Detail| unsafe { (detail.kernel_ch.channel_id, detail.kernel_ch.p_timer) },
    // SAFETY: as for v5.
    |detail: &v6::Detail| unsafe { detail.coll_api.graph_captured } != 0,
    // SAFETY: as for v5.
    |detail: &v6::Detail| unsafe { detail.p2p_api.graph_captured } != 0
);
event!(
    v7,
    7,
    groups!(base.parent_group),
    |coll: &v7::Coll| Task { symmetric: coll.is_sym_coll != 0, ..task_v4(&coll.base.base) },
    |p2p: &v7::P2p| task_p2p_v4(&p2p.base.base),
    // SAFETY: as for v5.
    |detail: &v7::Detail| unsafe { (detail.kernel_ch.channel_id, detail.kernel_ch.p_timer) },
    // SAFETY: as for v5.
    |detail: &v7::Detail| unsafe { detail.coll_api.base.graph_captured } != 0,
    // SAFETY: as for v5.
    |detail: &v7::Detail| unsafe { detail.p2p_api.base.graph_captured } != 0
);

/// Until v3 the bytes are those of the whole network operation so far, and kernels have no time.
macro_rules! args_v1 {
    ($($args:ty),*) => {$(
        impl StateArgs for $args {
            #[inline(always)]
            unsafe fn step_bytes(&self) -> u64 {
                0
            }
            #[inline(always)]
            unsafe fn kernel_stop(&self) -> u64 {
                0
            }
        }
    )*};
}
args_v1!(v1::StateArgs, v2::StateArgs, v3::StateArgs);

impl StateArgs for v4::StateArgs {
    #[inline(always)]
    unsafe fn step_bytes(&self) -> u64 {
        // SAFETY: the caller says that this is the valid member.
        unsafe { self.proxy_step.trans_size as u64 }
    }
    #[inline(always)]
    unsafe fn kernel_stop(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.kernel_ch.p_timer }
    }
}
