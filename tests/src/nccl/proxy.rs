//! What the proxy progress thread does: network transfers, kernels (which only it watches, until 2.31 gives them a
//! thread), and its own control events.

use std::ffi::c_int;
use std::sync::Arc;

use nccl_profiler_c4::abi::{event, state};

use super::communicator::{Communicator, Shared};
use super::describe::{Event, StateDetail};
use super::plugin::Handle;
use super::task::Task;

/// Steps a connection may have in flight (`NCCL_STEPS`).
const STEPS: usize = 8;

/// What the proxy thread shall do for one operation, channel, peer and direction.
#[derive(Clone, Copy, Debug)]
pub struct ProxyOperationSpec {
    /// Channel.
    pub channel: u8,
    /// Peer's rank.
    pub peer: u32,
    /// Whether it sends.
    pub is_send: bool,
    /// Network transfers.
    pub steps: u32,
    /// Bytes of a full transfer.
    pub chunk_bytes: u32,
}

/// State of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Sender waits for its own GPU.
    SendGpuWait,
    /// Sender waits for the receiver's credit. Recorded at each attempt to send.
    SendPeerWait,
    /// The network has it.
    SendWait,
    /// Receiver waits for data.
    RecvWait,
    /// Receiver flushes.
    RecvFlushWait,
    /// Receiver waits for its GPU.
    RecvGpuWait,
}

impl StepState {
    /// NCCL's number, and that of the proxy operation's state which v1 to v3 record with it.
    fn numbers(self) -> (c_int, c_int) {
        match self {
            Self::SendGpuWait => (state::SEND_GPU_WAIT, state::PROXY_OP_SEND_POSTED),
            Self::SendPeerWait => (state::SEND_PEER_WAIT, state::PROXY_OP_SEND_REM_FIFO_WAIT),
            Self::SendWait => (state::SEND_WAIT, state::PROXY_OP_SEND_TRANSMITTED),
            Self::RecvWait => (state::RECV_WAIT, state::PROXY_OP_RECV_POSTED),
            Self::RecvFlushWait => (state::RECV_FLUSH_WAIT, state::PROXY_OP_RECV_RECEIVED),
            Self::RecvGpuWait => (state::RECV_GPU_WAIT, state::PROXY_OP_RECV_TRANSMITTED),
        }
    }
}

/// A proxy operation in progress.
pub struct ProxyOperation {
    comm: Arc<Shared>,
    mask: u64,
    handle: Handle,
    steps: [Handle; STEPS],
    spec: ProxyOperationSpec,
    bytes: usize,
    context: Handle,
}

impl Task {
    /// The proxy thread takes an operation of this task and starts its event.
    pub fn proxy(&self, spec: ProxyOperationSpec) -> ProxyOperation {
        let comm = Arc::clone(&self.comm);
        let (context, pid) = (comm.context, comm.pid);
        ProxyOperation::start(comm, context, self.mask, self.event(), pid, spec)
    }

    /// The kernel of this task on a channel.
    pub fn kernel(&self, channel: u8) -> Kernel {
        let comm = Arc::clone(&self.comm);
        Kernel { comm, mask: self.mask, parent: self.event(), channel, handle: Handle::NULL }
    }
}

impl ProxyOperation {
    /// An operation of another process that this one carries out (PXN): context, mask, parent and pid are that process's.
    pub fn of_another_process(
        comm: &Communicator,
        context: Handle,
        mask: u64,
        parent: Handle,
        pid: i32,
        spec: ProxyOperationSpec,
    ) -> Self {
        Self::start(Arc::clone(&comm.inner), context, mask, parent, pid, spec)
    }

    fn start(
        comm: Arc<Shared>,
        context: Handle,
        mask: u64,
        parent: Handle,
        pid: i32,
        spec: ProxyOperationSpec,
    ) -> Self {
        let mut handle = Handle::NULL;
        if comm.active && mask & (event::PROXY_OP | event::PROXY_STEP | event::NET_PLUGIN) != 0 {
            let event = Event::ProxyOp { pid, spec: &spec };
            comm.plugin.start(context, &mut handle, parent, comm.config.rank, &event);
        }
        Self { comm, mask, handle, steps: [Handle::NULL; STEPS], spec, bytes: 0, context }
    }

    /// The transport began to work on it (v4 and later say so).
    pub fn in_progress(&self) {
        if !self.handle.is_null() && self.comm.plugin.version() >= 4 {
            self.comm.plugin.record(self.handle, state::PROXY_OP_IN_PROGRESS, StateDetail::Empty);
        }
    }

    /// A transfer starts. For a receive it may start again while the network has no room for it.
    pub fn step(&mut self, step: u32) {
        let comm = &self.comm;
        let hidden = comm.plugin.version() <= 4 && self.handle.is_null();
        if comm.active && self.mask & (event::PROXY_STEP | event::NET_PLUGIN) != 0 && !hidden {
            let slot = &mut self.steps[step as usize % STEPS];
            comm.plugin.start(self.context, slot, self.handle, comm.config.rank, &Event::ProxyStep { step });
        }
    }

    /// A transfer changes state; `bytes` is its size, which NCCL knows once it is sent or received.
    pub fn state(&mut self, step: u32, state: StepState, bytes: usize) {
        let plugin = &self.comm.plugin;
        if self.handle.is_null() {
            return;
        }
        if matches!(state, StepState::SendWait | StepState::RecvFlushWait) {
            self.bytes += bytes;
        }
        let (of_step, of_operation) = state.numbers();
        if plugin.version() <= 3 {
            let detail = StateDetail::ProxyOp { bytes: self.bytes, steps: step + 1 };
            plugin.record(self.handle, of_operation, detail);
            if state == StepState::SendPeerWait {
                return;
            }
        }
        let handle = self.steps[step as usize % STEPS];
        if !handle.is_null() {
            let detail = if plugin.version() <= 3 { StateDetail::None } else { StateDetail::Step { bytes } };
            plugin.record(handle, of_step, detail);
        }
    }

    /// A transfer ends.
    pub fn stop_step(&mut self, step: u32) {
        let plugin = &self.comm.plugin;
        let slot = &mut self.steps[step as usize % STEPS];
        if !slot.is_null() {
            plugin.stop(*slot);
            *slot = Handle::NULL;
        }
        if plugin.version() <= 3 && !self.handle.is_null() {
            let done = if self.spec.is_send { state::PROXY_OP_SEND_DONE } else { state::PROXY_OP_RECV_DONE };
            let detail = StateDetail::ProxyOp { bytes: self.bytes, steps: step + 1 };
            plugin.record(self.handle, done, detail);
        }
    }

    /// A whole transfer with all the states NCCL records for its direction.
    pub fn transfer(&mut self, step: u32, bytes: usize) {
        self.step(step);
        let states = if self.spec.is_send {
            [StepState::SendGpuWait, StepState::SendPeerWait, StepState::SendWait]
        } else {
            [StepState::RecvWait, StepState::RecvFlushWait, StepState::RecvGpuWait]
        };
        for state in states {
            self.state(step, state, bytes);
        }
        self.stop_step(step);
    }

    /// Everything from the begin of the work to the stop, with full transfers.
    pub fn run(mut self) {
        self.in_progress();
        for step in 0..self.spec.steps {
            self.transfer(step, self.spec.chunk_bytes as usize);
        }
        self.stop();
    }

    /// The operation ends.
    pub fn stop(&mut self) {
        if !self.handle.is_null() {
            self.comm.plugin.stop(self.handle);
            self.handle = Handle::NULL;
        }
    }

    /// Handle of its event.
    pub fn event(&self) -> Handle {
        self.handle
    }

    /// Handle of a step's event.
    pub fn step_event(&self, step: u32) -> Handle {
        self.steps[step as usize % STEPS]
    }
}

/// The kernel of a task on one channel.
pub struct Kernel {
    comm: Arc<Shared>,
    mask: u64,
    parent: Handle,
    channel: u8,
    handle: Handle,
}

impl Kernel {
    /// The kernel started, at this time of the GPU's clock (which v3 does not hand over).
    pub fn start(&mut self, gpu_ns: u64) {
        let comm = &self.comm;
        if comm.active && comm.plugin.version() >= 3 && self.mask & event::KERNEL_CH != 0 {
            let event = Event::KernelCh { channel: self.channel, gpu_ns };
            comm.plugin.start(comm.context, &mut self.handle, self.parent, comm.config.rank, &event);
        }
    }

    /// A phase of a symmetric kernel (v7), seen when the kernel stopped, just before its stop is told.
    pub fn phase(&self, phase: u8, start_gpu_ns: u64, stop_gpu_ns: u64) {
        let comm = &self.comm;
        if !comm.active || comm.plugin.version() < 7 || self.mask & event::KERNEL_PHASE == 0 {
            return;
        }
        let mut handle = Handle::NULL;
        let event = Event::KernelPhase { channel: self.channel, phase, gpu_ns: start_gpu_ns };
        comm.plugin.start(comm.context, &mut handle, self.handle, comm.config.rank, &event);
        if !handle.is_null() {
            let detail = StateDetail::Kernel { gpu_ns: stop_gpu_ns };
            comm.plugin.record(handle, state::KERNEL_PHASE_STOP, detail);
            comm.plugin.stop(handle);
        }
    }

    /// The kernel stopped. The handle stays as it is (until 2.30), so stopping twice stops the same event twice.
    pub fn stop(&mut self, gpu_ns: u64) {
        if self.handle.is_null() {
            return;
        }
        if self.comm.plugin.version() >= 4 {
            let detail = StateDetail::Kernel { gpu_ns };
            self.comm.plugin.record(self.handle, state::KERNEL_CH_STOP, detail);
        }
        self.comm.plugin.stop(self.handle);
    }

    /// Stops it without its ever having started, with what was in the variable before.
    pub fn stop_before_start(&mut self, stale: Handle, gpu_ns: u64) {
        self.handle = stale;
        self.stop(gpu_ns);
    }

    /// Handle of its event.
    pub fn event(&self) -> Handle {
        self.handle
    }
}

/// The proxy thread's own events.
pub struct ProxyCtrl {
    comm: Arc<Shared>,
    handle: Handle,
}

impl Communicator {
    /// The proxy thread says what it does, if asked to by the mask of this moment.
    pub fn proxy_ctrl(&self) -> ProxyCtrl {
        let comm = Arc::clone(&self.inner);
        let mut handle = Handle::NULL;
        if comm.live_mask() & event::PROXY_CTRL != 0 {
            comm.plugin.start(comm.context, &mut handle, Handle::NULL, 0, &Event::ProxyCtrl);
        }
        ProxyCtrl { comm, handle }
    }
}

impl ProxyCtrl {
    /// One of the PROXY_CTRL states.
    pub fn state(&self, state: c_int, appended: u32) {
        if !self.handle.is_null() && self.comm.live_mask() & event::PROXY_CTRL != 0 {
            self.comm.plugin.record(self.handle, state, StateDetail::Ctrl { appended });
        }
    }

    /// Done.
    pub fn stop(self) {
        if !self.handle.is_null() {
            self.comm.plugin.stop(self.handle);
        }
    }
}
