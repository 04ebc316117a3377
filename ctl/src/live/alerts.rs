//! `c4ctl alerts test`: does everybody hear who should be told?

use c4_proto::v1;
use serde_json::json;

use super::Asked;
use crate::{
    failure::Failure,
    output::Style,
    words::{count, printable},
};

/// Has every receiver told of a finding that is none. One that does not take it is a failed check.
pub(super) async fn test(asked: &mut Asked<'_>) -> Result<(), Failure> {
    let mut calls = asked.client.alerting.clone();
    let call = calls.test_receivers(v1::TestReceiversRequest {});
    let receivers = asked.client.call(asked.timeout, "", call).await?.receivers;
    let deaf = receivers.iter().filter(|receiver| !receiver.ok).count();
    let out = &mut *asked.out;
    if asked.json {
        let value = |receiver: &v1::ReceiverTest| json!({ "name": receiver.name, "kind": receiver.kind, "ok": receiver.ok, "detail": receiver.detail });
        out.json(&json!({ "receivers": receivers.iter().map(value).collect::<Vec<_>>() }))?;
    } else if receivers.is_empty() {
        out.line("The controller has no receivers of alerts: see `alerts` in its configuration.")?;
    } else {
        for receiver in &receivers {
            let (style, word) = if receiver.ok { (Style::Good, "ok") } else { (Style::Bad, "failed") };
            let word = out.paint(style, word);
            let why = if receiver.ok { String::new() } else { format!(": {}", printable(&receiver.detail)) };
            out.line(format!("{} ({}) {word}{why}", printable(&receiver.name), printable(&receiver.kind)))?;
        }
    }
    out.flush()?;
    match deaf {
        0 => Ok(()),
        n => Err(Failure::Check(format!("{} did not take the test", count(n as u64, "receiver")))),
    }
}
