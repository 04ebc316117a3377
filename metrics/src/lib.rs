//! How C4's programs declare what they count.
//!
//! A metric is declared once: its name, kind, labels and help make the exposition and the table in the documentation, so
//! the two cannot differ. What a program counts itself is held by a [`Catalogue`]. What is known elsewhere (jobs, findings)
//! is not copied into metrics but read when somebody scrapes ([`Source`]): so a series goes with what it is about, and no scrape
//! comes in the middle of a change.

mod catalogue;
mod family;

pub use catalogue::{Catalogue, table};
pub use family::{Collected, Family, Kind, Source};
