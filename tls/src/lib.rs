//! What the agent, the controller and `c4ctl` share about their connections.
//!
//! Certificates come from files that others rotate (cert-manager, a cron job), so nothing here holds on to them: a
//! listener takes what the files held a few seconds ago for each *new* connection, and a client reads them for each
//! attempt. A file that is wrong at a rotation is said so and the last good one stays in use; at the start it is an error.
//!
//! A listener decides nothing about what somebody may do. It tells who is at the other end ([`Peer`]) and keeps one
//! address from taking all the room.

mod client;
mod connection;
mod files;
mod listener;
mod pages;
mod slots;

pub use client::{ClientFiles, bearer, check_collector, is_local};
pub use connection::{Connection, Peer};
pub use files::{FileError, Protocol, ServerFiles};
pub use listener::{Accepting, Limits, Turned};
pub use pages::serve_pages;
pub use slots::Slots;
