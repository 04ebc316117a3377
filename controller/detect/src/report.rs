//! Findings as the JSON document that scripts rely on. Every interface that shows findings in JSON calls this one
//! function, so there is one form.

use serde_json::{Map, Value, json};

use crate::{
    change::{ChangePoint, Grown},
    finding::{Finding, Suspect},
    words::rfc3339,
};

/// `{"findings": […]}`. Timestamps are RFC 3339 in UTC with milliseconds; what is not known of a suspect is left out.
#[must_use]
pub fn findings_document(findings: &[Finding]) -> Value {
    json!({ "findings": findings.iter().map(finding_value).collect::<Vec<_>>() })
}

/// One entry of [`findings_document`].
#[must_use]
pub fn finding_value(finding: &Finding) -> Value {
    json!({
        "id": finding.id.0,
        "job": finding.job.0,
        "incarnation": finding.incarnation,
        "kind": finding.kind.name(),
        "suspects": finding.suspects.iter().map(suspect_value).collect::<Vec<_>>(),
        "confidence": round(finding.confidence),
        "since": rfc3339(finding.since),
        "detected": rfc3339(finding.detected),
        "cleared": finding.cleared.map(rfc3339),
        "summary": finding.summary,
        "evidence": finding.evidence,
        "explains": finding.explains,
        "refuted_by": finding.refuted_by,
    })
}

/// A change of the iteration time, as every interface shows it.
#[must_use]
pub fn change_value(change: &ChangePoint) -> Value {
    let seconds = |us: u64| us as f64 / 1e6;
    let grown = |grown: &Grown| {
        json!({
            "communicator": grown.communicator,
            "communicators": grown.communicators,
            "part": grown.part.name(),
            "operations": grown.operations,
            "before_seconds": seconds(grown.before_us),
            "after_seconds": seconds(grown.after_us),
        })
    };
    json!({
        "at": rfc3339(change.at),
        "before_seconds": seconds(change.before_us),
        "after_seconds": seconds(change.after_us),
        "gradual": change.gradual,
        "grew": change.grew.iter().map(grown).collect::<Vec<_>>(),
    })
}

fn suspect_value(suspect: &Suspect) -> Value {
    let mut map = Map::new();
    if let Some(rank) = suspect.rank {
        map.insert("rank".into(), json!(rank));
    }
    if let Some(node) = &suspect.node {
        map.insert("node".into(), json!(node.0));
    }
    if let Some(gpu) = suspect.gpu {
        map.insert("gpu".into(), json!(gpu));
    }
    if let Some(nic) = &suspect.nic {
        map.insert("nic".into(), json!(nic));
    }
    if let Some(link) = &suspect.link {
        map.insert("link".into(), json!({ "src": link.src, "dst": link.dst }));
    }
    map.insert("score".into(), json!(round(suspect.score)));
    Value::Object(map)
}

/// Three digits are what a score or a confidence is worth; NaN would not be JSON.
fn round(x: f64) -> f64 {
    if x.is_finite() { (x * 1000.0).round() / 1000.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        finding::{FindingId, Kind, Link},
        observation::{JobId, NodeName, Timestamp},
    };

    #[test]
    fn has_the_documented_form() {
        let finding = Finding {
            id: FindingId("c4-1".into()),
            job: JobId("llm".into()),
            incarnation: 2,
            kind: Kind::CommHang,
            suspects: vec![Suspect {
                rank: Some(2),
                node: Some(NodeName("node-1".into())),
                link: Some(Link { src: "rank 2".into(), dst: "rank 3".into() }),
                score: 0.900_04,
                ..Suspect::default()
            }],
            confidence: f64::NAN,
            since: Timestamp(1_700_000_000_123_456),
            detected: Timestamp(1_700_000_004_000_000),
            cleared: None,
            summary: "a sentence".into(),
            evidence: BTreeMap::from([("waiting".to_owned(), json!(7))]),
            explains: vec!["rank 5 waits".into()],
            refuted_by: "progress".into(),
        };
        assert_eq!(
            findings_document(&[finding]),
            json!({"findings": [{
                "id": "c4-1", "job": "llm", "incarnation": 2, "kind": "comm_hang",
                "suspects": [{"rank": 2, "node": "node-1", "link": {"src": "rank 2", "dst": "rank 3"}, "score": 0.9}],
                "confidence": 0.0,
                "since": "2023-11-14T22:13:20.123Z", "detected": "2023-11-14T22:13:24.000Z", "cleared": null,
                "summary": "a sentence", "evidence": {"waiting": 7}, "explains": ["rank 5 waits"],
                "refuted_by": "progress",
            }]})
        );
    }
}
