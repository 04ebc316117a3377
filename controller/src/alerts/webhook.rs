//! The generic webhook: the findings document of every other interface, with the event that caused it. Whoever wants
//! another form gives a template, which is filled with that document.

use c4_detect::report::findings_document;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Value, json};

use super::queue::Item;

/// Name of the one template there is.
const NAME: &str = "alert";
/// What filling a template may cost, in instructions: a template that loops must not hold up alerts.
const FUEL: u64 = 1_000_000;

/// `{"event": "opened" | "updated" | "cleared" | "repeated", "job": …, "sentence": …, "findings": [{…, "event": …,
/// "actions": […]}]}`. The event of all is that of the most urgent one.
#[must_use]
pub fn body(items: &[Item]) -> Value {
    let findings: Vec<_> = items.iter().map(|item| item.notice.finding.clone()).collect();
    let mut document = findings_document(&findings);
    for (index, item) in items.iter().enumerate() {
        document["findings"][index]["event"] = json!(item.event);
        document["findings"][index]["actions"] = json!(item.notice.actions);
        document["findings"][index]["sentence"] = json!(item.notice.sentence());
        document["findings"][index]["severity"] = json!(item.notice.severity());
    }
    let urgent = ["opened", "updated", "cleared"];
    let event = urgent.into_iter().find(|event| items.iter().any(|item| item.event == *event));
    let sentences: Vec<String> = items.iter().map(|item| item.notice.sentence()).collect();
    document["event"] = json!(event.unwrap_or("repeated"));
    document["job"] = json!(items.first().map(|item| item.notice.finding.job.0.clone()));
    document["sentence"] = json!(sentences.join("\n"));
    document
}

/// A template that gives JSON.
pub struct Template(Environment<'static>);

impl Template {
    /// Reads a template and fills it once, with `example`, so that a mistake shows at the start and not in the first alert.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(source: String, example: &[Item]) -> Result<Self, String> {
        let mut environment = Environment::new();
        // Every value that is put in is JSON: what is in a name cannot break out of its string.
        environment.set_auto_escape_callback(|_| AutoEscape::Json);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned(NAME, source).map_err(|error| describe(&error))?;
        let template = Self(environment);
        template.fill(&body(example))?;
        Ok(template)
    }

    /// The template with `document` in it.
    ///
    /// # Errors
    /// It names something that is not there, or the result is no JSON.
    pub fn fill(&self, document: &Value) -> Result<Value, String> {
        let filled =
            self.0.get_template(NAME).and_then(|template| template.render(minijinja::value::Serde(document)));
        let text = filled.map_err(|error| describe(&error))?;
        serde_json::from_str(&text).map_err(|error| format!("what comes of it is no JSON: {error}"))
    }
}

fn describe(error: &minijinja::Error) -> String {
    match error.line() {
        Some(line) => format!("line {line}: {error}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::test::notice;

    fn item(event: &'static str, summary: &str) -> Item {
        let mut notice = notice(c4_detect::observation::Timestamp(1_700_000_000_000_000), false);
        notice.finding.summary = summary.into();
        Item::loose(notice, event)
    }

    #[test]
    fn the_most_urgent_event_stands_for_all() {
        let document = body(&[item("cleared", "a"), item("opened", "b")]);
        assert_eq!((&document["event"], &document["sentence"]), (&json!("opened"), &json!("a\nb")));
        assert_eq!(document["findings"][0]["event"], "cleared");
        assert_eq!(document["findings"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_put_in_cannot_break_out() {
        let source = r#"{"text": {{ sentence }}, "ids": [{% for f in findings %}{{ f.id }}{% if not loop.last %},{% endif %}{% endfor %}]}"#;
        let example = [item("opened", "x"), item("opened", "y")];
        let template = Template::new(source.into(), &example).unwrap();
        let hostile = r#"", "admin": true, "x": ""#;
        let filled = template.fill(&body(&[item("opened", hostile)])).unwrap();
        assert_eq!(filled["text"], hostile);
        assert!(filled.get("admin").is_none());
    }

    #[test]
    fn mistakes_show_at_once() {
        let example = [item("opened", "x")];
        for (source, said) in [
            ("{\"a\": {{ nothing }}}", "undefined"),
            ("{\"a\": {{ sentence }", "line 1"),
            ("{\"a\": }", "no JSON"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = Template::new(source.into(), &example).err().unwrap_or_default();
            assert!(error.contains(said), "{source}: {error}");
        }
    }
}
