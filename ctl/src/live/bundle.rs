//! `c4ctl bundle ID`: everything about a finding in one archive, for those who look at it elsewhere.

use std::{cell::RefCell, collections::BTreeMap, io, path::Path, rc::Rc};

use c4_proto::v1;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tar::{Builder, Header};

use super::{
    Asked,
    findings::{self, reports},
    paths, redact, report, status,
};
use crate::{
    clock,
    failure::Failure,
    finding,
    output::Output,
    steer,
    words::{bytes, count, moment, printable},
};

/// Events that go with it.
const EVENTS: u32 = 1_000;
/// Entries of the audit trail that do.
const AUDIT: u32 = 1_000;

pub(super) async fn run(asked: &mut Asked<'_>, id: &str, file: Option<&Path>) -> Result<(), Failure> {
    let found = findings::fetch(asked, id).await?;
    let job = found.job.clone();
    let mut documents = BTreeMap::from([("finding.json", finding::document(&reports(vec![found])?))]);
    documents.insert("picture.json", picture(asked, "", id).await?);
    documents.insert("fleet.json", picture(asked, "", "").await?);
    documents.insert("events.json", super::events::past(asked, EVENTS, &job).await?);
    let mut html = None;
    // Of a warning about a node without a job there is no more; and a job may have ended long ago.
    if !job.is_empty() {
        match picture(asked, &job, "").await {
            Ok(picture) => {
                documents.insert("job.json", picture);
                html = report::fetch(asked, &job).await.ok();
            }
            Err(Failure::Check(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    let lacking = surroundings(asked, &job, &mut documents).await;
    let mut removed: usize = documents.values_mut().map(redact::document).sum();
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, document) in &documents {
        files.push((name, serde_json::to_vec_pretty(document).map_err(std::io::Error::from)?));
    }
    if let Some(html) = html {
        let (clean, more) = redact::text(&html);
        removed += more;
        files.push(("report.html", clean.into_bytes()));
    }
    files.push(("README.txt", readme(asked, id, removed, &lacking).into_bytes()));
    let archive = pack(id, &files)?;
    let file = file.map_or_else(|| report::named("c4-bundle", id, "tar.gz"), Path::to_owned);
    report::write(&file, &archive)?;
    if asked.json {
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        asked.out.json(&json!({"file": file, "bytes": archive.len(), "files": names, "removed": removed}))?;
    } else {
        let secrets = count(removed as u64, "possible secret");
        let size = bytes(archive.len() as u64);
        asked.out.line(format!("{} ({size}, {secrets} removed)", file.display()))?;
        for what in &lacking {
            asked.out.line(format!("without {}", printable(what)))?;
        }
    }
    Ok(())
}

/// What was done and what nodes and paths are like, as the commands of these names print it. Returns what could not be had: evidence
/// that lacks a part is better than none.
async fn surroundings(
    asked: &Asked<'_>,
    job: &str,
    documents: &mut BTreeMap<&'static str, Value>,
) -> Vec<String> {
    let of = Some(job).filter(|job| !job.is_empty());
    let told = [
        ("status.json", printed(asked, async |asked| status::run(asked).await).await),
        ("actions.json", printed(asked, async |asked| steer::actions::list(asked, true).await).await),
        ("audit.json", printed(asked, async |asked| steer::audit::list(asked, AUDIT).await).await),
        ("ledger.json", printed(asked, async |asked| steer::ledger::run(asked, of).await).await),
        ("evidence.json", printed(asked, async |asked| steer::audit::evidence(asked, of).await).await),
        ("paths.json", printed(asked, async |asked| paths::run(asked, of).await).await),
    ];
    let mut lacking = Vec::new();
    for (name, document) in told {
        match document {
            Ok(document) => {
                documents.insert(name, document);
            }
            Err(failure) => lacking.push(format!("{name}: {failure}")),
        }
    }
    lacking
}

/// The document that a command prints for scripts.
async fn printed(
    asked: &Asked<'_>,
    command: impl AsyncFnOnce(&mut Asked<'_>) -> Result<(), Failure>,
) -> Result<Value, Failure> {
    let page = Page::default();
    let mut out = Output::to(Box::new(page.clone()), None);
    let (client, timeout) = (asked.client.clone(), asked.timeout);
    command(&mut Asked { client, timeout, json: true, out: &mut out }).await?;
    out.flush()?;
    let document = serde_json::from_slice(&page.0.borrow()).map_err(io::Error::from);
    Ok(document?)
}

/// Where it is printed to.
#[derive(Clone, Default)]
struct Page(Rc<RefCell<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn picture(asked: &Asked<'_>, job: &str, finding: &str) -> Result<Value, Failure> {
    let mut calls = asked.client.pictures.clone();
    let request = v1::GetPictureRequest { job: job.to_owned(), finding: finding.to_owned() };
    let missing = "the controller has forgotten it meanwhile";
    let picture = asked.client.call(asked.timeout, missing, calls.get_picture(request)).await?;
    serde_json::from_str(&picture.json).map_err(|error| {
        Failure::Check(format!("the controller sent a picture that makes no sense: {error}"))
    })
}

fn readme(asked: &Asked<'_>, id: &str, removed: usize, lacking: &[String]) -> String {
    let lacking: String = lacking.iter().map(|what| format!("Not to be had: {what}\n")).collect();
    format!(
        "Evidence of finding {id}, taken from the controller at {} on {}.\n\n\
         finding.json  the finding, as `c4ctl explain {id} --json` prints it\n\
         picture.json  who waited for whom, delays and iteration times when it was found\n\
         job.json      the job as it is now, if it is known\n\
         fleet.json    all jobs as they are now\n\
         events.json   the latest events of the job\n\
         status.json   the controller and its nodes, with their sensors\n\
         actions.json  what was done about findings, what waits, modes, isolated nodes\n\
         audit.json    who or what did what, and why\n\
         ledger.json   what the job has lost to faults\n\
         evidence.json where agents saved flight recorders and what the kernel said of processes\n\
         paths.json    planned paths of the job\n\
         report.html   the same to look at, in any browser\n\n\
         {lacking}{} removed; names of jobs, nodes and files are not secrets to this program.\n",
        asked.client.url,
        moment(clock::unix_us()),
        count(removed as u64, "possible secret"),
    )
}

fn pack(id: &str, files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>, Failure> {
    let folder = report::named("c4-bundle", id, "x").with_extension("");
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(clock::unix_us() / 1_000_000);
        archive.append_data(&mut header, folder.join(name), content.as_slice())?;
    }
    Ok(archive.into_inner()?.finish()?)
}
