//! What is done about findings.
//!
//! Detection may be wrong, and an action on a job of thousands of GPUs cannot be taken back. So between a finding and
//! an action stand rails, and each action is written to a journal *before* it is carried out, in steps that can be
//! repeated without harm. The [`machine`] decides and is pure: findings, facts, results, operators' words and the time
//! go in; orders and sentences come out. [`actuator`]s carry orders out, at the edge, and may hang, fail or lie: the
//! machine has its own deadlines and believes an answer only for the attempt it waits for.
//!
//! ```text
//! findings ─▶ ladder, modes, rails, breaker ─▶ machine ─▶ journal ─▶ orders ─▶ router ─▶ agents, Slurm, Kubernetes, hook
//! operators ────────────────────────────────────▲
//! ```

pub mod action;
pub mod actuator;
pub mod breaker;
pub mod hook;
pub mod journal;
pub mod kubernetes;
pub mod ladder;
pub mod local;
pub mod machine;
pub mod modes;
pub mod placement;
pub mod rails;
pub mod router;
pub mod scheduler;
pub mod slurm;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;
