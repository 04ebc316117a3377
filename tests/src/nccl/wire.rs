//! Descriptors of every API version, made from one description of an event. NCCL's own shims do the same from its
//! newest version; as there, fields an old version lacks are lost.

use std::ffi::{c_char, c_int};
use std::ptr::{null, null_mut};

use nccl_profiler_c4::abi;
use nccl_profiler_c4::abi::payload::{
    CeColl, CeCollBatch, CeCollSync, CollApi, CollV4, CollV5, GroupApi, KernelCh, KernelChState, KernelChV3,
    KernelLaunch, NetPlugin, NetPluginState, P2pApi, P2pV2, P2pV4, P2pV5, ProxyCtrlState, ProxyOp,
    ProxyOpState, ProxyStep, ProxyStepState,
};

use super::describe::{Event, Head, StateDetail};
use super::proxy::ProxyOperationSpec;
use super::task::{Collective, PointToPoint};

/// A descriptor of zeros with its head filled in, as NCCL begins one.
macro_rules! begin {
    ($version:ident, $head:ident, $event:ident, $kind:ty) => {{
        // SAFETY: descriptors consist of integers and raw pointers, for which zero is a value.
        let mut descriptor: abi::$version::Descriptor = unsafe { std::mem::zeroed() };
        descriptor.kind = $event.kind() as $kind;
        descriptor.parent = $head.parent;
        descriptor.rank = $head.rank;
        descriptor
    }};
}

fn proxy_op(pid: i32, spec: &ProxyOperationSpec) -> ProxyOp {
    ProxyOp {
        pid,
        channel_id: spec.channel,
        peer: spec.peer as c_int,
        n_steps: spec.steps as c_int,
        chunk_size: spec.chunk_bytes as c_int,
        is_send: c_int::from(spec.is_send),
    }
}

fn coll(spec: &Collective, sequence: u64) -> CollV4 {
    CollV4 {
        seq_number: sequence,
        func: spec.function.name().as_ptr(),
        send_buff: null(),
        recv_buff: null_mut(),
        count: spec.count,
        root: spec.root as c_int,
        datatype: spec.datatype.name().as_ptr(),
        n_channels: spec.channels,
        n_warps: 16,
        algo: spec.algorithm.name().as_ptr(),
        proto: spec.protocol.name().as_ptr(),
    }
}

fn p2p(spec: &PointToPoint) -> P2pV4 {
    P2pV4 {
        func: spec.function().name().as_ptr(),
        buff: null_mut(),
        datatype: spec.datatype.name().as_ptr(),
        count: spec.count,
        peer: spec.peer as c_int,
        n_channels: spec.channels,
    }
}

fn p2p_v2(spec: &PointToPoint, comm: (u64, *const c_char)) -> P2pV2 {
    P2pV2 {
        name: comm.1,
        comm_hash: comm.0,
        func: spec.function().name().as_ptr(),
        buff: null_mut(),
        datatype: spec.datatype.name().as_ptr(),
        count: spec.count,
        peer: spec.peer as c_int,
    }
}

fn coll_api(spec: &Collective) -> CollApi {
    CollApi {
        func: spec.function.name().as_ptr(),
        count: spec.count,
        datatype: spec.datatype.name().as_ptr(),
        root: spec.root as c_int,
        stream: null_mut(),
        graph_captured: u8::from(spec.graph_captured),
    }
}

fn p2p_api(spec: &PointToPoint) -> P2pApi {
    P2pApi {
        func: spec.function().name().as_ptr(),
        count: spec.count,
        datatype: spec.datatype.name().as_ptr(),
        stream: null_mut(),
        graph_captured: 0,
    }
}

fn ce_coll(spec: &Collective) -> CeColl {
    CeColl {
        seq_number: 0,
        func: spec.function.name().as_ptr(),
        send_buff: null(),
        recv_buff: null_mut(),
        count: spec.count,
        root: spec.root as c_int,
        datatype: spec.datatype.name().as_ptr(),
        sync_strategy: c"MC".as_ptr(),
        intra_batch_sync: 0,
        batch_size: 1,
        num_batches: 1,
        ce_seq_num: 0,
        stream: null_mut(),
    }
}

pub(super) fn v1(head: &Head, event: &Event<'_>) -> abi::v1::Descriptor {
    let mut descriptor = begin!(v1, head, event, u8);
    match *event {
        Event::Coll { spec, sequence, group, comm } => {
            descriptor.parent = group.pointer();
            descriptor.detail.coll = abi::v1::Coll {
                name: comm.1,
                comm_hash: comm.0,
                seq_number: sequence,
                func: spec.function.number(),
                send_buff: null(),
                recv_buff: null_mut(),
                count: spec.count,
                root: spec.root as c_int,
                datatype: spec.datatype.number(),
                op: 0,
                traffic_bytes: spec.bytes(),
                n_max_channels: spec.channels,
                n_warps: 16,
                algo: spec.algorithm.number(),
                proto: spec.protocol.number(),
                is_collnet: 0,
                is_nvls: 0,
            };
        }
        Event::P2p { spec, group, comm } => {
            descriptor.parent = group.pointer();
            descriptor.detail.p2p = abi::v1::P2p {
                name: comm.1,
                comm_hash: comm.0,
                func: spec.function().number(),
                buff: null_mut(),
                datatype: spec.datatype.number(),
                count: spec.count,
                peer: spec.peer as c_int,
            };
        }
        Event::ProxyOp { pid, spec } => descriptor.detail.proxy_op = proxy_op(pid, spec),
        Event::ProxyStep { step } => descriptor.detail.proxy_step = ProxyStep { step: step as c_int },
        _ => {}
    }
    descriptor
}

pub(super) fn v2(head: &Head, event: &Event<'_>) -> abi::v2::Descriptor {
    let mut descriptor = begin!(v2, head, event, u8);
    match *event {
        Event::Coll { spec, sequence, group, comm } => {
            descriptor.parent = group.pointer();
            let base = coll(spec, sequence);
            descriptor.detail.coll = abi::v2::Coll {
                name: comm.1,
                comm_hash: comm.0,
                seq_number: sequence,
                func: base.func,
                send_buff: null(),
                recv_buff: null_mut(),
                count: base.count,
                root: base.root,
                datatype: base.datatype,
                traffic_bytes: spec.bytes(),
                n_max_channels: base.n_channels,
                n_warps: base.n_warps,
                algo: base.algo,
                proto: base.proto,
            };
        }
        Event::P2p { spec, group, comm } => {
            descriptor.parent = group.pointer();
            descriptor.detail.p2p = p2p_v2(spec, comm);
        }
        Event::ProxyOp { pid, spec } => descriptor.detail.proxy_op = proxy_op(pid, spec),
        Event::ProxyStep { step } => descriptor.detail.proxy_step = ProxyStep { step: step as c_int },
        _ => {}
    }
    descriptor
}

pub(super) fn v3(head: &Head, event: &Event<'_>) -> abi::v3::Descriptor {
    let mut descriptor = begin!(v3, head, event, u8);
    match *event {
        Event::Coll { spec, sequence, group, comm } => {
            descriptor.parent = group.pointer();
            let base = coll(spec, sequence);
            descriptor.detail.coll = abi::v3::Coll {
                name: comm.1,
                comm_hash: comm.0,
                seq_number: sequence,
                func: base.func,
                send_buff: null(),
                recv_buff: null_mut(),
                count: base.count,
                root: base.root,
                datatype: base.datatype,
                n_max_channels: base.n_channels,
                n_warps: base.n_warps,
                algo: base.algo,
                proto: base.proto,
            };
        }
        Event::P2p { spec, group, comm } => {
            descriptor.parent = group.pointer();
            descriptor.detail.p2p = p2p_v2(spec, comm);
        }
        Event::ProxyOp { pid, spec } => descriptor.detail.proxy_op = proxy_op(pid, spec),
        Event::ProxyStep { step } => descriptor.detail.proxy_step = ProxyStep { step: step as c_int },
        Event::KernelCh { channel, .. } => descriptor.detail.kernel_ch = KernelChV3 { channel_id: channel },
        Event::NetPlugin { id } => descriptor.detail.net_plugin = NetPlugin { id, data: null_mut() },
        _ => {}
    }
    descriptor
}

pub(super) fn v4(head: &Head, event: &Event<'_>) -> abi::v4::Descriptor {
    let mut descriptor = begin!(v4, head, event, u8);
    match *event {
        Event::Coll { spec, sequence, group, .. } => {
            descriptor.parent = group.pointer();
            descriptor.detail.coll = coll(spec, sequence);
        }
        Event::P2p { spec, group, .. } => {
            descriptor.parent = group.pointer();
            descriptor.detail.p2p = p2p(spec);
        }
        Event::ProxyOp { pid, spec } => descriptor.detail.proxy_op = proxy_op(pid, spec),
        Event::ProxyStep { step } => descriptor.detail.proxy_step = ProxyStep { step: step as c_int },
        Event::KernelCh { channel, gpu_ns } => {
            descriptor.detail.kernel_ch = KernelCh { channel_id: channel, p_timer: gpu_ns };
        }
        Event::NetPlugin { id } => descriptor.detail.net_plugin = NetPlugin { id, data: null_mut() },
        _ => {}
    }
    descriptor
}

/// The members v5 and v6 and v7 have in common, for a descriptor of one of them.
macro_rules! since_v5 {
    ($descriptor:ident, $event:ident, $more:expr) => {
        match *$event {
            Event::GroupApi { depth, graph_captured } => {
                $descriptor.detail.group_api =
                    GroupApi { graph_captured: u8::from(graph_captured), group_depth: depth as c_int };
            }
            Event::KernelLaunch => $descriptor.detail.kernel_launch = KernelLaunch { stream: null_mut() },
            Event::ProxyOp { pid, spec } => $descriptor.detail.proxy_op = proxy_op(pid, spec),
            Event::ProxyStep { step } => $descriptor.detail.proxy_step = ProxyStep { step: step as c_int },
            Event::KernelCh { channel, gpu_ns } => {
                $descriptor.detail.kernel_ch = KernelCh { channel_id: channel, p_timer: gpu_ns };
            }
            Event::NetPlugin { id } => {
                $descriptor.detail.net_plugin = NetPlugin { id, data: null_mut() };
            }
            _ => $more,
        }
    };
}

/// Copy-engine members, for a descriptor of v6 or v7.
macro_rules! since_v6 {
    ($descriptor:ident, $event:ident) => {
        match *$event {
            Event::CeSync { complete, ranks } => {
                $descriptor.detail.ce_coll_sync =
                    CeCollSync { is_complete: u8::from(complete), n_ranks: ranks as c_int };
            }
            Event::CeBatch { operations, bytes } => {
                $descriptor.detail.ce_coll_batch =
                    CeCollBatch { num_ops: operations as c_int, total_bytes: bytes, use_intra_sync: 0 };
            }
            _ => {}
        }
    };
}

pub(super) fn v5(head: &Head, event: &Event<'_>) -> abi::v5::Descriptor {
    let mut descriptor = begin!(v5, head, event, u64);
    since_v5!(descriptor, event, {
        match *event {
            Event::CollApi(spec) => descriptor.detail.coll_api = coll_api(spec),
            Event::P2pApi(spec) => descriptor.detail.p2p_api = p2p_api(spec),
            Event::Coll { spec, sequence, group, .. } => {
                descriptor.detail.coll = CollV5 { base: coll(spec, sequence), parent_group: group.pointer() };
            }
            Event::P2p { spec, group, .. } => {
                descriptor.detail.p2p = P2pV5 { base: p2p(spec), parent_group: group.pointer() };
            }
            _ => {}
        }
    });
    descriptor
}

pub(super) fn v6(head: &Head, event: &Event<'_>) -> abi::v6::Descriptor {
    let mut descriptor = begin!(v6, head, event, u64);
    since_v5!(descriptor, event, {
        match *event {
            Event::CollApi(spec) => descriptor.detail.coll_api = coll_api(spec),
            Event::P2pApi(spec) => descriptor.detail.p2p_api = p2p_api(spec),
            Event::Coll { spec, sequence, group, .. } => {
                descriptor.detail.coll = CollV5 { base: coll(spec, sequence), parent_group: group.pointer() };
            }
            Event::P2p { spec, group, .. } => {
                descriptor.detail.p2p = P2pV5 { base: p2p(spec), parent_group: group.pointer() };
            }
            Event::CeColl(spec) => descriptor.detail.ce_coll = ce_coll(spec),
            _ => since_v6!(descriptor, event),
        }
    });
    descriptor
}

pub(super) fn v7(head: &Head, event: &Event<'_>) -> abi::v7::Descriptor {
    let mut descriptor = begin!(v7, head, event, u64);
    since_v5!(descriptor, event, {
        match *event {
            Event::CollApi(spec) => {
                descriptor.detail.coll_api =
                    abi::v7::CollApi { base: coll_api(spec), user_tag: spec.user_tag };
            }
            Event::P2pApi(spec) => {
                descriptor.detail.p2p_api = abi::v7::P2pApi { base: p2p_api(spec), user_tag: 0 };
            }
            Event::Coll { spec, sequence, group, .. } => {
                descriptor.detail.coll = abi::v7::Coll {
                    base: CollV5 { base: coll(spec, sequence), parent_group: group.pointer() },
                    kernel_variant: null(),
                    is_sym_coll: 0,
                    user_tag: spec.user_tag,
                };
            }
            Event::P2p { spec, group, .. } => {
                let base = P2pV5 { base: p2p(spec), parent_group: group.pointer() };
                descriptor.detail.p2p = abi::v7::P2p { base, user_tag: 0 };
            }
            Event::CeColl(spec) => {
                descriptor.detail.ce_coll = abi::v7::CeColl { base: ce_coll(spec), user_tag: spec.user_tag };
            }
            Event::KernelPhase { channel, phase, gpu_ns } => {
                let name = [c"initial_sync", c"compute", c"final_sync"][usize::from(phase.min(2))];
                descriptor.detail.kernel_phase = abi::v7::KernelPhase {
                    channel_id: channel,
                    phase_id: phase,
                    phase_name: name.as_ptr(),
                    p_timer: gpu_ns,
                };
            }
            _ => since_v6!(descriptor, event),
        }
    });
    descriptor
}

macro_rules! old_state {
    ($name:ident, $version:ident) => {
        pub(super) fn $name(detail: StateDetail) -> Option<abi::$version::StateArgs> {
            let empty = ProxyOpState { trans_size: 0, steps: 0 };
            Some(match detail {
                StateDetail::None => return None,
                StateDetail::ProxyOp { bytes, steps } => abi::$version::StateArgs {
                    proxy_op: ProxyOpState { trans_size: bytes, steps: steps as c_int },
                },
                StateDetail::Ctrl { appended } => abi::$version::StateArgs {
                    proxy_ctrl: ProxyCtrlState { appended_proxy_ops: appended as c_int },
                },
                _ => abi::$version::StateArgs { proxy_op: empty },
            })
        }
    };
}

old_state!(v1_state, v1);
old_state!(v2_state, v2);
old_state!(v3_state, v3);

pub(super) fn v4_state(detail: StateDetail) -> Option<abi::v4::StateArgs> {
    // SAFETY: a union of integers and a pointer, for which zero is a value.
    let mut args: abi::v4::StateArgs = unsafe { std::mem::zeroed() };
    match detail {
        StateDetail::None => return None,
        StateDetail::ProxyOp { .. } | StateDetail::Empty => {}
        StateDetail::Step { bytes } => args.proxy_step = ProxyStepState { trans_size: bytes },
        StateDetail::Ctrl { appended } => {
            args.proxy_ctrl = ProxyCtrlState { appended_proxy_ops: appended as c_int };
        }
        StateDetail::Kernel { gpu_ns } => args.kernel_ch = KernelChState { p_timer: gpu_ns },
        StateDetail::Net => args.net_plugin = NetPluginState { data: null_mut() },
    }
    Some(args)
}
