//! Those who make up a crowd, each with as little as it takes, and one who is proper.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use c4_proto::v1::{
    self, AgentMessage, Hello, agent_message::Body, controller_message::Body as Reply,
    telemetry_client::TelemetryClient,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

/// HTTP/2's first words, and settings that are all as they are by default.
const FIRST_WORDS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ANSWER: u8 = 1;
/// Connections that are being made at once.
const AT_ONCE: usize = 256;

/// How somebody behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Says its first words, answers pings, and wants nothing.
    Polite,
    /// Says nothing.
    Silent,
    /// Does not finish its first words.
    Halting,
}

/// Connections that are held for as long as this is.
pub(super) struct Crowd {
    to: SocketAddr,
    tried: u32,
    open: Arc<AtomicU32>,
    tasks: JoinSet<()>,
}

impl Crowd {
    pub(super) fn new(to: SocketAddr) -> Self {
        Self { to, tried: 0, open: Arc::default(), tasks: JoinSet::new() }
    }

    /// Connects so many times from an address; returns when all have tried.
    pub(super) async fn enter(&mut self, from: Ipv4Addr, many: u32, manner: Manner) {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for _ in 0..many {
            self.tried += 1;
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let (to, open) = (self.to, self.open.clone());
            self.tasks.spawn(async move {
                let connected = connect(from, to).await;
                drop(turn);
                if let Ok(stream) = connected {
                    open.fetch_add(1, Relaxed);
                    behave(stream, manner).await;
                    open.fetch_sub(1, Relaxed);
                }
            });
        }
        // All turns: nobody is still on its way.
        drop(turns.acquire_many(AT_ONCE as u32).await);
    }

    pub(super) fn tried(&self) -> u32 {
        self.tried
    }

    /// Connections that the other end has not closed, as far as is known.
    pub(super) fn still_open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Lets them be for a while.
    pub(super) async fn hold(&mut self, time: Duration) {
        sleep(time).await;
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Until the other end breaks off.
async fn behave(mut stream: TcpStream, manner: Manner) {
    let said = match manner {
        Manner::Polite => stream.write_all(FIRST_WORDS).await,
        Manner::Silent => Ok(()),
        Manner::Halting => stream.write_all(&FIRST_WORDS[..10]).await,
    };
    let mut head = [0; 9];
    while said.is_ok() && stream.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = match (head[3], head[4] & ANSWER) {
            (PING, 0) => [&[0, 0, 8, PING, ANSWER, 0, 0, 0, 0], &body[..]].concat(),
            (SETTINGS, 0) => vec![0, 0, 0, SETTINGS, ANSWER, 0, 0, 0, 0],
            _ => continue,
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// An agent that tries to connect until it is served: what it says is taken.
///
/// # Errors
/// It is not, in time.
pub(super) async fn agent(from: Ipv4Addr, to: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        // As patient as agents are.
        match timeout(Duration::from_secs(5), served(from, to)).await {
            Ok(Ok(())) => return Ok(()),
            failed if Instant::now() >= deadline => {
                return failed.context("no answer").and_then(|served| served);
            }
            _ => sleep(Duration::from_millis(250)).await,
        }
    }
}

async fn served(from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    let dial = service_fn(move |_: Uri| async move { connect(from, to).await.map(TokioIo::new) });
    let mut client = TelemetryClient::new(endpoint.connect_with_connector(dial).await?);
    let (messages, outgoing) = mpsc::channel(2);
    let hello = Hello {
        node: "proper".into(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        session_id: "session".into(),
        next_sequence: 1,
        protocol: 1,
        ..Hello::default()
    };
    let wish = v1::NodeWish::default();
    messages.send(AgentMessage { body: Some(Body::Hello(hello)), ..AgentMessage::default() }).await?;
    messages
        .send(AgentMessage { sequence: 1, age_us: 0, sent_us: 0, body: Some(Body::NodeWish(wish)) })
        .await?;
    let mut replies = client.stream(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        if let Some(Reply::Ack(ack)) = reply.body
            && ack.sequence >= 1
        {
            return Ok(());
        }
    }
    anyhow::bail!("the stream ended")
}
