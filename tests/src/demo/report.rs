//! What the demo says, and where: to standard output, or beside a JSON document to standard error.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::Instant,
};

use anyhow::Context;
use serde_json::Value;

use super::scene::Scene;
use crate::{
    cluster::{Ctl, suspect_rank},
    ringjob::clock,
};

/// Where the demo is shown.
#[derive(Debug)]
pub struct Stage {
    to_stderr: bool,
    start: Instant,
}

/// The running `c4ctl events`; dropping it ends it.
#[derive(Debug)]
pub(super) struct Events(Child);

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    /// A stage; with `json` standard output is left to the document.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { to_stderr: json, start: clock::now() }
    }

    /// Says a line, with the time since the beginning.
    pub fn say(&mut self, text: &str) {
        let seconds = clock::now().duration_since(self.start).as_secs_f64();
        print_line(self.to_stderr, &format!("[{seconds:6.1} s] {text}"));
    }

    pub(super) fn heading(&mut self, text: &str) {
        print_line(self.to_stderr, "");
        self.say(text);
    }

    /// Shows the controller's events as they happen.
    pub(super) fn follow(&self, ctl: &Ctl) -> anyhow::Result<Events> {
        let mut command = ctl.command();
        command.args(["--color", "never", "events", "--follow", "--history", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot run c4ctl events")?;
        let to_stderr = self.to_stderr;
        if let Some(stdout) = child.stdout.take() {
            // Ends with c4ctl, which `Events` ends.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    print_line(to_stderr, &format!("             | {line}"));
                }
            });
        }
        Ok(Events(child))
    }

    pub(super) fn verdict(&mut self, finding: &Value, seconds: Option<f64>) {
        let text = |name: &str| finding[name].as_str().unwrap_or("?").to_owned();
        let after = seconds.map_or_else(String::new, |seconds| format!(" {seconds:.2} s after the fault"));
        self.say(&format!("Diagnosed{after}: {} ({})", text("summary"), text("kind")));
    }

    pub(super) fn recovered(&mut self, job: &Value, restarted: bool, seconds: f64) {
        let how = if restarted { "Restarted" } else { "The cause is gone" };
        let incarnation = &job["job"]["incarnation"];
        self.say(&format!(
            "{how}; the finding is cleared and the job (incarnation {incarnation}) healthy {seconds:.1} s after the fault."
        ));
    }

    /// The downtime ledger as c4ctl shows it to a person.
    pub(super) fn ledger(&mut self, ctl: &Ctl, job: &str) -> anyhow::Result<()> {
        let output =
            ctl.command().args(["--color", "never", "job", job]).output().context("cannot run c4ctl job")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.heading(&format!("c4ctl job {job}"));
        print_line(self.to_stderr, text.trim_end());
        Ok(())
    }

    /// What came of each fault, a line each.
    pub(super) fn table(&mut self, scenes: &[Scene]) {
        self.heading("Injected and diagnosed");
        for scene in scenes {
            let number =
                |seconds: Option<f64>| seconds.map_or_else(|| "never".into(), |s| format!("{s:.2} s"));
            let said = scene.finding.as_ref().map_or_else(
                || "nothing right".to_owned(),
                |finding| {
                    let rank =
                        suspect_rank(finding).map_or_else(String::new, |rank| format!(", rank {rank}"));
                    format!("{}{rank}", finding["kind"].as_str().unwrap_or("?"))
                },
            );
            let line = format!(
                "  {}  {}: {said}; verdict after {}, healthy after {}",
                if scene.good() { "ok    " } else { "FAILED" },
                scene.what,
                number(scene.verdict_seconds),
                number(scene.recovery_seconds),
            );
            print_line(self.to_stderr, &line);
        }
    }
}

fn print_line(to_stderr: bool, line: &str) {
    if to_stderr {
        eprintln!("{line}");
    } else {
        println!("{line}");
    }
}
