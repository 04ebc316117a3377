//! Reads the files that `analyze` is given. All of them are one job: in one format, with dumps and RAS beside it.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    collect::{Collector, Place},
    flight,
    format::{self, Kind},
    lines::{self, LONGEST_LINE, Line, Lines},
    problem::Problems,
    ras::{self, Ras},
    recorders,
    recording::Recording,
    trace,
};
use crate::{cli::Format, clock, failure::Failure, recorder};

/// What was read.
pub(super) struct Loaded {
    /// What is diagnosed.
    pub(super) recording: Recording,
    /// Flight Recorder dumps beside it.
    pub(super) dumps: Option<Recording>,
    /// Answers of RAS beside it.
    pub(super) ras: Vec<Ras>,
}

/// Reads everything, whatever the format.
///
/// # Errors
/// When there is nothing to analyse, or formats do not go together.
pub(super) fn load(paths: &[PathBuf], asked: Format, problems: &mut Problems) -> Result<Loaded, Failure> {
    let Files { kind, main, dumps, ras } = sort(expand(paths)?, asked)?;
    let recording = match kind {
        Kind::Recorder => load_recorders(main, problems),
        Kind::OperationTrace => load_traces(&main, problems),
        Kind::FlightRecorder | Kind::Ras => load_dumps(&main, problems),
    }?;
    // What is beside it is not needed: what cannot be read of it is told, no more.
    let dumps = flight::load(&dumps, problems);
    let dumps = (!dumps.is_empty()).then(|| flight::recording(&dumps, problems));
    let ras = ras.into_iter().filter_map(|file| match ras::load(&file) {
        Ok(ras) => Some(ras),
        Err(why) => {
            problems.add(&Arc::new(file), None, why);
            None
        }
    });
    let ras = ras.collect();
    Ok(Loaded { recording, dumps, ras })
}

fn bad(path: &Path, problem: impl ToString) -> Failure {
    Failure::File { path: path.to_owned(), problem: problem.to_string() }
}

/// Directories become the files in them: all, or, if there are recorders, these and what may be of use beside them.
fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| bad(path, error))?;
        if !metadata.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = recorder::files(path).map_err(|error| bad(path, error))?;
        let recorders: HashSet<PathBuf> = inside.iter().cloned().collect();
        for entry in fs::read_dir(path).map_err(|error| bad(path, error))? {
            let entry = entry.map_err(|error| bad(path, error))?.path();
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            // Beside recorders only what can be told to be of use.
            let wanted = recorders.is_empty()
                || matches!(format::detect(&entry, Format::Auto), Ok(Some(Kind::FlightRecorder | Kind::Ras)));
            if entry.is_file() && !hidden && !recorders.contains(&entry) && wanted {
                inside.push(entry);
            }
        }
        inside.sort();
        if inside.is_empty() {
            return Err(bad(path, "the directory is empty; expected traces or flight recorders in it"));
        }
        files.extend(inside);
    }
    Ok(files)
}

/// Files by what they are.
struct Files {
    /// What `main` is.
    kind: Kind,
    /// What is diagnosed.
    main: Vec<PathBuf>,
    /// Dumps beside something better.
    dumps: Vec<PathBuf>,
    ras: Vec<PathBuf>,
}

/// Sorts files by what they are. Recorders and traces tell more than dumps, dumps more than RAS; what cannot be told is taken
/// for the same as the others.
fn sort(files: Vec<PathBuf>, asked: Format) -> Result<Files, Failure> {
    let (mut main, mut dumps, mut ras, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut common: Option<(Kind, PathBuf)> = None;
    for file in files {
        match format::detect(&file, asked).map_err(|error| bad(&file, error))? {
            None => unknown.push(file),
            Some(Kind::Ras) => ras.push(file),
            Some(Kind::FlightRecorder) => dumps.push(file),
            Some(kind) => match &common {
                Some((first, first_file)) if *first != kind => {
                    return Err(Failure::Usage(format!(
                        "{} is {} but {} is {}; all paths must be one job in one format (or set --format)",
                        first_file.display(),
                        first.name(),
                        file.display(),
                        kind.name()
                    )));
                }
                _ => {
                    common = Some((kind, file.clone()));
                    main.push(file);
                }
            },
        }
    }
    let kind = match common {
        Some((kind, _)) => kind,
        None if !dumps.is_empty() => {
            main = std::mem::take(&mut dumps);
            Kind::FlightRecorder
        }
        None if unknown.is_empty() => {
            let why =
                "NCCL's RAS tells how far ranks came, not why; give it beside recorders, traces or dumps";
            return Err(Failure::Usage(why.to_owned()));
        }
        None => Kind::OperationTrace,
    };
    main.extend(unknown);
    main.sort();
    Ok(Files { kind, main, dumps, ras })
}

fn load_dumps(files: &[PathBuf], problems: &mut Problems) -> Result<Recording, Failure> {
    let dumps = flight::load(files, problems);
    if dumps.is_empty() {
        let why = problems.kept().first().map_or_else(String::new, |problem| format!(": {problem}"));
        return Err(Failure::Check(format!("no Flight Recorder dump could be read{why}")));
    }
    Ok(flight::recording(&dumps, problems))
}

fn load_recorders(files: Vec<PathBuf>, problems: &mut Problems) -> Result<Recording, Failure> {
    let mut seen = Vec::new();
    let mut first_failure = None;
    for file in files {
        match recorder::read(&file) {
            Ok(recorder) => seen.push((file, recorder)),
            Err(failure) => {
                if let Failure::File { path, problem } = &failure {
                    problems.add(&Arc::new(path.clone()), None, problem.clone());
                }
                first_failure.get_or_insert(failure);
            }
        }
    }
    match first_failure {
        Some(failure) if seen.is_empty() => Err(failure),
        _ => {
            let mut recording = recorders::recording(seen, problems);
            if recording.until_ns.is_some() {
                // Somebody here holds one of them, so their clock is this machine's.
                recording.epoch_us = Some(boot_unix_us());
            }
            Ok(recording)
        }
    }
}

/// When this machine's monotonic clock was zero.
fn boot_unix_us() -> i64 {
    let (now, since) = (clock::unix_us(), c4_recorder::monotonic_now_ns() / 1_000);
    i64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

fn load_traces(files: &[PathBuf], problems: &mut Problems) -> Result<Recording, Failure> {
    let mut collector = Collector::default();
    for file in files {
        let source = lines::open(file).map_err(|error| bad(file, error))?;
        read_trace(file, Lines::new(source, LONGEST_LINE), &mut collector, problems);
    }
    if collector.lines == 0 {
        let why = match problems.kept().first() {
            Some(problem) => format!("no line of the trace could be read; the first problem: {problem}"),
            None => format!("{} is empty; expected an operation trace (JSON lines)", files[0].display()),
        };
        return Err(Failure::Check(why));
    }
    Ok(collector.finish(problems))
}

/// Reads one file as far as it can be read.
fn read_trace(file: &Path, mut lines: Lines, collector: &mut Collector, problems: &mut Problems) {
    let rank = format::rank_of_name(file);
    let file = Arc::new(file.to_owned());
    loop {
        let number = lines.number() + 1;
        match lines.read() {
            Ok(None) => return,
            Ok(Some(Line::TooLong)) => {
                let what = format!("the line is longer than {LONGEST_LINE} bytes; expected one JSON object");
                problems.add(&file, Some(number), what);
            }
            Ok(Some(Line::Text(text))) if text.trim_ascii().is_empty() => {}
            Ok(Some(Line::Text(text))) => {
                let place = Place { file: Arc::clone(&file), line: number };
                match trace::parse(text, rank) {
                    Ok(line) => collector.take(line, &place, problems),
                    Err(error) => problems.add(&file, Some(number), error.to_string()),
                }
            }
            Err(error) => {
                problems.add(&file, Some(number), format!("cannot read on: {error}"));
                return;
            }
        }
    }
}
