//! `c4ctl analyze`: diagnosis of a job from files alone.
//!
//! Loaders ([`collect`], [`recorders`]) turn every format into one [`recording::Recording`]; its clocks are put right
//! ([`align`]), it is shown to the detector as agents would have shown it ([`replay`]), and what the detector says is
//! printed with a picture of who waited for whom ([`timeline`]). Only `load` and this module touch files and output.

use std::{collections::HashMap, fs, path::Path};

use c4_detect::{
    detector::Config,
    finding::{Finding, FindingId, Verdict},
    observation::Timestamp,
    report::change_value,
    view::JobView,
};
use serde_json::{Value, json};

use crate::{
    cli::Analyze,
    failure::{Exit, Failure},
    finding::{self, Moments, Report},
    output::{Output, Style},
    words::{count, duration_ns, printable},
};

pub mod align;
pub mod balance;
pub mod blocked;
pub mod collect;
pub mod corroborate;
pub mod flight;
pub mod format;
pub mod functions;
pub mod lines;
mod load;
pub mod order;
pub mod pickle;
pub mod problem;
pub mod ras;
pub mod recorders;
pub mod recording;
pub mod replay;
pub mod stuck;
#[cfg(test)]
pub(crate) mod testing;
pub mod timeline;
pub mod trace;
pub mod waits;

pub use recorders::job_of;

use corroborate::{Witness, corroborate};
use problem::Problems;
use recording::Recording;

/// Times before this (2001-09-09, in µs since the Unix epoch) are no dates: the recording's clock began somewhere else.
const EARLIEST_DATE_US: u64 = 1_000_000_000_000_000;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// What was analysed, with its clocks put right.
    pub recording: Recording,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The jobs as the detector left them.
    pub jobs: Vec<JobView>,
    /// The recording's first moment, on the clock of the findings.
    pub start: Timestamp,
    /// For some findings, the processes along the longest way of waiting to the root.
    pub chains: HashMap<FindingId, Vec<usize>>,
}

/// Diagnoses a recording.
#[must_use]
pub fn diagnose(mut recording: Recording) -> Diagnosis {
    recording.mend();
    align::align(&mut recording);
    let broken = recording.mark_broken_off();
    recording.notes.extend(broken);
    let outcome = replay::replay(&recording, Config::default());
    let index = recording.index();
    let mut findings = outcome.findings;
    let mut chains = HashMap::new();
    // Recorders tell of connections and of processes that died, which the detector weighs and this does not.
    if recording.stands_for_itself {
        let stuck = stuck::stuck(&recording, &index, outcome.start);
        findings = stuck::join(findings, stuck, &mut recording.notes, &mut chains);
        let iteration_ns = outcome.jobs.first().and_then(|job| job.iteration_ns);
        let balance = balance::balance(&recording, &index, iteration_ns, outcome.start);
        findings = balance::join(findings, balance, &recording);
    }
    if let Some(limit) = recording.confidence_limit {
        for finding in &mut findings {
            finding.confidence = finding.confidence.min(limit);
        }
    }
    Diagnosis { recording, findings, jobs: outcome.jobs, start: outcome.start, chains }
}

/// Diagnoses what was loaded, and asks what is beside it.
fn with_witnesses(loaded: load::Loaded) -> Diagnosis {
    let mut diagnosis = diagnose(loaded.recording);
    let world = diagnosis.recording.processes.iter().filter_map(|process| process.info.world_size).max();
    let world = world.map_or(diagnosis.recording.processes.len(), |size| size as usize);
    let mut witnesses: Vec<Witness> =
        loaded.dumps.into_iter().map(|dumps| Witness::flight_recorder(&diagnose(dumps).findings)).collect();
    witnesses.extend(loaded.ras.iter().map(|ras| Witness { by: "ras", against: ras.against(world) }));
    for witness in witnesses {
        if diagnosis.findings.is_empty() {
            let notes = witness.against.values().map(|says| format!("only {} says: {says}", witness.by));
            diagnosis.recording.notes.extend(notes);
        }
        corroborate(&mut diagnosis.findings, &witness);
    }
    diagnosis
}

/// Runs the command.
///
/// # Errors
/// When nothing of the input can be used, or the paths do not go together.
pub fn run(args: &Analyze, json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let mut problems = Problems::default();
    let loaded = load::load(&args.paths, args.format, &mut problems)?;
    for problem in problems.kept() {
        eprintln!("c4ctl: {}", printable(&problem.to_string()));
    }
    let further = problems.total() - problems.kept().len() as u64;
    if further > 0 {
        eprintln!("c4ctl: … and {} more", count(further, "problem"));
    }
    let diagnosis = with_witnesses(loaded);
    if let Some(path) = &args.svg {
        draw(&diagnosis, path)?;
    }
    if json {
        out.json(&document(&diagnosis, &problems))?;
    } else {
        print(&diagnosis, out)?;
    }
    out.flush()?;
    let fine = diagnosis.findings.is_empty() && problems.is_empty();
    Ok(if fine { Exit::Fine } else { Exit::Found })
}

/// Writes the image.
fn draw(diagnosis: &Diagnosis, path: &Path) -> Result<(), Failure> {
    let pictures: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|finding| (finding, timeline::lanes::lanes(diagnosis, finding)))
        .collect();
    fs::write(path, timeline::svg::svg(&pictures)).map_err(|error| Failure::File {
        path: path.to_owned(),
        problem: format!("cannot write the image: {error}"),
    })
}

/// One operation, where there is only one communicator to wait in; else everything the ranks did.
fn picture(diagnosis: &Diagnosis, finding: &Finding) -> Vec<String> {
    let recording = &diagnosis.recording;
    let several = recording.comms.len() > 1 || recording.processes.iter().any(|p| !p.transfers.is_empty());
    let lanes = several.then(|| timeline::lanes::lanes(diagnosis, finding)).flatten();
    match lanes {
        Some(lanes) => timeline::lanes::text(&lanes),
        None => timeline::picture(recording, finding),
    }
}

fn reports(diagnosis: &Diagnosis) -> Vec<Report> {
    let report = |finding: &Finding| Report { finding: finding.clone(), actions: Vec::new() };
    diagnosis.findings.iter().map(report).collect()
}

fn document(diagnosis: &Diagnosis, problems: &Problems) -> Value {
    let mut document = finding::document(&reports(diagnosis));
    let jobs: Vec<Value> = diagnosis
        .jobs
        .iter()
        .map(|job| {
            json!({
                "name": job.job.0,
                "incarnation": job.incarnation,
                "verdict": job.verdict,
                "ranks_seen": job.ranks.len(),
                "iterations": job.iterations,
                "iteration_seconds": job.iteration_ns.map(|ns| ns as f64 / 1e9),
                "iteration_changes": job.changes.iter().map(change_value).collect::<Vec<_>>(),
            })
        })
        .collect();
    document["jobs"] = Value::from(jobs);
    document["notes"] = json!(diagnosis.recording.notes);
    document["problems"] = problems.document();
    document["problems_total"] = json!(problems.total());
    document
}

fn print(diagnosis: &Diagnosis, out: &mut Output) -> std::io::Result<()> {
    let recording = &diagnosis.recording;
    let moments = match diagnosis.start {
        Timestamp(us) if us < EARLIEST_DATE_US => Moments::After(us),
        _ => Moments::Dates,
    };
    for (index, report) in reports(diagnosis).iter().enumerate() {
        if index > 0 {
            out.line("")?;
        }
        finding::explain(report, moments, out)?;
        let picture = picture(diagnosis, &report.finding);
        if !picture.is_empty() {
            out.line("")?;
            let title = out.paint(Style::Bold, "Who waited for whom");
            out.line(title)?;
        }
        for line in picture {
            out.line(format!("  {line}"))?;
        }
    }
    if diagnosis.findings.is_empty() {
        for job in &diagnosis.jobs {
            let (style, sentence) = nothing_found(job);
            let sentence = out.paint(style, printable(&sentence));
            out.line(sentence)?;
        }
        if diagnosis.jobs.is_empty() {
            out.line("No findings: there are no collectives to compare.")?;
        }
    }
    out.line("")?;
    let summary = out.paint(Style::Dim, summary(recording));
    out.line(summary)?;
    for note in &recording.notes {
        let note = out.paint(Style::Doubtful, format!("note: {}", printable(note)));
        out.line(note)?;
    }
    Ok(())
}

fn nothing_found(job: &JobView) -> (Style, String) {
    let name = &job.job.0;
    match &job.verdict {
        Verdict::Unknown { missing } => (
            Style::Doubtful,
            format!(
                "No findings in job {name}, but neither can it be called healthy: {}.",
                missing.join("; ")
            ),
        ),
        Verdict::Learning => (
            Style::Doubtful,
            format!("No findings in job {name}; too little was recorded to know what is normal for it."),
        ),
        Verdict::Healthy | Verdict::Faulty | Verdict::Ended => {
            (Style::Good, format!("No findings in job {name}."))
        }
    }
}

fn summary(recording: &Recording) -> String {
    let span = recording.span().map_or(0, |(first, last)| last.saturating_sub(first).unsigned_abs());
    format!(
        "analysed: {}, {}, {} over {}",
        count(recording.processes.len() as u64, "rank"),
        count(recording.comms.len() as u64, "communicator"),
        count(recording.operations().count() as u64, "collective"),
        duration_ns(span),
    )
}
