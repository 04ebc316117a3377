//! Asks the controller as a script would: through `c4ctl --json`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::wait_for;

/// `c4ctl` and the controller it asks.
#[derive(Clone, Debug)]
pub struct Ctl {
    program: PathBuf,
    controller: String,
}

impl Ctl {
    /// `program` asks the controller at this address of gRPC.
    #[must_use]
    pub fn new(program: &Path, grpc: &str) -> Self {
        Self { program: program.to_owned(), controller: format!("http://{grpc}") }
    }

    /// The program with the controller's address, for further arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--controller").arg(&self.controller);
        command
    }

    /// Runs a command with `--json` and returns its document.
    ///
    /// # Errors
    /// When it fails, with what it said, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command().arg("--json").args(arguments).output();
        let output = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        ensure!(
            output.status.success(),
            "c4ctl {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("c4ctl {} did not print one JSON document", arguments.join(" ")))
    }

    /// All findings about a job, cleared ones too.
    ///
    /// # Errors
    /// As for [`Ctl::json`].
    pub fn findings(&self, job: &str) -> anyhow::Result<Vec<Value>> {
        let document = self.json(&["findings", "--all", "--job", job])?;
        Ok(document["findings"].as_array().context("no \"findings\" in the document")?.clone())
    }

    /// The `c4ctl job` document.
    ///
    /// # Errors
    /// As for [`Ctl::json`].
    pub fn job(&self, job: &str) -> anyhow::Result<Value> {
        self.json(&["job", job])
    }

    /// Waits until incarnation `incarnation` of a job, or a later one, is known well and healthy.
    ///
    /// # Errors
    /// When it does not become so in time.
    pub fn wait_healthy(&self, job: &str, incarnation: u64, limit: Duration) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        wait_for(&format!("job {job} to be healthy"), limit, || {
            let document = self.job(job)?;
            let summary = &document["job"];
            let healthy =
                summary["state"] == "healthy" && summary["incarnation"].as_u64() >= Some(incarnation);
            last = summary.clone();
            Ok(healthy.then_some(document))
        })
        .with_context(|| format!("last seen: {last}"))
    }

    /// Waits for a finding about a job that is not among `known`.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn wait_finding(&self, job: &str, known: &[Value], limit: Duration) -> anyhow::Result<Value> {
        wait_for(&format!("a finding about job {job}"), limit, || {
            let findings = self.findings(job)?;
            let new = |finding: &&Value| known.iter().all(|known| known["id"] != finding["id"]);
            Ok(findings.iter().find(new).cloned())
        })
    }

    /// Waits until a finding is cleared.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_cleared(&self, job: &str, id: &Value, limit: Duration) -> anyhow::Result<Value> {
        wait_for(&format!("finding {id} to clear"), limit, || {
            let findings = self.findings(job)?;
            let cleared = |finding: &&Value| finding["id"] == *id && !finding["cleared"].is_null();
            Ok(findings.iter().find(cleared).cloned())
        })
    }
}

/// The rank of a finding's first suspect.
#[must_use]
pub fn suspect_rank(finding: &Value) -> Option<u64> {
    finding["suspects"][0]["rank"].as_u64()
}
