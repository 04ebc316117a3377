//! A controller in this process and agents that say what a test wants.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use c4_controller::{
    config::Config,
    server::{self, Running},
};
use c4_proto::v1::{
    self, AgentMessage, ControllerMessage, agent_message::Body, controller_message,
    operations_client::OperationsClient, steering_client::SteeringClient, telemetry_client::TelemetryClient,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

pub(crate) mod agents;
pub(crate) mod world;

/// Far more than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The same for what takes many writes to a disk that others keep busy.
const SLOW_DISK: Duration = Duration::from_secs(120);

pub(crate) async fn controller(yaml: &str) -> Running {
    let mut config = Config::parse(yaml).expect("a valid configuration");
    config.listen.set_port(0);
    config.http.set_port(0);
    server::start(config).await.expect("starts")
}

pub(crate) async fn operations(running: &Running) -> OperationsClient<Channel> {
    OperationsClient::connect(format!("http://{}", running.grpc)).await.expect("connects")
}

/// Waits for the first event for which `wanted` holds; all events since the start are looked at.
pub(crate) async fn event(running: &Running, wanted: impl Fn(&v1::Event) -> bool) -> v1::Event {
    let request = v1::WatchEventsRequest { history: u32::MAX };
    let mut events = operations(running).await.watch_events(request).await.expect("events").into_inner();
    let find = async {
        while let Some(event) = events.message().await.expect("event") {
            if wanted(&event) {
                return event;
            }
        }
        panic!("the events ended");
    };
    timeout(PATIENCE, find).await.expect("the event comes")
}

pub(crate) struct Agent {
    messages: mpsc::Sender<AgentMessage>,
    replies: Streaming<ControllerMessage>,
    sequence: u64,
}

impl Agent {
    pub(crate) async fn connect(running: &Running, node: &str, session: &str, next_sequence: u64) -> Self {
        let hello = v1::Hello {
            node: node.into(),
            agent_version: "test".into(),
            session_id: session.into(),
            next_sequence,
            protocol: 1,
            ..v1::Hello::default()
        };
        Self::connect_as(running, hello).await.expect("connects")
    }

    pub(crate) async fn connect_as(running: &Running, hello: v1::Hello) -> Result<Self, Status> {
        Self::connect_with(running, hello, None).await
    }

    /// The same with a token.
    pub(crate) async fn connect_with(
        running: &Running,
        hello: v1::Hello,
        token: Option<&str>,
    ) -> Result<Self, Status> {
        let mut client =
            TelemetryClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
        let (messages, outgoing) = mpsc::channel(1024);
        let next_sequence = hello.next_sequence;
        let first =
            AgentMessage { sequence: 0, age_us: 0, body: Some(Body::Hello(hello)), ..Default::default() };
        messages.send(first).await.expect("room");
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        let replies = client.stream(request).await?.into_inner();
        Ok(Self { messages, replies, sequence: next_sequence.saturating_sub(1) })
    }

    /// Sends the next numbered message.
    pub(crate) async fn say(&mut self, body: Body) -> u64 {
        self.sequence += 1;
        self.say_as(self.sequence, Some(body)).await;
        self.sequence
    }

    pub(crate) async fn say_as(&mut self, sequence: u64, body: Option<Body>) {
        self.messages
            .send(AgentMessage { sequence, body, ..Default::default() })
            .await
            .expect("the stream is open");
    }

    pub(crate) async fn reply(&mut self) -> Result<Option<controller_message::Body>, Status> {
        let reply = timeout(PATIENCE, self.replies.message()).await.expect("a reply comes")?;
        Ok(reply.and_then(|reply| reply.body))
    }

    /// Waits until everything up to `sequence` is acknowledged; returns refusals that came before.
    pub(crate) async fn acknowledged(&mut self, sequence: u64) -> Vec<v1::Refused> {
        let mut refusals = Vec::new();
        loop {
            match self.reply().await.expect("the stream goes on") {
                Some(controller_message::Body::Ack(ack)) if ack.sequence >= sequence => return refusals,
                Some(controller_message::Body::Refused(refused)) => refusals.push(refused),
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    pub(crate) async fn refusal(&mut self) -> v1::Refused {
        loop {
            match self.reply().await.expect("the stream goes on") {
                Some(controller_message::Body::Refused(refused)) => return refused,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    pub(crate) async fn command(&mut self) -> v1::Command {
        loop {
            match self.reply().await.expect("the stream goes on") {
                Some(controller_message::Body::Command(command)) => return command,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    /// Waits until the controller ends the stream.
    pub(crate) async fn closed(&mut self) -> Status {
        loop {
            match self.reply().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub(crate) fn started(process: u64, job: &str, rank: u32, world_size: u32) -> Body {
    Body::ProcessStarted(v1::ProcessStarted {
        process,
        job: job.into(),
        rank: Some(rank),
        world_size: Some(world_size),
        pid: u32::try_from(process).expect("small"),
        ..Default::default()
    })
}

pub(crate) fn joined(process: u64, comm: u64, comm_rank: u32, size: u32) -> Body {
    let nodes = size;
    Body::CommunicatorJoined(v1::CommunicatorJoined {
        process,
        comm,
        name: String::new(),
        size,
        comm_rank,
        nodes,
    })
}

pub(crate) fn window(process: u64, comm: u64, position: u64) -> Body {
    let comm = v1::CommWindow {
        pending_peers: Vec::new(),
        links: Vec::new(),
        packed_blocks: Vec::new(),
        comm,
        enqueued: position,
        started: position,
        completed: position,
        ..Default::default()
    };
    Body::Window(v1::Window {
        process,
        duration_us: 1_000_000,
        state: 2,
        kernel_events: true,
        comms: vec![comm],
        profiling: true,
        ..Default::default()
    })
}

/// `GET` of a page, without a client that could hide anything.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = answer(address, path).await;
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body)
}

/// The same with the whole head of the answer.
pub(crate) async fn answer(address: SocketAddr, path: &str) -> (String, String) {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

/// A request as it goes over the wire, and the head and body of the answer.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).await.expect("connects");
    connection.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.expect("answers").expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

/// Starts the controller; with `crash` it kills itself at that moment.
pub(crate) async fn program(config: &Path, crash: Option<&str>) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c4-controller"));
    command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.kill_on_drop(true).env_remove("C4_CRASH_AT");
    if let Some(crash) = crash {
        command.env("C4_CRASH_AT", crash);
    }
    let mut child = command.spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text").expect("a line");
    let grpc = line.split(' ').find_map(|word| word.strip_prefix("grpc=")).expect("an address").to_owned();
    (child, grpc)
}

pub(crate) async fn steering(grpc: &str) -> Option<SteeringClient<Channel>> {
    SteeringClient::connect(format!("http://{grpc}")).await.ok()
}

/// The actions as the controller knows them.
pub(crate) async fn actions(grpc: &str) -> Option<Vec<v1::Action>> {
    let mut client = steering(grpc).await?;
    let request = v1::ListActionsRequest { include_ended: true };
    Some(client.list_actions(request).await.ok()?.into_inner().actions)
}

/// Waits until the controller has done what it has taken up.
pub(crate) async fn done(grpc: &str) -> Vec<v1::Action> {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            seen = actions(grpc).await.unwrap_or_default();
            if seen.iter().any(|action| action.state == "done") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(SLOW_DISK, wait).await;
    assert!(waited.is_ok(), "nothing is done: {seen:#?}");
    seen
}

/// A controller that isolates a node and releases it is killed (SIGKILL) at a moment, and another finishes. Returns whether the
/// moment came, and all that was done.
pub(crate) async fn isolated_and_released_though_killed(
    config: &Path,
    moment: &str,
    node: &str,
) -> (bool, Vec<v1::Action>) {
    let (mut first, grpc) = program(config, Some(moment)).await;
    let came = tokio::select! {
        _ = first.wait() => true,
        done = isolated_and_released(&grpc, node) => done.is_none(),
        () = sleep(SLOW_DISK) => panic!("to be killed {moment}: not done by the first: {:#?}", actions(&grpc).await),
    };
    first.kill().await.expect("ours");
    let (_second, grpc) = program(config, None).await;
    let Ok(all) = timeout(SLOW_DISK, isolated_and_released(&grpc, node)).await else {
        panic!("killed {moment}: not done by the second: {:#?}", actions(&grpc).await);
    };
    (came, all.expect("nobody kills the second"))
}

/// Somebody wants a node isolated, and released again once that is done; nothing if the controller dies meanwhile.
async fn isolated_and_released(grpc: &str, node: &str) -> Option<Vec<v1::Action>> {
    let isolate = v1::decision::What::Isolate(v1::IsolateNode { node: node.into(), why: "smoke".into() });
    let release = v1::decision::What::Release(v1::ReleaseNode { node: node.into(), check: false });
    for (deed, what) in [("isolate", isolate), ("release", release)] {
        loop {
            let all = actions(grpc).await?;
            if !all.iter().any(|action| action.deed == deed) {
                let decision = v1::Decision { by: "eve".into(), dry_run: false, what: Some(what.clone()) };
                // Refused as long as it has not heard of the scheduler's nodes.
                let answer = steering(grpc).await?.decide(decision).await;
                if answer.is_err_and(|status| status.code() == Code::Unavailable) {
                    return None;
                }
            } else if all.iter().all(|action| action.state == "done") {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    actions(grpc).await
}
