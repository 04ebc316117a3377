//! C4's controller: takes in what agents see, finds out what is wrong, tells people, and does something about it.
//!
//! ```text
//!  agents ──▶ ingest ──▶ convert ──▶┌──────────────── brain ────────────────┐──▶ alerts ──▶ Alertmanager, webhooks
//!         ◀── streams ◀─────────────│ nodes, registry ─▶ c4-detect ─▶ findings│──▶ record ──▶ JSON lines
//!                                   │ groups, ledger  ─▶ steer ──────▶ orders │──▶ actuators ─▶ agents
//!                                   │ paths ◀─▶ c4-traffic ──▶ orders for paths│──▶ agents
//!                                   └───────────────────┬───────────────────┘
//!                                            snapshot, events ──▶ api (gRPC), http (metrics, health), page
//! ```
//! Everything that decides is pure and is handed the time; tasks around it own sockets, files and clocks. [`server`]
//! starts them all.

pub mod access;
pub mod alerts;
pub mod api;
pub mod brain;
mod causes;
pub mod clock;
pub mod config;
pub mod convert;
pub mod events;
pub mod findings;
pub mod front;
pub mod groups;
pub mod ha;
pub mod http;
pub mod ingest;
pub mod ledger;
pub mod metrics;
pub mod nodes;
pub mod page;
pub mod paths;
pub mod record;
pub mod registry;
pub mod scenes;
pub mod server;
pub mod snapshot;
pub mod steer;
pub mod store;
