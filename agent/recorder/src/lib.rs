//! The shared-memory flight recorder: one file of fixed size per training process, written by the profiler plugin inside
//! that process and read by the agent on the same host.
//!
//! It exists because the state of a dead or frozen rank is the evidence: the file survives its writer, and a POSIX
//! record lock on it tells at once whether the writer still lives. The writer is wait-free (plain stores, no locks, no
//! system calls), so it may run inside NCCL's threads. The reader trusts nothing it finds.
//!
//! * [`layout`]: where everything is; the only thing that both sides share.
//! * [`writer`]: for the plugin (and for tests that play a plugin).
//! * [`reader`]: for the agent and the command line. [`snapshot`] is what it hands out.

pub mod clock;
mod gpu;
pub mod layout;
pub mod lock;
pub mod reader;
pub mod snapshot;
pub mod writer;

pub use clock::monotonic_now_ns;
pub use gpu::GpuAddress;
