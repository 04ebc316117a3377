//! The thread that stands for a GPU: one stream, one kernel at a time.
//!
//! A kernel starts when the one before it is done. On each channel it sends its first slice, and from then on every
//! slice it has received (and reduced) as the next one. It takes the stamps of kernel start and stop from the stand-in
//! for `globaltimer`; telling the plugin of them is the proxy's work, as in NCCL.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, Sender},
    time::Duration,
};

use super::{clock::GlobalTimer, proxy, schedule::Schedule, training::Outcome};

/// What the GPU thread is told.
#[derive(Debug)]
pub enum Message {
    /// Enqueue a kernel.
    Launch(Kernel),
    /// The proxy has received the slice of the next step of an operation.
    Received {
        /// The operation.
        operation: u64,
        /// The channel.
        channel: usize,
        /// The slice.
        data: Vec<u8>,
    },
    /// Keep the stream busy with something else before the next kernel.
    Busy(Duration),
}

/// An all-reduce to run.
#[derive(Debug)]
pub struct Kernel {
    /// Number of the operation, from 0, without gaps.
    pub operation: u64,
    /// Who sends what when.
    pub schedule: Schedule,
    /// The data, reduced in place.
    pub data: Vec<f32>,
}

/// A kernel that has ended.
#[derive(Debug)]
pub struct Done {
    /// Number of the operation.
    pub operation: u64,
    /// The result.
    pub data: Vec<f32>,
}

/// The stream and its kernels.
pub struct Gpu {
    timer: GlobalTimer,
    inbox: Receiver<Message>,
    proxy: proxy::Mailbox,
    done: Sender<Outcome>,
    stream: VecDeque<Work>,
    running: Option<Running>,
    /// Slices that came before their kernel started, by channel.
    early: Vec<VecDeque<(u64, Vec<u8>)>>,
}

#[derive(Debug)]
enum Work {
    Kernel(Kernel),
    Busy(Duration),
}

#[derive(Debug)]
struct Running {
    kernel: Kernel,
    /// Steps received, by channel.
    received: Vec<usize>,
}

impl Gpu {
    /// A GPU that hears from `inbox`, exchanges slices with `proxy` and reports to `done`.
    #[must_use]
    pub fn new(
        timer: GlobalTimer,
        channels: usize,
        inbox: Receiver<Message>,
        proxy: proxy::Mailbox,
        done: Sender<Outcome>,
    ) -> Self {
        let early = (0..channels).map(|_| VecDeque::new()).collect();
        Self { timer, inbox, proxy, done, stream: VecDeque::new(), running: None, early }
    }

    /// Runs until nobody can send to it any more.
    pub fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            match message {
                Message::Launch(kernel) => self.stream.push_back(Work::Kernel(kernel)),
                Message::Busy(time) => self.stream.push_back(Work::Busy(time)),
                Message::Received { operation, channel, data } => {
                    self.early[channel].push_back((operation, data));
                }
            }
            self.advance();
        }
    }

    /// Does all that can be done without another message.
    fn advance(&mut self) {
        loop {
            if self.running.is_none() && !self.start_next() {
                return;
            }
            let moved = self.consume();
            if self.finish() {
                continue;
            }
            if !moved {
                return;
            }
        }
    }

    fn start_next(&mut self) -> bool {
        match self.stream.pop_front() {
            None => false,
            Some(Work::Busy(time)) => {
                std::thread::sleep(time);
                self.start_next()
            }
            Some(Work::Kernel(kernel)) => {
                let channels = kernel.schedule.channels;
                for channel in 0..channels {
                    let stamp_ns = self.timer.stamp_ns();
                    self.proxy.send(proxy::Message::KernelStarted {
                        operation: kernel.operation,
                        channel,
                        stamp_ns,
                    });
                    if kernel.schedule.steps() > 0 {
                        send_slice(&self.proxy, &kernel, channel, 0);
                    }
                }
                self.running = Some(Running { kernel, received: vec![0; channels] });
                true
            }
        }
    }

    /// Takes the slices that have come for the running kernel.
    fn consume(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let mut moved = false;
        for (channel, early) in self.early.iter_mut().enumerate() {
            while let Some((operation, _)) = early.front()
                && *operation == running.kernel.operation
                && let Some((_, data)) = early.pop_front()
            {
                let step = running.received[channel];
                take_slice(&mut running.kernel, channel, step, &data);
                running.received[channel] += 1;
                self.proxy.send(proxy::Message::Consumed { channel });
                if step + 1 < running.kernel.schedule.steps() {
                    send_slice(&self.proxy, &running.kernel, channel, step + 1);
                }
                moved = true;
            }
        }
        moved
    }

    fn finish(&mut self) -> bool {
        let Some(running) = self.running.take_if(|running| {
            running.received.iter().all(|received| *received == running.kernel.schedule.steps())
        }) else {
            return false;
        };
        let Kernel { operation, schedule, data } = running.kernel;
        for channel in 0..schedule.channels {
            let stamp_ns = self.timer.stamp_ns();
            self.proxy.send(proxy::Message::KernelStopped { operation, channel, stamp_ns });
        }
        // The launch thread is gone only when the process is about to end.
        let _ = self.done.send(Outcome::Done(Done { operation, data }));
        true
    }
}

fn send_slice(proxy: &proxy::Mailbox, kernel: &Kernel, channel: usize, step: usize) {
    let slice = &kernel.data[kernel.schedule.sends(channel, step)];
    let data = slice.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened();
    proxy.send(proxy::Message::Filled { channel, data });
}

fn take_slice(kernel: &mut Kernel, channel: usize, step: usize, data: &[u8]) {
    let reduces = kernel.schedule.reduces(step);
    let range = kernel.schedule.receives(channel, step);
    let values = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let pairs = kernel.data[range].iter_mut().zip(values);
    if reduces {
        pairs.for_each(|(own, value)| *own += value);
    } else {
        pairs.for_each(|(own, value)| *own = value);
    }
}
