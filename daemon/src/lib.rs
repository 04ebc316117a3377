//! What the agent and the controller have in common as daemons: a log whose level can be changed while they run, the
//! names of conversations in it, and what systemd wants to be told.

mod log;
mod manager;
pub mod trace;

pub use log::{Format, Log};
pub use manager::Manager;
