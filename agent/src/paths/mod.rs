//! Planned paths on this node: the agent is told which switches connections to an address should cross, learns which
//! source ports take that path, and writes them into the table that `libc4-path.so` reads inside job processes.
//!
//! ECMP hashes a connection's five-tuple by a function that nobody tells, so ports are learned: by probes with the tuples
//! that connections will have, whose TTL ends at the switch that is to be named. [`discovery`] says what to ask next and
//! what is known, [`probe`] owns its sockets and clock; [`orders`] are what is wanted, [`knowledge`] is what is known of it,
//! [`service`] keeps the table true. Orders come from a file or, through the [`mailbox`], from the controller.

pub mod discovery;
pub mod knowledge;
pub mod mailbox;
pub mod orders;
pub mod probe;
pub mod service;
