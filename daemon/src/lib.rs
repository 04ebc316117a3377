//! What the agent and the controller have in common as daemons: a log whose level can be changed while they run, the
//! names of conversations in it, spans for a collector, and what systemd wants to be told.

mod log;
mod manager;
mod otlp;
pub mod trace;

pub use log::{Format, Log};
pub use manager::Manager;
pub use otlp::{Collector, CollectorError};
