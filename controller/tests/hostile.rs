//! Connections that are slow, too large or compressed: each is cut off, and nobody else notices.

use std::time::Duration;

use c4_proto::v1::{self, AgentMessage, agent_message::Body, telemetry_client::TelemetryClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

mod support;

use support::{Agent, PATIENCE, controller, started};

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_and_no_other() {
    let running = controller("{}").await;
    let mut honest = Agent::connect(&running, "n0", "s", 1).await;
    let mut large = Agent::connect(&running, "n1", "s", 1).await;
    let path = "x".repeat(5 << 20);
    large.say(Body::EvidenceSaved(v1::EvidenceSaved { path, ..Default::default() })).await;
    assert_eq!(large.closed().await.code(), Code::OutOfRange);
    let said = honest.say(started(1, "llm", 0, 1)).await;
    assert!(honest.acknowledged(said).await.is_empty(), "the others go on");
}

#[tokio::test]
async fn what_is_compressed_is_not_taken() {
    // A few kilobytes may be gigabytes: nothing that C4 sends is compressed, so nothing is unpacked.
    let running = controller("{}").await;
    let mut client = TelemetryClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
    let (_messages, outgoing) = mpsc::channel::<AgentMessage>(1);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    request.metadata_mut().insert("grpc-encoding", "gzip".parse().expect("a header"));
    let refused = client.stream(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
}

#[tokio::test]
async fn whoever_never_says_what_it_wants_is_cut_off() {
    let running = controller("{}").await;
    // An agent without a Hello.
    let mut client = TelemetryClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
    let (_messages, outgoing) = mpsc::channel::<AgentMessage>(1);
    let mut silent = client.stream(ReceiverStream::new(outgoing)).await.expect("opens").into_inner();
    let silent = async {
        let ended = timeout(PATIENCE, silent.message()).await.expect("cut off").expect_err("with a reason");
        assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
    };
    // A request whose head comes one byte after the other.
    let mut slow = TcpStream::connect(running.http).await.expect("connects");
    let slow = async {
        let (mut from, mut to) = slow.split();
        let _ = to.write_all(b"GET /metrics HTTP/1.1\r\nx-slow: ").await;
        let drip = async {
            while to.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            // An answer or none: the connection is over.
            ended = timeout(PATIENCE, from.read_to_end(&mut answer)) => drop(ended.expect("cut off")),
            () = drip => {}
        }
    };
    tokio::join!(silent, slow);
    let mut honest = Agent::connect(&running, "n0", "s", 1).await;
    let said = honest.say(started(1, "llm", 0, 1)).await;
    assert!(honest.acknowledged(said).await.is_empty(), "the others go on");
}
