//! A finding that is none, to try receivers with.

use std::collections::BTreeMap;

use c4_detect::{
    finding::{Finding, FindingId, Kind, Suspect},
    observation::{JobId, NodeName, Timestamp},
};

use super::Notice;

/// A notice that says it is a test, open or cleared.
#[must_use]
pub fn notice(now: Timestamp, cleared: bool) -> Notice {
    let finding = Finding {
        id: FindingId("test".into()),
        job: JobId("c4-test".into()),
        incarnation: 0,
        kind: Kind::Health,
        suspects: vec![Suspect {
            rank: Some(0),
            node: Some(NodeName("c4-test".into())),
            score: 1.0,
            ..Suspect::default()
        }],
        confidence: 1.0,
        since: now,
        detected: now,
        cleared: cleared.then(|| now.after(1_000)),
        summary: "this is a test of C4's alerts; nothing is wrong".into(),
        evidence: BTreeMap::new(),
        explains: Vec::new(),
        refuted_by: "it is a test".into(),
    };
    Notice { finding, actions: Vec::new() }
}
