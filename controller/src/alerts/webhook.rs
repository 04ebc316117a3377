//! The generic webhook: the findings document of every other interface, with the event that caused it.

use c4_detect::report::findings_document;
use serde_json::{Value, json};

use super::Notice;

/// `{"event": "opened" | "updated" | "cleared", "findings": [{…, "actions": […]}]}`.
#[must_use]
pub fn body(notice: &Notice, event: &str) -> Value {
    let mut document = findings_document(std::slice::from_ref(&notice.finding));
    document["event"] = json!(event);
    document["sentence"] = json!(notice.sentence());
    document["findings"][0]["actions"] = json!(notice.actions);
    document
}
