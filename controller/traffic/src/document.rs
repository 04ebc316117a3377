//! The documents people and scripts write: topology (YAML), flows and plans (JSON).
//!
//! An operator who has three mistakes in a topology of two thousand lines wants to hear of three mistakes, each with
//! its line, not of one. So documents are first read into a tree that remembers positions ([`node`], [`json`],
//! [`yaml`]), and everything is checked on that tree, collecting [`problem::Problems`]. Nothing is built from a document
//! with a problem. Documents are hostile until then: size and depth are bounded, aliases are refused.

pub mod flows;
pub mod json;
pub mod node;
pub mod orders;
pub mod plan;
pub mod problem;
mod reader;
pub mod topology;
pub mod written;
pub mod yaml;

pub use flows::{flows_json, parse_flows, parse_more_flows};
pub use orders::orders_json;
pub use plan::{parse_previous, plan_json};
pub use problem::{Problem, Problems};
pub use topology::{Lines, parse_topology, parse_topology_with_lines};
pub use written::{topology_json, topology_yaml};

/// How large a document may be, in bytes: some five times the flows of 100,000 GPUs.
pub const MOST_BYTES: usize = 256 << 20;
/// How deep it may be nested; the formats need seven.
pub const MOST_DEPTH: usize = 16;

#[cfg(test)]
mod tests;
