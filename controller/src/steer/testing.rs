//! What several tests of steering need.

use std::collections::{BTreeMap, BTreeSet};

use c4_detect::{
    finding::{Finding, FindingId, Kind, Suspect},
    observation::{JobId, NodeName, Timestamp},
};

use super::{
    action::{Action, ActionId, Deed, State},
    placement::{Layout, Place},
    rails::{JobFacts, Means},
};

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp(1_000_000_000_000 + seconds * 1_000_000)
}

pub(crate) fn restart(job: &str, incarnation: u32) -> Deed {
    Deed::Restart {
        job: JobId(job.into()),
        incarnation,
        without: BTreeSet::new(),
        isolate: false,
        ran_on: BTreeSet::new(),
        placement: Vec::new(),
    }
}

pub(crate) fn action(id: &str, deed: Deed) -> Action {
    Action {
        id: ActionId(id.into()),
        job: deed.job().cloned(),
        deed,
        finding: None,
        kind: None,
        blamed: None,
        because: "rank 3 died".into(),
        by: None,
        planned: at(0),
        ended: None,
        state: State::Planned,
        attempt: 1,
    }
}

/// A death of rank 3 of job llm that nobody is blamed for.
pub(crate) fn finding(id: &str, incarnation: u32) -> Finding {
    Finding {
        id: FindingId(id.into()),
        job: JobId("llm".into()),
        incarnation,
        kind: Kind::ProcessDeath,
        suspects: Vec::new(),
        confidence: 0.95,
        since: at(0),
        detected: at(0),
        cleared: None,
        summary: "rank 3 died".into(),
        evidence: BTreeMap::new(),
        explains: Vec::new(),
        refuted_by: String::new(),
    }
}

/// The same, blamed on a node.
pub(crate) fn blaming(id: &str, incarnation: u32, node: &str) -> Finding {
    let suspect =
        Suspect { rank: Some(3), node: Some(NodeName(node.into())), score: 0.95, ..Suspect::default() };
    Finding { suspects: vec![suspect], ..finding(id, incarnation) }
}

/// A job of two ranks on each of three nodes, and its spares.
pub(crate) fn facts(incarnation: u32, spares: &[&str]) -> JobFacts {
    let place =
        |(index, node): (u32, &str)| Place { node: NodeName(node.into()), first_rank: index * 2, ranks: 2 };
    let layout = Layout {
        places: (0..).zip(["n0", "n1", "n2"]).map(place).collect(),
        spares: spares.iter().map(|node| NodeName((*node).into())).collect(),
        least_ranks: 0,
    };
    JobFacts {
        incarnation,
        means: Ok(Means::Agents(layout)),
        conflict: None,
        checkpoint: Some(120),
        opted_out: None,
    }
}
