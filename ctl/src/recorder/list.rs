//! `c4ctl recorder list DIR`: a line for each recorder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Seen, read};
use crate::{
    failure::{Exit, Failure},
    output::{Output, Style},
    table::{Align, Cell, Table},
    words::count,
};

/// Ending of a recorder's file name.
const EXTENSION: &str = "c4r";

pub(super) fn run(dir: &Path, as_json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let files = files(dir).map_err(|error| Failure::File {
        path: dir.to_owned(),
        problem: format!(
            "cannot list it: {error}; expected the directory the plugin writes to (C4_RECORDER_DIR)"
        ),
    })?;
    let seen: Vec<(PathBuf, Result<Seen, Failure>)> =
        files.into_iter().map(|file| (file.clone(), read(&file))).collect();
    let exit = if seen.iter().any(|(_, result)| result.is_err()) { Exit::Found } else { Exit::Fine };
    if as_json {
        let recorders: Vec<Value> = seen.iter().map(|(file, result)| document(file, result)).collect();
        out.json(&json!({"recorders": recorders}))?;
    } else if seen.is_empty() {
        out.line(format!("No flight recorders in {}.", dir.display()))?;
    } else {
        table(&seen).print(out)?;
    }
    Ok(exit)
}

/// The recorders in a directory, by name.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn table(seen: &[(PathBuf, Result<Seen, Failure>)]) -> Table {
    let mut table = Table::new(&[
        ("FILE", Align::Left),
        ("PROCESS", Align::Left),
        ("PID", Align::Right),
        ("RANK", Align::Right),
        ("COMMS", Align::Right),
        ("OPEN", Align::Right),
        ("JOB", Align::Left),
    ]);
    for (file, result) in seen {
        let name = file.file_name().map_or_else(|| file.display().to_string(), |n| n.display().to_string());
        match result {
            Ok(seen) => {
                let identity = &seen.snapshot.identity;
                let open = open_operations(seen);
                table.row(vec![
                    name.into(),
                    match seen.held {
                        true => Cell::styled("alive", Style::Good),
                        false => Cell::styled("gone", Style::Dim),
                    },
                    identity.pid.to_string().into(),
                    identity.labels.get("RANK").cloned().unwrap_or_else(|| "–".to_owned()).into(),
                    seen.snapshot.communicators.len().to_string().into(),
                    open.to_string().into(),
                    crate::analyze::job_of(&seen.snapshot).into(),
                ]);
            }
            Err(failure) => {
                let problem = match failure {
                    Failure::File { problem, .. } => problem.clone(),
                    other => other.to_string(),
                };
                let mut cells: Vec<Cell> = vec![name.into(), Cell::styled("unreadable", Style::Bad)];
                cells.extend(["–", "–", "–", "–"].map(Cell::from));
                cells.push(Cell::styled(problem, Style::Bad));
                table.row(cells);
            }
        }
    }
    table
}

fn open_operations(seen: &Seen) -> usize {
    seen.snapshot.operations.iter().filter(|operation| super::show::is_open(operation)).count()
}

fn document(file: &Path, result: &Result<Seen, Failure>) -> Value {
    match result {
        Ok(seen) => json!({
            "file": file.display().to_string(),
            "alive": seen.held,
            "job": crate::analyze::job_of(&seen.snapshot),
            "identity": seen.snapshot.identity,
            "communicators": seen.snapshot.communicators.len(),
            "open_operations": open_operations(seen),
        }),
        Err(failure) => json!({"file": file.display().to_string(), "error": failure.to_string()}),
    }
}

/// For messages: "3 recorders".
pub(crate) fn number(files: usize) -> String {
    count(files as u64, "recorder")
}
