//! What the ring job tells the profiler plugin: [`crate::nccl`] makes the calls as NCCL does, this says when.
//!
//! `NCCL_PROFILER_PLUGIN` names the library as for NCCL: a path, or a name for the loader's search. Without it, or when it
//! cannot be loaded, the job runs unobserved, as it would with NCCL.

use std::{env, path::Path};

use super::{args::Args, schedule::Schedule};
pub use crate::nccl::StepState;
use crate::nccl::{
    Collective, CommConfig, Communicator, Datatype, Function, Kernel, Nccl, ProxyOperation,
    ProxyOperationSpec, Task,
};

/// The launch thread's side.
pub struct Profiler {
    communicator: Option<Communicator>,
}

/// What the plugin gave for an operation at launch, or nothing without a plugin.
#[derive(Clone)]
pub struct LaunchToken(Option<Task>);

/// An operation of the proxy thread on one connection.
pub struct ProxyOp(Option<ProxyOperation>);

/// A kernel on one channel.
pub struct KernelCh(Option<Kernel>);

impl Profiler {
    /// Loads the plugin and tells it of the communicator.
    #[must_use]
    pub fn load(args: &Args, comm_id: u64) -> Self {
        let config = CommConfig {
            id: comm_id,
            name: None,
            nodes: args.nodes.unwrap_or(args.world_size),
            ranks: args.world_size,
            rank: args.rank,
        };
        let communicator = plugin_name().and_then(|name| {
            match Nccl::knowing_up_to(Path::new(&name), args.profiler_api).init(&config) {
                Ok(communicator) => Some(communicator),
                Err(error) => {
                    eprintln!("ringjob rank {}: no profiler plugin: {error}", args.rank);
                    None
                }
            }
        });
        Self { communicator }
    }

    /// Launches an all-reduce: `enqueue` hands it to proxy and GPU while its event is open.
    pub fn launch(&self, schedule: &Schedule, enqueue: impl FnOnce(LaunchToken)) {
        let spec =
            Collective::new(Function::AllReduce, schedule.count, Datatype::Float32, schedule.channels as u8);
        let task = self.communicator.as_ref().map(|communicator| communicator.collective(&spec));
        enqueue(LaunchToken(task.clone()));
        if let Some(task) = task {
            task.enqueued();
        }
    }

    /// Tells the plugin of the communicator's end.
    pub fn finalize(self) {
        if let Some(communicator) = self.communicator {
            communicator.finalize();
        }
    }
}

/// The library to load; NCCL takes `none` for no plugin.
fn plugin_name() -> Option<String> {
    let name = env::var("NCCL_PROFILER_PLUGIN").ok()?;
    if name.is_empty() || name.eq_ignore_ascii_case("none") {
        return None;
    }
    if name.contains('/') || name.ends_with(".so") {
        return Some(name);
    }
    Some(format!("libnccl-profiler-{name}.so"))
}

impl LaunchToken {
    /// The proxy thread takes the operation for one connection.
    #[must_use]
    pub fn proxy_op(&self, channel: usize, is_send: bool, schedule: &Schedule) -> ProxyOp {
        let peer =
            if is_send { schedule.rank + 1 } else { schedule.rank + schedule.size - 1 } % schedule.size;
        let spec = ProxyOperationSpec {
            channel: channel as u8,
            peer: peer as u32,
            is_send,
            steps: schedule.steps() as u32,
            chunk_bytes: (4 * schedule.sends(channel, 0).len()) as u32,
        };
        ProxyOp(self.0.as_ref().map(|task| task.proxy(spec)))
    }

    /// A kernel of the operation has started.
    #[must_use]
    pub fn kernel_start(&self, channel: usize, stamp_ns: u64) -> KernelCh {
        KernelCh(self.0.as_ref().map(|task| {
            let mut kernel = task.kernel(channel as u8);
            kernel.start(stamp_ns);
            kernel
        }))
    }
}

impl KernelCh {
    /// It has stopped.
    pub fn stop(self, stamp_ns: u64) {
        if let Some(mut kernel) = self.0 {
            kernel.stop(stamp_ns);
        }
    }
}

impl ProxyOp {
    /// Work on it has begun.
    pub fn in_progress(&self) {
        if let Some(operation) = &self.0 {
            operation.in_progress();
        }
    }

    /// A step starts in `state`.
    pub fn start_step(&mut self, step: usize, state: StepState) {
        if let Some(operation) = &mut self.0 {
            operation.step(step as u32);
            operation.state(step as u32, state, 0);
        }
    }

    /// A step changes its state.
    pub fn state(&mut self, step: usize, state: StepState, bytes: usize) {
        if let Some(operation) = &mut self.0 {
            operation.state(step as u32, state, bytes);
        }
    }

    /// A step is done.
    pub fn stop_step(&mut self, step: usize) {
        if let Some(operation) = &mut self.0 {
            operation.stop_step(step as u32);
        }
    }

    /// The operation is done.
    pub fn stop(mut self) {
        if let Some(operation) = &mut self.0 {
            operation.stop();
        }
    }
}
