//! What is done about findings.
//!
//! Detection may be wrong, and an action on a job of thousands of GPUs cannot be taken back. So between a finding and
//! an action stand rails, and each action is written to a journal *before* it is carried out, in steps that can be
//! repeated without harm. The [`machine`] decides and is pure: findings, facts, results and the time go in; orders and
//! sentences come out. [`actuator`]s carry orders out, at the edge, and may hang, fail or lie: the machine has its
//! own deadlines and believes an answer only for the attempt it waits for.

pub mod action;
pub mod actuator;
pub mod journal;
pub mod local;
pub mod machine;
pub mod rails;
