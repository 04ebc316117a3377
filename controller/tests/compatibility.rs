//! An agent of an earlier version and this controller: a recorded conversation (see proto/fixtures) is read as it was meant, and
//! played to a controller. The agent's side of it is in the agent's own tests.

use std::path::PathBuf;

use c4_proto::v1::{
    self, AgentMessage, ControllerMessage, agent_message::Body, command, controller_message,
    telemetry_client::TelemetryClient,
};
use prost::{Message, encoding::encode_varint};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

mod support;

use support::{PATIENCE, controller, event, operations};

const JOB: &str = "llm";

/// What the agent of a node with both ranks of a job said until one of them was killed. Every field has a value of its own.
fn said() -> Vec<AgentMessage> {
    let mut bodies = vec![Body::Hello(hello())];
    bodies.extend([0, 1].map(|rank| Body::ProcessStarted(process(rank))));
    bodies.extend([0, 1].map(|rank| {
        Body::CommunicatorJoined(v1::CommunicatorJoined {
            process: 11 + u64::from(rank),
            comm: 99,
            name: "dp".into(),
            size: 2,
            comm_rank: rank,
            nodes: 1,
        })
    }));
    bodies.push(Body::GroupReport(v1::GroupReport {
        job: JOB.into(),
        incarnation: 3,
        state: v1::GroupState::Running.into(),
        ranks: vec![0, 1],
        world_size: 2,
        detail: "runs".into(),
        checkpoint_iteration: Some(40),
        checkpoint_age_us: Some(5_000_000),
        checkpoint_took_us: Some(2_000_000),
        least_world_size: 1,
        opted_out: String::new(),
    }));
    bodies.push(Body::Traffic(v1::Traffic {
        peers: vec![v1::PeerTraffic {
            process: 11,
            comm: 99,
            peer: 1,
            channels: 2,
            operations: 64,
            bytes: 4096,
            turn_us: None,
        }],
    }));
    bodies.push(Body::Health(v1::Health {
        component: "gpu".into(),
        gpu: Some(1),
        nic: String::new(),
        code: "xid-94".into(),
        detail: "contained error".into(),
        severity: v1::Severity::Warning.into(),
        cleared: false,
    }));
    bodies.push(Body::Windows(windows()));
    bodies.push(Body::Window(v1::Window { comms: vec![plain_window(72)], ..window(11) }));
    bodies.push(Body::PathReport(path_report()));
    bodies.push(Body::NodeWish(v1::NodeWish { opted_out: true, reason: "being repaired".into() }));
    bodies.push(Body::CommandResult(v1::CommandResult {
        command_id: "check-n0".into(),
        ok: false,
        detail: "gpu 1: no memory".into(),
    }));
    bodies.push(Body::SpoolLoss(v1::SpoolLoss { dropped: 5 }));
    bodies.push(Body::EvidenceSaved(v1::EvidenceSaved {
        job: JOB.into(),
        incarnation: 3,
        path: "/var/tmp/c4/llm-3".into(),
        bytes: 1 << 20,
        files: 2,
    }));
    bodies.push(Body::ProcessEnded(v1::ProcessEnded {
        process: 12,
        finalized: false,
        exit_code: None,
        signal: Some(9),
        ..Default::default()
    }));
    let number = |(index, body)| {
        let sequence = u64::try_from(index).expect("few");
        AgentMessage { sequence, age_us: 10 + sequence, body: Some(body), ..Default::default() }
    };
    bodies.into_iter().enumerate().map(number).collect()
}

fn hello() -> v1::Hello {
    let sensor =
        |name: &str, present, detail: &str| v1::Sensor { name: name.into(), present, detail: detail.into() };
    v1::Hello {
        node: "n0".into(),
        agent_version: "0.1.0".into(),
        session_id: "5e55104".into(),
        next_sequence: 1,
        protocol: 1,
        sensors: vec![sensor("recorder", true, "/dev/shm/c4"), sensor("nvml", false, "no driver")],
        nic_class: "roce-200".into(),
        ..v1::Hello::default()
    }
}

fn process(rank: u32) -> v1::ProcessStarted {
    v1::ProcessStarted {
        process: 11 + u64::from(rank),
        job: JOB.into(),
        incarnation: 3,
        rank: Some(rank),
        local_rank: Some(rank),
        world_size: Some(2),
        gpu: Some(rank),
        gpu_uuid: format!("GPU-{rank}"),
        pid: 4000 + rank,
        nccl_version: "2.28".into(),
        profiler_api: 5,
        blind_spots: vec!["symmetric kernels".into()],
        labels: [("pod".to_owned(), format!("llm-{rank}"))].into(),
        uid: Some(1000),
        found_ended: false,
        ..v1::ProcessStarted::default()
    }
}

fn window(process: u64) -> v1::Window {
    v1::Window {
        process,
        duration_us: 1_000_000,
        state: v1::ProcessState::Running.into(),
        kernel_events: true,
        dropped: 1,
        unread: 2,
        // What was added since.
        own: None,
        comms: Vec::new(),
        profiling: true,
    }
}

fn plain_window(position: u64) -> v1::CommWindow {
    v1::CommWindow {
        comm: 99,
        enqueued: position + 2,
        started: position + 1,
        completed: position,
        in_flight: Some(v1::InFlight {
            sequence: position,
            signature: Some(operation()),
            started: true,
            age_us: 700,
            started_age_us: 600,
            operation: 0,
            before: None,
        }),
        blocks: vec![v1::Block {
            first: position - 8,
            length: 8,
            signature: 77,
            wait_ns: 8_000,
            min_wait_ns: 900,
            max_wait_ns: 1_100,
            span_ns: 80_000,
            gap_ns: 70_000,
            bytes: 8 << 20,
            own_ns: Some(60_000),
            silent_ns: Some(50_000),
            longest_own_ns: Some(9_000),
            beside: 1,
            awaited: 7,
        }],
        edges: vec![v1::Edge {
            peer: 1,
            channel: 1,
            is_send: true,
            state: v1::StepState::SendWait.into(),
            state_age_us: 500,
            steps_done: 640,
            bytes: 1 << 16,
        }],
        iterations: vec![v1::Iteration { first: position - 8, operations: 4, duration_ns: 90_000, count: 2 }],
        idle_us: 0,
        pending_peers: vec![v1::PendingPeer {
            peer: 1,
            is_send: true,
            started: true,
            age_us: 400,
            position: 3,
        }],
        links: vec![v1::LinkTime {
            peer: 1,
            is_send: true,
            channels: 2,
            steps: 10,
            bytes: 1 << 16,
            network_ns: 5_000,
            gpu_ns: 4_000,
            peer_ns: 3_000,
            flush_ns: 0,
        }],
        packed_blocks: Vec::new(),
        // What was added since.
        unseen_us: 0,
    }
}

fn operation() -> v1::OperationSignature {
    v1::OperationSignature {
        function: "AllReduce".into(),
        count: 1 << 20,
        datatype: "ncclFloat32".into(),
        root: 0,
    }
}

/// The windows of both ranks, with what they have in common said once.
fn windows() -> v1::Windows {
    let of = |process| {
        let mut comm = plain_window(64);
        comm.blocks.clear();
        for number in [56, 3, 0, 8_000, 900, 1_100, 80_000, 70_000, 8 << 20, 60_001, 10_000, 9_001, 1, 7] {
            encode_varint(number, &mut comm.packed_blocks);
        }
        comm.in_flight =
            comm.in_flight.map(|flight| v1::InFlight { signature: None, operation: 1, ..flight });
        v1::Window { comms: vec![comm], ..window(process) }
    };
    v1::Windows {
        windows: vec![of(11), of(12)],
        operations: vec![operation()],
        signatures: vec![77],
        block_columns: 14,
    }
}

fn path_report() -> v1::PathReport {
    v1::PathReport {
        revision: 7,
        epoch: 8,
        settled: true,
        destinations: 1,
        missing: 2,
        changes: 3,
        ports: 4,
        probes: 5,
        silent: 6,
        unsteady: 9,
        busy: 10,
        lost: 11,
        learning_us: 12,
        seen: vec![v1::SeenPath {
            from: "10.0.0.1".into(),
            to: "10.0.1.1".into(),
            hops: vec!["172.16.0.1".into()],
            ports: 3,
        }],
    }
}

/// What the controller said.
fn answered() -> Vec<ControllerMessage> {
    let command = |id: &str, body| {
        controller_message::Body::Command(v1::Command {
            id: id.into(),
            body: Some(body),
            term: 41,
            ..v1::Command::default()
        })
    };
    let assignment = v1::Assignment {
        first_rank: 2,
        ranks: 2,
        world_size: 4,
        node_rank: 1,
        nodes: 2,
        master: "n7".into(),
    };
    let route =
        v1::PathRoute { units: 1, via: vec![v1::PathHop { addresses: vec!["172.16.0.1".into()] }], bond: 0 };
    let order = v1::PathOrder { from: "10.0.0.1".into(), to: "10.0.1.1".into(), routes: vec![route] };
    let bodies = vec![
        controller_message::Body::Ack(v1::Ack { sequence: 1 }),
        controller_message::Body::Refused(v1::Refused { sequence: 1, reason: "no such process".into() }),
        controller_message::Body::TimeSteps(v1::TimeSteps {
            processes: vec![11, 12],
            duration_us: 2_000_000,
        }),
        controller_message::Body::PathOrders(v1::PathOrders {
            revision: 7,
            epoch: 8,
            orders: vec![order],
            ..v1::PathOrders::default()
        }),
        command(
            "stop",
            command::Body::StopGroup(v1::StopGroup { job: JOB.into(), incarnation: 3, grace_us: 5_000_000 }),
        ),
        command(
            "start",
            command::Body::StartGroup(v1::StartGroup {
                job: JOB.into(),
                incarnation: 4,
                assignment: Some(assignment),
                stand_by: false,
            }),
        ),
        command("check", command::Body::CheckNode(v1::CheckNode {})),
    ];
    bodies.into_iter().map(|body| ControllerMessage { body: Some(body) }).collect()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto/fixtures/protocol-1").join(name)
}

/// The recorded messages, which must mean what they meant when they were recorded.
fn recorded<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, meant: &[M]) -> Vec<M> {
    if std::env::var_os("C4_WRITE_FIXTURES").is_some() {
        let bytes: Vec<u8> = meant.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        std::fs::write(file(name), bytes).expect("written");
    }
    let bytes = std::fs::read(file(name)).expect("a recording");
    let mut rest = &*bytes;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        messages.push(M::decode_length_delimited(&mut rest).expect("a message"));
    }
    for (index, (message, meant)) in messages.iter().zip(meant).enumerate() {
        assert!(message == meant, "{name}, message {index}: reads as {message:#?}\nwas {meant:#?}");
    }
    assert_eq!(messages.len(), meant.len());
    // What is read and written again has lost nothing.
    let again: Vec<u8> = messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    assert!(again == bytes, "{name}: a field is not known any more");
    messages
}

#[test]
fn what_an_earlier_controller_said_means_what_it_meant() {
    recorded("controller.bin", &answered());
}

#[tokio::test]
async fn an_agent_of_an_earlier_version_is_understood() {
    let messages = recorded("agent.bin", &said());
    let last = messages.last().expect("some").sequence;
    let running = controller("").await;
    let mut client = TelemetryClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
    let (send, outgoing) = mpsc::channel(64);
    for message in messages {
        send.send(message).await.expect("room");
    }
    let mut replies = client.stream(ReceiverStream::new(outgoing)).await.expect("is taken").into_inner();
    loop {
        let reply =
            timeout(PATIENCE, replies.message()).await.expect("in time").expect("goes on").expect("a reply");
        match reply.body.expect("a body") {
            controller_message::Body::Refused(refused) => panic!("{refused:?}"),
            controller_message::Body::Ack(ack) if ack.sequence == last => break,
            _ => {}
        }
    }
    event(&running, |event| event.kind == "finding" && event.job == JOB).await;
    let mut calls = operations(&running).await;
    let known = async {
        loop {
            // The picture that operators see is made ten times a second.
            match calls.get_job(v1::GetJobRequest { name: JOB.into() }).await {
                Ok(job) => return job.into_inner(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let job = timeout(PATIENCE, known).await.expect("the job is known");
    assert_eq!(job.summary.expect("a summary").incarnation, 3);
    let findings =
        calls.list_findings(v1::ListFindingsRequest::default()).await.expect("findings").into_inner();
    let death = findings.findings.iter().find(|finding| finding.kind == "process_death").expect("a death");
    assert_eq!(death.suspects[0].rank, Some(1), "{death:#?}");
    let status = calls.get_status(v1::GetStatusRequest {}).await.expect("a status").into_inner();
    let node = &status.nodes[0];
    assert_eq!((node.name.as_str(), node.spool_dropped, node.sensors.len()), ("n0", 5, 2));
    running.drain().await;
}
