//! A connection that is ready to be talked over, and who is at its other end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::{files::Protocol, slots::Slot};

/// Bytes of the preface of HTTP/2: whoever has not sent them has not said that it wants anything.
const PREFACE: usize = 24;

/// Who is at the other end, as far as the connection tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// The DNS names in the certificate that it has shown and that was found good. Empty: it has shown none.
    pub names: Arc<[String]>,
    /// Whether nobody in between can read along.
    pub encrypted: bool,
}

impl Peer {
    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What somebody has to say first, and until when.
#[derive(Debug)]
struct Greeting {
    left: usize,
    until: Pin<Box<Sleep>>,
}

/// An accepted connection, its handshake done.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
    greeting: Option<Greeting>,
    _slot: Slot,
}

impl Connection {
    pub(crate) fn plain(stream: TcpStream, address: SocketAddr, slot: Slot) -> Self {
        let peer = Peer { address, names: Arc::default(), encrypted: false };
        Self { io: Io::Plain(stream), peer, greeting: None, _slot: slot }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>, address: SocketAddr, slot: Slot) -> Self {
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer { address, names: shown.map(names).unwrap_or_default().into(), encrypted: true };
        Self { io: Io::Tls(Box::new(stream)), peer, greeting: None, _slot: slot }
    }

    /// The same, which breaks off unless it is greeted in time, as nobody else sees to it: servers of HTTP/2 have no such limit.
    pub(crate) fn greeted_within(self, protocol: Protocol, limit: Duration) -> Self {
        let greeting = match protocol {
            Protocol::Grpc => Some(Greeting { left: PREFACE, until: Box::pin(sleep(limit)) }),
            // Pages have a limit for the whole head of a request.
            Protocol::Http => None,
        };
        Self { greeting, ..self }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// The DNS names of a certificate. A name for many (`*.cluster`) names nobody.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    certificate
        .valid_dns_names()
        .filter(|name| !name.contains('*'))
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
        .collect()
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(greeting) = &mut self.greeting {
            greeting.left = greeting.left.saturating_sub(buffer.filled().len() - before);
            if greeting.left == 0 {
                self.greeting = None;
            } else if read.is_pending() && greeting.until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
