//! The boards.

use crate::model::{Board, Variable};

mod fabric;
mod fleet;
mod job;
mod node;
mod own;

/// All boards, in the order in which people need them.
#[must_use]
pub fn boards() -> Vec<Board> {
    vec![fleet::board(), job::board(), node::board(), fabric::board(), own::board()]
}

const JOB: Variable = Variable { name: "job", metric: "c4_job_ranks" };
const NODE: Variable = Variable { name: "node", metric: "c4_node_up" };

/// Something that is marked in all graphs of a board.
pub(crate) struct Annotation {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    pub(crate) expr: String,
    pub(crate) title: &'static str,
    pub(crate) text: &'static str,
}

/// What is marked on a board on which `label` is chosen.
pub(crate) fn annotations(label: Option<&str>) -> Vec<Annotation> {
    let chosen = label.map_or_else(String::new, |label| format!("{{{label}=\"${label}\"}}"));
    let findings = Annotation {
        name: "Findings",
        colour: "red",
        expr: format!("c4_finding_confidence_ratio{chosen}"),
        title: "{{kind}} {{finding}}",
        text: "{{job}}: rank {{rank}} on {{node}}",
    };
    let changes = Annotation {
        name: "Change of the iteration time",
        colour: "orange",
        expr: format!("changes(c4_job_last_change_timestamp_seconds{chosen}[30s]) > 0"),
        title: "iterations changed",
        text: "{{job}}",
    };
    if label == Some("node") { vec![findings] } else { vec![findings, changes] }
}
