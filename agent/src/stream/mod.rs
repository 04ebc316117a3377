//! The stream to the controller.
//!
//! One task owns everything: spool, roster, connection. Channels: reports come in over a bounded queue (senders wait
//! when it is full, and taking from it is only a push into the spool, so they never wait long); messages go out over a
//! queue of `OUTBOUND`, small so that the age put into a message is still true when it leaves; commands go to the
//! supervisor over a bounded queue, and one that finds it full is refused, said so, and not forgotten by the controller,
//! which keeps its own list. Orders for paths go to a mailbox that holds the newest. Wishes for all steps to be timed go to the sampler over a bounded queue and are dropped when
//! it is full. Cancelling is safe at every point: what is not acknowledged stays in the spool.

mod backoff;
mod desk;
mod dial;
mod roster;
mod search;
mod spool;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, path::PathBuf, time::Duration};

pub use backoff::{Backoff, BackoffPolicy};
use c4_daemon::trace::{self, Trace};
use c4_proto::v1::{
    AgentMessage, ControllerMessage, Hello, agent_message::Body, controller_message::Body as Reply,
    telemetry_client::TelemetryClient,
};
use desk::Desk;
pub use dial::{BadAddress, Dial, DialError, Tcp};
use search::{Next, Search};
pub use spool::{Entry, Spool, SpoolLimits};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Streaming, metadata::MetadataValue};
use tracing::{Instrument, Span, debug, error_span, field::Empty, info, warn};

use crate::{
    convert,
    metrics::Metrics,
    paths::{
        explore::Wish,
        mailbox::{Instructions, Mailbox},
    },
    report::{Captured, Command, Report, SensorStatus, TimeSteps},
};

/// Messages on their way out.
const OUTBOUND: usize = 32;

/// A controller that took something may be gone before it has told anybody what follows from it. What was captured in so much
/// time before is said again to whoever listens next, if any of it is said only once.
const MEMORY: Duration = Duration::from_secs(15);

/// Pause before all controllers are tried again where one of them stands by: it holds the call until there is news.
const ROUND: Duration = Duration::from_millis(100);

/// Tells a controller that stands by that all were tried (see there).
const WAIT: &str = "c4-wait";

/// Version of the protocol this agent speaks.
const PROTOCOL: u32 = 1;

/// Who speaks, and how.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Node this agent speaks for.
    pub node: String,
    /// New at each agent start.
    pub session_id: String,
    /// File of the token by which the controller knows this agent, read for each connection anew.
    pub token_file: Option<PathBuf>,
    /// What the node's NICs are, where that is known.
    pub nic_class: Option<String>,
    /// How much is kept.
    pub limits: SpoolLimits,
    /// How reconnects are spaced.
    pub backoff: BackoffPolicy,
    /// Longest time to make a connection.
    pub connect_timeout: Duration,
    /// How long to go on after the end was asked for, to deliver what is left.
    pub drain: Duration,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    #[error("{}", chain(.0))]
    Dial(#[from] DialError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the controller closed the stream")]
    Closed,
}

/// An error with what lies beneath it: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An open conversation.
struct Link {
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<ControllerMessage>,
    /// What is said again first, unspooled.
    introduction: VecDeque<(Instant, Body)>,
    /// Number of the last spooled message sent on this connection.
    last_sent: u64,
    /// Whether the controller has said anything yet.
    heard: bool,
    /// What the lines about it in both logs have in common.
    span: Span,
}

/// See the module.
pub struct Stream<D> {
    dial: D,
    settings: StreamSettings,
    backoff: Backoff,
    sensors: watch::Receiver<Vec<SensorStatus>>,
    commands: mpsc::Sender<Command>,
    wishes: mpsc::Sender<TimeSteps>,
    orders: Option<Mailbox<Instructions>>,
    explorer: Option<Mailbox<Wish>>,
    desk: Desk,
    said_absent: bool,
    search: Search,
    /// The latest term of a leader that was heard of.
    term: u64,
}

impl<D: Dial> Stream<D> {
    /// A stream that has not connected yet.
    pub fn new(
        dial: D,
        settings: StreamSettings,
        sensors: watch::Receiver<Vec<SensorStatus>>,
        commands: mpsc::Sender<Command>,
        wishes: mpsc::Sender<TimeSteps>,
        metrics: Metrics,
    ) -> Self {
        let seed = settings.session_id.bytes().fold(0_u64, |sum, byte| sum.rotate_left(5) ^ u64::from(byte));
        Self {
            backoff: Backoff::new(settings.backoff, seed),
            desk: Desk::new(settings.limits, MEMORY, settings.drain, metrics),
            search: Search::new(dial.controllers()),
            term: 0,
            dial,
            settings,
            sensors,
            commands,
            wishes,
            orders: None,
            explorer: None,
            said_absent: false,
        }
    }

    /// Passes orders for paths on.
    #[must_use]
    pub fn with_orders(self, orders: Option<Mailbox<Instructions>>) -> Self {
        Self { orders, ..self }
    }

    /// Passes on what is to be explored.
    #[must_use]
    pub fn with_explorer(self, explorer: Option<Mailbox<Wish>>) -> Self {
        Self { explorer, ..self }
    }

    /// Streams until `shutdown`, then for as long as there is something to deliver, but no longer than the drain time.
    pub async fn run(mut self, mut reports: mpsc::Receiver<Captured>, shutdown: CancellationToken) {
        let mut next_try = Instant::now();
        loop {
            let error = match self.connect(next_try, &mut reports, &shutdown).await {
                Some(Ok(link)) => {
                    let span = link.span.clone();
                    match self.converse(link, &mut reports, &shutdown).instrument(span).await {
                        Some(error) => error,
                        None => break,
                    }
                }
                Some(Err(error)) => error,
                None => break,
            };
            self.desk.metrics.set_connected(false);
            if !std::mem::replace(&mut self.said_absent, true) {
                warn!(%error, "no controller; the agent goes on and keeps what it has to say");
            } else {
                debug!(%error, "still no controller");
            }
            let standby = matches!(&error, LinkError::Status(status) if status.code() == Code::Unavailable);
            next_try = match self.search.failed(standby) {
                Next::Now => Instant::now(),
                Next::Soon => Instant::now() + ROUND,
                Next::Later => self.backoff.failed(Instant::now()),
            };
        }
        if self.desk.spool.depth() > 0 {
            warn!(messages = self.desk.spool.depth(), "ended before the controller had taken everything");
        }
    }

    /// Makes a connection and says hello. `None` when the end came first.
    async fn connect(
        &mut self,
        at: Instant,
        reports: &mut mpsc::Receiver<Captured>,
        shutdown: &CancellationToken,
    ) -> Option<Result<Link, LinkError>> {
        let limit = self.settings.connect_timeout;
        let dialled = async {
            sleep_until(at).await;
            timeout(limit, self.dial.dial(self.search.controller())).await
        };
        let channel = tokio::select! {
            biased;
            () = self.desk.attend(reports, shutdown) => return None,
            dialled = dialled => match dialled {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return Some(Err(error.into())),
                Err(_) => return Some(Err(LinkError::Timeout(limit))),
            },
        };
        self.desk.spool.rewind(Instant::now());
        let hello = self.desk.unnumbered(Duration::ZERO, Body::Hello(self.hello()));
        let introduction = self.desk.roster.introduction().into();
        let wait = self.search.waits();
        let (outbound, queue) = mpsc::channel(OUTBOUND);
        // The queue is new and empty: there is room for one.
        let _ = outbound.try_send(hello);
        let mut request = Request::new(ReceiverStream::new(queue));
        match self.settings.token_file.as_deref().map(c4_tls::bearer).transpose() {
            Ok(Some(token)) => drop(request.metadata_mut().insert("authorization", token)),
            Ok(None) => {}
            Err(error) => return Some(Err(DialError::from(error).into())),
        }
        let span = error_span!("stream", trace = Empty);
        let trace = Trace::of(&span, None);
        if let Ok(header) = MetadataValue::try_from(trace.header()) {
            request.metadata_mut().insert(trace::HEADER, header);
        }
        if wait {
            request.metadata_mut().insert(WAIT, MetadataValue::from_static("1"));
        }
        let mut client = TelemetryClient::new(channel);
        let opened = tokio::select! {
            biased;
            () = self.desk.attend(reports, shutdown) => return None,
            opened = timeout(limit, client.stream(request)) => opened,
        };
        Some(match opened {
            Ok(Ok(answer)) => {
                self.backoff.connected(Instant::now());
                self.desk.metrics.set_connected(true);
                let inbound = answer.into_inner();
                Ok(Link { outbound, inbound, introduction, last_sent: 0, heard: false, span })
            }
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(LinkError::Timeout(limit)),
        })
    }

    fn hello(&self) -> Hello {
        Hello {
            node: self.settings.node.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            session_id: self.settings.session_id.clone(),
            next_sequence: self.desk.spool.first_sequence(),
            protocol: PROTOCOL,
            sensors: self.sensors.borrow().iter().map(convert::sensor).collect(),
            nic_class: self.settings.nic_class.clone().unwrap_or_default(),
            kept: self.desk.spool.last_sequence(),
        }
    }

    /// Talks until the connection is lost (why) or the end has come (`None`).
    async fn converse(
        &mut self,
        mut link: Link,
        reports: &mut mpsc::Receiver<Captured>,
        shutdown: &CancellationToken,
    ) -> Option<LinkError> {
        loop {
            let pending = !link.introduction.is_empty() || self.desk.spool.after(link.last_sent).is_some();
            tokio::select! {
                biased;
                message = link.inbound.message() => match message {
                    Ok(Some(message)) => self.hear(message, &mut link.heard),
                    Ok(None) => return Some(LinkError::Closed),
                    Err(status) => return Some(status.into()),
                },
                ended = self.desk.attend_once(reports, shutdown) => if ended { return None },
                permit = link.outbound.reserve(), if pending => match permit {
                    Ok(permit) => if let Some(message) = self.desk.next_message(&mut link.introduction, &mut link.last_sent) {
                        permit.send(message);
                    },
                    Err(_) => return Some(LinkError::Closed),
                },
            }
        }
    }

    fn hear(&mut self, message: ControllerMessage, heard: &mut bool) {
        if !std::mem::replace(heard, true) {
            info!("connected to the controller");
            self.said_absent = false;
            self.search.found();
        }
        match message.body {
            Some(Reply::Ack(ack)) => {
                if !self.desk.acknowledge(ack.sequence) {
                    warn!(
                        sequence = ack.sequence,
                        "the controller acknowledges a message that was never sent"
                    );
                }
            }
            Some(Reply::Refused(refused)) => {
                self.desk.metrics.refused();
                warn!(sequence = refused.sequence, reason = %refused.reason, "the controller refuses a message");
            }
            Some(Reply::Command(command)) => self.obey(command),
            // Whoever finds no room is told again, as long as the wish stands.
            Some(Reply::TimeSteps(wish)) => drop(self.wishes.try_send(wish.into())),
            Some(Reply::PathOrders(orders)) => self.plan(orders),
            Some(Reply::ExplorePaths(wish)) => self.explore(wish),
            None => {
                debug!("the controller sent something this agent does not know")
            }
        }
    }

    fn plan(&self, orders: c4_proto::v1::PathOrders) {
        let Some(mailbox) = &self.orders else {
            debug!("orders for paths, which this agent is not configured to follow");
            return;
        };
        match Instructions::try_from(orders) {
            Ok(instructions) => mailbox.put(instructions),
            Err(error) => warn!(%error, "orders for paths are not followed"),
        }
    }

    fn explore(&self, wish: c4_proto::v1::ExplorePaths) {
        let Some(explorer) = &self.explorer else {
            debug!("paths are to be explored, which this agent is not configured to do");
            return;
        };
        match Wish::try_from(wish) {
            Ok(wish) => explorer.put(wish),
            Err(error) => warn!(%error, "paths are not explored"),
        }
    }

    fn obey(&mut self, command: c4_proto::v1::Command) {
        if command.term != 0 && command.term < self.term {
            // No answer: the leader may have given the same command, and would take the answer for its own.
            warn!(command = %command.id, term = command.term, known = self.term, "a controller commands that does not lead any more");
            return;
        }
        self.term = self.term.max(command.term);
        let id = command.id.clone();
        let refusal = match Command::try_from(command) {
            Ok(command) => match self.commands.try_send(command) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => "too many commands at once".to_owned(),
                Err(mpsc::error::TrySendError::Closed(_)) => "this agent supervises no processes".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        warn!(command = %id, %refusal, "cannot carry out a command");
        let report = Report::CommandResult { command_id: id, ok: false, detail: refusal };
        self.desk.absorb(Captured::now(report));
    }
}
