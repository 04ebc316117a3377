//! NCCL profiler plugin that writes the flight recorder of its process.

pub mod abi;
