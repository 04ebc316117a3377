//! `c4ctl report JOB`: one HTML file for a ticket.

use std::path::{Path, PathBuf};

use c4_proto::v1;
use serde_json::json;

use super::Asked;
use crate::{failure::Failure, words::bytes};

pub(super) async fn run(asked: &mut Asked<'_>, job: &str, file: Option<&Path>) -> Result<(), Failure> {
    let html = fetch(asked, job).await?;
    let file = file.map_or_else(|| named("c4-report", job, "html"), Path::to_owned);
    write(&file, html.as_bytes())?;
    if asked.json {
        asked.out.json(&json!({"file": file, "bytes": html.len()}))?;
    } else {
        asked.out.line(format!("{} ({})", file.display(), bytes(html.len() as u64)))?;
    }
    Ok(())
}

pub(super) async fn fetch(asked: &Asked<'_>, job: &str) -> Result<String, Failure> {
    let missing =
        format!("the controller at {} knows no job {job:?}; `c4ctl jobs` lists them", asked.client.url);
    let mut calls = asked.client.pictures.clone();
    let request = v1::GetReportRequest { job: job.to_owned() };
    Ok(asked.client.call(asked.timeout, &missing, calls.get_report(request)).await?.html)
}

/// A file in the working directory, whatever is in the name of the thing.
pub(super) fn named(what: &str, name: &str, ending: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().take(100).map(plain).collect();
    PathBuf::from(format!("{what}-{name}.{ending}"))
}

pub(super) fn write(file: &Path, content: &[u8]) -> Result<(), Failure> {
    std::fs::write(file, content).map_err(|error| Failure::File {
        path: file.to_owned(),
        problem: format!("cannot be written: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_choose_another_folder() {
        assert_eq!(
            named("c4-report", "../../etc/x y", "html"),
            PathBuf::from("c4-report-..-..-etc-x-y.html")
        );
    }
}
