//! What the launch thread does: the events of a call, its group and its operations.

use std::cell::Cell;
use std::sync::Arc;

use nccl_profiler_c4::abi::{event, state};

use super::communicator::{Communicator, Shared};
use super::describe::{Event, StateDetail};
use super::names::{Algorithm, Datatype, Function, Protocol};
use super::plugin::Handle;

/// Events that hang below a collective or point-to-point task.
const BELOW_TASK: u64 = event::PROXY_OP | event::PROXY_STEP | event::KERNEL_CH | event::NET_PLUGIN;
/// Bits that switch on the group event.
const GROUP_BITS: u64 = event::GROUP | event::COLL | event::P2P | BELOW_TASK;
/// Bits that switch on the group call event, from v5.
const GROUP_API_BITS: u64 =
    GROUP_BITS | event::GROUP_API | event::P2P_API | event::COLL_API | event::KERNEL_LAUNCH;

/// A collective.
#[derive(Clone, Copy, Debug)]
pub struct Collective {
    /// Function.
    pub function: Function,
    /// Elements.
    pub count: usize,
    /// Element type.
    pub datatype: Datatype,
    /// Root, where there is one.
    pub root: u32,
    /// Channels.
    pub channels: u8,
    /// Algorithm.
    pub algorithm: Algorithm,
    /// Protocol.
    pub protocol: Protocol,
    /// Whether it is captured into a graph.
    pub graph_captured: bool,
    /// Tag of the program (v7).
    pub user_tag: u64,
}

impl Collective {
    /// A ring collective with the protocol SIMPLE.
    pub fn new(function: Function, count: usize, datatype: Datatype, channels: u8) -> Self {
        let (algorithm, protocol) = (Algorithm::Ring, Protocol::Simple);
        Self {
            function,
            count,
            datatype,
            root: 0,
            channels,
            algorithm,
            protocol,
            graph_captured: false,
            user_tag: 0,
        }
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.count * self.datatype.bytes()
    }
}

/// A send or a receive.
#[derive(Clone, Copy, Debug)]
pub struct PointToPoint {
    /// Whether it sends.
    pub is_send: bool,
    /// Peer's rank.
    pub peer: u32,
    /// Elements.
    pub count: usize,
    /// Element type.
    pub datatype: Datatype,
    /// Channels.
    pub channels: u8,
}

impl PointToPoint {
    /// NCCL's function.
    pub fn function(&self) -> Function {
        if self.is_send { Function::Send } else { Function::Recv }
    }
}

/// One operation of a group.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// A collective.
    Collective(Collective),
    /// A send or receive.
    PointToPoint(PointToPoint),
}

thread_local! {
    /// NCCL's per-thread state of the call in progress. Only the group's handle is ever set back to null there (until 2.30), so a call
    /// that starts no event stops the last one again.
    static API: Cell<ApiState> = const { Cell::new(ApiState::EMPTY) };
}

#[derive(Clone, Copy)]
struct ApiState {
    group: Handle,
    coll: Handle,
    p2p: Handle,
}

impl ApiState {
    const EMPTY: Self = Self { group: Handle::NULL, coll: Handle::NULL, p2p: Handle::NULL };
}

/// An operation that was launched: the parent of its proxy operations and kernels. Clone it to the proxy thread, then
/// say [`Task::enqueued`] on the launch thread.
#[derive(Clone)]
pub struct Task {
    pub(super) comm: Arc<Shared>,
    pub(super) mask: u64,
    event: Handle,
    group: Handle,
    group_api: Handle,
    api: Handle,
}

impl Communicator {
    /// Launches one collective, up to the start of its event.
    pub fn collective(&self, spec: &Collective) -> Task {
        self.launch(&Operation::Collective(*spec))
    }

    /// Launches one send or receive, up to the start of its event.
    pub fn point_to_point(&self, spec: &PointToPoint) -> Task {
        self.launch(&Operation::PointToPoint(*spec))
    }

    /// Launches several operations between ncclGroupStart and ncclGroupEnd, up to the start of their events.
    pub fn group(&self, operations: &[Operation]) -> Group {
        let comm = &self.inner;
        let (mask, group_api) = comm.begin_call(1, false);
        let apis: Vec<_> = operations.iter().map(|op| comm.call(op, mask, group_api)).collect();
        comm.end_call(mask, group_api);
        let group = comm.start_group(mask);
        let tasks = operations.iter().zip(apis);
        let tasks = tasks.map(|(operation, api)| comm.start_task(operation, mask, group, group_api, api));
        Group { tasks: tasks.collect() }
    }

    /// Captures a collective into a graph: its call is seen now, its event only at each replay.
    pub fn capture(&self, spec: &Collective) -> CapturedGraph {
        let operation = Operation::Collective(Collective { graph_captured: true, ..*spec });
        let (mask, group_api) = self.inner.begin_call(0, true);
        let api = self.inner.call(&operation, mask, group_api);
        self.inner.end_call(mask, group_api);
        self.inner.stop_group_api(group_api);
        CapturedGraph { comm: Arc::clone(&self.inner), operation, mask, group_api, api }
    }

    fn launch(&self, operation: &Operation) -> Task {
        let comm = &self.inner;
        let (mask, group_api) = comm.begin_call(0, false);
        let api = comm.call(operation, mask, group_api);
        comm.end_call(mask, group_api);
        let group = comm.start_group(mask);
        comm.start_task(operation, mask, group, group_api, api)
    }
}

impl Task {
    /// The launch thread is done with it: the event of the operation stops, which means that it is enqueued.
    pub fn enqueued(&self) {
        self.stop_event();
        self.stop_group();
    }

    /// Handle of the operation's event.
    pub fn event(&self) -> Handle {
        self.event
    }

    /// Handle of the call's event (v5 and later).
    pub fn api(&self) -> Handle {
        self.api
    }

    /// Event mask when it was launched; it holds for all its children.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    fn stop_event(&self) {
        let comm = &self.comm;
        // 2.23 stops without looking at the handle.
        if comm.active && (!self.event.is_null() || comm.plugin.version() == 1 && self.mask & BELOW_TASK != 0)
        {
            comm.plugin.stop(self.event);
        }
    }

    fn stop_group(&self) {
        if self.comm.active && !self.group.is_null() {
            self.comm.plugin.stop(self.group);
        }
        self.comm.stop_group_api(self.group_api);
    }
}

/// Operations launched together.
pub struct Group {
    tasks: Vec<Task>,
}

impl Group {
    /// The operations, in order.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The launch thread is done with all.
    pub fn enqueued(&self) {
        self.tasks.iter().for_each(Task::stop_event);
        if let Some(task) = self.tasks.first() {
            task.stop_group();
        }
    }
}

/// A collective in a graph.
pub struct CapturedGraph {
    comm: Arc<Shared>,
    operation: Operation,
    mask: u64,
    group_api: Handle,
    api: Handle,
}

impl CapturedGraph {
    /// Replays it, up to the start of its event, from what is a CUDA callback thread in NCCL: the parents are the handles of
    /// the capture, however old.
    pub fn replay(&self) -> Task {
        let group = self.comm.start_group(self.mask);
        let mut task = self.comm.start_task(&self.operation, self.mask, group, self.group_api, self.api);
        // The call was stopped when it was captured.
        task.group_api = Handle::NULL;
        task
    }
}

impl Shared {
    /// ncclGroupStart, explicit or implied: samples the mask for all that follows.
    fn begin_call(&self, depth: u32, graph_captured: bool) -> (u64, Handle) {
        let mask = self.live_mask();
        let mut api = API.get();
        if self.active && self.plugin.version() >= 5 && mask & GROUP_API_BITS != 0 {
            let event = Event::GroupApi { depth, graph_captured };
            self.plugin.start(self.context, &mut api.group, Handle::NULL, 0, &event);
            API.set(api);
            if !api.group.is_null() {
                self.plugin.record(api.group, state::GROUP_START_API_STOP, StateDetail::None);
            }
        }
        (mask, api.group)
    }

    /// The call itself: from v5 it starts and stops before the operation's event starts.
    fn call(&self, operation: &Operation, mask: u64, group_api: Handle) -> Handle {
        if !self.active || self.plugin.version() < 5 {
            return Handle::NULL;
        }
        let mut api = API.get();
        let (handle, bits, event) = match operation {
            Operation::Collective(spec) => {
                (&mut api.coll, event::COLL_API | event::COLL | BELOW_TASK, Event::CollApi(spec))
            }
            Operation::PointToPoint(spec) => {
                (&mut api.p2p, event::P2P_API | event::P2P | BELOW_TASK, Event::P2pApi(spec))
            }
        };
        if mask & bits != 0 {
            self.plugin.start(self.context, handle, group_api, 0, &event);
        }
        let handle = *handle;
        API.set(api);
        if !handle.is_null() {
            self.plugin.stop(handle);
        }
        handle
    }

    /// ncclGroupEnd, and the launch of the kernel.
    fn end_call(&self, mask: u64, group_api: Handle) {
        if !self.active || self.plugin.version() < 5 {
            return;
        }
        if !group_api.is_null() {
            self.plugin.record(group_api, state::GROUP_END_API_START, StateDetail::None);
        }
        if mask & event::KERNEL_LAUNCH != 0 {
            let mut launch = Handle::NULL;
            self.plugin.start(self.context, &mut launch, group_api, 0, &Event::KernelLaunch);
            if !launch.is_null() {
                self.plugin.stop(launch);
            }
        }
    }

    fn stop_group_api(&self, group_api: Handle) {
        if self.active && self.plugin.version() >= 5 && !group_api.is_null() {
            self.plugin.stop(group_api);
            API.set(ApiState { group: Handle::NULL, ..API.get() });
        }
    }

    fn start_group(&self, mask: u64) -> Handle {
        let mut handle = Handle::NULL;
        if mask & GROUP_BITS != 0 {
            self.plugin.start(self.context, &mut handle, Handle::NULL, 0, &Event::Group);
        }
        handle
    }

    fn start_task(
        self: &Arc<Self>,
        operation: &Operation,
        mask: u64,
        group: Handle,
        group_api: Handle,
        api: Handle,
    ) -> Task {
        let (own_bit, event) = match operation {
            Operation::Collective(spec) => {
                let sequence = self.next_sequence(spec.function.number());
                (event::COLL, Event::Coll { spec, sequence, group, comm: self.identity() })
            }
            Operation::PointToPoint(spec) => (event::P2P, Event::P2p { spec, group, comm: self.identity() }),
        };
        let mut handle = Handle::NULL;
        let version = self.plugin.version();
        // Until 2.27 a group event without a handle hides its operations.
        if mask & (own_bit | BELOW_TASK) != 0 && (version >= 5 || !group.is_null()) {
            self.plugin.start(self.context, &mut handle, api, self.config.rank, &event);
        }
        Task { comm: Arc::clone(self), mask, event: handle, group, group_api, api }
    }
}
