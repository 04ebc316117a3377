//! The offsets a C compiler gives for NCCL's own headers on the 64-bit Linux ABIs (x86-64, AArch64), version by version.

use std::mem::{offset_of, size_of};

use super::*;

#[test]
fn v1_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v1::Descriptor>(), 120);
    assert_eq!(size_of::<v1::StateArgs>(), 16);
    assert_eq!(offset_of!(v1::Descriptor, kind), 0);
    assert_eq!(offset_of!(v1::Descriptor, parent), 8);
    assert_eq!(offset_of!(v1::Descriptor, rank), 16);
    assert_eq!(offset_of!(v1::Descriptor, detail), 24);
    assert_eq!(size_of::<v1::Table>(), 48);
    assert_eq!(size_of::<v1::Coll>(), 96);
    assert_eq!(
        [
            offset_of!(v1::Coll, name),
            offset_of!(v1::Coll, comm_hash),
            offset_of!(v1::Coll, seq_number),
            offset_of!(v1::Coll, func),
            offset_of!(v1::Coll, send_buff),
            offset_of!(v1::Coll, recv_buff),
            offset_of!(v1::Coll, count),
            offset_of!(v1::Coll, root),
            offset_of!(v1::Coll, datatype),
            offset_of!(v1::Coll, op),
            offset_of!(v1::Coll, traffic_bytes),
            offset_of!(v1::Coll, n_max_channels),
            offset_of!(v1::Coll, n_warps),
            offset_of!(v1::Coll, algo),
            offset_of!(v1::Coll, proto),
            offset_of!(v1::Coll, is_collnet),
            offset_of!(v1::Coll, is_nvls)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 60, 64, 72, 80, 81, 82, 83, 84, 88]
    );
    assert_eq!(size_of::<v1::P2p>(), 56);
    assert_eq!(
        [
            offset_of!(v1::P2p, name),
            offset_of!(v1::P2p, comm_hash),
            offset_of!(v1::P2p, func),
            offset_of!(v1::P2p, buff),
            offset_of!(v1::P2p, datatype),
            offset_of!(v1::P2p, count),
            offset_of!(v1::P2p, peer)
        ],
        [0, 8, 16, 24, 32, 40, 48]
    );
    assert_eq!(size_of::<payload::ProxyOp>(), 24);
    assert_eq!(
        [
            offset_of!(payload::ProxyOp, pid),
            offset_of!(payload::ProxyOp, channel_id),
            offset_of!(payload::ProxyOp, peer),
            offset_of!(payload::ProxyOp, n_steps),
            offset_of!(payload::ProxyOp, chunk_size),
            offset_of!(payload::ProxyOp, is_send)
        ],
        [0, 4, 8, 12, 16, 20]
    );
    assert_eq!(size_of::<payload::ProxyStep>(), 4);
    assert_eq!([offset_of!(payload::ProxyStep, step)], [0]);
}

#[test]
fn v2_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v2::Descriptor>(), 128);
    assert_eq!(size_of::<v2::StateArgs>(), 16);
    assert_eq!(offset_of!(v2::Descriptor, kind), 0);
    assert_eq!(offset_of!(v2::Descriptor, parent), 8);
    assert_eq!(offset_of!(v2::Descriptor, rank), 16);
    assert_eq!(offset_of!(v2::Descriptor, detail), 24);
    assert_eq!(size_of::<v2::Table>(), 48);
    assert_eq!(size_of::<v2::Coll>(), 104);
    assert_eq!(
        [
            offset_of!(v2::Coll, name),
            offset_of!(v2::Coll, comm_hash),
            offset_of!(v2::Coll, seq_number),
            offset_of!(v2::Coll, func),
            offset_of!(v2::Coll, send_buff),
            offset_of!(v2::Coll, recv_buff),
            offset_of!(v2::Coll, count),
            offset_of!(v2::Coll, root),
            offset_of!(v2::Coll, datatype),
            offset_of!(v2::Coll, traffic_bytes),
            offset_of!(v2::Coll, n_max_channels),
            offset_of!(v2::Coll, n_warps),
            offset_of!(v2::Coll, algo),
            offset_of!(v2::Coll, proto)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 81, 88, 96]
    );
    assert_eq!(size_of::<payload::P2pV2>(), 56);
    assert_eq!(
        [
            offset_of!(payload::P2pV2, name),
            offset_of!(payload::P2pV2, comm_hash),
            offset_of!(payload::P2pV2, func),
            offset_of!(payload::P2pV2, buff),
            offset_of!(payload::P2pV2, datatype),
            offset_of!(payload::P2pV2, count),
            offset_of!(payload::P2pV2, peer)
        ],
        [0, 8, 16, 24, 32, 40, 48]
    );
}

#[test]
fn v3_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v3::Descriptor>(), 120);
    assert_eq!(size_of::<v3::StateArgs>(), 16);
    assert_eq!(offset_of!(v3::Descriptor, kind), 0);
    assert_eq!(offset_of!(v3::Descriptor, parent), 8);
    assert_eq!(offset_of!(v3::Descriptor, rank), 16);
    assert_eq!(offset_of!(v3::Descriptor, detail), 24);
    assert_eq!(size_of::<v3::Table>(), 48);
    assert_eq!(size_of::<v3::Coll>(), 96);
    assert_eq!(
        [
            offset_of!(v3::Coll, name),
            offset_of!(v3::Coll, comm_hash),
            offset_of!(v3::Coll, seq_number),
            offset_of!(v3::Coll, func),
            offset_of!(v3::Coll, send_buff),
            offset_of!(v3::Coll, recv_buff),
            offset_of!(v3::Coll, count),
            offset_of!(v3::Coll, root),
            offset_of!(v3::Coll, datatype),
            offset_of!(v3::Coll, n_max_channels),
            offset_of!(v3::Coll, n_warps),
            offset_of!(v3::Coll, algo),
            offset_of!(v3::Coll, proto)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 73, 80, 88]
    );
    assert_eq!(size_of::<payload::KernelChV3>(), 1);
    assert_eq!([offset_of!(payload::KernelChV3, channel_id)], [0]);
    assert_eq!(size_of::<payload::NetPlugin>(), 16);
    assert_eq!([offset_of!(payload::NetPlugin, id), offset_of!(payload::NetPlugin, data)], [0, 8]);
}

#[test]
fn v4_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v4::Descriptor>(), 104);
    assert_eq!(size_of::<v4::StateArgs>(), 8);
    assert_eq!(offset_of!(v4::Descriptor, kind), 0);
    assert_eq!(offset_of!(v4::Descriptor, parent), 8);
    assert_eq!(offset_of!(v4::Descriptor, rank), 16);
    assert_eq!(offset_of!(v4::Descriptor, detail), 24);
    assert_eq!(size_of::<v4::Table>(), 48);
    assert_eq!(size_of::<payload::CollV4>(), 80);
    assert_eq!(
        [
            offset_of!(payload::CollV4, seq_number),
            offset_of!(payload::CollV4, func),
            offset_of!(payload::CollV4, send_buff),
            offset_of!(payload::CollV4, recv_buff),
            offset_of!(payload::CollV4, count),
            offset_of!(payload::CollV4, root),
            offset_of!(payload::CollV4, datatype),
            offset_of!(payload::CollV4, n_channels),
            offset_of!(payload::CollV4, n_warps),
            offset_of!(payload::CollV4, algo),
            offset_of!(payload::CollV4, proto)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 57, 64, 72]
    );
    assert_eq!(size_of::<payload::P2pV4>(), 40);
    assert_eq!(
        [
            offset_of!(payload::P2pV4, func),
            offset_of!(payload::P2pV4, buff),
            offset_of!(payload::P2pV4, datatype),
            offset_of!(payload::P2pV4, count),
            offset_of!(payload::P2pV4, peer),
            offset_of!(payload::P2pV4, n_channels)
        ],
        [0, 8, 16, 24, 32, 36]
    );
    assert_eq!(size_of::<payload::KernelCh>(), 16);
    assert_eq!([offset_of!(payload::KernelCh, channel_id), offset_of!(payload::KernelCh, p_timer)], [0, 8]);
}

#[test]
fn v5_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v5::Descriptor>(), 112);
    assert_eq!(size_of::<v5::StateArgs>(), 8);
    assert_eq!(offset_of!(v5::Descriptor, kind), 0);
    assert_eq!(offset_of!(v5::Descriptor, parent), 8);
    assert_eq!(offset_of!(v5::Descriptor, rank), 16);
    assert_eq!(offset_of!(v5::Descriptor, detail), 24);
    assert_eq!(size_of::<v5::Table>(), 48);
    assert_eq!(size_of::<payload::CollV5>(), 88);
    assert_eq!(
        [
            offset_of!(payload::CollV5, base.seq_number),
            offset_of!(payload::CollV5, base.func),
            offset_of!(payload::CollV5, base.send_buff),
            offset_of!(payload::CollV5, base.recv_buff),
            offset_of!(payload::CollV5, base.count),
            offset_of!(payload::CollV5, base.root),
            offset_of!(payload::CollV5, base.datatype),
            offset_of!(payload::CollV5, base.n_channels),
            offset_of!(payload::CollV5, base.n_warps),
            offset_of!(payload::CollV5, base.algo),
            offset_of!(payload::CollV5, base.proto),
            offset_of!(payload::CollV5, parent_group)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 57, 64, 72, 80]
    );
    assert_eq!(size_of::<payload::P2pV5>(), 48);
    assert_eq!(
        [
            offset_of!(payload::P2pV5, base.func),
            offset_of!(payload::P2pV5, base.buff),
            offset_of!(payload::P2pV5, base.datatype),
            offset_of!(payload::P2pV5, base.count),
            offset_of!(payload::P2pV5, base.peer),
            offset_of!(payload::P2pV5, base.n_channels),
            offset_of!(payload::P2pV5, parent_group)
        ],
        [0, 8, 16, 24, 32, 36, 40]
    );
    assert_eq!(size_of::<payload::GroupApi>(), 8);
    assert_eq!(
        [offset_of!(payload::GroupApi, graph_captured), offset_of!(payload::GroupApi, group_depth)],
        [0, 4]
    );
    assert_eq!(size_of::<payload::CollApi>(), 48);
    assert_eq!(
        [
            offset_of!(payload::CollApi, func),
            offset_of!(payload::CollApi, count),
            offset_of!(payload::CollApi, datatype),
            offset_of!(payload::CollApi, root),
            offset_of!(payload::CollApi, stream),
            offset_of!(payload::CollApi, graph_captured)
        ],
        [0, 8, 16, 24, 32, 40]
    );
    assert_eq!(size_of::<payload::P2pApi>(), 40);
    assert_eq!(
        [
            offset_of!(payload::P2pApi, func),
            offset_of!(payload::P2pApi, count),
            offset_of!(payload::P2pApi, datatype),
            offset_of!(payload::P2pApi, stream),
            offset_of!(payload::P2pApi, graph_captured)
        ],
        [0, 8, 16, 24, 32]
    );
    assert_eq!(size_of::<payload::KernelLaunch>(), 8);
    assert_eq!([offset_of!(payload::KernelLaunch, stream)], [0]);
}

#[test]
fn v6_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v6::Descriptor>(), 112);
    assert_eq!(size_of::<v6::StateArgs>(), 8);
    assert_eq!(offset_of!(v6::Descriptor, kind), 0);
    assert_eq!(offset_of!(v6::Descriptor, parent), 8);
    assert_eq!(offset_of!(v6::Descriptor, rank), 16);
    assert_eq!(offset_of!(v6::Descriptor, detail), 24);
    assert_eq!(size_of::<v6::Table>(), 48);
    assert_eq!(size_of::<payload::CeColl>(), 88);
    assert_eq!(
        [
            offset_of!(payload::CeColl, seq_number),
            offset_of!(payload::CeColl, func),
            offset_of!(payload::CeColl, send_buff),
            offset_of!(payload::CeColl, recv_buff),
            offset_of!(payload::CeColl, count),
            offset_of!(payload::CeColl, root),
            offset_of!(payload::CeColl, datatype),
            offset_of!(payload::CeColl, sync_strategy),
            offset_of!(payload::CeColl, intra_batch_sync),
            offset_of!(payload::CeColl, batch_size),
            offset_of!(payload::CeColl, num_batches),
            offset_of!(payload::CeColl, ce_seq_num),
            offset_of!(payload::CeColl, stream)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80]
    );
    assert_eq!(size_of::<payload::CeCollSync>(), 8);
    assert_eq!(
        [offset_of!(payload::CeCollSync, is_complete), offset_of!(payload::CeCollSync, n_ranks)],
        [0, 4]
    );
    assert_eq!(size_of::<payload::CeCollBatch>(), 24);
    assert_eq!(
        [
            offset_of!(payload::CeCollBatch, num_ops),
            offset_of!(payload::CeCollBatch, total_bytes),
            offset_of!(payload::CeCollBatch, use_intra_sync)
        ],
        [0, 8, 16]
    );
}

#[test]
fn v7_has_the_layout_of_the_header() {
    assert_eq!(size_of::<v7::Descriptor>(), 136);
    assert_eq!(size_of::<v7::StateArgs>(), 8);
    assert_eq!(offset_of!(v7::Descriptor, kind), 0);
    assert_eq!(offset_of!(v7::Descriptor, parent), 8);
    assert_eq!(offset_of!(v7::Descriptor, rank), 16);
    assert_eq!(offset_of!(v7::Descriptor, detail), 24);
    assert_eq!(size_of::<v7::Table>(), 48);
    assert_eq!(size_of::<v7::Coll>(), 112);
    assert_eq!(
        [
            offset_of!(v7::Coll, base.base.seq_number),
            offset_of!(v7::Coll, base.base.func),
            offset_of!(v7::Coll, base.base.send_buff),
            offset_of!(v7::Coll, base.base.recv_buff),
            offset_of!(v7::Coll, base.base.count),
            offset_of!(v7::Coll, base.base.root),
            offset_of!(v7::Coll, base.base.datatype),
            offset_of!(v7::Coll, base.base.n_channels),
            offset_of!(v7::Coll, base.base.n_warps),
            offset_of!(v7::Coll, base.base.algo),
            offset_of!(v7::Coll, base.base.proto),
            offset_of!(v7::Coll, base.parent_group),
            offset_of!(v7::Coll, kernel_variant),
            offset_of!(v7::Coll, is_sym_coll),
            offset_of!(v7::Coll, user_tag)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 57, 64, 72, 80, 88, 96, 104]
    );
    assert_eq!(size_of::<v7::P2p>(), 56);
    assert_eq!(
        [
            offset_of!(v7::P2p, base.base.func),
            offset_of!(v7::P2p, base.base.buff),
            offset_of!(v7::P2p, base.base.datatype),
            offset_of!(v7::P2p, base.base.count),
            offset_of!(v7::P2p, base.base.peer),
            offset_of!(v7::P2p, base.base.n_channels),
            offset_of!(v7::P2p, base.parent_group),
            offset_of!(v7::P2p, user_tag)
        ],
        [0, 8, 16, 24, 32, 36, 40, 48]
    );
    assert_eq!(size_of::<v7::CollApi>(), 56);
    assert_eq!(
        [
            offset_of!(v7::CollApi, base.func),
            offset_of!(v7::CollApi, base.count),
            offset_of!(v7::CollApi, base.datatype),
            offset_of!(v7::CollApi, base.root),
            offset_of!(v7::CollApi, base.stream),
            offset_of!(v7::CollApi, base.graph_captured),
            offset_of!(v7::CollApi, user_tag)
        ],
        [0, 8, 16, 24, 32, 40, 48]
    );
    assert_eq!(size_of::<v7::P2pApi>(), 48);
    assert_eq!(
        [
            offset_of!(v7::P2pApi, base.func),
            offset_of!(v7::P2pApi, base.count),
            offset_of!(v7::P2pApi, base.datatype),
            offset_of!(v7::P2pApi, base.stream),
            offset_of!(v7::P2pApi, base.graph_captured),
            offset_of!(v7::P2pApi, user_tag)
        ],
        [0, 8, 16, 24, 32, 40]
    );
    assert_eq!(size_of::<v7::CeColl>(), 96);
    assert_eq!(
        [
            offset_of!(v7::CeColl, base.seq_number),
            offset_of!(v7::CeColl, base.func),
            offset_of!(v7::CeColl, base.send_buff),
            offset_of!(v7::CeColl, base.recv_buff),
            offset_of!(v7::CeColl, base.count),
            offset_of!(v7::CeColl, base.root),
            offset_of!(v7::CeColl, base.datatype),
            offset_of!(v7::CeColl, base.sync_strategy),
            offset_of!(v7::CeColl, base.intra_batch_sync),
            offset_of!(v7::CeColl, base.batch_size),
            offset_of!(v7::CeColl, base.num_batches),
            offset_of!(v7::CeColl, base.ce_seq_num),
            offset_of!(v7::CeColl, base.stream),
            offset_of!(v7::CeColl, user_tag)
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80, 88]
    );
    assert_eq!(size_of::<v7::KernelPhase>(), 24);
    assert_eq!(
        [
            offset_of!(v7::KernelPhase, channel_id),
            offset_of!(v7::KernelPhase, phase_id),
            offset_of!(v7::KernelPhase, phase_name),
            offset_of!(v7::KernelPhase, p_timer)
        ],
        [0, 1, 8, 16]
    );
}

#[test]
fn every_version_has_its_symbol_and_no_other() {
    for version in 1..=7 {
        let name = symbol(version).expect("a known version").to_str().expect("ASCII");
        assert_eq!(name, format!("ncclProfiler_v{version}"));
    }
    assert!(symbol(0).is_none());
    assert!(symbol(8).is_none());
}
