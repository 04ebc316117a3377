//! Every version of the interface, and what each lets us see.

use c4_recorder::snapshot::{OperationKind, Snapshot};
use c4_tests::nccl::{Datatype, Function, Nccl, Operation, Plugin, PointToPoint};
use nccl_profiler_c4::abi::event;

use crate::harness::{
    CHANNELS, STEPS, Sandbox, all_reduce, all_reduce_spec, assert_complete_all_reduce, children, config,
    connection, init, isolated, plugin, recorded,
};

/// A collective under one version of the interface.
fn records_a_collective(sandbox: &Sandbox, version: u32) -> Snapshot {
    let nccl = Nccl::knowing_up_to(&plugin(), version);
    let comm = init(&nccl, 0xAB);
    assert_eq!(comm.plugin().version(), version);
    (0..3).for_each(|_| all_reduce(&comm));
    let snapshot = sandbox.snapshot();
    assert_eq!(snapshot.identity.profiler_api, version);
    assert!(snapshot.profiling);
    assert_eq!(snapshot.operations.len(), 3);
    for (sequence, operation) in snapshot.operations.iter().enumerate() {
        assert_complete_all_reduce(operation);
        assert_eq!(operation.kind, OperationKind::Collective);
        assert_eq!(operation.sequence, sequence as u64);
        assert!(operation.datatype.to_lowercase().contains("float32"), "{}", operation.datatype);
        assert_eq!((operation.algorithm.as_str(), operation.protocol.as_str()), ("RING", "SIMPLE"));
        // Before v4 only the most channels it might take are told.
        let channels = if version >= 4 { u32::from(CHANNELS) } else { operation.channels };
        assert_eq!(operation.channels, channels);
    }
    // Version 1 to 3 tell a communicator's hash and name with its operations, not its size.
    let comm = recorded(&snapshot, 0xAB);
    assert_eq!((comm.name.as_str(), comm.rank), ("dp171", 3));
    if version >= 4 {
        assert_eq!((comm.size, comm.nodes), (8, 2));
    }
    assert_eq!((comm.enqueued, comm.started, comm.completed), (3, 3, 3));
    let connection = connection(&snapshot, 1, true);
    assert_eq!((connection.operations_done, connection.steps_done), (3, 3 * u64::from(STEPS)));
    assert_eq!(snapshot.losses, Default::default());
    snapshot
}

const ALL_STEPS: &[(&str, &str)] = &[("C4_STEP_SAMPLING", "1")];

#[test]
fn v1_of_nccl_2_23() {
    isolated(ALL_STEPS, |sandbox| {
        let snapshot = records_a_collective(sandbox, 1);
        assert!(snapshot.operations.iter().all(|operation| !operation.started_on_gpu));
        assert!(snapshot.identity.nccl_version.starts_with("2.23"));
    });
}

#[test]
fn v2_of_nccl_2_24() {
    isolated(ALL_STEPS, |sandbox| {
        let snapshot = records_a_collective(sandbox, 2);
        assert!(snapshot.operations.iter().all(|operation| !operation.started_on_gpu));
    });
}

/// Below 2.28.3 kernel events can end a job ("Proxy append out of bounds"), so they stay off.
fn kernel_events_are_off(snapshot: &Snapshot) {
    assert_eq!(u64::from(snapshot.event_mask) & event::KERNEL_CH, 0);
    assert!(snapshot.operations.iter().all(|operation| !operation.started_on_gpu));
}

#[test]
fn v3_of_nccl_2_26() {
    isolated(ALL_STEPS, |sandbox| kernel_events_are_off(&records_a_collective(sandbox, 3)));
}

#[test]
fn v4_of_nccl_2_27() {
    isolated(ALL_STEPS, |sandbox| kernel_events_are_off(&records_a_collective(sandbox, 4)));
}

fn kernel_events_are_on(snapshot: &Snapshot) {
    assert_ne!(u64::from(snapshot.event_mask) & event::KERNEL_CH, 0);
    assert!(snapshot.operations.iter().all(|operation| operation.started_on_gpu));
}

#[test]
fn v5_of_nccl_2_28() {
    isolated(ALL_STEPS, |sandbox| kernel_events_are_on(&records_a_collective(sandbox, 5)));
}

#[test]
fn v6_of_nccl_2_29() {
    isolated(ALL_STEPS, |sandbox| kernel_events_are_on(&records_a_collective(sandbox, 6)));
}

#[test]
fn v7_of_nccl_2_31() {
    isolated(ALL_STEPS, |sandbox| kernel_events_are_on(&records_a_collective(sandbox, 7)));
}

#[test]
fn kernel_events_by_choice() {
    for choice in ["on", "off"] {
        isolated(&[("C4_KERNEL_EVENTS", choice)], |sandbox| {
            let on = std::env::var("C4_KERNEL_EVENTS").as_deref() == Ok("on");
            for version in [4, 5, 7] {
                let nccl = Nccl::knowing_up_to(&plugin(), version);
                let comm = init(&nccl, u64::from(version));
                all_reduce(&comm);
                let snapshot = sandbox.snapshot();
                let last = snapshot.operations.last().expect("an operation");
                assert_complete_all_reduce(last);
                assert_eq!(u64::from(snapshot.event_mask) & event::KERNEL_CH != 0, on, "v{version}");
                assert_eq!(last.started_on_gpu, on, "v{version}");
                comm.finalize();
            }
        });
    }
}

#[test]
fn newest_version_is_taken_and_all_are_exported() {
    isolated(&[], |_| {
        assert_eq!(Plugin::load(&plugin()).expect("the plugin loads").version(), 7);
        for version in 1..=7 {
            let plugin = Plugin::load_up_to(&plugin(), version).expect("the plugin loads");
            assert_eq!(plugin.version(), version);
            assert!(plugin.name().is_some_and(|name| !name.is_empty()));
        }
    });
}

#[test]
fn group_of_collectives_and_point_to_point() {
    for version in ["2", "4", "5", "7"] {
        isolated(&[("TEST_VERSION", version)], |sandbox| {
            let version = std::env::var("TEST_VERSION").expect("set").parse().expect("a number");
            let nccl = Nccl::knowing_up_to(&plugin(), version);
            let comm = nccl.init(&config(3)).expect("the plugin loads");
            let p2p = |is_send, peer| {
                let datatype = Datatype::Bfloat16;
                Operation::PointToPoint(PointToPoint { is_send, peer, count: 512, datatype, channels: 1 })
            };
            let group = [Operation::Collective(all_reduce_spec()), p2p(true, 4), p2p(false, 2)];
            let group = comm.group(&group);
            group.enqueued();
            let snapshot = sandbox.snapshot();
            let seen = recorded(&snapshot, 3);
            assert_eq!((seen.enqueued, seen.p2p_enqueued), (1, 2), "v{version}");
            group.tasks().iter().for_each(children);
            let snapshot = sandbox.snapshot();
            let seen = recorded(&snapshot, 3);
            assert_eq!((seen.completed, seen.p2p_completed), (1, 2), "v{version}");
            let by_kind =
                |kind| snapshot.operations.iter().find(|operation| operation.kind == kind).expect("recorded");
            let send = by_kind(OperationKind::Send);
            assert_eq!((send.root_or_peer, send.count, send.bytes), (4, 512, 1_024), "v{version}");
            assert_eq!(by_kind(OperationKind::Receive).root_or_peer, 2);
            assert_eq!(by_kind(OperationKind::Collective).function, "AllReduce");
            comm.group(&[p2p(true, 2), p2p(true, 4), p2p(false, 3)]).enqueued();
            let snapshot = sandbox.snapshot();
            let numbers = snapshot.operations.iter().map(|operation| operation.peer_number);
            assert_eq!(
                numbers.collect::<Vec<_>>(),
                [None, Some(1), Some(1), Some(1), Some(2), None],
                "v{version}: by peer and direction; what it sends itself is not counted"
            );
        });
    }
}

#[test]
fn functions_and_sizes() {
    isolated(&[], |sandbox| {
        // v1 hands over numbers: the names must come out the same.
        for version in [1, 5] {
            let nccl = Nccl::knowing_up_to(&plugin(), version);
            let comm = init(&nccl, u64::from(version));
            for (function, datatype) in [
                (Function::Broadcast, Datatype::Int8),
                (Function::Reduce, Datatype::Float64),
                (Function::AllGather, Datatype::Uint8),
                (Function::ReduceScatter, Datatype::Bfloat16),
                (Function::AllReduce, Datatype::Int64),
            ] {
                let spec = c4_tests::nccl::Collective {
                    function,
                    datatype,
                    count: 1_000,
                    root: 5,
                    ..all_reduce_spec()
                };
                let task = comm.collective(&spec);
                task.enqueued();
                let snapshot = sandbox.snapshot();
                let operation = snapshot.operations.last().expect("an operation");
                assert_eq!(operation.function, function.name().to_str().expect("ASCII"), "v{version}");
                assert_eq!(
                    operation.datatype.to_lowercase(),
                    datatype.name().to_str().expect("ASCII").to_lowercase()
                );
                assert_eq!(operation.bytes, spec.bytes() as u64, "v{version} {datatype:?}");
                assert_eq!(operation.root_or_peer, 5);
            }
            comm.finalize();
        }
    });
}

#[test]
fn phases_of_symmetric_kernels() {
    isolated(&[("C4_KERNEL_EVENTS", "on")], |sandbox| {
        let nccl = Nccl::knowing_up_to(&plugin(), 7);
        let comm = init(&nccl, 1);
        // Somebody (RAS, or a second plugin) asked for phases.
        let phases = (event::KERNEL_PHASE | event::KERNEL_CH) as i32;
        nccl.mask().fetch_or(phases, std::sync::atomic::Ordering::Relaxed);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        for channel in 0..CHANNELS {
            let mut kernel = task.kernel(channel);
            kernel.start(1_000);
            (0..3).for_each(|phase| kernel.phase(phase, 1_000, 2_000));
            kernel.stop(2_000);
        }
        let snapshot = sandbox.snapshot();
        assert_complete_all_reduce(snapshot.operations.last().expect("an operation"));
        assert_eq!(snapshot.losses, Default::default(), "phases are known");
    });
}
