//! `c4ctl topology`: the topology that planning needs, from how the network is wired rather than from somebody's head.
//!
//! Hosts and switches that run an LLDP daemon know who is at the other end of each of their cables. What they print is
//! read ([`lldp`]) and put together ([`cabling`]); the result is the document that `c4ctl plan` and the controller take, or
//! what differs from one that is there already.

use std::path::Path;

use c4_traffic::{
    differences::{Comparison, compare},
    document::{self, topology_json, topology_yaml},
};
use serde_json::{Value, json};

use crate::{
    cli,
    failure::{Exit, Failure},
    output::{Output, Style},
    plan::input,
    words::{count, printable},
};

pub mod cabling;
pub mod files;
pub mod glob;
pub mod lldp;

use cabling::{Found, Mistake};

/// Runs `c4ctl topology --lldp`.
///
/// # Errors
/// When what hosts and switches say cannot be read or makes no sense, with every mistake on standard error.
pub fn from_lldp(
    args: &cli::Topology,
    directory: &Path,
    is_json: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let found = files::read(directory).and_then(|dumps| cabling::topology(&dumps, &args.cabling));
    let found = found.map_err(|mistakes| tell(&mistakes))?;
    match &args.against {
        Some(file) => against(file, &found, is_json, out),
        None => {
            print(&found, is_json, out)?;
            Ok(Exit::Fine)
        }
    }
}

/// Says what is wrong, all of it.
fn tell(mistakes: &[Mistake]) -> Failure {
    for mistake in mistakes {
        let place = if mistake.place.is_empty() { String::new() } else { format!("{}: ", mistake.place) };
        eprintln!("{}: {}", mistake.file.display(), printable(&format!("{place}{}", mistake.what)));
    }
    Failure::Configuration(format!("no topology: {}", count(mistakes.len() as u64, "mistake")))
}

/// Prints a topology, with what is to be known about it.
pub(crate) fn print(found: &Found, is_json: bool, out: &mut Output) -> Result<(), Failure> {
    if is_json {
        out.json(&document(found, Vec::new()))?;
    } else {
        for note in &found.notes {
            out.line(format!("# {}", printable(note)))?;
        }
        for line in topology_yaml(&found.topology).lines() {
            out.line(line)?;
        }
    }
    Ok(out.flush()?)
}

fn document(found: &Found, more: Vec<(&str, Value)>) -> Value {
    let mut document = json!({"topology": json!(topology_json(&found.topology)), "notes": found.notes});
    if let Some(fields) = document.as_object_mut() {
        fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    document
}

/// Prints what differs from a file.
fn against(file: &Path, found: &Found, is_json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (wanted, lines) = input::read(file, document::parse_topology_with_lines)?;
    let Comparison { differences, unseen } = compare(&wanted, &lines, &found.topology, &found.scope);
    if is_json {
        let one = |difference: &c4_traffic::differences::Difference| json!({"line": difference.line, "what": difference.what});
        let differences: Vec<Value> = differences.iter().map(one).collect();
        out.json(&document(found, vec![("differences", differences.into()), ("unseen", json!(unseen))]))?;
    } else {
        for difference in &differences {
            let line = difference.line.map_or(String::new(), |line| format!("{line}:"));
            out.line(format!("{}:{line} {}", file.display(), printable(&difference.what)))?;
        }
        let text = match differences.len() {
            0 => out.paint(Style::Good, "Nothing differs."),
            n => out.paint(Style::Bad, count(n as u64, "difference")),
        };
        out.line(text)?;
        if !unseen.is_empty() {
            let few: Vec<&str> = unseen.iter().take(5).map(String::as_str).collect();
            let more = if unseen.len() > few.len() { ", …" } else { "" };
            let hosts = count(unseen.len() as u64, "host");
            out.line(format!(
                "Of {hosts} of the file nothing was told: {}{more}",
                printable(&few.join(", "))
            ))?;
        }
        for note in &found.notes {
            out.line(format!("# {}", printable(note)))?;
        }
    }
    out.flush()?;
    Ok(if differences.is_empty() { Exit::Fine } else { Exit::Found })
}
