//! `c4ctl findings` and `c4ctl explain ID`.

use c4_proto::v1;

use super::Asked;
use crate::{
    clock,
    failure::Failure,
    finding::{self, Moments, Report},
    output::Style,
};

pub(super) async fn list(asked: &mut Asked<'_>, all: bool, job: Option<&str>) -> Result<(), Failure> {
    let mut calls = asked.client.calls.clone();
    let request = v1::ListFindingsRequest { job: job.unwrap_or_default().to_owned(), include_cleared: all };
    let missing =
        format!("the controller knows no job {:?}; `c4ctl jobs` lists them", job.unwrap_or_default());
    let found = asked.client.call(asked.timeout, &missing, calls.list_findings(request)).await?.findings;
    let reports = reports(found)?;
    if asked.json {
        asked.out.json(&finding::document(&reports))?;
    } else if reports.is_empty() {
        let sentence = if all { "No findings." } else { "No open findings." };
        let sentence = asked.out.paint(Style::Good, sentence);
        asked.out.line(sentence)?;
    } else {
        finding::print_table(&reports, asked.out)?;
    }
    Ok(())
}

pub(super) async fn explain(asked: &mut Asked<'_>, id: &str) -> Result<(), Failure> {
    let reports = reports(vec![fetch(asked, id).await?])?;
    if asked.json {
        asked.out.json(&finding::document(&reports))?;
        return Ok(());
    }
    for report in &reports {
        finding::explain(report, Moments::Ago(clock::unix_us()), asked.out)?;
    }
    Ok(())
}

/// One finding as the controller knows it.
pub(super) async fn fetch(asked: &Asked<'_>, id: &str) -> Result<v1::Finding, Failure> {
    let missing = format!(
        "the controller at {} knows no finding {id:?}; `c4ctl findings --all` lists all it remembers",
        asked.client.url
    );
    let mut calls = asked.client.calls.clone();
    let request = v1::GetFindingRequest { id: id.to_owned() };
    asked.client.call(asked.timeout, &missing, calls.get_finding(request)).await
}

/// Findings as the controller sent them. One that makes no sense is an error: leaving it out would be a lie.
pub(super) fn reports(findings: Vec<v1::Finding>) -> Result<Vec<Report>, Failure> {
    findings
        .into_iter()
        .map(|wire| {
            Report::try_from(wire).map_err(|error| Failure::Check(format!("the controller sent a {error}")))
        })
        .collect()
}
