//! One connection in one direction: the operations waiting on it, the steps of the oldest, and the frame on the wire.
//!
//! A frame is a length (32 bits) and that many bytes, as NCCL's socket transport has it. A length other than the one
//! the receiver expects means that the ranks disagree on the operation. Real NCCL aborts or hangs then, as it comes; the
//! ring job always hangs, since the hang is what needs a diagnosis.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::mpsc::Sender,
};

use super::{MAX_STEPS, Operation};
use crate::ringjob::{
    events::{ProxyOp, StepState},
    gpu,
    schedule::Schedule,
};

const HEADER: usize = 4;

/// Whether anything moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing.
    None,
    /// Something.
    Some,
}

impl Progress {
    pub(super) fn or(self, other: Self) -> Self {
        if self == Progress::Some { self } else { other }
    }
}

/// An operation on one connection.
struct SubOperation {
    number: u64,
    schedule: Schedule,
    event: ProxyOp,
    /// Steps of which the plugin was told.
    posted: usize,
    /// Steps that are with the network, or (when receiving) have come from it.
    moved: usize,
    /// Steps that are done.
    done: usize,
}

impl SubOperation {
    fn new(operation: &Operation, channel: usize, is_send: bool) -> Self {
        let event = operation.token.proxy_op(channel, is_send, &operation.schedule);
        Self { number: operation.number, schedule: operation.schedule, event, posted: 0, moved: 0, done: 0 }
    }

    /// Tells of as many further steps as there are buffers.
    fn post(&mut self, state: StepState) {
        while self.posted < self.schedule.steps() && self.posted < self.done + MAX_STEPS {
            if self.posted == 0 {
                self.event.in_progress();
            }
            self.event.start_step(self.posted, state);
            self.posted += 1;
        }
    }

    fn finish_step(&mut self) {
        self.event.stop_step(self.done);
        self.done += 1;
    }

    fn is_done(&self) -> bool {
        self.done == self.schedule.steps()
    }
}

/// Pops and stops the front operation when it is done.
fn retire(queue: &mut VecDeque<SubOperation>) {
    if queue.front().is_some_and(SubOperation::is_done)
        && let Some(operation) = queue.pop_front()
    {
        operation.event.stop();
    }
}

/// The connection to the next rank.
pub(super) struct Sending {
    channel: usize,
    stream: TcpStream,
    operations: VecDeque<SubOperation>,
    filled: VecDeque<Vec<u8>>,
    /// The frame being written, and how much of it is.
    frame: Option<(Vec<u8>, usize)>,
    given_up: bool,
    ring_size: usize,
}

impl Sending {
    pub(super) fn new(channel: usize, stream: TcpStream) -> Self {
        Self {
            channel,
            stream,
            operations: VecDeque::new(),
            filled: VecDeque::new(),
            frame: None,
            given_up: false,
            ring_size: 1,
        }
    }

    pub(super) fn ring_size(&self) -> usize {
        self.ring_size
    }

    pub(super) fn enqueue(&mut self, operation: &Operation) {
        self.ring_size = operation.schedule.size;
        self.operations.push_back(SubOperation::new(operation, self.channel, true));
    }

    pub(super) fn filled(&mut self, data: Vec<u8>) {
        self.filled.push_back(data);
    }

    pub(super) fn progress(&mut self) -> io::Result<Progress> {
        let mut progress = Progress::None;
        while !self.given_up
            && let Some(operation) = self.operations.front_mut()
        {
            operation.post(StepState::SendGpuWait);
            if self.frame.is_none() {
                let Some(data) = self.filled.pop_front() else { return Ok(progress) };
                operation.event.state(operation.moved, StepState::SendPeerWait, 0);
                operation.event.state(operation.moved, StepState::SendWait, data.len());
                operation.moved += 1;
                let mut frame = Vec::with_capacity(HEADER + data.len());
                frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
                frame.extend_from_slice(&data);
                self.frame = Some((frame, 0));
            }
            let Some((frame, written)) = &mut self.frame else { return Ok(progress) };
            match self.stream.write(&frame[*written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => *written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(progress),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            progress = Progress::Some;
            if *written == frame.len() {
                self.frame = None;
                operation.finish_step();
                retire(&mut self.operations);
            }
        }
        Ok(progress)
    }

    pub(super) fn give_up(&mut self, error: &io::Error) {
        eprintln!("ringjob: channel {} to the next rank is lost ({error}), waiting for ever", self.channel);
        self.given_up = true;
    }

    pub(super) fn wants_socket(&self) -> bool {
        !self.given_up && self.frame.is_some()
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }
}

/// The connection from the previous rank.
pub(super) struct Receiving {
    channel: usize,
    stream: TcpStream,
    gpu: Sender<gpu::Message>,
    operations: VecDeque<SubOperation>,
    header: [u8; HEADER],
    data: Vec<u8>,
    /// Bytes of header and data that have come.
    got: usize,
    given_up: bool,
}

impl Receiving {
    pub(super) fn new(channel: usize, stream: TcpStream, gpu: Sender<gpu::Message>) -> Self {
        let (header, data) = ([0; HEADER], Vec::new());
        Self { channel, stream, gpu, operations: VecDeque::new(), header, data, got: 0, given_up: false }
    }

    pub(super) fn enqueue(&mut self, operation: &Operation) {
        self.operations.push_back(SubOperation::new(operation, self.channel, false));
    }

    pub(super) fn consumed(&mut self) {
        if let Some(operation) = self.operations.front_mut() {
            operation.finish_step();
            retire(&mut self.operations);
        }
    }

    pub(super) fn progress(&mut self) -> io::Result<Progress> {
        let mut progress = Progress::None;
        while !self.given_up
            && let Some(operation) = self.operations.front_mut()
        {
            operation.post(StepState::RecvWait);
            if operation.moved == operation.posted {
                return Ok(progress);
            }
            let target = if self.got < HEADER {
                &mut self.header[self.got..]
            } else {
                &mut self.data[self.got - HEADER..]
            };
            // An empty slice is complete with its header.
            if !target.is_empty() {
                match self.stream.read(target) {
                    Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "connection closed")),
                    Ok(bytes) => self.got += bytes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(progress),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            }
            progress = Progress::Some;
            if self.got == HEADER {
                let length = u32::from_le_bytes(self.header) as usize;
                let expected = 4 * operation.schedule.receives(self.channel, operation.moved).len();
                if length != expected {
                    eprintln!(
                        "ringjob: channel {}: {length} bytes came for operation {} step {} where {expected} belong: \
                         the ranks disagree on the operation, waiting for ever",
                        self.channel, operation.number, operation.moved
                    );
                    self.given_up = true;
                    return Ok(progress);
                }
                self.data = vec![0; length];
            }
            if self.got == HEADER + self.data.len() && self.got >= HEADER {
                operation.event.state(operation.moved, StepState::RecvFlushWait, self.data.len());
                operation.event.state(operation.moved, StepState::RecvGpuWait, 0);
                operation.moved += 1;
                let data = std::mem::take(&mut self.data);
                self.got = 0;
                let (operation, channel) = (operation.number, self.channel);
                // Without a GPU thread the process is about to end.
                let _ = self.gpu.send(gpu::Message::Received { operation, channel, data });
            }
        }
        Ok(progress)
    }

    pub(super) fn give_up(&mut self, error: &io::Error) {
        eprintln!(
            "ringjob: channel {} from the previous rank is lost ({error}), waiting for ever",
            self.channel
        );
        self.given_up = true;
    }

    pub(super) fn wants_socket(&self) -> bool {
        !self.given_up && self.operations.front().is_some_and(|operation| operation.moved < operation.posted)
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }
}
