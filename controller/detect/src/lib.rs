//! C4D: finds the faulty rank, link or node in the periodic pattern of collective communication.
//!
//! A pure state machine: [`observation::Observation`]s in, [`finding::Finding`]s out. It does no I/O, has no clock
//! and spawns nothing; whoever drives it hands it the time.
//!
//! How it is put together: `model` holds what is known, one communicator at a time (`rhythm`: what is normal there,
//! `slow`: who comes late). `comm_slow` compares network links. `stall` reads the evidence of one communicator, `wait` follows
//! it over all communicators and pairs to the root, `hang` decides what that amounts to (after a time that `patience` knows), and `held`, `comm_hang`,
//! `peer_hang`, `deadlock`, `desync`, `death` and `edges` turn it into an accusation. `health` joins what sensors say
//! ([`catalogue`] knows what that means), and `case` sees to it that one cause has one finding. Of the job as a whole,
//! `survey` keeps what single communicators have to know, `roles` who does the same work, [`stages`] whether a role has more
//! of it than others, `pace` when the iteration time changed ([`change`]) and where the time went (`makeup`).
//! [`scene`] draws it for people. [`aggregate`] runs on the nodes.

pub mod aggregate;
mod by_rank;
mod case;
pub mod catalogue;
pub mod change;
mod comm_hang;
mod comm_slow;
pub mod config;
mod deadlock;
mod death;
mod desync;
pub mod detector;
pub mod distribution;
mod edges;
pub mod finding;
mod hang;
mod health;
mod held;
mod makeup;
mod model;
mod names;
mod nodes;
pub mod observation;
mod pace;
mod patience;
mod peer_hang;
pub mod report;
mod rhythm;
mod roles;
pub mod scene;
pub mod series;
pub mod signature;
mod slow;
pub mod stages;
mod stall;
mod stats;
mod survey;
mod tree;
pub mod view;
mod wait;
pub mod words;
