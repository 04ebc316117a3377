//! Alertmanager's v2 API: `POST {base}/api/v2/alerts` with a list of alerts.
//!
//! An alert's labels are its identity, so they hold only what never changes about a finding; all that may change is in
//! the annotations. An open alert is given an end a few repetitions ahead, as Prometheus does: should this controller
//! die, its alerts end by themselves.

use c4_detect::{
    finding::{Finding, Kind},
    observation::Timestamp,
};
use serde_json::{Value, json};

use super::{Notice, queue::Item, rfc3339};

/// Repetitions that an open alert outlives.
const OUTLIVES: u64 = 4;

/// Appends the path of the API to the configured base.
#[must_use]
pub fn endpoint(base: &str) -> String {
    let base = base.trim_end_matches('/');
    if base.ends_with("/api/v2/alerts") { base.to_owned() } else { format!("{base}/api/v2/alerts") }
}

/// The body that tells of some findings.
#[must_use]
pub fn body(items: &[Item], now: Timestamp, repeat_us: u64) -> Value {
    items.iter().map(|item| alert(&item.notice, now, repeat_us)).collect()
}

fn alert(notice: &Notice, now: Timestamp, repeat_us: u64) -> Value {
    let finding = &notice.finding;
    let mut labels = json!({
        "alertname": format!("C4{}", camel(finding.kind)),
        "job": finding.job.0,
        "incarnation": finding.incarnation.to_string(),
        "kind": finding.kind.name(),
        "severity": notice.severity(),
        "finding": finding.id.0,
    });
    // Suspects may be re-ranked while a finding is open; as labels they would make another alert of it.
    let mut annotations = json!({
        "summary": notice.sentence(),
        "description": description(notice),
    });
    if let Some(suspect) = finding.suspects.first() {
        if let Some(rank) = suspect.rank {
            labels["rank"] = json!(rank.to_string());
        }
        if let Some(node) = &suspect.node {
            labels["node"] = json!(node.0);
        }
        if let Some(gpu) = suspect.gpu {
            annotations["gpu"] = json!(gpu.to_string());
        }
    }
    let ends = finding.cleared.unwrap_or_else(|| now.after(repeat_us.saturating_mul(OUTLIVES)));
    json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(finding.since),
        "endsAt": rfc3339(ends.max(finding.since.after(1000))),
    })
}

fn description(notice: &Notice) -> String {
    let finding = &notice.finding;
    let mut lines = vec![format!("Confidence {:.2}.", finding.confidence)];
    if !finding.refuted_by.is_empty() {
        lines.push(format!("Refuted by: {}", finding.refuted_by));
    }
    lines.extend(finding.explains.iter().map(|what| format!("Explains: {what}")));
    lines.extend(notice.actions.iter().map(|what| format!("Action: {what}")));
    lines.extend(evidence(finding));
    lines.join("\n")
}

fn evidence(finding: &Finding) -> Vec<String> {
    finding.evidence.iter().take(20).map(|(name, value)| format!("{name}: {value}")).collect()
}

fn camel(kind: Kind) -> String {
    let upper = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    };
    kind.name().split('_').map(upper).collect()
}

#[cfg(test)]
mod tests {
    use c4_detect::{
        finding::{FindingId, Suspect},
        observation::{JobId, NodeName},
    };

    use super::*;

    fn notice() -> Notice {
        Notice {
            finding: Finding {
                id: FindingId("f-1".into()),
                job: JobId("llm".into()),
                incarnation: 0,
                kind: Kind::NonCommHang,
                suspects: vec![Suspect {
                    rank: Some(3),
                    node: Some(NodeName("n1".into())),
                    ..Suspect::default()
                }],
                confidence: 0.9,
                since: Timestamp(1_700_000_000_000_000),
                detected: Timestamp(1_700_000_004_000_000),
                cleared: None,
                summary: "rank 3 never entered the all-reduce".into(),
                evidence: [("waiting_ms".to_owned(), json!(4000))].into(),
                explains: Vec::new(),
                refuted_by: "rank 3 enters operation 40".into(),
            },
            actions: vec!["job restarted".into()],
        }
    }

    #[test]
    fn an_open_alert_ends_a_few_repetitions_ahead() {
        let body = body(&[Item::loose(notice(), "opened")], Timestamp(1_700_000_010_000_000), 60_000_000);
        assert_eq!(body[0]["labels"]["alertname"], "C4NonCommHang");
        assert_eq!(body[0]["labels"]["rank"], "3");
        assert_eq!(body[0]["labels"]["severity"], "critical");
        assert_eq!(body[0]["startsAt"], "2023-11-14T22:13:20.000Z");
        assert_eq!(body[0]["endsAt"], "2023-11-14T22:17:30.000Z");
        assert_eq!(body[0]["annotations"]["summary"], "rank 3 never entered the all-reduce; job restarted");
        assert!(body[0]["annotations"]["description"].as_str().unwrap().contains("waiting_ms: 4000"));
    }

    #[test]
    fn a_cleared_alert_ends_when_it_cleared() {
        let mut notice = notice();
        notice.finding.cleared = Some(Timestamp(1_700_000_007_000_000));
        assert_eq!(
            body(&[Item::loose(notice, "cleared")], Timestamp(1_700_000_010_000_000), 1)[0]["endsAt"],
            "2023-11-14T22:13:27.000Z"
        );
    }

    #[test]
    fn the_endpoint_is_found_from_the_base() {
        for base in ["http://a:9093", "http://a:9093/", "http://a:9093/api/v2/alerts"] {
            assert_eq!(endpoint(base), "http://a:9093/api/v2/alerts");
        }
    }
}
