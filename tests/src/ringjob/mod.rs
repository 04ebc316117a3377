//! The ring job: a training stand-in without GPUs, and a test double for NCCL.
//!
//! It exists so that everything above NCCL (plugin, agent, controller, restart) can be tested and shown on any machine:
//! real processes that can be killed and stopped, real connections that can be slowed and blocked, and the built plugin
//! called from the same threads, in the same order and through the same ABI as NCCL calls it. One process is one rank:
//!
//! - the **launch thread** ([`training`]) stands for the user's: it computes, enqueues all-reduces and waits for them;
//! - the **GPU thread** ([`gpu`]) stands for stream and kernel: it runs operations in order, fills buffers to send,
//!   reduces what was received, and takes time stamps of a clock of its own;
//! - the **proxy thread** ([`proxy`]) stands for NCCL's: it moves the data with non-blocking sockets and tells the
//!   plugin of operations, steps and kernels.
//!
//! Channels between them: launch → GPU and launch → proxy carry one message an operation, GPU ↔ proxy one a step and
//! channel; all are unbounded, because an iteration enqueues a fixed number of operations and then waits for them.
//! What it does not have: algorithms other than ring, protocols, NVLink, several communicators.

pub mod args;
pub mod checkpoint;
pub mod clock;
pub mod control;
pub mod events;
pub mod gpu;
pub mod proxy;
pub mod rendezvous;
pub mod schedule;
pub mod training;

/// Mixes numbers into one that looks random: splitmix64, folded over the words.
#[must_use]
pub fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |state, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
