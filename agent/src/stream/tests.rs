//! The stream as it ships, against a controller that is a test double but speaks the real protocol, over an in-memory
//! transport on paused time: minutes of outage pass at once, and no test waits for a clock.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use c4_detect::observation::{CommId, Membership, ProcessEnd, ProcessId, Severity, Window};
use c4_proto::v1::{
    Ack, Command as WireCommand, StopGroup, command,
    telemetry_server::{Telemetry, TelemetryServer},
};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

use super::*;
use crate::report::{CommandAction, Health, ProcessStart};

/// Where connections go; `None` while no controller is there.
type Door = Arc<Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>>;

struct InMemory(Door);

impl Dial for InMemory {
    fn controllers(&self) -> usize {
        1
    }

    async fn dial(&self, _: usize) -> Result<Channel, DialError> {
        let door = Arc::clone(&self.0);
        let connector = tower::service_fn(move |_| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let taken = door.lock().unwrap().as_ref().is_some_and(|door| door.send(theirs).is_ok());
            std::future::ready(if taken {
                Ok(TokioIo::new(ours))
            } else {
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
            })
        });
        Ok(Endpoint::from_static("http://controller").connect_with_connector(connector).await?)
    }
}

/// A controller that notes what it is told, acknowledges what it is told to, and can be killed.
struct Controller {
    received: mpsc::UnboundedReceiver<AgentMessage>,
    replies: tokio::sync::broadcast::Sender<ControllerMessage>,
    kill: CancellationToken,
    server: JoinHandle<()>,
}

struct Service {
    received: mpsc::UnboundedSender<AgentMessage>,
    replies: tokio::sync::broadcast::Sender<ControllerMessage>,
    ack_up_to: u64,
    kill: CancellationToken,
}

fn reply(body: Reply) -> ControllerMessage {
    ControllerMessage { body: Some(body) }
}

#[tonic::async_trait]
impl Telemetry for Service {
    type StreamStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let (out, answer) = mpsc::unbounded_channel();
        let (received, kill, ack_up_to) = (self.received.clone(), self.kill.clone(), self.ack_up_to);
        let mut replies = self.replies.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = kill.cancelled() => {
                        let _ = out.send(Err(Status::unavailable("killed")));
                        return;
                    }
                    Ok(message) = replies.recv() => {
                        let _ = out.send(Ok(message));
                    }
                    message = incoming.message() => {
                        let Ok(Some(message)) = message else { return };
                        let sequence = message.sequence;
                        let _ = received.send(message);
                        if sequence > 0 && sequence <= ack_up_to {
                            let _ = out.send(Ok(reply(Reply::Ack(Ack { sequence }))));
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answer))))
    }
}

impl Controller {
    /// Opens for business. Acknowledges sequence numbers up to `ack_up_to`.
    fn open(door: &Door, ack_up_to: u64) -> Self {
        let (received_sender, received) = mpsc::unbounded_channel();
        let (replies, _) = tokio::sync::broadcast::channel(16);
        let kill = CancellationToken::new();
        let service =
            Service { received: received_sender, replies: replies.clone(), ack_up_to, kill: kill.clone() };
        let (sender, connections) = mpsc::unbounded_channel();
        *door.lock().unwrap() = Some(sender);
        let incoming = UnboundedReceiverStream::new(connections).map(Ok::<_, std::io::Error>);
        let server =
            Server::builder().add_service(TelemetryServer::new(service)).serve_with_incoming(incoming);
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { received, replies, kill, server }
    }

    /// Takes messages until one satisfies `last`.
    async fn until(&mut self, last: impl Fn(&AgentMessage) -> bool) -> Vec<AgentMessage> {
        let mut messages = Vec::new();
        loop {
            let message = self.received.recv().await.expect("the controller is open");
            let end = last(&message);
            messages.push(message);
            if end {
                return messages;
            }
        }
    }

    fn kill(self, door: &Door) {
        *door.lock().unwrap() = None;
        self.kill.cancel();
        self.server.abort();
    }
}

/// An agent's stream, and the ends of its channels.
struct Rig {
    door: Door,
    reports: mpsc::Sender<Captured>,
    commands: mpsc::Receiver<Command>,
    wishes: mpsc::Receiver<TimeSteps>,
    shutdown: CancellationToken,
    stream: JoinHandle<()>,
    metrics: Metrics,
}

fn rig(messages: usize) -> Rig {
    let door = Door::default();
    let (reports, receiver) = mpsc::channel(64);
    let (commands_sender, commands) = mpsc::channel(4);
    let (wishes_sender, wishes) = mpsc::channel(1);
    let sensor = SensorStatus { name: "nvml", present: false, detail: "no driver".to_owned() };
    let (_, sensors) = watch::channel(vec![sensor]);
    let settings = StreamSettings {
        token_file: None,
        node: "n0".to_owned(),
        session_id: "s1".to_owned(),
        nic_class: Some("ib-400".to_owned()),
        limits: SpoolLimits { messages, bytes: 1 << 20 },
        backoff: BackoffPolicy {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            stable: Duration::from_secs(5),
        },
        connect_timeout: Duration::from_secs(5),
        drain: Duration::from_secs(2),
    };
    let metrics = Metrics::new("n0").unwrap();
    let shutdown = CancellationToken::new();
    let stream = Stream::new(
        InMemory(Arc::clone(&door)),
        settings,
        sensors,
        commands_sender,
        wishes_sender,
        metrics.clone(),
    );
    let stream = tokio::spawn(stream.run(receiver, shutdown.clone()));
    Rig { door, reports, commands, wishes, shutdown, stream, metrics }
}

impl Rig {
    async fn say(&self, report: Report) {
        self.reports.send(Captured::now(report)).await.unwrap();
    }

    /// A window whose length tells it from the others.
    async fn window(&self, n: u64) {
        self.say(Report::Windows(vec![Window {
            process: ProcessId(7),
            duration_us: n,
            state: c4_detect::observation::ProcessState::Running,
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            own: None,
            comms: Vec::new(),
        }]))
        .await;
    }

    async fn windows(&self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            self.window(n).await;
        }
    }

    async fn process(&self, process: u64) {
        self.say(Report::ProcessStarted(ProcessStart {
            uid: None,
            found_ended: false,
            process: ProcessId(process),
            job: "llm".to_owned(),
            incarnation: 0,
            rank: Some(0),
            local_rank: None,
            world_size: None,
            gpu: None,
            pid: 1,
            nccl_version: String::new(),
            profiler_api: 5,
            blind_spots: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            nics: Vec::new(),
        }))
        .await;
        let membership = Membership {
            process: ProcessId(process),
            comm: CommId(1),
            name: String::new(),
            size: 2,
            comm_rank: 0,
        };
        self.say(Report::CommunicatorJoined { membership, nodes: 1 }).await;
    }

    async fn ended(&self, process: u64) {
        let end = ProcessEnd {
            found: false,
            process: ProcessId(process),
            ago_us: 0,
            finalized: false,
            exit_code: None,
            signal: Some(9),
        };
        self.say(Report::ProcessEnded(end)).await;
    }
}

fn kind(message: &AgentMessage) -> String {
    match message.body.as_ref().unwrap() {
        Body::Hello(hello) => format!("hello {}", hello.next_sequence),
        Body::ProcessStarted(start) => format!("started {}", start.process),
        Body::CommunicatorJoined(joined) => format!("joined {}", joined.process),
        Body::Windows(windows) => format!("window {}", windows.windows[0].duration_us),
        Body::Window(_) => "window by itself".into(),
        Body::ProcessEnded(end) => format!("ended {}", end.process),
        Body::SpoolLoss(loss) => format!("lost {}", loss.dropped),
        Body::CommandResult(result) => format!("result {} {}", result.command_id, result.ok),
        Body::Health(health) => format!("health {}", health.code),
        Body::GroupReport(report) => format!("group {}", report.job),
        Body::Traffic(traffic) => format!("traffic {}", traffic.peers.len()),
        Body::PathReport(report) => format!("paths {}", report.revision),
        Body::PathTrains(trains) => format!("trains {}", trains.paths.len()),
        Body::PathsExplored(report) => format!("explored {}", report.round),
        Body::EvidenceSaved(saved) => format!("evidence {}", saved.path),
        Body::NodeWish(wish) => format!("wish {}", wish.opted_out),
    }
}

fn told(messages: &[AgentMessage]) -> Vec<(u64, String)> {
    messages.iter().map(|message| (message.sequence, kind(message))).collect()
}

fn is_window(n: u64) -> impl Fn(&AgentMessage) -> bool {
    move |message| matches!(&message.body, Some(Body::Windows(windows)) if windows.windows[0].duration_us == n)
}

fn pairs(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(sequence, text)| (*sequence, (*text).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn hello_comes_first_and_everything_has_its_number() {
    let rig = rig(100);
    let mut controller = Controller::open(&rig.door, u64::MAX);
    rig.process(7).await;
    rig.window(1).await;
    let messages = controller.until(is_window(1)).await;
    let Some(Body::Hello(hello)) = &messages[0].body else { panic!("no hello") };
    assert_eq!((hello.node.as_str(), hello.session_id.as_str(), hello.protocol), ("n0", "s1", 1));
    assert_eq!(hello.sensors[0].detail, "no driver");
    assert_eq!(hello.nic_class, "ib-400");
    let numbered: Vec<_> = told(&messages).into_iter().filter(|(sequence, _)| *sequence > 0).collect();
    assert_eq!(numbered, pairs(&[(1, "started 7"), (2, "joined 7"), (3, "window 1")]));
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_restarts_loses_nothing_and_hears_nothing_twice_that_it_took() {
    let rig = rig(1000);
    let mut first = Controller::open(&rig.door, 12);
    rig.process(7).await;
    rig.windows(1..=20).await;
    first.until(is_window(20)).await;
    first.kill(&rig.door);
    rig.windows(21..=60).await;
    // The outage lasts; several attempts fail.
    tokio::time::sleep(Duration::from_secs(60)).await;

    let mut second = Controller::open(&rig.door, u64::MAX);
    let messages = told(&second.until(is_window(60)).await);
    // Numbers 1 to 12 were taken: process, communicator, ten windows. The process is introduced again, unnumbered.
    let mut expected = pairs(&[(0, "hello 13"), (0, "started 7"), (0, "joined 7")]);
    expected.extend((11..=60).map(|n| (n + 2, format!("window {n}"))));
    assert_eq!(messages, expected);
}

#[tokio::test(start_paused = true)]
async fn the_last_windows_of_the_dead_still_belong_to_somebody() {
    let rig = rig(100);
    let mut first = Controller::open(&rig.door, 2);
    rig.process(7).await;
    rig.window(1).await;
    rig.ended(7).await;
    first.until(|message| kind(message) == "ended 7").await;
    first.kill(&rig.door);
    let mut second = Controller::open(&rig.door, u64::MAX);
    let messages = told(&second.until(|message| kind(message) == "ended 7").await);
    let expected = [(0, "hello 3"), (0, "started 7"), (0, "joined 7"), (3, "window 1"), (4, "ended 7")];
    assert_eq!(messages, pairs(&expected));
    // Whoever took its end may be gone before it has told anybody: for a while, the next one hears of it, too.
    rig.window(2).await;
    second.until(is_window(2)).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    second.kill(&rig.door);
    let mut third = Controller::open(&rig.door, u64::MAX);
    let again = told(&third.until(is_window(2)).await);
    assert!(again.contains(&(0, "started 7".into())) && again.contains(&(4, "ended 7".into())), "{again:?}");
    // Then it is introduced no more. The next acknowledged message proves that its end is.
    tokio::time::sleep(MEMORY).await;
    rig.window(3).await;
    third.until(is_window(3)).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    third.kill(&rig.door);
    let mut fourth = Controller::open(&rig.door, u64::MAX);
    rig.window(4).await;
    assert_eq!(told(&fourth.until(is_window(4)).await), pairs(&[(0, "hello 7"), (7, "window 4")]));
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_costs_the_oldest_windows_and_says_how_many() {
    let rig = rig(20);
    rig.process(7).await;
    rig.windows(1..=500).await;
    rig.ended(7).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut controller = Controller::open(&rig.door, u64::MAX);
    let messages = told(&controller.until(|message| kind(message) == "ended 7").await);
    let numbered: Vec<_> = messages.into_iter().filter(|(sequence, _)| *sequence > 0).collect();
    assert_eq!(numbered.len(), 20, "the spool's bound");
    let lost: u64 =
        numbered.iter().filter_map(|(_, text)| text.strip_prefix("lost ")?.parse::<u64>().ok()).sum();
    let windows = numbered.iter().filter(|(_, text)| text.starts_with("window")).count() as u64;
    assert_eq!(lost + windows, 500, "every window came or is counted");
    assert_eq!(numbered[0].1, "started 7", "what is said once is kept");
    assert!(rig.metrics.render().contains(&format!("c4_agent_spool_dropped_total{{node=\"n0\"}} {lost}")));
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_message_is_its_age_when_it_is_sent() {
    let rig = rig(100);
    rig.window(1).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    let mut controller = Controller::open(&rig.door, u64::MAX);
    let messages = controller.until(is_window(1)).await;
    let age = Duration::from_micros(messages.last().unwrap().age_us);
    assert!(age >= Duration::from_secs(90) && age <= Duration::from_secs(96), "{age:?}");
}

/// What a controller said that spoke protocol 1 first (see proto/fixtures).
fn said_by_an_earlier_controller() -> Vec<ControllerMessage> {
    use prost::Message;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/fixtures/protocol-1/controller.bin");
    let bytes = std::fs::read(file).expect("a recording");
    let mut rest = &*bytes;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        messages.push(ControllerMessage::decode_length_delimited(&mut rest).expect("a message"));
    }
    messages
}

#[tokio::test(start_paused = true)]
async fn a_controller_of_an_earlier_version_is_understood() {
    let mut rig = rig(100);
    let mut controller = Controller::open(&rig.door, 0);
    rig.window(1).await;
    controller.until(is_window(1)).await;
    let messages = said_by_an_earlier_controller();
    assert_eq!(messages.len(), 7);
    for message in messages {
        if let Some(Reply::PathOrders(orders)) = &message.body {
            Instructions::try_from(orders.clone()).expect("orders that make sense");
        }
        controller.replies.send(message).unwrap();
    }
    assert_eq!(rig.wishes.recv().await.unwrap().processes, [ProcessId(11), ProcessId(12)]);
    let stop =
        CommandAction::StopGroup { job: "llm".to_owned(), incarnation: 3, grace: Duration::from_secs(5) };
    assert_eq!(
        rig.commands.recv().await.unwrap(),
        Command { id: "stop".to_owned(), action: stop, trace: None }
    );
    let start = rig.commands.recv().await.unwrap();
    assert!(
        matches!(&start.action, CommandAction::StartGroup { job, incarnation: 4, .. } if job == "llm"),
        "{start:?}"
    );
    assert_eq!(rig.commands.recv().await.unwrap().action, CommandAction::CheckNode);
    // The first message is taken, as it said: what comes next is not sent with it again.
    rig.window(2).await;
    assert_eq!(told(&controller.until(is_window(2)).await), pairs(&[(2, "window 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_before_is_not_obeyed() {
    let mut rig = rig(100);
    let controller = Controller::open(&rig.door, u64::MAX);
    rig.window(1).await;
    let command = |id: &str, term| {
        let body = Some(command::Body::CheckNode(Default::default()));
        reply(Reply::Command(WireCommand { id: id.to_owned(), body, term, ..WireCommand::default() }))
    };
    let mut controller = controller;
    controller.until(is_window(1)).await;
    for (id, term) in [("first", 7), ("late", 6), ("next", 8), ("later", 7), ("alone", 0), ("same", 8)] {
        controller.replies.send(command(id, term)).unwrap();
    }
    for obeyed in ["first", "next", "alone", "same"] {
        assert_eq!(rig.commands.recv().await.unwrap().id, obeyed);
    }
}

#[tokio::test(start_paused = true)]
async fn commands_arrive_and_bad_ones_are_answered() {
    let mut rig = rig(100);
    let mut controller = Controller::open(&rig.door, u64::MAX);
    rig.window(1).await;
    controller.until(is_window(1)).await;
    let stop = StopGroup { job: "llm".to_owned(), incarnation: 1, grace_us: 5_000_000 };
    let good = WireCommand {
        id: "c1".to_owned(),
        body: Some(command::Body::StopGroup(stop)),
        trace: "00-1".to_owned(),
        term: 0,
    };
    let bad = WireCommand { id: "c2".to_owned(), ..WireCommand::default() };
    controller.replies.send(reply(Reply::Command(good))).unwrap();
    controller.replies.send(reply(Reply::Command(bad))).unwrap();
    let command = rig.commands.recv().await.unwrap();
    let action =
        CommandAction::StopGroup { job: "llm".to_owned(), incarnation: 1, grace: Duration::from_secs(5) };
    assert_eq!(command, Command { id: "c1".to_owned(), action, trace: Some("00-1".to_owned()) });
    controller.until(|message| kind(message) == "result c2 false").await;
    // Nobody takes commands: said so.
    rig.commands.close();
    let again = WireCommand {
        id: "c3".to_owned(),
        body: Some(command::Body::StartGroup(Default::default())),
        ..WireCommand::default()
    };
    controller.replies.send(reply(Reply::Command(again))).unwrap();
    controller.until(|message| kind(message) == "result c3 false").await;
}

#[tokio::test(start_paused = true)]
async fn a_lying_acknowledgement_takes_nothing_away() {
    let rig = rig(100);
    let mut liar = Controller::open(&rig.door, 0);
    rig.window(1).await;
    liar.until(is_window(1)).await;
    liar.replies.send(reply(Reply::Ack(Ack { sequence: 1_000_000 }))).unwrap();
    rig.window(2).await;
    liar.until(is_window(2)).await;
    liar.kill(&rig.door);
    let mut honest = Controller::open(&rig.door, u64::MAX);
    let messages = told(&honest.until(is_window(2)).await);
    assert_eq!(messages, pairs(&[(0, "hello 1"), (1, "window 1"), (2, "window 2")]));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_everything_is_delivered_if_somebody_takes_it() {
    let rig = rig(100);
    let mut controller = Controller::open(&rig.door, u64::MAX);
    let health = Health {
        component: "gpu",
        gpu: Some(4),
        nic: None,
        code: "xid-79".to_owned(),
        detail: String::new(),
        severity: Severity::Fatal,
        cleared: false,
    };
    rig.windows(1..=10).await;
    rig.say(Report::Health(health)).await;
    rig.shutdown.cancel();
    let begin = Instant::now();
    rig.stream.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "it need not wait for the drain time");
    let messages = told(&controller.until(|message| kind(message) == "health xid-79").await);
    assert_eq!(messages.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn without_a_controller_the_end_comes_after_the_drain_time() {
    let rig = rig(100);
    rig.window(1).await;
    rig.shutdown.cancel();
    let begin = Instant::now();
    rig.stream.await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_all_steps_reaches_the_sampler() {
    let mut rig = rig(100);
    let mut controller = Controller::open(&rig.door, u64::MAX);
    rig.window(1).await;
    controller.until(is_window(1)).await;
    let wish = c4_proto::v1::TimeSteps { processes: vec![7, 8], duration_us: 30_000_000 };
    controller.replies.send(reply(Reply::TimeSteps(wish))).unwrap();
    let heard = rig.wishes.recv().await.unwrap();
    let processes = vec![ProcessId(7), ProcessId(8)];
    assert_eq!(heard, TimeSteps { processes, duration: Duration::from_secs(30) });
}
