//! Handles NCCL should not hand over, and does: stale, twice, null, of another process; and events from its future.

use std::ffi::c_int;

use c4_tests::nccl::{
    Communicator, Event, Handle, Nccl, ProxyOperation, ProxyOperationSpec, StateDetail, StepState,
};
use nccl_profiler_c4::abi::{SUCCESS, state};

use crate::harness::{
    all_reduce, all_reduce_spec, assert_complete_all_reduce, children, facts, init, isolated, nccl, plugin,
    recorded, ring,
};

/// Every word one bit away from a handle, among them other slots, generations and cookies.
fn neighbours(handle: Handle) -> impl Iterator<Item = Handle> {
    (0..usize::BITS).map(move |bit| Handle(handle.0 ^ (1 << bit)))
}

/// All that can be done to a handle.
fn abuse(comm: &Communicator, handle: Handle) {
    let plugin = comm.plugin();
    let details = [StateDetail::None, StateDetail::Step { bytes: 1 }, StateDetail::Kernel { gpu_ns: 5 }];
    for state in -1..=40 as c_int {
        for detail in details {
            assert_eq!(plugin.record(handle, state, detail), SUCCESS);
        }
    }
    assert_eq!(plugin.stop(handle), SUCCESS);
}

#[test]
fn stop_twice() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let task = comm.collective(&all_reduce_spec());
        let mut proxy = task.proxy(ring(0, true));
        let operation = proxy.event();
        proxy.step(0);
        let step = proxy.step_event(0);
        proxy.stop_step(0);
        proxy.stop();
        let mut kernel = task.kernel(0);
        kernel.start(10);
        kernel.stop(20);
        task.enqueued();
        let before = facts(&sandbox.snapshot());
        for handle in [step, operation, kernel.event(), task.event(), task.api()] {
            assert!(!handle.is_null());
            for _ in 0..10 {
                assert_eq!(comm.plugin().stop(handle), SUCCESS);
            }
        }
        assert_eq!(facts(&sandbox.snapshot()), before, "a second stop changes nothing");
    });
}

#[test]
fn a_second_stop_does_not_end_somebody_elses_operation() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let old = comm.collective(&all_reduce_spec());
        old.enqueued();
        let old_proxy = old.proxy(ring(0, true)).event();
        children(&old);
        let mut stale_kernel = old.kernel(1);
        stale_kernel.start(1);
        // Enough others that every table has gone round.
        (0..50_000).for_each(|_| all_reduce(&comm));
        let open = comm.collective(&all_reduce_spec());
        let _proxy = open.proxy(ring(0, true));
        open.enqueued();
        let before = facts(&sandbox.snapshot());
        for handle in [old.event(), old.api(), old_proxy, stale_kernel.event()] {
            abuse(&comm, handle);
        }
        let after = sandbox.snapshot();
        assert!(after.losses.stale_handles > 0, "{:?}", after.losses);
        assert_eq!(facts(&after), before, "the open operation stays open");
        // Network operations of an operation that is forgotten: the connection may count them, the operations not.
        children(&old);
        let after = facts(&sandbox.snapshot());
        assert_eq!((after.operations, after.communicators), (before.operations, before.communicators));
    });
}

#[test]
fn stop_of_null() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let before = sandbox.snapshot();
        abuse(&comm, Handle::NULL);
        comm.plugin().finalize(Handle::NULL);
        let after = sandbox.snapshot();
        assert_eq!(facts(&after), facts(&before));
        assert_eq!(after.losses, before.losses, "null is no loss: NCCL does it in good order");
        all_reduce(&comm);
        assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 2);
    });
}

#[test]
fn words_that_are_no_handles() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let mut proxy = task.proxy(ring(0, true));
        proxy.step(0);
        proxy.state(0, StepState::SendGpuWait, 0);
        let mut kernel = task.kernel(0);
        kernel.start(10);
        let live = [task.event(), proxy.event(), proxy.step_event(0), kernel.event()];
        let before = facts(&sandbox.snapshot());
        for word in [1, 2, 8, 0xFFFF, usize::MAX, usize::MAX - 7, 0x7FFF_FFFF_F000, 0xDEAD_BEEF_DEAD_BEEF] {
            abuse(&comm, Handle(word));
        }
        // Another process's handles differ in the upper bits, wherever else they do.
        for handle in live {
            (48..64).for_each(|bit| abuse(&comm, Handle(handle.0 ^ (1 << bit))));
        }
        let after = sandbox.snapshot();
        assert!(after.losses.stale_handles > 0, "{:?}", after.losses);
        assert_eq!(facts(&after), before, "no word but the plugin's own does anything");
        // Words that look like the plugin's own, but were never given out: they may count for something, but must not make
        // the recorder a lie that its reader refuses.
        for handle in live.into_iter().flat_map(neighbours).filter(|handle| !live.contains(handle)) {
            abuse(&comm, handle);
        }
        let after = sandbox.snapshot();
        assert_eq!(recorded(&after, 1).enqueued, 1);
    });
}

#[test]
fn words_that_are_no_contexts() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let before = facts(&sandbox.snapshot());
        let spec = all_reduce_spec();
        let words = [Handle::NULL, Handle(1), Handle(usize::MAX), Handle(0xDEAD_BEEF_0000)];
        for context in words.into_iter().chain(neighbours(comm.context())) {
            let untouched = Handle(0x5A5A_5A5A);
            let mut handle = untouched;
            let event =
                Event::Coll { spec: &spec, sequence: 0, group: Handle::NULL, comm: (0, std::ptr::null()) };
            assert_eq!(comm.plugin().start(context, &mut handle, Handle::NULL, 3, &event), SUCCESS);
            assert_ne!(handle, untouched, "the handle is always written");
            abuse(&comm, handle);
            comm.plugin().finalize(context);
        }
        assert_eq!(facts(&sandbox.snapshot()), before);
        all_reduce(&comm);
        assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 2, "the real context still works");
    });
}

#[test]
fn kernel_stop_before_start() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        // The pool a task's proxy arguments come from is not cleared: the variable holds the last user's kernel.
        let old = comm.collective(&all_reduce_spec());
        old.enqueued();
        let mut old_kernel = old.kernel(0);
        old_kernel.start(1);
        let stale = old_kernel.event();
        old_kernel.stop(2);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let before = facts(&sandbox.snapshot());
        task.kernel(0).stop_before_start(stale, 99);
        task.kernel(1).stop_before_start(Handle::NULL, 99);
        assert_eq!(facts(&sandbox.snapshot()), before);
        children(&task);
        let snapshot = sandbox.snapshot();
        assert_complete_all_reduce(snapshot.operations.last().expect("an operation"));
    });
}

#[test]
fn graph_replay_of_old_handles() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let graph = comm.capture(&all_reduce_spec());
        let captured = sandbox.snapshot();
        assert_eq!(recorded(&captured, 1).enqueued, 0, "a capture is no operation");
        for replay in 1..=5 {
            let task = graph.replay();
            task.enqueued();
            children(&task);
            assert_eq!(recorded(&sandbox.snapshot(), 1).completed, replay);
        }
        assert!(sandbox.snapshot().operations.iter().all(|operation| operation.graph_captured));
        // The handle of the capture grows old.
        (0..50_000).for_each(|_| all_reduce(&comm));
        let task = graph.replay();
        task.enqueued();
        children(&task);
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 1).completed, 50_006);
        assert_complete_all_reduce(snapshot.operations.last().expect("the replay"));
    });
}

#[test]
fn children_of_a_finalised_communicator() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let keep = init(&nccl, 9);
        let first = init(&nccl, 1);
        let task = first.collective(&all_reduce_spec());
        task.enqueued();
        let mut running = task.proxy(ring(0, true));
        running.step(0);
        first.finalize();
        // It may get the same slot.
        let second = init(&nccl, 2);
        let open = second.collective(&all_reduce_spec());
        open.enqueued();
        let before = sandbox.snapshot();
        running.state(0, StepState::SendGpuWait, 0);
        running.stop_step(0);
        running.stop();
        children(&task);
        let after = sandbox.snapshot();
        assert_eq!(recorded(&after, 2), recorded(&before, 2), "nothing of the old is told of the new");
        assert_eq!(facts(&after).operations.last(), facts(&before).operations.last());
        assert!(after.losses.stale_handles > before.losses.stale_handles);
        all_reduce(&keep);
        assert_eq!(recorded(&sandbox.snapshot(), 9).completed, 1);
    });
}

#[test]
fn pxn_events_of_another_process() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let open = comm.collective(&all_reduce_spec());
        open.enqueued();
        let before = facts(&sandbox.snapshot());
        // The other process runs the same plugin: its words look like ours. Its pid does not, nor its addresses, if it runs
        // something else.
        let contexts = [comm.context(), Handle(comm.context().0 ^ (1 << 40)), Handle(0x7F12_3456_7890)];
        let parents =
            [open.event(), Handle(open.event().0 ^ (1 << 40)), Handle(0x7F12_3456_7890), Handle::NULL];
        let other_pid = std::process::id() as i32 + 1;
        let mut events = 0;
        for context in contexts {
            for parent in parents {
                for is_send in [true, false] {
                    let spec = ProxyOperationSpec { peer: 6, ..ring(1, is_send) };
                    ProxyOperation::of_another_process(&comm, context, open.mask(), parent, other_pid, spec)
                        .run();
                    events += 1;
                }
            }
        }
        let after = sandbox.snapshot();
        assert!(after.losses.foreign_events >= events, "{:?}", after.losses);
        assert_eq!(facts(&after), before, "they are counted, and nothing else");
        children(&open);
        let snapshot = sandbox.snapshot();
        assert_complete_all_reduce(snapshot.operations.last().expect("the open operation"));
    });
}

#[test]
fn unknown_event_types() {
    isolated(&[], |sandbox| {
        for family in 1..=7 {
            let nccl = Nccl::knowing_up_to(&plugin(), family);
            let comm = init(&nccl, u64::from(family));
            let kinds: &[u64] = if family <= 4 { &[0, 3, 255] } else { &[0, 3, 1 << 20, 1 << 63, u64::MAX] };
            for &kind in kinds {
                let before = sandbox.snapshot();
                let untouched = Handle(0x5A5A_5A5A);
                let mut handle = untouched;
                let event = Event::Other(kind);
                let result = comm.plugin().start(comm.context(), &mut handle, Handle::NULL, 3, &event);
                assert_eq!(result, SUCCESS);
                assert_ne!(handle, untouched, "v{family}, type {kind:#x}: the handle is always written");
                abuse(&comm, handle);
                let after = sandbox.snapshot();
                assert_eq!(after.losses.unknown_events, before.losses.unknown_events + 1);
                assert_eq!(facts(&after), facts(&before));
            }
            comm.finalize();
        }
    });
}

#[test]
fn handle_is_written_for_every_event() {
    isolated(&[], |_| {
        for family in 1..=7 {
            let nccl = Nccl::knowing_up_to(&plugin(), family);
            let comm = init(&nccl, u64::from(family));
            let spec = all_reduce_spec();
            let proxy = ring(0, true);
            let comm_name = (1, std::ptr::null());
            let events = [
                Event::Group,
                Event::GroupApi { depth: 0, graph_captured: false },
                Event::CollApi(&spec),
                Event::KernelLaunch,
                Event::Coll { spec: &spec, sequence: 0, group: Handle::NULL, comm: comm_name },
                Event::ProxyOp { pid: std::process::id() as i32, spec: &proxy },
                Event::ProxyStep { step: 0 },
                Event::ProxyCtrl,
                Event::KernelCh { channel: 0, gpu_ns: 0 },
                Event::KernelPhase { channel: 0, phase: 1, gpu_ns: 0 },
                Event::NetPlugin { id: 1 << 16 },
                Event::CeColl(&spec),
                Event::CeSync { complete: false, ranks: 8 },
                Event::CeBatch { operations: 1, bytes: 1 },
            ];
            for event in &events {
                let untouched = Handle(0x5A5A_5A5A);
                let mut handle = untouched;
                let result = comm.plugin().start(comm.context(), &mut handle, Handle::NULL, 3, event);
                assert_eq!(result, SUCCESS, "v{family} {event:?}");
                assert_ne!(handle, untouched, "v{family} {event:?}: the handle is always written");
                assert_eq!(comm.plugin().record(handle, state::NET_PLUGIN_UPDATE, StateDetail::Net), SUCCESS);
                assert_eq!(comm.plugin().stop(handle), SUCCESS);
            }
            comm.finalize();
        }
    });
}
