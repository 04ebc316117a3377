//! Takes connections in, does their handshakes, and looks after the certificates.
//!
//! Tasks: one that accepts, and one a connection until it is ready, with a time limit. At most [`Limits::handshakes`] of them are
//! at their handshake at once; those that have not said anything yet wait for that without being in anybody's way, so that clients
//! that never begin theirs keep nobody out. Ready connections go over a channel of `READY`; the
//! task that finds it full waits, and its time runs. Cancelling closes what is not ready yet, and nothing else.
//!
//! Certificates are looked at every [`Limits::reread`]: their bytes are compared, so it does not matter how a rotation is
//! done (rename, symbolic link, rewrite) or what it does to the time stamps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::{
    connection::Connection,
    files::{FileError, Protocol, ServerFiles},
    slots::{Slot, Slots},
};

#[cfg(test)]
mod tests;

/// Ready connections that may wait to be taken.
const READY: usize = 64;
/// After an accept that failed (no descriptors left, say).
const BREATHER: Duration = Duration::from_millis(100);

/// What a listener allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; may be shared with other listeners.
    pub slots: Slots,
    /// How long a connection may take to begin and finish its handshake, and after that to say what it wants.
    pub handshake: Duration,
    /// Handshakes at once.
    pub handshakes: usize,
    /// How often certificates are looked at.
    pub reread: Duration,
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// There are as many as there may be, altogether or from its address.
    TooMany,
    /// It did not do its part of the handshake, in time or at all.
    Handshake,
}

impl Turned {
    /// For a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Turned::TooMany => "too_many_connections",
            Turned::Handshake => "handshake",
        }
    }
}

struct Tls {
    files: ServerFiles,
    protocol: Protocol,
    bytes: Vec<Vec<u8>>,
    config: Arc<ServerConfig>,
    wrong: bool,
}

impl Tls {
    fn load(files: ServerFiles, protocol: Protocol) -> Result<Self, FileError> {
        let (bytes, config) = (files.bytes()?, files.load(protocol)?);
        Ok(Self { files, protocol, bytes, config, wrong: false })
    }

    fn refresh(&mut self) {
        let read = self.files.bytes().and_then(|bytes| {
            if bytes == self.bytes { Ok(None) } else { Ok(Some((self.files.load(self.protocol)?, bytes))) }
        });
        match read {
            Ok(None) => self.wrong = false,
            Ok(Some((config, bytes))) => {
                info!(certificate = %self.files.certificate.display(), "certificates were changed: taken");
                (self.config, self.bytes, self.wrong) = (config, bytes, false);
            }
            // Said once: it is looked at every few seconds.
            Err(wrong) if !std::mem::replace(&mut self.wrong, true) => {
                error!("certificates were changed and cannot be used, the last ones stay: {wrong}");
            }
            Err(_) => {}
        }
    }
}

/// A listener that has not begun.
pub struct Accepting {
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<Tls>,
    limits: Limits,
}

impl Accepting {
    /// A listener whose connections are encrypted if there are `files`.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn new(
        listener: TcpListener,
        files: Option<ServerFiles>,
        protocol: Protocol,
        limits: Limits,
    ) -> Result<Self, FileError> {
        let tls = files.map(|files| Tls::load(files, protocol)).transpose()?;
        Ok(Self { listener, protocol, tls, limits })
    }

    /// A channel of ready connections, and what fills it until `cancel`. `turned` is told of each that was not taken.
    pub fn begin(
        self,
        cancel: CancellationToken,
        turned: impl Fn(Turned) + Clone + Send + Sync + 'static,
    ) -> (mpsc::Receiver<Connection>, impl Future<Output = ()> + Send) {
        let (ready, taken) = mpsc::channel(READY);
        let work = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.accept(ready, turned) => {}
            }
        };
        (taken, work)
    }

    async fn accept(
        mut self,
        ready: mpsc::Sender<Connection>,
        turned: impl Fn(Turned) + Clone + Send + Sync + 'static,
    ) {
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes.max(1)));
        let mut reread = interval(self.limits.reread);
        reread.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = reread.tick() => {
                    if let Some(tls) = &mut self.tls {
                        tls.refresh();
                    }
                    continue;
                }
                () = ready.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(problem) => {
                    debug!(%problem, "cannot accept a connection");
                    sleep(BREATHER).await;
                    continue;
                }
            };
            let Some(slot) = self.limits.slots.take(address.ip()) else {
                turned(Turned::TooMany);
                continue;
            };
            let _ = stream.set_nodelay(true);
            let config = self.tls.as_ref().map(|tls| tls.config.clone());
            let handshake = Handshake { stream, address, slot, config };
            let (limit, ready, turned) = (self.limits.handshake, ready.clone(), turned.clone());
            let (handshakes, protocol) = (handshakes.clone(), self.protocol);
            tokio::spawn(async move {
                let deliver = async {
                    // Not `readable`, which may be true for no reason.
                    handshake.stream.peek(&mut [0]).await.ok()?;
                    let connection = {
                        let _turn = handshakes.acquire().await.ok()?;
                        handshake.finish().await?
                    };
                    ready.send(connection.greeted_within(protocol, limit)).await.ok()
                };
                if timeout(limit, deliver).await.ok().flatten().is_none() {
                    turned(Turned::Handshake);
                }
            });
        }
    }
}

struct Handshake {
    stream: TcpStream,
    address: SocketAddr,
    slot: Slot,
    config: Option<Arc<ServerConfig>>,
}

impl Handshake {
    async fn finish(self) -> Option<Connection> {
        let Some(config) = self.config else {
            return Some(Connection::plain(self.stream, self.address, self.slot));
        };
        match TlsAcceptor::from(config).accept(self.stream).await {
            Ok(stream) => Some(Connection::tls(stream, self.address, self.slot)),
            Err(problem) => {
                debug!(address = %self.address, %problem, "a handshake failed");
                None
            }
        }
    }
}
