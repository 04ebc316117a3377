//! A double of NCCL's profiler caller: it loads a profiler plugin and calls it as NCCL 2.23 to 2.31 do.
//!
//! Real NCCL needs GPUs, so the driver tests, the benchmark and ringjob call the built plugin through this module
//! instead. It is a *double*, not NCCL: it makes no communication, it only plays NCCL's part of the profiler interface —
//! which calls, in which order, on whose thread, with which masks, parents and stale pointers. Every rule was read from
//! NCCL's sources; where releases differ, the API version in use stands for the NCCL family it is native in:
//!
//! | API | NCCL | differences the double plays |
//! |---|---|---|
//! | v1, v2 | 2.23 – 2.25 | no kernel events; proxy operation states 0–7; steps recorded with null arguments |
//! | v3 | 2.26 | kernel events, stopped without a GPU time |
//! | v4 | 2.27 | credit wait and kernel stop states; a null group hides its collectives |
//! | v5 – v7 | 2.28 – 2.31 | call events; the parent of a collective is its call |
//!
//! A thread of the caller stands for one of NCCL's: [`Communicator`] belongs to the launch thread (group and collective
//! events), [`ProxyOperation`] and [`Kernel`] to the proxy progress thread (kernels to a thread of their own in v7).
//! Nothing here allocates between the start and the stop of a single operation, so that the plugin's own
//! allocations can be counted.

#![deny(clippy::undocumented_unsafe_blocks)]

pub mod built;
mod communicator;
mod describe;
mod log;
mod names;
mod plugin;
mod proxy;
mod task;
mod wire;

pub use communicator::{CommConfig, Communicator, Nccl};
pub use describe::{Event, StateDetail};
pub use log::{LogLine, take_log};
pub use names::{Algorithm, Datatype, Function, Protocol};
pub use plugin::{Handle, LoadError, Plugin};
pub use proxy::{Kernel, ProxyCtrl, ProxyOperation, ProxyOperationSpec, StepState};
pub use task::{CapturedGraph, Collective, Group, Operation, PointToPoint, Task};
