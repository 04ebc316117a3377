//! Commands that ask a controller. Each asks first and prints afterwards, so that a controller that vanishes leaves no
//! half an answer; only `events --follow` prints as it hears.

use crate::{
    asked::{self, Asked},
    cli::{Alerts, Cli, Live},
    failure::{Exit, Failure},
    output::Output,
};

mod alerts;
mod backup;
mod bundle;
mod events;
mod findings;
mod job;
mod jobs;
mod paths;
mod redact;
mod report;
mod status;
mod top;
mod topology;

/// Runs one of them.
///
/// # Errors
/// When the controller cannot be reached or refuses.
pub fn run(cli: &Cli, command: &Live, out: &mut Output) -> Result<Exit, Failure> {
    if matches!(command, Live::Top) {
        return top::run(cli);
    }
    asked::run(cli, command.watch(), out, async |asked| match command {
        Live::Status { .. } => status::run(asked).await,
        Live::Jobs { .. } => jobs::run(asked).await,
        Live::Job { job, .. } => job::run(asked, job).await,
        Live::Findings { all, job, .. } => findings::list(asked, *all, job.as_deref()).await,
        Live::Explain { id } => findings::explain(asked, id).await,
        Live::Alerts { command: Alerts::Test } => alerts::test(asked).await,
        Live::Paths { job, .. } => paths::run(asked, job.as_deref()).await,
        Live::Events { follow, history } => events::run(asked, *follow, *history).await,
        Live::Report { job, file } => report::run(asked, job, file.as_deref()).await,
        Live::Bundle { id, file } => bundle::run(asked, id, file.as_deref()).await,
        Live::Backup { file } => backup::run(asked, file).await,
        Live::Top => Ok(()),
    })
}

/// Runs `c4ctl topology --probed`.
///
/// # Errors
/// When the controller cannot be reached, or has no topology to tell of.
pub fn topology(cli: &Cli, out: &mut Output) -> Result<Exit, Failure> {
    asked::run(cli, None, out, async |asked| topology::run(asked).await)
}
