//! Which source port takes which path. ECMP hashes a connection's five-tuple by a function that nobody tells, so it is
//! learned: probes with the tuples that flows will have, whose TTL ends at the switch that is to be named.
//!
//! [`discovery`] says what to ask next and what is known; [`probe`] is the thin part that owns sockets and the clock.

pub mod discovery;
pub mod probe;
