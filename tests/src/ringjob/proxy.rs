//! The thread that stands for NCCL's proxy progress thread: it moves slices between the GPU thread and the sockets and
//! tells the profiler plugin of every operation, step and kernel.
//!
//! Unlike NCCL's it sleeps in `poll` instead of spinning, so that eight ranks share two cores. Everything else a
//! profiler sees is NCCL's: on each connection operations are worked off in order, up to [`MAX_STEPS`] steps of one are
//! open at a time, a send step waits for the GPU, for the peer and for the network, a receive step for the network,
//! the flush and the GPU.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError},
    },
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{read, write},
};

use super::{
    events::{KernelCh, LaunchToken},
    gpu,
    rendezvous::Link,
    schedule::Schedule,
    training::Outcome,
};

mod connection;

use connection::{Progress, Receiving, Sending};

/// Open steps of one operation on one connection: as many as NCCL has buffers.
pub const MAX_STEPS: usize = 8;
/// How long to leave a socket alone that claims to be ready but takes or gives nothing (a fault injector does that).
const REFUSED_PAUSE_NS: i64 = 2_000_000;

/// What the proxy thread is told.
pub enum Message {
    /// The launch thread has enqueued an operation.
    Enqueue(Operation),
    /// The GPU has filled the next slice to send.
    Filled {
        /// The channel.
        channel: usize,
        /// The slice.
        data: Vec<u8>,
    },
    /// The GPU has taken the oldest slice that it was given.
    Consumed {
        /// The channel.
        channel: usize,
    },
    /// A kernel has started.
    KernelStarted {
        /// The operation.
        operation: u64,
        /// The channel.
        channel: usize,
        /// The GPU's time.
        stamp_ns: u64,
    },
    /// A kernel has stopped.
    KernelStopped {
        /// The operation.
        operation: u64,
        /// The channel.
        channel: usize,
        /// The GPU's time.
        stamp_ns: u64,
    },
    /// End when everything enqueued is done.
    Finish,
}

/// An all-reduce, as the proxy needs to know it.
#[derive(Clone)]
pub struct Operation {
    /// Number of the operation, from 0.
    pub number: u64,
    /// Who sends what when.
    pub schedule: Schedule,
    /// What the profiler plugin gave at launch.
    pub token: LaunchToken,
}

/// Sends messages to the proxy thread and wakes it.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Mailbox {
    /// A mailbox and what the proxy thread needs of it.
    ///
    /// # Errors
    /// When the system has no eventfd left.
    pub fn new() -> io::Result<(Self, Inbox)> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        Ok((Self { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
    }

    /// Sends a message. After the proxy thread has ended nobody needs it any more.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            // Only a counter that is full refuses, and then the thread is being woken already.
            let _ = write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// The proxy thread's end of a [`Mailbox`].
pub struct Inbox {
    receiver: Receiver<Message>,
    wake: Arc<OwnedFd>,
}

/// The proxy thread's state.
pub struct Proxy {
    inbox: Inbox,
    outcome: Sender<Outcome>,
    senders: Vec<Sending>,
    receivers: Vec<Receiving>,
    kernels: BTreeMap<u64, Kernel>,
    rank: usize,
    finishing: bool,
    hang_on_peer_loss: bool,
}

/// Kernel events of an operation: one a channel.
struct Kernel {
    token: LaunchToken,
    open: Vec<Option<KernelCh>>,
    stopped: usize,
}

impl Proxy {
    /// A proxy for `rank` with one pair of connections a channel.
    #[must_use]
    pub fn new(
        rank: usize,
        links: Vec<Link>,
        inbox: Inbox,
        gpu: &Sender<gpu::Message>,
        outcome: Sender<Outcome>,
        hang_on_peer_loss: bool,
    ) -> Self {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for (channel, link) in links.into_iter().enumerate() {
            senders.push(Sending::new(channel, link.next));
            receivers.push(Receiving::new(channel, link.previous, gpu.clone()));
        }
        Self {
            inbox,
            outcome,
            senders,
            receivers,
            kernels: BTreeMap::new(),
            rank,
            finishing: false,
            hang_on_peer_loss,
        }
    }

    /// Runs until it is told to finish and has, or until a peer is lost.
    pub fn run(mut self) {
        let mut refused = false;
        loop {
            let heard = self.listen();
            match self.progress() {
                Ok(progress) => {
                    if self.finishing && self.is_idle() {
                        return;
                    }
                    // Ready, and yet nothing moved: somebody between us and the socket holds it back.
                    let held_back = refused && !heard && progress == Progress::None;
                    refused = self.sleep(held_back);
                }
                Err(lost) => {
                    let _ = self.outcome.send(Outcome::PeerLost(lost));
                    return;
                }
            }
        }
    }

    /// Takes in all messages; says whether there were any.
    fn listen(&mut self) -> bool {
        let mut heard = false;
        loop {
            match self.inbox.receiver.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty) => return heard,
                Err(TryRecvError::Disconnected) => {
                    self.finishing = true;
                    return heard;
                }
            }
            heard = true;
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Enqueue(operation) => {
                for sender in &mut self.senders {
                    sender.enqueue(&operation);
                }
                for receiver in &mut self.receivers {
                    receiver.enqueue(&operation);
                }
                let open = (0..operation.schedule.channels).map(|_| None).collect();
                self.kernels.insert(operation.number, Kernel { token: operation.token, open, stopped: 0 });
            }
            Message::Filled { channel, data } => self.senders[channel].filled(data),
            Message::Consumed { channel } => self.receivers[channel].consumed(),
            Message::KernelStarted { operation, channel, stamp_ns } => {
                if let Some(kernel) = self.kernels.get_mut(&operation) {
                    kernel.open[channel] = Some(kernel.token.kernel_start(channel, stamp_ns));
                }
            }
            Message::KernelStopped { operation, channel, stamp_ns } => {
                let Some(kernel) = self.kernels.get_mut(&operation) else { return };
                if let Some(event) = kernel.open[channel].take() {
                    event.stop(stamp_ns);
                }
                kernel.stopped += 1;
                if kernel.stopped == kernel.open.len() {
                    self.kernels.remove(&operation);
                }
            }
            Message::Finish => self.finishing = true,
        }
    }

    /// Moves what can be moved; the error says which peer was lost.
    fn progress(&mut self) -> Result<Progress, String> {
        let mut total = Progress::None;
        let size = self.senders.first().map_or(1, Sending::ring_size);
        for sender in &mut self.senders {
            match sender.progress() {
                Ok(progress) => total = total.or(progress),
                Err(error) if self.hang_on_peer_loss => sender.give_up(&error),
                Err(error) => return Err(format!("peer rank {} lost: {error}", (self.rank + 1) % size)),
            }
        }
        for receiver in &mut self.receivers {
            match receiver.progress() {
                Ok(progress) => total = total.or(progress),
                Err(error) if self.hang_on_peer_loss => receiver.give_up(&error),
                Err(error) => {
                    return Err(format!("peer rank {} lost: {error}", (self.rank + size - 1) % size));
                }
            }
        }
        Ok(total)
    }

    fn is_idle(&self) -> bool {
        self.kernels.is_empty()
            && self.senders.iter().all(Sending::is_idle)
            && self.receivers.iter().all(Receiving::is_idle)
    }

    /// Waits for a message or a socket; says whether it was a socket. Sockets that are held back are left alone for a
    /// moment, or the thread would spin on them.
    fn sleep(&self, held_back: bool) -> bool {
        let mut polled = vec![PollFd::new(&*self.inbox.wake, PollFlags::IN)];
        if !held_back {
            let writing = self.senders.iter().filter(|sender| sender.wants_socket());
            polled.extend(writing.map(|sender| PollFd::new(sender.socket(), PollFlags::OUT)));
            let reading = self.receivers.iter().filter(|receiver| receiver.wants_socket());
            polled.extend(reading.map(|receiver| PollFd::new(receiver.socket(), PollFlags::IN)));
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: REFUSED_PAUSE_NS };
        // An interrupted poll is a poll that found nothing: the caller looks again.
        let _ = poll(&mut polled, held_back.then_some(&pause));
        let woken = !polled[0].revents().is_empty();
        let ready = polled[1..].iter().any(|fd| !fd.revents().is_empty());
        if woken {
            let _ = read(&self.inbox.wake, &mut [0_u8; 8]);
        }
        ready
    }
}
