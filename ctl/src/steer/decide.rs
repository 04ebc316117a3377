//! Decisions: approve, reject, pause, resume, isolate, release, mode.
//!
//! On a terminal the command first says what would happen and asks; elsewhere `--yes` must say that this is meant. A
//! pause is the exception: whoever wants everything to stop gets no questions.

use std::io::{self, BufRead, IsTerminal, Write};

use c4_proto::v1::{self, decision::What};
use serde_json::json;

use super::Asked;
use crate::{
    cli::{How, Mode, Steer},
    failure::Failure,
    words::printable,
};

pub(super) async fn run(asked: &mut Asked<'_>, command: &Steer) -> Result<(), Failure> {
    let Some((what, how)) = decision(command) else {
        return Err(Failure::Usage("this command decides nothing".to_owned()));
    };
    let at_once = matches!(what, What::Pause(_)) || how.yes;
    if how.dry_run || !at_once {
        let would = ask(asked, what.clone(), how, true).await?;
        if how.dry_run {
            return say(asked, &would, true);
        }
        confirm(&would)?;
    }
    let done = ask(asked, what, how, false).await?;
    say(asked, &done, false)
}

fn decision(command: &Steer) -> Option<(What, &How)> {
    let decided = match command {
        Steer::Approve { action, how } => (What::Approve(action.clone()), how),
        Steer::Reject { action, how } => (What::Reject(action.clone()), how),
        Steer::Pause { why, how } => (What::Pause(v1::PauseAll { why: why.clone() }), how),
        Steer::Resume { how } => (What::Resume(v1::ResumeAll {}), how),
        Steer::Isolate { node, why, how } => {
            (What::Isolate(v1::IsolateNode { node: node.clone(), why: why.clone() }), how)
        }
        Steer::Release { node, unchecked, how } => {
            (What::Release(v1::ReleaseNode { node: node.clone(), check: !unchecked }), how)
        }
        Steer::Mode { mode, job, node, kind, lasting, how } => {
            let (scope, name) = match (job, node, kind) {
                (Some(job), ..) => ("job", job.as_str()),
                (_, Some(node), _) => ("node", node.as_str()),
                (.., Some(kind)) => ("kind", kind.as_str()),
                _ => ("cluster", ""),
            };
            let mode = match mode {
                Mode::Observe => "observe",
                Mode::Approve => "approve",
                Mode::Auto => "auto",
                Mode::Default => "",
            };
            let set = v1::SetMode {
                scope: scope.to_owned(),
                name: name.to_owned(),
                mode: mode.to_owned(),
                for_us: lasting.unwrap_or(0),
            };
            (What::SetMode(set), how)
        }
        Steer::Actions { .. }
        | Steer::Audit { .. }
        | Steer::Ledger { .. }
        | Steer::Evidence { .. }
        | Steer::Checkpoint { .. } => return None,
    };
    Some(decided)
}

async fn ask(asked: &Asked<'_>, what: What, how: &How, dry_run: bool) -> Result<String, Failure> {
    let decision = v1::Decision { by: how.by.clone(), dry_run, what: Some(what) };
    let mut calls = asked.client.steering.clone();
    Ok(asked.client.call(asked.timeout, "", calls.decide(decision)).await?.text)
}

fn say(asked: &mut Asked<'_>, text: &str, dry_run: bool) -> Result<(), Failure> {
    if asked.json {
        asked.out.json(&json!({"text": text, "dry_run": dry_run}))?;
    } else {
        asked.out.line(printable(text))?;
    }
    Ok(())
}

/// Asks on the terminal.
fn confirm(would: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let would = printable(would);
        return Err(Failure::Usage(format!("{would}; say --yes to do it (there is no terminal to ask on)")));
    }
    let mut terminal = io::stderr();
    write!(terminal, "{}. Go on? [y/N] ", printable(would))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Check("nothing was done".to_owned())),
    }
}
