//! C4D: finds the faulty rank, link or node in the periodic pattern of collective communication.
//!
//! A pure state machine: [`observation::Observation`]s in, [`finding::Finding`]s out. It does no I/O, has no clock
//! and spawns nothing; whoever drives it hands it the time.

pub mod aggregate;
pub mod detector;
pub mod finding;
pub mod observation;
pub mod report;
pub mod signature;
pub mod view;
pub mod words;
