//! What the writer stamps is what the reader tells.

use std::collections::BTreeMap;
use std::path::Path;

use c4_recorder::GpuAddress;
use c4_recorder::layout::{operation_flag, operation_kind, step_state};
use c4_recorder::reader::Reader;
use c4_recorder::snapshot::{OperationKind, StepState};
use c4_recorder::writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder, StepKey};

fn recorder(directory: &Path) -> Recorder {
    let labels =
        BTreeMap::from([("RANK".to_owned(), "3".to_owned()), ("C4_JOB".to_owned(), "a=b".to_owned())]);
    let gpu_address = GpuAddress::from_bits(0x0001_1b00);
    let new = NewRecorder { host_id: "node-7".to_owned(), gpu: Some(3), gpu_address, labels };
    let recorder =
        Recorder::create(&directory.join("c4"), &new).expect("a temporary directory takes a recorder");
    recorder.set_interface(5, 22809);
    recorder.set_mask(0x4e, true);
    recorder.communicator(0).open(
        1,
        &CommunicatorFacts { id: 77, name: "dp", size: 8, rank: 3, nodes: 2 },
        recorder.tick_source().now(),
    );
    recorder.live().communicators.store(1, std::sync::atomic::Ordering::Relaxed);
    recorder
}

/// Enqueues a collective on communicator 0.
fn collective(recorder: &Recorder, flags: u8, channels: u16) -> u64 {
    enqueue(recorder, operation_kind::COLLECTIVE, flags, channels)
}

/// The same, of any kind; with rank 0 if it is a send or receive.
fn enqueue(recorder: &Recorder, kind: u8, flags: u8, channels: u16) -> u64 {
    let names = recorder.names();
    let index = recorder.next_operation();
    let facts = OperationFacts {
        comm_slot: 0,
        comm_generation: 1,
        kind,
        function: names.add(b"AllReduce").expect("the table has room"),
        datatype: names.add(b"ncclFloat32").expect("the table has room"),
        algorithm: names.add(b"RING").expect("the table has room"),
        protocol: 0,
        flags,
        channels,
        sequence: recorder.communicator(0).next_sequence(kind == operation_kind::COLLECTIVE),
        count: 256,
        bytes: 1024,
        root_or_peer: 0,
        peer_number: 0,
        enqueued: recorder.tick_source().now(),
    };
    recorder.operation(index).publish(index, &facts);
    index
}

#[test]
fn identity_and_communicators() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let snapshot = Reader::open(recorder.path()).expect("opens").snapshot().expect("reads");
    assert_eq!(snapshot.identity.pid, std::process::id());
    assert_eq!(snapshot.identity.host_id, "node-7");
    assert_eq!(snapshot.identity.gpu, Some(3));
    assert_eq!(snapshot.identity.gpu_address, Some(GpuAddress { domain: 1, bus: 0x1b, device: 0 }));
    assert_eq!(snapshot.identity.labels.get("RANK").map(String::as_str), Some("3"));
    assert_eq!(snapshot.identity.labels.get("C4_JOB").map(String::as_str), Some("a=b"));
    assert_eq!(snapshot.identity.nccl_version, "2.28.9");
    assert!(snapshot.identity.start_ticks > 0);
    assert!(snapshot.identity.created_ns <= snapshot.taken_ns);
    assert_eq!(snapshot.event_mask, 0x4e);
    assert!(snapshot.profiling);
    let [comm] = snapshot.communicators.as_slice() else { panic!("one communicator") };
    assert_eq!((comm.id, comm.name.as_str(), comm.size, comm.rank, comm.nodes), (77, "dp", 8, 3, 2));
    let name = recorder.path().file_name().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(name, format!("{}-{:016x}.c4r", std::process::id(), recorder.cookie()));
}

#[test]
fn an_operation_from_its_start_to_its_end_on_the_gpu() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let mut reader = Reader::open(recorder.path()).expect("opens");
    let clock = recorder.tick_source();
    let index = collective(&recorder, operation_flag::KERNEL_EVENTS, 2);
    let slot = recorder.operation(index);

    let poll = reader.poll(0).expect("polls");
    let [queued] = poll.operations.as_slice() else { panic!("one operation") };
    assert_eq!(queued.kind, OperationKind::Collective);
    assert_eq!((queued.function.as_str(), queued.datatype.as_str()), ("AllReduce", "ncclFloat32"));
    assert_eq!((queued.algorithm.as_str(), queued.protocol.as_str()), ("RING", ""));
    assert_eq!((queued.started_ns, queued.completed_ns), (None, None));
    assert!(queued.observable);

    assert!(slot.kernel_started(0, 1_000_500, clock));
    assert!(!slot.kernel_started(1, 1_000_000, clock));
    slot.kernel_stop_time(0, 1_007_000);
    assert_eq!(slot.kernel_stopped(0, clock), Some(false));
    assert_eq!(slot.kernel_stopped(0, clock), None, "a channel stops once");
    let poll = reader.poll(poll.next_cursor).expect("polls");
    assert!(poll.operations[0].started_ns.is_some() && poll.operations[0].completed_ns.is_none());

    slot.kernel_stop_time(1, 1_009_000);
    assert_eq!(slot.kernel_stopped(1, clock), Some(true));
    let poll = reader.poll(poll.next_cursor).expect("polls");
    let [done] = poll.operations.as_slice() else { panic!("told once more, complete") };
    assert!(done.started_on_gpu);
    let (started, completed) = (done.started_ns.expect("started"), done.completed_ns.expect("completed"));
    assert_eq!(completed - started, 9_000, "durations are the GPU's");
    assert!(reader.poll(poll.next_cursor).expect("polls").operations.is_empty(), "told as complete once");
}

#[test]
fn without_kernel_events_the_network_decides() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let reader = Reader::open(recorder.path()).expect("opens");
    let clock = recorder.tick_source();
    let index = collective(&recorder, 0, 2);
    let slot = recorder.operation(index);
    let operation = || reader.snapshot().expect("reads").operations[0].clone();
    assert!(!operation().observable, "nothing was seen of it yet");
    slot.proxy_started(false, clock);
    slot.proxy_started(false, clock);
    assert_eq!(operation().started_ns, None);
    assert!(slot.proxy_active(clock));
    assert!(!slot.proxy_active(clock));
    assert!(operation().started_ns.is_some() && !operation().started_on_gpu);
    assert!(!slot.proxy_stopped(clock));
    assert_eq!(operation().completed_ns, None);
    assert!(slot.proxy_stopped(clock));
    assert!(operation().completed_ns >= operation().started_ns);
}

#[test]
fn a_receive_has_not_ended_before_the_network_where_that_is_seen_to_end() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let mut reader = Reader::open(recorder.path()).expect("opens");
    let clock = recorder.tick_source();
    let mut cursor = 0;
    let mut ends = |reader: &mut Reader| {
        let poll = reader.poll(cursor).expect("polls");
        cursor = poll.next_cursor;
        poll.operations.iter().map(|operation| operation.completed_ns).collect::<Vec<_>>()
    };
    // Its kernel is said to have stopped, its network operation goes on.
    let begin = |kind: u8| {
        let slot = recorder.operation(enqueue(&recorder, kind, operation_flag::KERNEL_EVENTS, 1));
        slot.proxy_started(true, clock);
        slot.kernel_started(0, 1_000_000, clock);
        slot.kernel_stop_time(0, 1_001_000);
        assert_eq!(slot.kernel_stopped(0, clock), Some(true));
        slot
    };
    let first = begin(operation_kind::RECEIVE);
    assert!(ends(&mut reader)[0].is_some(), "perhaps network operations never end here");
    assert!(first.proxy_stopped(clock));
    let (second, _send) = (begin(operation_kind::RECEIVE), begin(operation_kind::SEND));
    assert!(second.proxy_stopped(clock));
    assert!(ends(&mut reader).iter().all(Option::is_some), "a send ends with its kernel");
    let third = begin(operation_kind::RECEIVE);
    assert_eq!(ends(&mut reader), [None]);
    let before = recorder.now_ns();
    assert!(third.proxy_stopped(clock));
    let [Some(end)] = ends(&mut reader)[..] else { panic!("it has ended") };
    assert!(end + 1_000_000 > before, "when the network had: {end} {before}");
}

/// A collective of which old kernel events are told when it is enqueued, as after replays of CUDA graphs.
fn replayed(recorder: &Recorder, gpu_ns: u64) -> u64 {
    let clock = recorder.tick_source();
    let index = collective(recorder, operation_flag::KERNEL_EVENTS | operation_flag::GRAPH_CAPTURED, 1);
    let slot = recorder.operation(index);
    slot.proxy_started(false, clock);
    slot.proxy_active(clock);
    assert!(slot.kernel_started(0, gpu_ns, clock));
    recorder.communicator(0).operation_started(true, index);
    slot.kernel_stop_time(0, gpu_ns + 50);
    assert_eq!(slot.kernel_stopped(0, clock), Some(true));
    recorder.communicator(0).operation_completed(true, index);
    index
}

#[test]
fn kernels_that_started_before_they_were_enqueued_are_not_believed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    recorder.communicator(0).observed.store(1, std::sync::atomic::Ordering::Relaxed);
    let clock = recorder.tick_source();
    let mut reader = Reader::open(recorder.path()).expect("opens");
    // The GPU's clock is a second behind the host's; the first event is true, and all later ones repeat it.
    let first = replayed(&recorder, 1_000_000_000);
    assert!(recorder.operation(first).proxy_stopped(clock));
    let then = recorder.now_ns();
    while recorder.now_ns() < then + 20_000_000 {
        std::hint::spin_loop();
    }
    let mut cursor = reader.poll(0).expect("polls").next_cursor;
    for _ in 0..4 {
        let index = replayed(&recorder, 1_000_000_000);
        assert!(recorder.operation(index).proxy_stopped(clock));
        cursor = reader.poll(cursor).expect("polls").next_cursor;
    }
    let stuck = replayed(&recorder, 1_000_000_000);
    let snapshot = Reader::open(recorder.path()).expect("opens").snapshot().expect("reads");
    let poll = reader.poll(cursor).expect("polls");
    for (communicators, operations) in
        [(snapshot.communicators, snapshot.operations), (poll.communicators, poll.operations)]
    {
        let last = operations.last().expect("operations");
        assert_eq!((last.index, last.completed_ns, last.started_on_gpu), (stuck, None, false));
        assert!(last.started_ns.is_some() && last.observable, "the network says that it began");
        let comm = &communicators[0];
        assert_eq!((comm.enqueued, comm.started, comm.completed, comm.observable), (6, 6, 5, true));
    }
}

#[test]
fn a_later_collective_completes_the_earlier_ones() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let clock = recorder.tick_source();
    let first = collective(&recorder, operation_flag::KERNEL_EVENTS, 1);
    let second = collective(&recorder, operation_flag::KERNEL_EVENTS, 1);
    assert!(recorder.operation(second).kernel_started(0, 500, clock));
    recorder.operation(second).kernel_stop_time(0, 900);
    assert_eq!(recorder.operation(second).kernel_stopped(0, clock), Some(true));
    let snapshot = Reader::open(recorder.path()).expect("opens").snapshot().expect("reads");
    assert_eq!(snapshot.operations[0].index, first);
    assert_eq!(snapshot.operations[0].started_ns, None);
    assert_eq!(snapshot.operations[0].completed_ns, snapshot.operations[1].started_ns);
}

#[test]
fn the_oldest_open_step_tells_the_state() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let clock = recorder.tick_source();
    let connection = recorder.connection(0).expect("in the table");
    connection.open((0, 1), 5, 1, true);
    recorder.live().connections.store(1, std::sync::atomic::Ordering::Relaxed);
    connection.operation_started();
    // Operation 65535 is followed by 65536, whose low bits are 0: older all the same.
    let old = StepKey::new(65_535, 9);
    let new = StepKey::new(65_536, 0);
    for key in [old, new] {
        connection.step_begin(key, true);
        assert!(connection.step_state(key, step_state::SEND_GPU_WAIT, 0, clock));
    }
    assert!(connection.step_state(old, step_state::SEND_PEER_WAIT, 0, clock));
    assert!(connection.step_state(old, step_state::SEND_WAIT, 4096, clock));
    let reader = Reader::open(recorder.path()).expect("opens");
    let told = reader.snapshot().expect("reads").connections[0].clone();
    assert_eq!(told.state, StepState::SendWait);
    assert!(told.state_since_ns > 0);
    assert_eq!(
        (told.peer, told.channel, told.is_send, told.bytes, told.timed_bytes),
        (5, 1, true, 4096, 4096)
    );
    assert!(connection.step_end(old, clock));
    assert!(!connection.step_end(old, clock), "a step ends once");
    let told = reader.snapshot().expect("reads").connections[0].clone();
    assert_eq!(told.state, StepState::SendGpuWait);
    assert_eq!((told.steps_done, told.timed_steps), (1, 1));
    assert!(told.network_wait_ns > 0);
}

#[test]
fn overwritten_operations_are_counted() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let mut reader = Reader::open(recorder.path()).expect("opens");
    for _ in 0..10 {
        collective(&recorder, 0, 1);
    }
    let first = reader.poll(0).expect("polls");
    assert_eq!((first.operations.len(), first.next_cursor, first.overwritten), (10, 10, 0));
    for _ in 0..5000 {
        collective(&recorder, 0, 1);
    }
    let second = reader.poll(first.next_cursor).expect("polls");
    assert_eq!(second.next_cursor, 5010);
    assert_eq!(second.operations.len(), 4096);
    assert_eq!(second.overwritten, 5000 - 4096);
}

#[test]
fn a_full_or_missing_directory_is_an_error() {
    let new = NewRecorder::default();
    let missing = Path::new("/proc/no-such-place/c4");
    let error = Recorder::create(missing, &new).err().expect("cannot be made");
    assert!(error.to_string().starts_with("cannot create the directory /proc/no-such-place/c4"), "{error}");
}

/// An event that is heard of late does not move the GPU's clock.
#[test]
fn the_quickest_report_sets_the_gpus_clock() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let clock = recorder.tick_source();
    let mut reader = Reader::open(recorder.path()).expect("opens");
    let mut cursor = 0;
    let mut told = Vec::new();
    // GPU times 1 s apart, all heard of within microseconds: the last one was heard of soonest after it happened.
    for second in [3_u64, 2, 1] {
        let index = collective(&recorder, operation_flag::KERNEL_EVENTS, 1);
        let gpu_ns = 10_000_000_000 - second * 1_000_000_000;
        recorder.operation(index).kernel_started(0, gpu_ns, clock);
        recorder.operation(index).kernel_stop_time(0, gpu_ns + 500);
        recorder.operation(index).kernel_stopped(0, clock);
        let poll = reader.poll(cursor).expect("polls");
        cursor = poll.next_cursor;
        told.extend(poll.operations);
    }
    let snapshot = reader.snapshot().expect("reads");
    let starts: Vec<_> = snapshot.operations.iter().filter_map(|operation| operation.started_ns).collect();
    assert_eq!(starts[1] - starts[0], 1_000_000_000, "one clock for all: {starts:?}");
    assert_eq!(starts[2] - starts[1], 1_000_000_000, "one clock for all: {starts:?}");
    let polled = told.last().and_then(|last| last.started_ns).expect("started");
    // The reader measures the rate of ticks anew each time, so the same moment may come out a little different.
    assert!(polled.abs_diff(starts[2]) < 10_000, "a poll knows what polls before it saw");
    for operation in told {
        let (start, end) =
            (operation.started_ns.expect("started"), operation.completed_ns.expect("completed"));
        assert_eq!(end - start, 500);
    }
}
