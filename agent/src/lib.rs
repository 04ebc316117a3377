//! C4's node agent. It reads the flight recorders that training processes leave in shared memory and the health of
//! the node, streams differences and aggregates to the controller, and, when asked, supervises the processes of a
//! job so that they can be restarted.
//!
//! The parts that decide something are handed the time and do no I/O of their own (`recorders::Sampler` over a narrow
//! source, `stream::Spool`, `stream::Backoff`, the sensors' parsers); the drivers around them are thin. Nothing here
//! compares wall-clock times: a clock that jumps changes nothing.

pub mod checks;
pub mod cli;
pub mod config;
pub mod convert;
pub mod diagnosis;
mod directories;
pub mod driver;
pub mod http;
mod interfaces;
mod limits;
pub mod metrics;
pub mod paths;
pub mod plugin;
pub mod procfs;
pub mod recorders;
pub mod report;
pub mod sensors;
pub mod stream;
pub mod supervise;
