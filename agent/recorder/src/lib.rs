//! The shared-memory flight recorder.

pub mod snapshot;
