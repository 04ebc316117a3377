//! Planned paths on this node: the agent is told which switches connections to an address should cross, learns which
//! source ports take that path, and writes them into the table that `libc4-path.so` reads inside job processes.
//!
//! ECMP hashes a connection's five-tuple by a function that nobody tells, so ports are learned: by probes with the tuples
//! that connections will have, whose TTL ends at the switch that is to be named. [`discovery`] says what to ask next and
//! what is known, [`probe`] owns its sockets and clock; [`orders`] are what is wanted, [`knowledge`] is what is known of it,
//! [`service`] keeps the table true. Orders come from a file or, through the [`mailbox`], from the controller.
//!
//! Beside that, agents [`measure`] whether packets get through: by [`trains`] of probes from agent to agent over all paths
//! to some destinations ([`ways`]), which the other end answers ([`echo`]), from when they have left this host ([`departure`]). What planned connections have [`carried`], by path, the kernel counts.

pub mod carried;
pub mod departure;
pub mod diag;
pub mod discovery;
pub mod echo;
pub mod explore;
pub mod knowledge;
pub mod mailbox;
pub mod measure;
pub mod nics;
pub mod orders;
pub mod probe;
pub mod service;
pub mod trains;
pub mod ways;
