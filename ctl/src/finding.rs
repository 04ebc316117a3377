//! How a finding reads, wherever it comes from: the sentence for 3 a.m. first, then what it rests on.

use std::io;

use c4_detect::{
    finding::{Finding, Suspect},
    report::findings_document,
};
use serde_json::Value;

use crate::{
    output::{Output, Style},
    table::{Align, Table},
    words::{duration_us, moment, moment_ago, printable},
};

/// Evidence that is not a number but advice: what to do about the cause.
const ADVICE: &str = "recommended_action";

/// A finding and what was done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The diagnosis.
    pub finding: Finding,
    /// What was done, or would have been done.
    pub actions: Vec<String>,
}

/// The document for scripts; its schema is an interface.
#[must_use]
pub fn document(reports: &[Report]) -> Value {
    let findings: Vec<Finding> = reports.iter().map(|report| report.finding.clone()).collect();
    let mut document = findings_document(&findings);
    if let Some(Value::Array(entries)) = document.get_mut("findings") {
        for (entry, report) in entries.iter_mut().zip(reports) {
            if let Value::Object(entry) = entry {
                entry.insert("actions".to_owned(), Value::from(report.actions.clone()));
            }
        }
    }
    document
}

/// A suspect in a few words: "rank 3 (n1, GPU 3)".
#[must_use]
pub fn suspect(suspect: &Suspect) -> String {
    let mut place: Vec<String> = Vec::new();
    let head = match (suspect.rank, &suspect.link, &suspect.node) {
        (Some(rank), _, node) => {
            place.extend(node.as_ref().map(|node| node.0.clone()));
            format!("rank {rank}")
        }
        (None, Some(link), node) => {
            place.extend(node.as_ref().map(|node| node.0.clone()));
            format!("link {} → {}", link.src, link.dst)
        }
        (None, None, Some(node)) => format!("node {}", node.0),
        (None, None, None) => "unknown".to_owned(),
    };
    place.extend(suspect.gpu.map(|gpu| format!("GPU {gpu}")));
    place.extend(suspect.nic.clone());
    if let (Some(_), Some(link)) = (suspect.rank, &suspect.link) {
        place.push(format!("link {} → {}", link.src, link.dst));
    }
    if place.is_empty() { head } else { format!("{head} ({})", place.join(", ")) }
}

/// A line a finding.
///
/// # Errors
/// When it cannot be written.
pub fn print_table(reports: &[Report], out: &mut Output) -> io::Result<()> {
    let wide = out.is_wide();
    let mut columns = vec![
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("KIND", Align::Left),
        ("JOB", Align::Left),
        ("SINCE", Align::Left),
        ("CONF", Align::Right),
    ];
    if wide {
        columns.extend([("FOUND AFTER", Align::Right), ("SUSPECTS", Align::Left), ("DONE", Align::Left)]);
    }
    columns.push(("SUMMARY", Align::Left));
    let mut table = Table::new(&columns);
    for Report { finding, actions } in reports {
        let state = match finding.cleared {
            None => crate::table::Cell::styled("open", Style::Bad),
            Some(_) => crate::table::Cell::styled("cleared", Style::Dim),
        };
        let mut row = vec![
            (&finding.id.0).into(),
            state,
            finding.kind.name().into(),
            (&finding.job.0).into(),
            moment(finding.since.0).into(),
            percent(finding.confidence).into(),
        ];
        if wide {
            let suspects: Vec<String> = finding.suspects.iter().take(3).map(suspect).collect();
            row.push(duration_us(finding.detected.micros_since(finding.since)).into());
            row.push(suspects.join("; ").into());
            row.push(actions.last().map_or("–", String::as_str).into());
        }
        row.push((&finding.summary).into());
        table.row(row);
    }
    table.print(out)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// How moments are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// As date and time, and how long before this moment (µs since the Unix epoch) they were.
    Ago(u64),
    /// As date and time.
    Dates,
    /// Counted from this one (in the finding's own µs): a recording whose clock tells no date.
    After(u64),
}

impl Moments {
    fn tell(self, us: u64) -> String {
        match self {
            Moments::Ago(now) => moment_ago(us, now),
            Moments::Dates => moment(us),
            Moments::After(start) => format!("{} after the start", duration_us(us.saturating_sub(start))),
        }
    }
}

/// Everything about one finding.
///
/// # Errors
/// When it cannot be written.
pub fn explain(report: &Report, moments: Moments, out: &mut Output) -> io::Result<()> {
    let finding = &report.finding;
    let when = |us: u64| moments.tell(us);
    let style = if finding.cleared.is_some() { Style::Good } else { Style::Bad };
    let sentence = out.paint(style, printable(&finding.summary));
    out.line(sentence)?;
    out.line("")?;
    let mut facts = vec![
        ("Finding", format!("{} ({})", finding.id.0, finding.kind.name())),
        ("Job", job(finding)),
        ("Confidence", percent(finding.confidence)),
        ("Since", when(finding.since.0)),
        ("Detected", when(finding.detected.0)),
    ];
    match finding.cleared {
        Some(cleared) => facts.push(("Cleared", when(cleared.0))),
        None => facts.push(("Cleared", "no, still open".to_owned())),
    }
    for (name, value) in facts {
        out.line(format!("{name:<12}{}", printable(&value)))?;
    }
    let suspects: Vec<String> = finding
        .suspects
        .iter()
        .enumerate()
        .map(|(index, who)| format!("{}. {}, score {:.2}", index + 1, suspect(who), who.score))
        .collect();
    section("Suspects", &suspects, out)?;
    let advice = finding.evidence.get(ADVICE).and_then(Value::as_str).map(str::to_owned);
    section("What to do", &advice.into_iter().collect::<Vec<_>>(), out)?;
    let mut numbers = Vec::new();
    for (name, value) in finding.evidence.iter().filter(|(name, _)| *name != ADVICE) {
        flatten(&name.replace('_', " "), value, &mut numbers);
    }
    let widest = numbers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(40);
    let numbers: Vec<String> =
        numbers.into_iter().map(|(name, value)| format!("{name:<widest$}  {value}")).collect();
    section("The numbers it rests on", &numbers, out)?;
    section("It also explains", &finding.explains, out)?;
    let refuted: Vec<String> =
        Some(finding.refuted_by.clone()).filter(|text| !text.is_empty()).into_iter().collect();
    section("What would show it wrong", &refuted, out)?;
    section("What was done", &report.actions, out)
}

fn job(finding: &Finding) -> String {
    match finding.incarnation {
        0 => finding.job.0.clone(),
        restarts => format!("{} (restarted {restarts}×)", finding.job.0),
    }
}

fn section(title: &str, lines: &[String], out: &mut Output) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let title = out.paint(Style::Bold, title);
    out.line(title)?;
    for line in lines {
        out.line(format!("  {}", printable(line)))?;
    }
    Ok(())
}

/// Evidence as lines of name and value: objects are opened up, lists of plain values stay on one line.
fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                flatten(&format!("{name}: {}", field.replace('_', " ")), value, into);
            }
        }
        Value::Array(entries) if entries.iter().any(|entry| entry.is_object() || entry.is_array()) => {
            for (index, entry) in entries.iter().enumerate() {
                flatten(&format!("{name} {}", index + 1), entry, into);
            }
        }
        Value::Array(entries) => {
            let words: Vec<String> = entries.iter().map(plain).collect();
            into.push((name.to_owned(), words.join(", ")));
        }
        value => into.push((name.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => significant(float),
            _ => number.to_string(),
        },
        value => value.to_string(),
    }
}

/// Four significant digits, however small the number.
fn significant(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return format!("{number}");
    }
    let magnitude = number.abs().log10().floor() as i32;
    let decimals = usize::try_from(3 - magnitude).unwrap_or(0).min(12);
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use c4_detect::{finding::Link, observation::NodeName};
    use serde_json::json;

    use super::*;

    #[test]
    fn suspects_say_where_they_are() {
        let rank =
            Suspect { rank: Some(3), node: Some(NodeName("n1".into())), gpu: Some(2), ..Suspect::default() };
        assert_eq!(suspect(&rank), "rank 3 (n1, GPU 2)");
        let link =
            Suspect { link: Some(Link { src: "rank 1".into(), dst: "rank 2".into() }), ..Suspect::default() };
        assert_eq!(suspect(&link), "link rank 1 → rank 2");
        assert_eq!(suspect(&Suspect { node: Some(NodeName("n1".into())), ..Suspect::default() }), "node n1");
    }

    #[test]
    fn small_numbers_do_not_become_zero() {
        for (number, text) in [(0.000_312_49, "0.0003125"), (1.5, "1.5"), (123_456.7, "123457"), (0.0, "0")] {
            assert_eq!(significant(number), text);
        }
    }

    #[test]
    fn evidence_is_opened_up() {
        let mut lines = Vec::new();
        flatten("waits", &json!({"rank 0": {"late_us": 1.5}, "ranks": [1, 2]}), &mut lines);
        assert_eq!(
            lines,
            [("waits: rank 0: late us".into(), "1.5".into()), ("waits: ranks".into(), "1, 2".to_owned())]
        );
    }
}
