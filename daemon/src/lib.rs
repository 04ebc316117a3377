//! What the agent and the controller have in common as daemons: a log whose level can be changed while they run, and
//! what systemd wants to be told.

mod log;
mod manager;

pub use log::{Format, Log};
pub use manager::Manager;
