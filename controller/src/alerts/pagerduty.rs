//! PagerDuty's Events API v2: one event for each finding, resolved when it is cleared. What PagerDuty takes for one incident is
//! told by `dedup_key`, which stays the same for as long as anybody speaks of the finding.

use c4_detect::observation::Timestamp;
use serde_json::{Value, json};

use super::{queue::Item, rfc3339};

/// Where events go, unless configured otherwise.
pub const ENDPOINT: &str = "https://events.pagerduty.com/v2/enqueue";
/// Bytes of a summary; PagerDuty refuses longer ones.
const LONGEST: usize = 1_024;

/// The event.
#[must_use]
pub fn body(item: &Item, routing_key: &str) -> Value {
    let notice = &item.notice;
    let finding = &notice.finding;
    let suspect = finding.suspects.first();
    let node = suspect.and_then(|suspect| suspect.node.as_ref()).map(|node| node.0.clone());
    let mut summary = notice.sentence();
    let mut end = summary.len().min(LONGEST);
    while !summary.is_char_boundary(end) {
        end -= 1;
    }
    summary.truncate(end);
    json!({
        "routing_key": routing_key,
        "event_action": if finding.cleared.is_some() { "resolve" } else { "trigger" },
        "dedup_key": dedup_key(&finding.job.0, &finding.id.0, finding.detected),
        "client": "C4",
        "payload": {
            "summary": summary,
            "source": node.unwrap_or_else(|| finding.job.0.clone()),
            "severity": notice.severity(),
            "timestamp": rfc3339(finding.since),
            "component": suspect.and_then(|suspect| suspect.rank).map(|rank| format!("rank {rank}")),
            "group": finding.job.0,
            "class": finding.kind.name(),
            "custom_details": {
                "finding": finding.id.0,
                "confidence": finding.confidence,
                "evidence": finding.evidence,
                "refuted_by": finding.refuted_by,
                "explains": finding.explains,
                "actions": notice.actions,
            },
        },
    })
}

/// Ids of findings begin again with the controller's memory; together with the time they were first told they do not. When the
/// fault began is no part of it: that may be known better later.
fn dedup_key(job: &str, finding: &str, detected: Timestamp) -> String {
    let mut key = format!("c4/{}/{finding}/{job}", detected.0);
    // PagerDuty takes 255 characters.
    let end = key.char_indices().nth(255).map_or(key.len(), |(end, _)| end);
    key.truncate(end);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::test::notice;

    #[test]
    fn a_finding_is_one_incident_from_its_beginning_to_its_end() {
        let at = Timestamp(1_700_000_000_000_000);
        let opened = body(&Item::loose(notice(at, false), "opened"), "key");
        let cleared = body(&Item::loose(notice(at, true), "cleared"), "key");
        assert_eq!(
            (&opened["event_action"], &cleared["event_action"]),
            (&json!("trigger"), &json!("resolve"))
        );
        assert_eq!(opened["dedup_key"], cleared["dedup_key"]);
        assert_eq!(opened["routing_key"], "key");
        let later = body(&Item::loose(notice(at.after(1), false), "opened"), "key");
        assert_ne!(opened["dedup_key"], later["dedup_key"], "another fault");
    }

    #[test]
    fn nothing_is_longer_than_pagerduty_takes() {
        let mut long = notice(Timestamp(1_700_000_000_000_000), false);
        long.finding.summary = "ü".repeat(2_000);
        long.finding.job.0 = "ü".repeat(400);
        let body = body(&Item::loose(long, "opened"), "key");
        assert!(body["payload"]["summary"].as_str().unwrap().len() <= LONGEST);
        assert!(body["dedup_key"].as_str().unwrap().chars().count() <= 255);
    }
}
