//! The way back to agents: who is connected under which number, and what they are to be told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use c4_proto::v1::{ControllerMessage, controller_message::Body};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{ha::fence::Fence, metrics::Metrics, nodes::StreamId};

/// Replies that may wait for an agent to read them.
const DEPTH: usize = 64;

/// What goes to an agent, or why nothing more does. Boxed: room is made for 32 of them with each stream.
pub type Reply = Result<Box<ControllerMessage>, Status>;

/// Tells a stream's task to end, and why.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    token: CancellationToken,
    why: Arc<OnceLock<&'static str>>,
}

impl Closing {
    pub(super) async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    pub(super) fn status(&self) -> Status {
        match self.why.get() {
            Some(&"refused") => Status::invalid_argument("too many messages of this stream were refused"),
            Some(&"replaced") => Status::aborted("the session has opened another stream"),
            _ => Status::aborted("closed by the controller"),
        }
    }
}

struct Handle {
    replies: mpsc::Sender<Reply>,
    taken: watch::Sender<u64>,
    closing: Closing,
}

#[derive(Default)]
struct Table {
    next: u64,
    handles: HashMap<StreamId, Handle>,
}

/// The table of open streams. Clones share it.
#[derive(Clone)]
pub struct Streams {
    table: Arc<Mutex<Table>>,
    most: usize,
    metrics: Option<Arc<Metrics>>,
    fence: Fence,
}

/// A stream's own ends of its channels.
pub struct Registered {
    /// Its number.
    pub id: StreamId,
    /// To the agent.
    pub replies: mpsc::Sender<Reply>,
    /// What goes to the agent.
    pub outgoing: mpsc::Receiver<Reply>,
    /// What the brain has taken.
    pub taken: watch::Receiver<u64>,
    /// When to end.
    pub closing: Closing,
}

impl Default for Streams {
    fn default() -> Self {
        Self { table: Arc::default(), most: usize::MAX, metrics: None, fence: Fence::alone() }
    }
}

impl Streams {
    /// A table for at most `most` streams. Nothing is said to agents once `fence` is lost.
    #[must_use]
    pub fn new(most: usize, metrics: Arc<Metrics>, fence: Fence) -> Self {
        Self { table: Arc::default(), most, metrics: Some(metrics), fence }
    }

    /// Makes room for a stream, if there is any.
    #[must_use]
    pub fn register(&self) -> Option<Registered> {
        let mut table = self.lock();
        if table.handles.len() >= self.most {
            if let Some(metrics) = &self.metrics {
                metrics.streams_closed.with_label_values(&["too_many"]).inc();
            }
            return None;
        }
        table.next += 1;
        let id = StreamId(table.next);
        let (replies, outgoing) = mpsc::channel(DEPTH);
        let (taken, see_taken) = watch::channel(0);
        let closing = Closing::default();
        table.handles.insert(id, Handle { replies: replies.clone(), taken, closing: closing.clone() });
        self.measure(&table);
        Some(Registered { id, replies, outgoing, taken: see_taken, closing })
    }

    /// Forgets a stream.
    pub fn remove(&self, stream: StreamId) {
        let mut table = self.lock();
        table.handles.remove(&stream);
        self.measure(&table);
    }

    /// Sends a message to an agent, a command with the term in which it is given; returns false if the agent is gone or does
    /// not read, or nothing may be said any more.
    pub fn send(&self, stream: StreamId, mut message: ControllerMessage) -> bool {
        if !self.fence.holds() {
            return false;
        }
        if let Some(Body::Command(command)) = &mut message.body {
            command.term = self.fence.term();
        }
        self.lock()
            .handles
            .get(&stream)
            .is_some_and(|handle| handle.replies.try_send(Ok(Box::new(message))).is_ok())
    }

    /// The brain has taken everything of the stream up to `sequence`.
    pub fn taken(&self, stream: StreamId, sequence: u64) {
        if let Some(handle) = self.lock().handles.get(&stream) {
            handle.taken.send_replace(sequence);
        }
    }

    /// Ends a stream.
    pub fn close(&self, stream: StreamId, why: &'static str) {
        if let Some(handle) = self.lock().handles.get(&stream) {
            // The first reason counts.
            let _ = handle.closing.why.set(why);
            handle.closing.token.cancel();
        }
    }

    fn measure(&self, table: &Table) {
        if let Some(metrics) = &self.metrics {
            metrics.streams.set(i64::try_from(table.handles.len()).unwrap_or(i64::MAX));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Streams {
    /// A stream whose replies the test reads.
    pub(crate) fn register_for_test(&self) -> (StreamId, Replies) {
        let registered = self.register().expect("room");
        (registered.id, Replies(registered.outgoing))
    }
}

/// Replies of a stream, unwrapped.
#[cfg(test)]
pub(crate) struct Replies(mpsc::Receiver<Reply>);

#[cfg(test)]
impl Replies {
    pub(crate) async fn recv(&mut self) -> Option<ControllerMessage> {
        self.0.recv().await.map(|reply| *reply.expect("no error"))
    }
}
