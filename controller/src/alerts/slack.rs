//! Slack's incoming webhooks, and what is compatible with them (Mattermost, Rocket.Chat, Discord's `/slack`): one message
//! for each delivery, with a coloured line for each finding.

use serde_json::{Value, json};

use super::queue::Item;

/// Findings shown in one message; Slack takes no more than some dozens.
const MOST: usize = 20;
/// Bytes of one text; Slack cuts longer ones anyway.
const LONGEST: usize = 3_000;

/// The message.
#[must_use]
pub fn body(items: &[Item]) -> Value {
    let shown: Vec<Value> = items.iter().take(MOST).map(attachment).collect();
    let job = items.first().map_or("", |item| item.notice.finding.job.0.as_str());
    let first = items.first().map_or_else(String::new, line);
    let text = match items.len() {
        0 | 1 => first,
        n => format!("{n} findings about {}", escape(job)),
    };
    json!({ "text": text, "attachments": shown })
}

fn line(item: &Item) -> String {
    let finding = &item.notice.finding;
    let verb = match item.event {
        "cleared" => "Cleared",
        "opened" => "New",
        _ => "Still open",
    };
    format!("{verb}: {} in {}", finding.kind.name(), escape(&finding.job.0))
}

fn attachment(item: &Item) -> Value {
    let finding = &item.notice.finding;
    let colour = match (item.event, item.notice.severity()) {
        ("cleared", _) => "good",
        (_, "critical") => "danger",
        (_, "warning") => "warning",
        _ => "#439FE0",
    };
    let field =
        |title: &str, value: String| json!({ "title": title, "value": escape(&value), "short": true });
    let mut fields = vec![field("Finding", finding.id.0.clone())];
    if let Some(suspect) = finding.suspects.first() {
        fields.extend(suspect.rank.map(|rank| field("Rank", rank.to_string())));
        fields.extend(suspect.node.as_ref().map(|node| field("Node", node.0.clone())));
    }
    fields.push(field("Confidence", format!("{:.0} %", finding.confidence * 100.0)));
    let sentence = escape(&item.notice.sentence());
    json!({
        "color": colour,
        "title": line(item),
        "text": sentence,
        "fallback": sentence,
        "fields": fields,
        "ts": finding.since.0 / 1_000_000,
        "footer": "C4",
    })
}

/// Slack's three characters that mean something: without this a name could mention everybody, or be a link.
fn escape(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::Timestamp;

    use super::*;
    use crate::alerts::test::notice;

    #[test]
    fn a_name_mentions_nobody() {
        let mut notice = notice(Timestamp(1_700_000_000_000_000), false);
        notice.finding.summary = "rank 3 of <!channel> & <http://evil|here> hangs".into();
        let body = body(&[Item::loose(notice, "opened")]);
        assert_eq!(
            body["attachments"][0]["text"],
            "rank 3 of &lt;!channel&gt; &amp; &lt;http://evil|here&gt; hangs"
        );
        assert_eq!(body["attachments"][0]["ts"], 1_700_000_000);
    }

    #[test]
    fn what_is_cleared_is_green_and_many_are_one_message() {
        let at = Timestamp(1_700_000_000_000_000);
        let many: Vec<Item> = (0..50).map(|_| Item::loose(notice(at, true), "cleared")).collect();
        let body = body(&many);
        assert_eq!(body["attachments"].as_array().unwrap().len(), MOST);
        assert_eq!(body["attachments"][0]["color"], "good");
        assert!(body["text"].as_str().unwrap().starts_with("50 findings about "));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(escape(&"é".repeat(5_000)).chars().count(), LONGEST / 2);
    }
}
