//! A job and its findings in one HTML file, to be attached to a ticket: the page's own code and style, with the documents
//! that it would ask for.
//!
//! The page's files are ECMAScript modules, which a file alone cannot load. Each becomes a function that returns what it
//! exports, in the order in which they need each other. They are ours, so their imports and exports have one form, a line
//! each; a test holds them to it.

use std::fmt::Write;

use c4_detect::observation::{JobId, Timestamp};
use serde_json::{Value, json};

use super::{assets, document};
use crate::{
    alerts::{rfc3339, sentence},
    events::EventLog,
    findings::Record,
    snapshot::Snapshot,
};

/// Findings with pictures of their own, the newest first.
const MAX_FINDINGS: usize = 5;
/// The first of the files.
const ENTRY: &str = "report.js";

/// The report, if the job is known.
pub(super) fn html(picture: &Snapshot, events: &EventLog, id: &JobId, now: Timestamp) -> Option<String> {
    let job = document::job(picture, events, id)?;
    let mut records: Vec<&Record> =
        picture.findings.values().filter(|record| record.finding.job == *id).collect();
    records
        .sort_by_key(|record| (record.finding.cleared.is_some(), std::cmp::Reverse(record.finding.detected)));
    let findings = records.iter().take(MAX_FINDINGS);
    let documents: Vec<Value> = std::iter::once(job)
        .chain(findings.filter_map(|record| document::finding(picture, &record.finding.id)))
        .collect();
    // Text of others stands within a script element, which nothing in it may end.
    let data = json!({"taken_us": now.0, "documents": documents}).to_string().replace('<', "\\u003c");
    let mut words = String::new();
    for record in &records {
        let told = sentence(&record.finding.summary, &record.actions);
        let over = record.finding.cleared.map_or(String::new(), |at| format!(" (over at {})", rfc3339(at)));
        let since = rfc3339(record.finding.since);
        // Writing to a string cannot fail.
        let _ = writeln!(words, "<li>{since} {}{over}</li>", escaped(&told));
    }
    let (title, style, script) = (escaped(&id.0), assets::text("style.css")?, bundle(ENTRY));
    let at = rfc3339(now);
    Some(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<title>C4 report: {title}</title>\n<style>\n{style}</style></head>\n<body>\n\
         <main id=\"main\"><h1>Job {title} at {at}</h1><ul>\n{words}</ul></main>\n\
         <script type=\"application/json\" id=\"documents\">{data}</script>\n<script>\n{script}</script>\n</body></html>\n"
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A module and all that it needs as one script.
fn bundle(entry: &str) -> String {
    let (mut script, mut done) = (String::from("\"use strict\";\n"), Vec::new());
    add(entry, &mut script, &mut done);
    script
}

fn add(name: &str, script: &mut String, done: &mut Vec<String>) {
    if done.iter().any(|known| known == name) {
        return;
    }
    done.push(name.to_owned());
    let (mut body, mut exports) = (String::new(), Vec::new());
    for line in assets::text(name).unwrap_or_default().lines() {
        if let Some((what, from)) = import(line) {
            add(from, script, done);
            let what = what.strip_prefix("* as ").unwrap_or(what);
            // Writing to a string cannot fail.
            let _ = writeln!(body, "const {what} = {};", variable(from));
        } else if let Some(rest) = line.strip_prefix("export ") {
            exports.extend(rest.split([' ', '(', ';']).nth(1).map(str::to_owned));
            body.push_str(rest);
            body.push('\n');
        } else {
            body.push_str(line);
            body.push('\n');
        }
    }
    let (variable, exports) = (variable(name), exports.join(", "));
    let _ = writeln!(script, "const {variable} = (() => {{\n{body}return {{ {exports} }};\n}})();");
}

/// What a line imports, and from which file.
fn import(line: &str) -> Option<(&str, &str)> {
    let (what, from) = line.strip_prefix("import ")?.split_once(" from \"./")?;
    Some((what, from.strip_suffix("\";")?))
}

fn variable(file: &str) -> String {
    format!("module_{}", file.trim_end_matches(".js"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_there_once_and_none_is_left_to_load() {
        let script = bundle(ENTRY);
        for name in ["dom", "words", "model", "grid", "finding", "job", "report"] {
            assert_eq!(script.matches(&format!("const module_{name} = (() =>")).count(), 1, "{name}");
        }
        for line in script.lines() {
            assert!(!line.trim_start().starts_with("import ") && !line.starts_with("export "), "{line}");
        }
        assert!(script.find("const module_dom =") < script.find("const module_grid ="));
        assert!(script.contains("const { about, story } = module_model;"));
    }
}
