//! NCCL profiler plugin that writes the flight recorder of its process.
//!
//! It runs inside somebody's training job, on NCCL's threads, so it must be cheap and can never fail: `entry` stops panics and
//! always says success, `events` only stamps words into shared memory, and everything that can go wrong goes wrong in
//! `init`, whose worst answer is an event mask of 0.

pub mod abi;

mod chain;
mod connections;
mod depth;
mod describe;
mod device;
mod entry;
mod events;
mod handle;
mod init;
mod loaded;
mod log;
mod names;
mod peers;
mod runs;
mod settings;
mod state;
mod version;
mod view;

pub use entry::{
    ncclProfiler_v1, ncclProfiler_v2, ncclProfiler_v3, ncclProfiler_v4, ncclProfiler_v5, ncclProfiler_v6,
    ncclProfiler_v7,
};
