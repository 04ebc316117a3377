//! Several controllers, of which one leads.
//!
//! They share an etcd. Whoever holds the key of the leader, which lives as long as its lease, leads; the others stand by
//! and take over when it is gone. Nothing rests on the leader knowing that it no longer leads:
//!
//! - *It stops by itself.* It counts from the moment *before* it asked for its lease to be renewed, by a clock that nobody
//!   sets, and is silent once the lease may have ended ([`fence::Fence`]).
//! - *It cannot write.* Each write is a transaction on the condition that the key of the leader is still the one that this
//!   controller made ([`crate::store::etcd`]), and nothing is done that was not written before.
//! - *It is not obeyed.* Commands carry the revision in which the key was made, the term; agents that have heard of a later
//!   one refuse them. A command that was on its way while its sender was stopped is caught by that.
//!
//! A term is a controller of its own: it begins with what the store holds and ends with all its tasks, streams and state. So
//! nothing of a lost term can leak into the next one. Between terms ([`member`]) the same addresses are served by
//! [`standby`], which refuses with the leader's name.

pub mod election;
pub mod etcd;
pub mod fence;
pub mod member;
pub mod standby;
