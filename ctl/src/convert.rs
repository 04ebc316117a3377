//! The controller's messages as what the rest of c4ctl works with. A finding that came over the wire becomes the
//! detector's own type, so that live and offline findings go through the same code on their way out.

use std::collections::BTreeMap;

use c4_detect::{
    change::{ChangePoint, Grown, Part},
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{JobId, NodeName, Timestamp},
};
use c4_proto::v1;
use serde_json::Value;

use crate::finding::Report;

/// What a message lied about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A kind this version does not know.
    #[error("finding {id}: kind {kind:?} is not known to this version of c4ctl; is the controller newer?")]
    Kind {
        /// The finding.
        id: String,
        /// What it claims to be.
        kind: String,
    },
    /// A time before 1970.
    #[error("finding {id}: {field} is {value} µs since 1970, expected a time after it")]
    Time {
        /// The finding.
        id: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// Evidence that is no JSON object.
    #[error("finding {id}: evidence_json is not a JSON object: {problem}")]
    Evidence {
        /// The finding.
        id: String,
        /// Why not.
        problem: String,
    },
}

const KINDS: [Kind; 9] = [
    Kind::ProcessDeath,
    Kind::NonCommHang,
    Kind::CommHang,
    Kind::Desync,
    Kind::NonCommSlow,
    Kind::CommSlow,
    Kind::Health,
    Kind::WorkloadImbalance,
    Kind::PathFault,
];

impl TryFrom<v1::Finding> for Report {
    type Error = ConvertError;

    fn try_from(wire: v1::Finding) -> Result<Self, ConvertError> {
        let id = wire.id;
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.name() == wire.kind)
            .ok_or_else(|| ConvertError::Kind { id: id.clone(), kind: wire.kind.clone() })?;
        let time = |field, value: i64| {
            u64::try_from(value).map(Timestamp).map_err(|_| ConvertError::Time {
                id: id.clone(),
                field,
                value,
            })
        };
        let finding = Finding {
            job: JobId(wire.job),
            incarnation: wire.incarnation,
            kind,
            suspects: wire.suspects.into_iter().map(suspect).collect(),
            confidence: wire.confidence,
            since: time("since_unix_us", wire.since_unix_us)?,
            detected: time("detected_unix_us", wire.detected_unix_us)?,
            cleared: wire.cleared_unix_us.map(|us| time("cleared_unix_us", us)).transpose()?,
            summary: wire.summary,
            evidence: evidence(&id, &wire.evidence_json)?,
            explains: wire.explains,
            refuted_by: wire.refuted_by,
            id: FindingId(id),
        };
        Ok(Report { finding, actions: wire.actions })
    }
}

/// A change of the iteration time. Parts that this version does not know are left out.
#[must_use]
pub fn change(wire: v1::IterationChange) -> ChangePoint {
    let us = |seconds: f64| (seconds * 1e6).round().max(0.0) as u64;
    let grown = |grown: v1::GrownPart| {
        let part =
            [Part::Own, Part::Waiting, Part::Transfer].into_iter().find(|part| part.name() == grown.part)?;
        Some(Grown {
            communicator: grown.communicator,
            communicators: grown.communicators,
            part,
            operations: grown.operations,
            before_us: us(grown.before_seconds),
            after_us: us(grown.after_seconds),
        })
    };
    ChangePoint {
        at: Timestamp(u64::try_from(wire.at_unix_us).unwrap_or(0)),
        before_us: us(wire.before_seconds),
        after_us: us(wire.after_seconds),
        gradual: wire.gradual,
        grew: wire.grew.into_iter().filter_map(grown).collect(),
    }
}

fn evidence(id: &str, text: &str) -> Result<BTreeMap<String, Value>, ConvertError> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(text)
        .map_err(|error| ConvertError::Evidence { id: id.to_owned(), problem: error.to_string() })
}

fn suspect(wire: v1::Suspect) -> Suspect {
    let some = |text: String| if text.is_empty() { None } else { Some(text) };
    Suspect {
        rank: wire.rank,
        node: some(wire.node).map(NodeName),
        gpu: wire.gpu,
        nic: some(wire.nic),
        link: wire.link.map(|link| Link { src: link.src, dst: link.dst }),
        score: wire.score,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Finding {
        v1::Finding {
            id: "f-1".into(),
            job: "train".into(),
            kind: "non_comm_hang".into(),
            suspects: vec![v1::Suspect {
                rank: Some(3),
                node: "n1".into(),
                score: 0.9,
                ..Default::default()
            }],
            confidence: 0.9,
            since_unix_us: 1,
            detected_unix_us: 2,
            evidence_json: r#"{"waiting":7}"#.into(),
            actions: vec!["restart 1 of 3".into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_finding_keeps_everything() {
        let report = Report::try_from(wire()).expect("valid");
        assert_eq!(report.finding.kind, Kind::NonCommHang);
        assert_eq!(report.finding.suspects[0].rank, Some(3));
        assert_eq!(report.finding.suspects[0].nic, None);
        assert_eq!(report.finding.evidence["waiting"], 7);
        assert_eq!(report.finding.cleared, None);
        assert_eq!(report.actions, ["restart 1 of 3"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let kind =
            Report::try_from(v1::Finding { kind: "gremlins".into(), ..wire() }).expect_err("unknown kind");
        assert!(kind.to_string().contains("gremlins"), "{kind}");
        let time = Report::try_from(v1::Finding { since_unix_us: -5, ..wire() }).expect_err("before 1970");
        assert!(time.to_string().contains("since_unix_us is -5"), "{time}");
        let evidence =
            Report::try_from(v1::Finding { evidence_json: "[1]".into(), ..wire() }).expect_err("no object");
        assert!(evidence.to_string().contains("not a JSON object"), "{evidence}");
    }
}
