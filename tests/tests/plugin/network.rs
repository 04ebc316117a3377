//! The proxy thread: transfers that never end, start again and again, wait for ever, or come by the thousand.

use c4_recorder::snapshot::StepState as Recorded;
use c4_tests::nccl::{Datatype, Nccl, PointToPoint, ProxyOperationSpec, StepState};

use crate::harness::{
    CHANNELS, CHUNK, STEPS, all_reduce, all_reduce_spec, assert_complete_all_reduce, children, connection,
    init, isolated, nccl, plugin, recorded, ring,
};

const ALL_STEPS: &[(&str, &str)] = &[("C4_STEP_SAMPLING", "1")];

#[test]
fn connections_of_a_ring() {
    isolated(ALL_STEPS, |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        (0..10).for_each(|_| all_reduce(&comm));
        let snapshot = sandbox.snapshot();
        assert_eq!(snapshot.connections.len(), 2 * usize::from(CHANNELS));
        for channel in 0..CHANNELS {
            for is_send in [true, false] {
                let connection = connection(&snapshot, channel, is_send);
                assert_eq!((connection.operations_started, connection.operations_done), (10, 10));
                assert_eq!(connection.steps_done, 10 * u64::from(STEPS));
                assert_eq!(connection.timed_steps, 10 * u64::from(STEPS));
                assert_eq!(connection.bytes, 10 * u64::from(STEPS * CHUNK));
                assert_eq!(connection.state, Recorded::Idle);
            }
        }
    });
}

#[test]
fn state_of_the_open_step_is_seen() {
    isolated(ALL_STEPS, |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let directions = [
            (
                true,
                [
                    (StepState::SendGpuWait, Recorded::SendGpuWait),
                    (StepState::SendPeerWait, Recorded::SendPeerWait),
                    (StepState::SendWait, Recorded::SendWait),
                ],
            ),
            (
                false,
                [
                    (StepState::RecvWait, Recorded::RecvWait),
                    (StepState::RecvFlushWait, Recorded::RecvFlushWait),
                    (StepState::RecvGpuWait, Recorded::RecvGpuWait),
                ],
            ),
        ];
        for (is_send, states) in directions {
            let mut proxy = task.proxy(ring(0, is_send));
            proxy.in_progress();
            proxy.step(0);
            for (state, expected) in states {
                let earliest = c4_recorder::monotonic_now_ns();
                proxy.state(0, state, CHUNK as usize);
                let snapshot = sandbox.snapshot();
                let connection = connection(&snapshot, 0, is_send);
                assert_eq!(connection.state, expected);
                let since = connection.state_since_ns;
                // The plugin's clock is the processor's counter, calibrated: allow it a millisecond.
                assert!(
                    since + 1_000_000 >= earliest && since <= snapshot.taken_ns + 1_000_000,
                    "{earliest} {since} {}",
                    snapshot.taken_ns
                );
            }
            assert_eq!(connection(&sandbox.snapshot(), 0, is_send).operations_done, 0);
        }
    });
}

#[test]
fn proxy_operations_that_never_stop() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        // CollNet, shared memory and copy engines start proxy operations and never stop them.
        for _ in 0..20_000 {
            let task = comm.collective(&all_reduce_spec());
            task.enqueued();
            let _never_stopped = task.proxy(ring(0, true));
        }
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 1).enqueued, 20_000);
        assert_eq!(recorded(&snapshot, 1).completed, 0, "open is not complete");
        assert!(
            snapshot.losses.operations > 0,
            "what was overwritten in flight is counted: {:?}",
            snapshot.losses
        );
        all_reduce(&comm);
        let snapshot = sandbox.snapshot();
        assert_complete_all_reduce(snapshot.operations.last().expect("the newest operation"));
    });
}

#[test]
fn network_operations_one_after_another() {
    // Without kernel events an operation is done when its network operations are. If the proxy thread is so late that one
    // ends before the next begins, the operation must not be counted done more than once.
    isolated(&[], |sandbox| {
        let nccl = Nccl::knowing_up_to(&plugin(), 4);
        let comm = init(&nccl, 1);
        for _ in 0..10 {
            let spec =
                PointToPoint { is_send: true, peer: 4, count: 8, datatype: Datatype::Int8, channels: 2 };
            for task in [comm.point_to_point(&spec), comm.collective(&all_reduce_spec())] {
                task.enqueued();
                (0..CHANNELS).for_each(|channel| task.proxy(ring(channel, true)).run());
            }
        }
        let snapshot = sandbox.snapshot();
        let seen = recorded(&snapshot, 1);
        assert_eq!((seen.enqueued, seen.completed), (10, 10));
        assert_eq!((seen.p2p_enqueued, seen.p2p_completed), (10, 10));
    });
}

#[test]
fn repeated_receive_steps() {
    isolated(ALL_STEPS, |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let mut proxy = task.proxy(ring(0, false));
        proxy.in_progress();
        for step in 0..STEPS {
            // irecv returned null: the same step starts again at every poll, the old handle is never stopped.
            (0..10_000).for_each(|_| proxy.step(step));
            for state in [StepState::RecvWait, StepState::RecvFlushWait, StepState::RecvGpuWait] {
                proxy.state(step, state, CHUNK as usize);
            }
            proxy.stop_step(step);
        }
        proxy.stop();
        let snapshot = sandbox.snapshot();
        let connection = connection(&snapshot, 0, false);
        assert_eq!(connection.steps_done, u64::from(STEPS));
        assert_eq!(connection.timed_steps, u64::from(STEPS));
        assert_eq!(connection.bytes, u64::from(STEPS * CHUNK));
        assert_eq!(connection.operations_done, 1);
        assert_eq!(snapshot.losses, Default::default());
    });
}

#[test]
fn send_peer_wait_floods() {
    isolated(ALL_STEPS, |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let mut proxy = task.proxy(ring(0, true));
        proxy.step(0);
        proxy.state(0, StepState::SendGpuWait, 0);
        proxy.state(0, StepState::SendPeerWait, 0);
        let first = connection(&sandbox.snapshot(), 0, true).state_since_ns;
        (0..200_000).for_each(|_| proxy.state(0, StepState::SendPeerWait, 0));
        let snapshot = sandbox.snapshot();
        let waiting = connection(&snapshot, 0, true);
        assert_eq!(waiting.state, Recorded::SendPeerWait);
        // 100 µs for the reader's conversion; the flood takes far longer.
        assert!(
            waiting.state_since_ns.abs_diff(first) < 100_000,
            "it has waited since the first time it was said"
        );
        proxy.state(0, StepState::SendWait, CHUNK as usize);
        proxy.stop_step(0);
        let snapshot = sandbox.snapshot();
        let done = connection(&snapshot, 0, true);
        assert_eq!((done.steps_done, done.timed_steps, done.bytes), (1, 1, u64::from(CHUNK)));
        assert!(done.peer_wait_ns > 0, "the flood took time: {done:?}");
        assert_eq!(snapshot.losses, Default::default());
    });
}

#[test]
fn one_operation_in_n_has_its_steps_timed() {
    for every in ["16", "4", "1", "0"] {
        // Whatever their pace.
        isolated(&[("C4_STEP_SAMPLING", every), ("C4_STEP_STATE", "on")], |sandbox| {
            // In the process that runs this, the environment says which case it is.
            let every: u64 = std::env::var("C4_STEP_SAMPLING").expect("set").parse().expect("a number");
            let nccl = nccl();
            let comm = init(&nccl, 1);
            (0..64).for_each(|_| all_reduce(&comm));
            let snapshot = sandbox.snapshot();
            assert_eq!(recorded(&snapshot, 1).completed, 64, "every operation is followed to its end");
            let connection = connection(&snapshot, 0, true);
            assert_eq!(connection.operations_done, 64);
            let timed = connection.timed_steps / u64::from(STEPS);
            let expected = 64_u64.checked_div(every).unwrap_or(0);
            assert!(timed.abs_diff(expected) <= 1, "one in {every}: steps of {timed} of 64 were timed");
            assert_eq!(timed == 0, every == 0);
        });
    }
}

#[test]
fn full_connection_table_is_counted() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let known = connection(&sandbox.snapshot(), 0, true).clone();
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let mut tried: u64 = 0;
        while sandbox.snapshot().losses.connections == 0 {
            for _ in 0..1_000 {
                let spec = ProxyOperationSpec { peer: 1_000 + tried as u32, ..ring(0, true) };
                task.proxy(spec).run();
                tried += 1;
            }
            assert!(tried < 1_000_000, "the table is bounded");
        }
        let lost = sandbox.snapshot().losses.connections;
        assert!(lost <= tried, "{lost} of {tried}");
        children(&task);
        let snapshot = sandbox.snapshot();
        let still = connection(&snapshot, 0, true);
        assert_eq!(still.operations_done, known.operations_done + 1, "a known connection goes on");
        assert_eq!(recorded(&snapshot, 1).completed, 2);
    });
}
