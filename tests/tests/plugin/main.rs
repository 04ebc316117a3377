//! The profiler plugin as built, loaded with dlopen and called as NCCL calls it: one test for each thing NCCL is known
//! to do. Facts are read back from the flight recorder.
//!
//! A plugin's state is its process's, so every test runs in a process of its own (see `harness`).

mod chain;
mod device;
mod environment;
mod handles;
mod harness;
mod lifecycle;
mod network;
mod pace;
mod versions;
