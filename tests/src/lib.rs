//! C4's testbed: everything that stands in for a cluster, and what breaks it on purpose.

pub mod accuracy;
pub mod authority;
mod cargo;
pub mod cc;
pub mod cluster;
pub mod crowd;
pub mod demo;
pub mod etcd;
pub mod fabric;
pub mod faults;
pub mod herd;
pub mod nccl;
pub mod prometheus;
pub mod proxy;
pub mod ringjob;
pub mod scale;
pub mod simulator;
pub mod soak;
