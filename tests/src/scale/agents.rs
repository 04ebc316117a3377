//! All agents in one process: a stream each, numbered messages, acknowledgements. They are as simple as an agent can
//! be: nothing is spooled or sent again, so a controller that loses a message is found out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use c4_proto::v1::{
    AgentMessage, ControllerMessage, Hello, agent_message::Body, controller_message::Body as Reply,
    telemetry_client::TelemetryClient,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    fleet::{Fleet, node_name},
    wire::{self, Traffic},
};
use crate::ringjob::clock;

/// Messages that may wait for the network, for each agent: what it says first, or some seconds of windows.
const DEPTH: usize = 256;
/// Agents that connect at the same time.
const CONNECTING: usize = 32;

/// One agent's books.
#[derive(Debug, Default)]
struct Books {
    /// Number of the last message, and when it was sent, in microseconds since the agents began.
    sent: AtomicU64,
    sent_at_us: AtomicU64,
    /// Windows sent, and those of them that were acknowledged.
    windows: AtomicU64,
    windows_taken: AtomicU64,
    taken: AtomicU64,
}

/// What all agents hear.
#[derive(Debug)]
struct Heard {
    began: Instant,
    windows_taken: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    complaint: Mutex<Option<String>>,
    /// Times from sending a message to its acknowledgement, since they were asked for last.
    delays: Mutex<Vec<Duration>>,
}

struct Agent {
    outbound: mpsc::Sender<AgentMessage>,
    books: Arc<Books>,
}

/// All agents.
pub struct Agents {
    nodes: Vec<Agent>,
    heard: Arc<Heard>,
    traffic: Arc<Traffic>,
    /// Connections that they share.
    pub connections: usize,
    /// Messages that found no room.
    pub overflowed: u64,
}

impl Agents {
    /// Connects an agent for every node and has it say who is there. One connection each, as far as `most_connections`
    /// goes.
    ///
    /// # Errors
    /// When one cannot connect, or the controller does not take what they say.
    pub async fn connect(
        address: &str,
        fleet: &Fleet,
        job: &str,
        most_connections: usize,
    ) -> anyhow::Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let heard = Arc::new(Heard {
            began: clock::now(),
            windows_taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            complaint: Mutex::new(None),
            delays: Mutex::new(Vec::new()),
        });
        let count = fleet.nodes() as usize;
        let share = count.div_ceil(most_connections.max(1));
        let mut nodes: Vec<Option<Agent>> = (0..count).map(|_| None).collect();
        let mut joining: JoinSet<anyhow::Result<(usize, Agent)>> = JoinSet::new();
        for first in (0..count).step_by(share) {
            let channel = wire::connect(address, traffic.clone()).await.context("cannot connect")?;
            for node in first..(first + share).min(count) {
                while joining.len() >= CONNECTING {
                    settle(&mut joining, &mut nodes).await?;
                }
                let said = fleet.announcements(job, node as u32);
                let (channel, heard) = (channel.clone(), heard.clone());
                joining.spawn(async move { Ok((node, introduce(channel, node, said, heard).await?)) });
            }
        }
        while !joining.is_empty() {
            settle(&mut joining, &mut nodes).await?;
        }
        let nodes: Vec<Agent> = nodes.into_iter().flatten().collect();
        ensure!(nodes.len() == count, "only {} of {count} agents are connected", nodes.len());
        Ok(Self { nodes, heard, traffic, connections: count.div_ceil(share), overflowed: 0 })
    }

    /// Sends messages of one node.
    pub fn send(&mut self, node: u32, bodies: impl IntoIterator<Item = Body>) {
        let Some(agent) = self.nodes.get(node as usize) else { return };
        let now = clock::now().duration_since(self.heard.began).as_micros() as u64;
        agent.books.sent_at_us.store(now, Relaxed);
        for body in bodies {
            let windows = if let Body::Windows(windows) = &body { windows.windows.len() as u64 } else { 0 };
            let sequence = agent.books.sent.load(Relaxed) + 1;
            let message = AgentMessage { sequence, age_us: 0, body: Some(body), ..Default::default() };
            if agent.outbound.try_send(message).is_err() {
                self.overflowed += 1;
                continue;
            }
            agent.books.windows.fetch_add(windows, Relaxed);
            agent.books.sent.store(sequence, Relaxed);
        }
    }

    /// A handle to ask how they fare while they are used elsewhere.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let books = self.nodes.iter().map(|agent| agent.books.clone()).collect();
        Observer { books, heard: self.heard.clone(), traffic: self.traffic.clone() }
    }
}

async fn settle(
    joining: &mut JoinSet<anyhow::Result<(usize, Agent)>>,
    nodes: &mut [Option<Agent>],
) -> anyhow::Result<()> {
    if let Some(joined) = joining.join_next().await {
        let (node, agent) = joined??;
        nodes[node] = Some(agent);
    }
    Ok(())
}

/// Opens the stream of one agent.
async fn introduce(
    channel: Channel,
    node: usize,
    said: Vec<Body>,
    heard: Arc<Heard>,
) -> anyhow::Result<Agent> {
    let (outbound, queue) = mpsc::channel(DEPTH);
    let hello = Hello {
        node: node_name(node as u32),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        session_id: "scale".into(),
        next_sequence: 1,
        protocol: 1,
        sensors: Vec::new(),
        ..Hello::default()
    };
    outbound
        .send(AgentMessage { sequence: 0, age_us: 0, body: Some(Body::Hello(hello)), ..Default::default() })
        .await?;
    let books = Arc::new(Books::default());
    let replies = TelemetryClient::new(channel).stream(ReceiverStream::new(queue)).await;
    let replies = replies.with_context(|| format!("agent of {}", node_name(node as u32)))?.into_inner();
    tokio::spawn(listen(replies, books.clone(), heard));
    for body in said {
        let sequence = books.sent.fetch_add(1, Relaxed) + 1;
        outbound.send(AgentMessage { sequence, age_us: 0, body: Some(body), ..Default::default() }).await?;
    }
    Ok(Agent { outbound, books })
}

async fn listen(mut replies: Streaming<ControllerMessage>, books: Arc<Books>, heard: Arc<Heard>) {
    let complain = |text: String| {
        heard.complaint.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    };
    loop {
        match replies.message().await {
            Ok(Some(ControllerMessage { body: Some(Reply::Ack(ack)) })) => {
                acknowledge(ack.sequence, &books, &heard)
            }
            Ok(Some(ControllerMessage { body: Some(Reply::Refused(refused)) })) => {
                heard.refused.fetch_add(1, Relaxed);
                complain(refused.reason);
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(status) => {
                complain(status.to_string());
                break;
            }
        }
    }
    heard.closed.fetch_add(1, Relaxed);
}

fn acknowledge(sequence: u64, books: &Books, heard: &Heard) {
    let before = books.taken.swap(sequence, Relaxed);
    if sequence <= before || sequence < books.sent.load(Relaxed) {
        return;
    }
    let windows = books.windows.load(Relaxed);
    heard.windows_taken.fetch_add(windows - books.windows_taken.swap(windows, Relaxed), Relaxed);
    let now = clock::now().duration_since(heard.began);
    let delay = now.saturating_sub(Duration::from_micros(books.sent_at_us.load(Relaxed)));
    heard.delays.lock().unwrap_or_else(PoisonError::into_inner).push(delay);
}

/// How the agents fare.
#[derive(Clone)]
pub struct Observer {
    books: Vec<Arc<Books>>,
    heard: Arc<Heard>,
    traffic: Arc<Traffic>,
}

/// How the agents fare, in numbers.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Windows acknowledged since the beginning.
    pub windows: u64,
    /// Messages sent and not acknowledged.
    pub pending: u64,
    /// Messages refused, and streams closed.
    pub refused: u64,
    /// See `refused`.
    pub closed: u64,
    /// The first complaint.
    pub complaint: Option<String>,
    /// Bytes sent and received.
    pub bytes: (u64, u64),
}

impl Observer {
    /// How they fare now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let open = |books: &Arc<Books>| books.sent.load(Relaxed).saturating_sub(books.taken.load(Relaxed));
        Standing {
            windows: self.heard.windows_taken.load(Relaxed),
            pending: self.books.iter().map(open).sum(),
            refused: self.heard.refused.load(Relaxed),
            closed: self.heard.closed.load(Relaxed),
            complaint: self.heard.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            bytes: self.traffic.bytes(),
        }
    }

    /// How long acknowledgements took since this was asked last, in order.
    #[must_use]
    pub fn delays(&self) -> Vec<Duration> {
        let mut delays =
            std::mem::take(&mut *self.heard.delays.lock().unwrap_or_else(PoisonError::into_inner));
        delays.sort_unstable();
        delays
    }
}
