use c4_detect::observation::{CommWindow, Window};
use proptest::prelude::*;

use super::*;

/// A field, and how to make it wrong.
type Spoiled<T> = (&'static str, fn(&mut T));

fn node() -> NodeName {
    NodeName("n0".into())
}

fn take(body: v1::agent_message::Body) -> Result<Body, Invalid> {
    let message = v1::AgentMessage { sequence: 1, age_us: 7, body: Some(body), ..Default::default() };
    Incoming::from_wire(message, &node()).map(|incoming| incoming.body)
}

fn hello() -> v1::Hello {
    v1::Hello {
        node: "n0".into(),
        agent_version: "1".into(),
        session_id: "s".into(),
        next_sequence: 1,
        protocol: 1,
        sensors: vec![v1::Sensor { name: "nvml".into(), present: false, detail: "no driver".into() }],
        nic_class: "roce-200".into(),
        kept: 9,
    }
}

fn started() -> v1::ProcessStarted {
    v1::ProcessStarted {
        process: 5,
        job: "llm".into(),
        rank: Some(1),
        world_size: Some(2),
        pid: 9,
        ..v1::ProcessStarted::default()
    }
}

fn comm() -> v1::CommWindow {
    v1::CommWindow {
        pending_peers: Vec::new(),
        packed_blocks: Vec::new(),
        unseen_us: 0,
        links: vec![v1::LinkTime { peer: 1, channels: 2, steps: 3, bytes: 9, ..v1::LinkTime::default() }],
        comm: 7,
        enqueued: 10,
        started: 9,
        completed: 8,
        in_flight: Some(v1::InFlight {
            sequence: 8,
            signature: Some(v1::OperationSignature::default()),
            started: true,
            age_us: 1,
            started_age_us: 1,
            operation: 0,
            before: None,
        }),
        blocks: vec![v1::Block {
            first: 4,
            length: 4,
            wait_ns: 10,
            min_wait_ns: 1,
            max_wait_ns: 5,
            ..v1::Block::default()
        }],
        edges: vec![v1::Edge { peer: 1, ..v1::Edge::default() }],
        iterations: vec![v1::Iteration { first: 4, operations: 4, duration_ns: 1, count: 2 }],
        idle_us: 0,
    }
}

fn window(comms: Vec<v1::CommWindow>) -> v1::Window {
    v1::Window { process: 5, duration_us: 1_000_000, state: 1, comms, ..v1::Window::default() }
}

#[test]
fn what_is_right_arrives() {
    let taken = Hello::try_from(hello()).unwrap();
    assert_eq!((taken.node, taken.sensors.len()), (node(), 1));
    assert_eq!(taken.nic_class, Some(NicClass("roce-200".into())));
    let nic = |address: &str| v1::NicPort { nic: "mlx5_1".into(), address: address.into(), gbps: 0.0 };
    let started = v1::ProcessStarted { nics: vec![nic("10.0.0.1"), nic("")], ..started() };
    let Body::ProcessStarted(info, nics) = take(v1::agent_message::Body::ProcessStarted(started)).unwrap()
    else {
        panic!("another body")
    };
    assert_eq!((info.node, info.rank), (node(), Some(1)));
    let addresses: Vec<_> = nics.iter().map(|nic| nic.address).collect();
    assert_eq!(addresses, [Some([10, 0, 0, 1].into()), None]);
    let Body::Window(taken) = take(v1::agent_message::Body::Window(window(vec![comm()]))).unwrap() else {
        panic!("another body")
    };
    assert_eq!((taken.comms[0].blocks.len(), taken.comms[0].edges.len()), (1, 1));
    let link = &taken.comms[0].links[0];
    assert_eq!((link.peer, link.is_send, link.channels, link.steps, link.bytes), (1, false, 2, 3, 9));
    let ended = v1::ProcessEnded { process: 5, ..v1::ProcessEnded::default() };
    let Body::ProcessEnded(end) = take(v1::agent_message::Body::ProcessEnded(ended)).unwrap() else {
        panic!("another body")
    };
    assert_eq!(end.ago_us, 7, "the message's age is how long ago it happened");
}

#[test]
fn a_wrong_hello_names_the_field() {
    let cases: [Spoiled<v1::Hello>; 7] = [
        ("hello.nic_class", |m| m.nic_class = "a\nb".into()),
        ("hello.protocol", |m| m.protocol = 2),
        ("hello.node", |m| m.node = " ".into()),
        ("hello.node", |m| m.node = "a\nb".into()),
        ("hello.session_id", |m| m.session_id = "x".repeat(300)),
        ("hello.next_sequence", |m| m.next_sequence = u64::MAX),
        ("hello.sensors", |m| m.sensors = vec![v1::Sensor::default(); 1000]),
    ];
    for (field, spoil) in cases {
        let mut message = hello();
        spoil(&mut message);
        assert_eq!(Hello::try_from(message).unwrap_err().field, field);
    }
}

#[test]
fn a_wrong_announcement_names_the_field() {
    fn nic(address: &str) -> v1::NicPort {
        v1::NicPort { nic: "eth0".into(), address: address.into(), gbps: 0.0 }
    }
    let cases: [Spoiled<v1::ProcessStarted>; 10] = [
        ("process_started.process", |m| m.process = 0),
        ("process_started.job", |m| m.job = String::new()),
        ("process_started.rank", |m| m.rank = Some(2)),
        ("process_started.world_size", |m| m.world_size = Some(0)),
        ("process_started.world_size", |m| m.world_size = Some(u32::MAX)),
        ("process_started.gpu", |m| m.gpu = Some(9999)),
        ("process_started.blind_spots", |m| m.blind_spots = vec![String::new(); 100]),
        ("process_started.nics", |m| m.nics = vec![v1::NicPort::default(); 1000]),
        ("process_started.nics.nic", |m| m.nics = vec![v1::NicPort::default()]),
        ("process_started.nics.address", |m| m.nics = vec![nic("10.0.0.256")]),
    ];
    for (field, spoil) in cases {
        let mut message = started();
        spoil(&mut message);
        assert_eq!(take(v1::agent_message::Body::ProcessStarted(message)).unwrap_err().field, field);
    }
}

#[test]
fn a_wrong_window_names_the_field() {
    let cases: [Spoiled<v1::CommWindow>; 19] = [
        ("window.comms[1].started", |m| m.started = 11),
        ("window.comms[1].completed", |m| m.completed = 10),
        ("window.comms[1].enqueued", |m| m.enqueued = u64::MAX),
        ("window.comms[1].comm", |m| m.comm = 1),
        ("window.comms[1].in_flight.sequence", |m| m.in_flight.as_mut().unwrap().sequence = 10),
        ("window.comms[1].in_flight.signature", |m| m.in_flight.as_mut().unwrap().signature = None),
        ("window.comms[1].in_flight.age_us", |m| m.in_flight.as_mut().unwrap().age_us = u64::MAX),
        ("window.comms[1].blocks.length", |m| m.blocks[0].length = 0),
        ("window.comms[1].blocks.length", |m| m.blocks[0].length = 3),
        ("window.comms[1].blocks.first", |m| m.blocks[0].first = 2),
        ("window.comms[1].blocks.first", |m| m.blocks[0].first = 1 << 63),
        ("window.comms[1].blocks.wait_ns", |m| m.blocks[0].min_wait_ns = 6),
        ("window.comms[1].blocks.bytes", |m| m.blocks[0].bytes = u64::MAX),
        ("window.comms[1].edges.peer", |m| m.edges[0].peer = u32::MAX),
        ("window.comms[1].links.peer", |m| m.links[0].peer = u32::MAX),
        ("window.comms[1].links.steps", |m| m.links[0].steps = 0),
        ("window.comms[1].links.channels", |m| m.links[0].channels = 0),
        ("window.comms[1].links.network_ns", |m| m.links[0].network_ns = u64::MAX),
        ("window.comms[1].iterations.operations", |m| m.iterations[0].operations = 0),
    ];
    for (field, spoil) in cases {
        let mut wrong = comm();
        spoil(&mut wrong);
        let message = window(vec![v1::CommWindow { comm: 1, ..comm() }, wrong]);
        let error = take(v1::agent_message::Body::Window(message)).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

/// Numbers as they are sent.
fn pack(numbers: &[u64]) -> Vec<u8> {
    let mut packed = Vec::new();
    numbers.iter().for_each(|number| prost::encoding::encode_varint(*number, &mut packed));
    packed
}

/// One window whose block is a row, and whose operation is listed.
fn packed() -> v1::Windows {
    let mut comm = comm();
    comm.blocks.clear();
    comm.packed_blocks = pack(&[4, 2, 1, 10, 1, 5, 100, 40, 4096, 31, 10, 21]);
    let in_flight = comm.in_flight.as_mut().unwrap();
    (in_flight.signature, in_flight.operation) = (None, 2);
    let operation = v1::OperationSignature { function: "Broadcast".into(), ..Default::default() };
    v1::Windows {
        windows: vec![window(vec![comm])],
        operations: vec![v1::OperationSignature::default(), operation],
        signatures: vec![7, 8],
        block_columns: 12,
    }
}

#[test]
fn windows_that_share_what_they_repeat_arrive_whole() {
    let windows = |message| match take(v1::agent_message::Body::Windows(message)).unwrap() {
        Body::Windows(windows) => windows,
        other => panic!("became {other:?}"),
    };
    let taken = windows(packed());
    let comm = &taken[0].comms[0];
    assert_eq!(comm.in_flight.as_ref().unwrap().signature.function.as_ref(), "Broadcast");
    let block = &comm.blocks[0];
    assert_eq!((block.first, block.length, block.signature, block.wait_ns), (4, 4, 8, 10));
    assert_eq!((block.own_ns, block.silent_ns, block.longest_own_ns), (Some(30), Some(20), Some(20)));
    // An agent that knows of one column less, and one that knows of one more.
    for (columns, longest_own_ns) in [(11, None), (13, Some(20)), (15, Some(20))] {
        let mut message = packed();
        message.block_columns = columns;
        // One of the numbers, the bytes moved, takes two bytes.
        message.windows[0].comms[0].packed_blocks.resize(columns as usize + 1, 99);
        assert_eq!(windows(message)[0].comms[0].blocks[0].longest_own_ns, longest_own_ns);
    }
}

#[test]
fn wrong_windows_of_a_node_name_the_field() {
    fn comm(message: &mut v1::Windows) -> &mut v1::CommWindow {
        &mut message.windows[0].comms[0]
    }
    let cases: [Spoiled<v1::Windows>; 9] = [
        ("windows.windows", |m| m.windows = vec![window(Vec::new()); 5000]),
        ("windows.block_columns", |m| m.block_columns = 3),
        ("windows.operations.function", |m| m.operations[0].function = "a\nb".into()),
        ("windows.windows[0].comms[0].packed_blocks", |m| m.block_columns = 0),
        ("windows.windows[0].comms[0].packed_blocks", |m| comm(m).packed_blocks.push(1)),
        ("windows.windows[0].comms[0].packed_blocks", |m| comm(m).packed_blocks.push(0x80)),
        ("windows.windows[0].comms[0].packed_blocks.length", |m| comm(m).packed_blocks[1] = 32),
        ("windows.windows[0].comms[0].packed_blocks.signature", |m| comm(m).packed_blocks[2] = 2),
        ("windows.windows[0].comms[0].in_flight.operation", |m| {
            comm(m).in_flight.as_mut().unwrap().operation = 3;
        }),
    ];
    for (field, spoil) in cases {
        let mut wrong = packed();
        spoil(&mut wrong);
        let error = take(v1::agent_message::Body::Windows(wrong)).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn a_wrong_group_report_names_the_field() {
    let right = v1::GroupReport {
        job: "llm".into(),
        state: 1,
        ranks: vec![0, 1],
        world_size: 2,
        ..Default::default()
    };
    assert!(take(v1::agent_message::Body::GroupReport(right.clone())).is_ok());
    let cases: [Spoiled<v1::GroupReport>; 5] = [
        ("group_report.state", |m| m.state = 0),
        ("group_report.state", |m| m.state = 99),
        ("group_report.ranks", |m| m.ranks = vec![2]),
        ("group_report.ranks", |m| m.ranks = vec![1, 0, 1]),
        ("group_report.checkpoint_age_us", |m| m.checkpoint_iteration = Some(1)),
    ];
    for (field, spoil) in cases {
        let mut message = right.clone();
        spoil(&mut message);
        assert_eq!(take(v1::agent_message::Body::GroupReport(message)).unwrap_err().field, field);
    }
}

#[test]
fn no_body_and_a_second_hello_are_refused() {
    let empty = v1::AgentMessage { sequence: 1, age_us: 0, body: None, ..Default::default() };
    assert_eq!(Incoming::from_wire(empty, &node()).unwrap_err().field, "body");
    assert_eq!(take(v1::agent_message::Body::Hello(hello())).unwrap_err().field, "hello");
    let health = v1::Health { component: "gpu".into(), code: "xid-79".into(), ..v1::Health::default() };
    assert_eq!(take(v1::agent_message::Body::Health(health)).unwrap_err().field, "health.severity");
}

/// Small numbers meet each other often; huge ones overflow.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..40_u64, Just(u64::MAX), Just(1 << 56), any::<u64>()]
}

fn number32() -> impl Strategy<Value = u32> {
    prop_oneof![0..20_u32, Just(u32::MAX), any::<u32>()]
}

prop_compose! {
    fn block()(first in number(), length in number32(), waits in (number(), number(), number()), bytes in number()) -> v1::Block {
        v1::Block {
            first, length, signature: bytes, wait_ns: waits.0, min_wait_ns: waits.1, max_wait_ns: waits.2,
            span_ns: waits.0, gap_ns: waits.1, bytes, own_ns: (waits.1 % 2 == 0).then_some(waits.1 / 2), silent_ns: None, longest_own_ns: None, beside: 1, awaited: length,
        }
    }
}

prop_compose! {
    fn in_flight()(sequence in number(), ages in (number(), number()), name in ".{0,8}", has in any::<bool>()) -> v1::InFlight {
        let signature = v1::OperationSignature { function: name, ..Default::default() };
        v1::InFlight {
            sequence, signature: has.then_some(signature), started: has, age_us: ages.0, started_age_us: ages.1,
            operation: (ages.1 % 4) as u32,
            before: has.then_some(v1::Before { operation: (ages.0 % 3) as u32, usual: Some(ages.1), usual_before: None }),
        }
    }
}

prop_compose! {
    fn hostile()(
        positions in (number(), number(), number()), comm in 0..3_u64,
        in_flight in proptest::option::of(in_flight()), blocks in proptest::collection::vec(block(), 0..3),
        edge in proptest::option::of((number32(), number32(), any::<i32>(), number())),
        iteration in proptest::option::of((number(), number32(), number())),
        link in proptest::option::of((number32(), number32(), number(), number(), number())),
        packed_blocks in proptest::collection::vec(number(), 0..40),
    ) -> v1::CommWindow {
        v1::CommWindow {
            pending_peers: Vec::new(),
            packed_blocks: pack(&packed_blocks),
            links: link.into_iter().map(|(peer, channels, steps, bytes, ns)| v1::LinkTime {
                peer, is_send: false, channels, steps, bytes, network_ns: ns, gpu_ns: ns, peer_ns: ns, flush_ns: ns,
            }).collect(),
            comm, enqueued: positions.0, started: positions.1, completed: positions.2, in_flight, blocks,
            edges: edge.into_iter().map(|(peer, channel, state, n)| v1::Edge {
                peer, channel, is_send: true, state, state_age_us: n, steps_done: n, bytes: n,
            }).collect(),
            iterations: iteration.into_iter().map(|(first, operations, duration_ns)| v1::Iteration {
                first, operations, duration_ns, count: operations % 7,
            }).collect(),
            idle_us: positions.0,
            unseen_us: positions.1,
        }
    }
}

fn holds(window: &Window) {
    for CommWindow { enqueued, started, completed, in_flight, blocks, links, .. } in &window.comms {
        assert!(links.iter().all(|link| link.steps > 0 && link.channels > 0));
        assert!(completed <= started && started <= enqueued);
        assert!(in_flight.as_ref().is_none_or(|operation| operation.sequence < *enqueued));
        for block in blocks {
            let length = u64::from(block.length);
            assert!(
                length.is_power_of_two() && block.first % length == 0 && block.first + length <= *enqueued
            );
            assert!(block.min_wait_ns <= block.max_wait_ns && block.max_wait_ns <= block.wait_ns);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a window says, it is refused with a field's name, or keeps every promise of the domain types.
    #[test]
    fn hostile_windows_are_refused_or_hold(
        comms in proptest::collection::vec(hostile(), 0..3), process in number(), state in any::<i32>(), n in number(),
    ) {
        let message = v1::Window {
            process, duration_us: n, state, kernel_events: true, dropped: n, unread: n, comms, profiling: true,
            own: Some(v1::OwnTime { now_us: n, longest_us: n, gpu_spins_us: n }),
        };
        match take(v1::agent_message::Body::Window(message)) {
            Ok(Body::Window(window)) => holds(&window),
            Ok(other) => prop_assert!(false, "became {other:?}"),
            Err(error) => prop_assert!(error.field.starts_with("window."), "{error}"),
        }
    }

    /// The same of windows that refer to what their message says once.
    #[test]
    fn hostile_messages_of_windows_are_refused_or_hold(
        comm in hostile(), columns in 0..14_u32, signatures in proptest::collection::vec(number(), 0..3),
        rows in proptest::collection::vec((0..40_u64, 0..6_u64, 0..4_u64, number()), 0..3),
    ) {
        let packed_blocks = rows.iter().flat_map(|(first, log, signature, n)| {
            let mut row = vec![*first, *log, *signature, 9, 1, 5, *n, 1, 2, 3, *n, 0, 0, 0];
            row.truncate(columns as usize);
            row
        });
        let comm = v1::CommWindow { packed_blocks: pack(&packed_blocks.collect::<Vec<_>>()), ..comm };
        let message = v1::Windows {
            windows: vec![window(vec![comm])],
            operations: vec![v1::OperationSignature::default(); 2],
            signatures,
            block_columns: columns,
        };
        match take(v1::agent_message::Body::Windows(message)) {
            Ok(Body::Windows(windows)) => windows.iter().for_each(holds),
            Ok(other) => prop_assert!(false, "became {other:?}"),
            Err(error) => prop_assert!(error.field.starts_with("windows."), "{error}"),
        }
    }

    #[test]
    fn hostile_names_are_refused_or_harmless(job in "\\PC{0,300}|.{0,20}", rank in number32(), size in number32()) {
        let message = v1::ProcessStarted { job, rank: Some(rank), world_size: Some(size), ..started() };
        if let Ok(Body::ProcessStarted(info, _)) = take(v1::agent_message::Body::ProcessStarted(message)) {
            prop_assert!(info.job.0.len() <= limits::NAME_BYTES && !info.job.0.chars().any(char::is_control));
            prop_assert!(info.rank < info.world_size);
        }
    }
}
