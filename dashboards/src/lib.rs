//! The Grafana dashboards, in one small language: a board is rows of panels, a panel is a title, what it shows and queries.
//! Everything that makes boards look alike (sizes, units, colours, variables, links, annotations) is in one place here, and
//! the JSON beside this crate is never edited by hand.

mod boards;
mod grafana;
mod model;

pub use boards::boards;
pub use model::{Board, Needs, Panel, Query, Row, Unit, View};
