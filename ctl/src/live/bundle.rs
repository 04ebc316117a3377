//! `c4ctl bundle ID`: everything about a finding in one archive, for those who look at it elsewhere.

use std::{collections::BTreeMap, path::Path};

use c4_proto::v1;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tar::{Builder, Header};

use super::{Asked, findings::reports, redact, report};
use crate::{
    clock,
    failure::Failure,
    finding,
    words::{bytes, count, moment},
};

/// Events that go with it.
const EVENTS: u32 = 1_000;

pub(super) async fn run(asked: &mut Asked<'_>, id: &str, file: Option<&Path>) -> Result<(), Failure> {
    let missing = format!(
        "the controller at {} knows no finding {id:?}; `c4ctl findings --all` lists all it remembers",
        asked.client.url
    );
    let mut calls = asked.client.calls.clone();
    let request = v1::GetFindingRequest { id: id.to_owned() };
    let found = asked.client.call(asked.timeout, &missing, calls.get_finding(request)).await?;
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
    files.push(("README.txt", readme(asked, id, removed).into_bytes()));
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
    }
    Ok(())
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

fn readme(asked: &Asked<'_>, id: &str, removed: usize) -> String {
    format!(
        "Evidence of finding {id}, taken from the controller at {} on {}.\n\n\
         finding.json  the finding, as `c4ctl explain {id} --json` prints it\n\
         picture.json  who waited for whom, delays and iteration times when it was found\n\
         job.json      the job as it is now, if it is known\n\
         fleet.json    all jobs as they are now\n\
         events.json   the latest events of the job\n\
         report.html   the same to look at, in any browser\n\n\
         {} removed; names of jobs, nodes and files are not secrets to this program.\n",
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
