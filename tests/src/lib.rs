//! C4's testbed: everything that stands in for a cluster, and what breaks it on purpose.

pub mod accuracy;
pub mod cluster;
pub mod demo;
pub mod fabric;
pub mod faults;
pub mod nccl;
pub mod prometheus;
pub mod ringjob;
pub mod scale;
pub mod simulator;
