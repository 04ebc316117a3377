use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener without TLS whose limits are these, and where it is.
async fn listening(handshake: Duration, handshakes: usize) -> (mpsc::Receiver<Connection>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address is free");
    let address = listener.local_addr().expect("bound");
    let limits = Limits { slots: Slots::new(100, 100), handshake, handshakes, reread: PATIENCE };
    let accepting = Accepting::new(listener, None, Protocol::Grpc, limits).expect("no files to be wrong");
    let (ready, accept) = accepting.begin(CancellationToken::new(), |_| {});
    tokio::spawn(accept);
    (ready, address)
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_out() {
    let (mut ready, address) = listening(PATIENCE * 10, 1).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    let mut speaks = TcpStream::connect(address).await.expect("connects");
    speaks.write_all(b"PRI * HTTP/2.0").await.expect("sent");
    let first = timeout(PATIENCE, ready.recv()).await.expect("nobody is in its way").expect("a connection");
    assert_eq!(first.peer().address, speaks.local_addr().expect("connected"));
}

#[tokio::test]
async fn those_who_do_not_finish_their_first_words_are_cut_off() {
    let (mut ready, address) = listening(Duration::from_millis(200), 1).await;
    let mut halting = TcpStream::connect(address).await.expect("connects");
    halting.write_all(b"PRI * ").await.expect("sent");
    let mut server =
        timeout(PATIENCE, ready.recv()).await.expect("it has said something").expect("a connection");
    let mut bytes = [0; 100];
    assert_eq!(server.read(&mut bytes).await.expect("what there is"), 6);
    let broken = timeout(PATIENCE, server.read(&mut bytes)).await.expect("not for ever");
    assert_eq!(broken.expect_err("no more came").kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn those_who_have_said_what_they_want_may_then_be_silent() {
    let (mut ready, address) = listening(Duration::from_millis(200), 1).await;
    let mut speaks = TcpStream::connect(address).await.expect("connects");
    speaks.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let mut server =
        timeout(PATIENCE, ready.recv()).await.expect("it has said something").expect("a connection");
    let mut bytes = [0; 100];
    assert_eq!(server.read(&mut bytes).await.expect("what there is"), 24);
    sleep(Duration::from_millis(600)).await;
    speaks.write_all(b"x").await.expect("sent");
    assert_eq!(timeout(PATIENCE, server.read(&mut bytes)).await.expect("not for ever").expect("more"), 1);
}
