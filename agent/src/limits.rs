//! How much a controller believes. What an environment says may be any number, and a message with one that is not believed is refused:
//! the process would be out of sight. (What a recorder says is limited where it is read.)

use c4_recorder::layout;

/// Ranks of a job or a communicator.
pub(crate) const RANKS: u32 = layout::RANKS;
/// Times that a job was started again.
pub(crate) const INCARNATIONS: u32 = 1 << 20;
/// GPUs of a node.
pub(crate) const GPUS: u32 = 1024;
