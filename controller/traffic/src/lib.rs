//! C4P: which path every flow of every job takes. Topology and flows in, paths out; no I/O, no clock, no async.
//!
//! ECMP hashes a handful of long, fat flows onto the same uplinks while others idle. The flows of a training job are
//! few, long and known beforehand, so their paths can be planned: [`plan()`] spreads the flows of all jobs so that the
//! fullest link is as empty as possible, and says a bound that no plan could beat. It is deterministic: the same input
//! gives the same plan, bit for bit.
//!
//! It does not know how a path is taken. Source ports, policy routes and the like are the business of actuators.
//!
//! [`actuators`] say what follows from a plan for those who can choose paths. [`orders`] says a plan in addresses, which is what agents learn source ports for. [`document`] reads and writes the formats that others script against; [`wires`] and [`rates`] say what a plan means
//! for every link and every flow, [`baseline`] what networks do without one, and [`compare`] what is gained. [`sightings`] holds what probes see against
//! the topology, [`differences`] one topology against another, and [`losses`] and [`delays`] name links that lose packets or are slow.
//! [`learned`] makes a topology of what probes see, where nobody has written one.

pub mod actuators;
pub mod baseline;
pub mod compare;
pub mod delays;
pub mod differences;
pub mod document;
pub mod flows;
pub mod learned;
pub mod losses;
pub mod orders;
pub mod plan;
pub mod planner;
pub mod rates;
pub mod sightings;
pub mod topology;
pub mod wires;

pub use flows::{Flow, Flows};
pub use plan::{Plan, Previous};
pub use planner::plan;
pub use topology::Topology;
