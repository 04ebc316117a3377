//! A small picture of who waited for whom: the operation a finding is about, a row a rank.
//!
//! ```text
//! AllReduce #120 on dp0, 8.0 s across (· not in it yet, █ waiting, ▒ all in it)
//!   rank 0  ··███████████████████████████▶ waits
//! * rank 2  ······························ never entered it, last finished #119
//! ```

pub mod lanes;
pub mod svg;

use c4_detect::finding::{Finding, Kind};

use super::recording::{Comm, Index, Operation, Process, Recording, Series};
use crate::words::{duration_ns, printable};

/// Columns of a bar.
const WIDTH: usize = 40;
/// Rows at most; a picture of a thousand ranks shows nobody.
const ROWS: usize = 24;

struct Row<'a> {
    process: &'a Process,
    series: &'a Series,
    operation: Option<&'a Operation>,
    suspect: bool,
}

/// The picture, a line an entry; none if the recording has no operation to show for it.
#[must_use]
pub fn picture(recording: &Recording, finding: &Finding) -> Vec<String> {
    let suspects: Vec<u32> = finding.suspects.iter().filter_map(|suspect| suspect.rank).collect();
    let index = recording.index();
    let Some((comm, sequence)) = subject(recording, &index, finding, &suspects) else { return Vec::new() };
    let mut rows: Vec<Row<'_>> = recording
        .members(&index, comm)
        .filter(|(process, _)| process.info.job == finding.job)
        .map(|(process, series)| Row {
            process,
            series,
            operation: find(series, sequence),
            suspect: process.info.rank.is_some_and(|rank| suspects.contains(&rank)),
        })
        .collect();
    rows.sort_by_key(|row| (row.process.info.rank, row.series.comm_rank));
    draw(&recording.comms[comm], sequence, &rows, recording)
}

fn find(series: &Series, sequence: u64) -> Option<&Operation> {
    let place = series.operations.binary_search_by_key(&sequence, |operation| operation.sequence).ok()?;
    series.operations.get(place)
}

/// The communicator and position a finding is about.
fn subject(
    recording: &Recording,
    index: &Index,
    finding: &Finding,
    suspects: &[u32],
) -> Option<(usize, u64)> {
    let involved = |comm: usize| {
        recording.members(index, comm).any(|(process, _)| {
            process.info.job == finding.job
                && (suspects.is_empty() || process.info.rank.is_some_and(|rank| suspects.contains(&rank)))
        })
    };
    let comms = (0..recording.comms.len()).filter(|comm| involved(*comm));
    let slow = matches!(finding.kind, Kind::NonCommSlow | Kind::CommSlow | Kind::WorkloadImbalance);
    let candidates = comms.filter_map(|comm| {
        let members = || recording.members(index, comm).map(|(_, series)| series);
        if slow {
            let (sequence, spread) = widest(members())?;
            return Some((spread, comm, sequence));
        }
        let open = members().filter_map(|series| series.open()).min_by_key(|operation| operation.sequence)?;
        let waiting = members().filter(|series| series.open().is_some()).count();
        Some((i64::try_from(waiting).unwrap_or(i64::MAX), comm, open.sequence))
    });
    candidates.max_by_key(|(weight, _, _)| *weight).map(|(_, comm, sequence)| (comm, sequence))
}

/// The operation whose ranks came in furthest apart, among those that all came into; the median of the worst tenth, so
/// that one hiccup does not stand for a habit.
fn widest<'a>(members: impl Iterator<Item = &'a Series>) -> Option<(u64, i64)> {
    let mut entries: std::collections::BTreeMap<u64, (i64, i64, usize)> = std::collections::BTreeMap::new();
    let mut number = 0;
    for series in members {
        number += 1;
        for operation in &series.operations {
            let at = operation.entered_ns();
            let entry = entries.entry(operation.sequence).or_insert((at, at, 0));
            *entry = (entry.0.min(at), entry.1.max(at), entry.2 + 1);
        }
    }
    let mut spreads: Vec<(i64, u64)> = entries
        .into_iter()
        .filter(|(_, (_, _, seen))| *seen == number)
        .map(|(sequence, (first, last, _))| (last.saturating_sub(first), sequence))
        .collect();
    spreads.sort_unstable();
    let (spread, sequence) = *spreads.get(spreads.len().checked_sub(1 + spreads.len() / 20)?)?;
    Some((sequence, spread))
}

fn draw(comm: &Comm, sequence: u64, rows: &[Row<'_>], recording: &Recording) -> Vec<String> {
    let operations = || rows.iter().filter_map(|row| row.operation);
    let Some(first) = operations().map(Operation::entered_ns).min() else { return Vec::new() };
    let entered_last = operations().map(Operation::entered_ns).max().unwrap_or(first);
    let open = operations().any(|operation| operation.ended_ns.is_none());
    let all_in = rows.iter().all(|row| row.operation.is_some());
    let end = operations().map(Operation::last_ns).max().unwrap_or(first);
    // Something that never ends is drawn some way beyond its last event, or it would have no width.
    let end = if open { end.saturating_add((end - first) / 4).max(first + 1) } else { end.max(first + 1) };
    let function = operations()
        .next()
        .and_then(|operation| recording.signatures.get(operation.signature as usize))
        .map_or("operation", |signature| &signature.function);
    let across = if open { "never over".to_owned() } else { duration_ns((end - first).unsigned_abs()) };
    let mut lines = vec![format!(
        "{} #{sequence} on {}, {across} (· not in it yet, █ waiting, ▒ all are in it; * suspect)",
        printable(function),
        printable(&comm.label()),
    )];
    let column = |ns: i64| {
        let share = (ns - first) as f64 / (end - first) as f64;
        ((share * WIDTH as f64).round() as usize).min(WIDTH)
    };
    let together = all_in.then(|| column(entered_last));
    let shown = choose(rows);
    let width = shown.iter().map(|row| who(row).chars().count()).max().unwrap_or(0);
    for row in &shown {
        let mark = if row.suspect { '*' } else { ' ' };
        let bar = bar(row.operation, &column, together);
        lines.push(format!(
            "{mark} {:<width$}  {bar} {}",
            who(row),
            said(row, first, entered_last, sequence)
        ));
    }
    if shown.len() < rows.len() {
        lines.push(format!("  … and {} more ranks", rows.len() - shown.len()));
    }
    lines
}

/// All rows if they fit, else suspects first.
fn choose<'a, 'b>(rows: &'b [Row<'a>]) -> Vec<&'b Row<'a>> {
    if rows.len() <= ROWS {
        return rows.iter().collect();
    }
    let suspects = rows.iter().filter(|row| row.suspect);
    let others = rows.iter().filter(|row| !row.suspect);
    let mut shown: Vec<&Row<'_>> = suspects.chain(others).take(ROWS).collect();
    shown.sort_by_key(|row| row.process.info.rank);
    shown
}

fn who(row: &Row<'_>) -> String {
    let name = row
        .process
        .info
        .rank
        .map_or_else(|| format!("pid {}", row.process.info.pid), |r| format!("rank {r}"));
    printable(&name).into_owned()
}

fn bar(operation: Option<&Operation>, column: &impl Fn(i64) -> usize, together: Option<usize>) -> String {
    let Some(operation) = operation else { return "·".repeat(WIDTH + 1) };
    let enter = column(operation.entered_ns());
    let leave = operation.ended_ns.map_or(WIDTH, column);
    let draw = |place: usize| match place {
        place if place < enter => '·',
        place if place >= leave => ' ',
        place if together.is_some_and(|together| place >= together) => '▒',
        _ => '█',
    };
    let mut bar: String = (0..WIDTH).map(draw).collect();
    bar.push(if operation.ended_ns.is_none() { '▶' } else { ' ' });
    bar
}

fn said(row: &Row<'_>, first: i64, entered_last: i64, sequence: u64) -> String {
    let Some(operation) = row.operation else {
        let finished = row.series.operations.iter().rev().find(|operation| operation.ended_ns.is_some());
        return match (row.series.breaks_off, finished) {
            (true, _) => "unknown, its record breaks off before".to_owned(),
            (false, _) if row.series.entered() > sequence => "not recorded".to_owned(),
            (false, Some(last)) => format!("never entered it, last finished #{}", last.sequence),
            (false, None) => "never entered it".to_owned(),
        };
    };
    let entered = operation.entered_ns();
    if operation.ended_ns.is_none() {
        return "in it, never left".to_owned();
    }
    if entered == entered_last && entered > first {
        return format!("came last, {} after the first", duration_ns((entered - first).unsigned_abs()));
    }
    let waited = entered_last.saturating_sub(entered).unsigned_abs();
    if waited == 0 { String::new() } else { format!("waited {}", duration_ns(waited)) }
}

#[cfg(test)]
mod tests;
