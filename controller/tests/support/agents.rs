//! Agents beside a job that a scheduler runs: they see its incarnation there, and tell the controller what a profiler would.

use std::time::Duration;

use c4_proto::v1::{
    self, AgentMessage, ControllerMessage, agent_message::Body, controller_message,
    telemetry_client::TelemetryClient,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::world::{RANKS, life};

/// The agents of both nodes, for ever; each connects again whenever its stream ends. `incarnation` is what the job's processes
/// are, while it has any. A death that nobody is there to suffer from is none, so what rank 0 does is told first.
pub(crate) async fn run(grpc: String, job: &str, incarnation: impl Fn() -> Option<u32>) {
    let mut session = 0;
    loop {
        session += 1;
        let _ = both(&grpc, job, &incarnation, session).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// Tells of both nodes until a stream ends.
async fn both(grpc: &str, job: &str, incarnation: &impl Fn() -> Option<u32>, session: u32) -> Option<()> {
    let mut senders = Vec::new();
    let mut streams = Vec::new();
    for node in 0..RANKS {
        let mut client = TelemetryClient::connect(grpc.to_owned()).await.ok()?;
        let (messages, outgoing) = mpsc::channel(64);
        let hello = v1::Hello {
            node: format!("n{node}"),
            agent_version: "test".into(),
            session_id: format!("s{session}"),
            next_sequence: 1,
            protocol: 1,
            ..Default::default()
        };
        messages
            .send(AgentMessage {
                sequence: 0,
                age_us: 0,
                body: Some(Body::Hello(hello)),
                ..Default::default()
            })
            .await
            .ok()?;
        streams.push(client.stream(ReceiverStream::new(outgoing)).await.ok()?.into_inner());
        senders.push(messages);
    }
    let mut sequences = [0; RANKS as usize];
    let mut told = None;
    loop {
        let now = incarnation();
        if let Some(incarnation) = now.filter(|_| now != told) {
            for (rank, (messages, sequence)) in (0..).zip(senders.iter().zip(&mut sequences)) {
                for body in life(job, rank, incarnation, true) {
                    *sequence += 1;
                    let message = AgentMessage {
                        sequence: *sequence,
                        age_us: 0,
                        body: Some(body),
                        ..Default::default()
                    };
                    messages.send(message).await.ok()?;
                }
                // Taken in before the next one is told of.
                acknowledged(&mut streams[rank as usize], *sequence).await?;
            }
            told = now;
        }
        for stream in &mut streams {
            match tokio::time::timeout(Duration::from_millis(20), stream.message()).await {
                Ok(Ok(Some(_))) | Err(_) => {}
                _ => return None,
            }
        }
    }
}

/// Waits until everything up to `sequence` is acknowledged; nothing if the stream ends.
async fn acknowledged(stream: &mut Streaming<ControllerMessage>, sequence: u64) -> Option<()> {
    loop {
        match stream.message().await.ok()??.body {
            Some(controller_message::Body::Ack(ack)) if ack.sequence >= sequence => return Some(()),
            _ => {}
        }
    }
}
