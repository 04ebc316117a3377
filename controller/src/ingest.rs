//! Taking in what agents stream.
//!
//! Each stream is one task. It reads a message, checks it by itself ([`crate::convert`]) and hands it to the brain's
//! input channel, waiting there when the brain is behind: the agent is held up by flow control and nothing is lost.
//! What goes back is told through [`streams::Streams`]:
//!
//! | channel | holds | depth | when full |
//! |---|---|---|---|
//! | replies, one for each stream | acknowledgements, refusals, commands | 64 | dropped and counted: acknowledgements and commands are said again |
//! | taken (`watch`), one for each stream | what the brain has taken | 1 | the newest counts |
//!
//! A message is acknowledged when the brain has taken it, not when it arrived; acknowledgements are sent at most every
//! 100 ms or 256 messages. Cancelling a stream's task is safe: what was not acknowledged is sent again.

use std::{pin::Pin, time::Duration};

use c4_daemon::trace::{self, Trace};
use c4_proto::v1::{
    Ack, AgentMessage, ControllerMessage, agent_message, controller_message, telemetry_server::Telemetry,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, field::Empty};

use crate::{
    access::Principal,
    brain::Input,
    convert::{Hello, Incoming, Invalid},
    nodes::StreamId,
};

mod owners;
mod pace;
pub mod streams;

use owners::Owners;
use pace::Pace;
use streams::{Closing, Reply, Streams};

/// An agent that has not introduced itself by then is not one.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Acknowledgements are sent at most this often.
const ACK_EVERY: Duration = Duration::from_millis(100);
/// …or after this many messages.
const ACK_MESSAGES: u32 = 256;

/// The service that agents connect to.
pub struct TelemetryService {
    inputs: mpsc::Sender<Input>,
    streams: Streams,
    per_second: f64,
    owners: Owners,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl TelemetryService {
    /// A service that feeds `inputs` with at most `per_second` messages of each stream. Its tasks run on `tasks` until
    /// `cancel`.
    #[must_use]
    pub fn new(
        inputs: mpsc::Sender<Input>,
        streams: Streams,
        per_second: f64,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { inputs, streams, per_second, owners: Owners::default(), tasks, cancel }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let Some(principal) = request.extensions().get::<Principal>().cloned() else {
            return Err(Status::unauthenticated("nobody knows who speaks"));
        };
        let Some(registered) = self.streams.register() else {
            return Err(Status::resource_exhausted(
                "this controller has as many streams as it may (ingest.max_streams)",
            ));
        };
        let header = request.metadata().get(trace::HEADER).and_then(|header| header.to_str().ok());
        let span = tracing::error_span!("agent", trace = Empty, node = Empty);
        let _ = Trace::of(&span, header);
        let (replies, outgoing) = (registered.replies.clone(), registered.outgoing);
        let task = StreamTask {
            id: registered.id,
            principal,
            pace: Pace::new(self.per_second),
            owners: self.owners.clone(),
            incoming: request.into_inner(),
            inputs: self.inputs.clone(),
            replies,
            taken: registered.taken,
            closing: registered.closing,
            streams: self.streams.clone(),
        };
        // Whatever is said about this stream can be found by the agent's own lines about it.
        self.tasks.spawn(task.run(self.cancel.clone()).instrument(span));
        let outgoing = ReceiverStream::new(outgoing).map(|reply| reply.map(|message| *message));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

struct StreamTask {
    id: StreamId,
    principal: Principal,
    pace: Pace,
    owners: Owners,
    incoming: Streaming<AgentMessage>,
    inputs: mpsc::Sender<Input>,
    replies: mpsc::Sender<Reply>,
    taken: watch::Receiver<u64>,
    closing: Closing,
    streams: Streams,
}

impl StreamTask {
    async fn run(mut self, cancel: CancellationToken) {
        let replies = self.replies.clone();
        let closing = self.closing.clone();
        let status = tokio::select! {
            () = cancel.cancelled() => Status::unavailable("this controller is ending"),
            () = closing.cancelled() => closing.status(),
            status = self.talk() => status,
        };
        tracing::debug!(why = %status.code(), "an agent's stream has ended: {}", status.message());
        // An agent that does not read its replies does not learn why, either.
        if status.code() != tonic::Code::Ok {
            let _ = replies.try_send(Err(status));
        }
        self.streams.remove(self.id);
        // If the brain is gone, nobody needs to know.
        let _ = self.inputs.send(Input::Closed { stream: self.id }).await;
    }

    async fn talk(&mut self) -> Status {
        let hello = match self.hello().await {
            Ok(hello) => hello,
            Err(status) => return status,
        };
        let node = hello.node.clone();
        if !self.principal.speaks_for(&node) {
            tracing::warn!(target: "c4::audit", who = %self.principal.name, node = %node.0, "an agent speaks for another node");
            return Status::permission_denied(format!(
                "{} may not speak for node {}: its certificate does not have that name",
                self.principal.name, node.0
            ));
        }
        if self.inputs.send(Input::Opened { stream: self.id, hello }).await.is_err() {
            return Status::unavailable("this controller is ending");
        }
        tracing::debug!(node = %node.0, "an agent speaks");
        tracing::Span::current().record("node", node.0.as_str());
        let mut acks = interval(ACK_EVERY);
        acks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut since_ack) = (false, 0_u32);
        loop {
            let message = tokio::select! {
                message = self.incoming.message() => message,
                changed = self.taken.changed(), if !due => {
                    if changed.is_err() {
                        return Status::unavailable("this controller is ending");
                    }
                    due = true;
                    continue;
                }
                _ = acks.tick(), if due => {
                    (due, since_ack) = (false, 0);
                    self.acknowledge();
                    continue;
                }
            };
            let mut message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            };
            if let Some(pause) = self.pace.taken(Instant::now()) {
                sleep(pause).await;
            }
            let sequence = message.sequence;
            let may = self.about_its_job(&message);
            self.owners.keep_apart(&mut message);
            let input = match may.and_then(|()| Incoming::from_wire(message, &node)) {
                Ok(message) => Input::Message { stream: self.id, message },
                Err(invalid) => Input::Invalid { stream: self.id, sequence, reason: invalid.to_string() },
            };
            if self.inputs.send(input).await.is_err() {
                return Status::unavailable("this controller is ending");
            }
            since_ack += 1;
            if since_ack >= ACK_MESSAGES {
                since_ack = 0;
                self.acknowledge();
            }
        }
    }

    /// Whoever may speak about one job only, speaks about that one.
    fn about_its_job(&self, message: &AgentMessage) -> Result<(), Invalid> {
        let Some(only) = self.principal.only_job() else { return Ok(()) };
        let job = match &message.body {
            Some(agent_message::Body::ProcessStarted(started)) => &started.job,
            Some(agent_message::Body::GroupReport(group)) => &group.job,
            Some(agent_message::Body::Health(_)) => {
                return Err(Invalid::new("health", "is not for the agent of one job to tell"));
            }
            Some(agent_message::Body::PathReport(_) | agent_message::Body::PathTrains(_)) => {
                return Err(Invalid::new("path_report", "is not for the agent of one job to tell"));
            }
            Some(agent_message::Body::PathsExplored(_)) => {
                return Err(Invalid::new("paths_explored", "is not for the agent of one job to tell"));
            }
            // These are about processes that this node has announced, which the registry checks.
            _ => return Ok(()),
        };
        if *job == only.0 {
            Ok(())
        } else {
            Err(Invalid::new("job", format!("is {job:?}, and its token is for {:?}", only.0)))
        }
    }

    async fn hello(&mut self) -> Result<Hello, Status> {
        let refuse = |invalid: Invalid| Status::invalid_argument(invalid.to_string());
        let first = match timeout(HELLO_TIMEOUT, self.incoming.message()).await {
            Err(_) => return Err(Status::deadline_exceeded("no Hello came")),
            Ok(Err(status)) => return Err(status),
            Ok(Ok(None)) => return Err(Status::ok("")),
            Ok(Ok(Some(message))) => message,
        };
        match first.body {
            Some(agent_message::Body::Hello(hello)) => Hello::try_from(hello).map_err(refuse),
            _ => Err(refuse(Invalid::new("body", "the first message of a stream must be Hello"))),
        }
    }

    fn acknowledge(&mut self) {
        let sequence = *self.taken.borrow_and_update();
        let ack = ControllerMessage { body: Some(controller_message::Body::Ack(Ack { sequence })) };
        // Full: the agent does not read. The next acknowledgement says the same and more.
        let _ = self.replies.try_send(Ok(Box::new(ack)));
    }
}
