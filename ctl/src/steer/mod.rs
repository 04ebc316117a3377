//! Actions: what is done about findings, what was, and what operators decide about it.

use crate::{
    asked::{self, Asked},
    cli::{Cli, Steer},
    failure::{Exit, Failure},
    output::Output,
};

pub(crate) mod actions;
pub(crate) mod audit;
mod decide;
pub(crate) mod ledger;

/// Runs one of the commands.
///
/// # Errors
/// When the controller cannot be reached or refuses, or when nobody says yes.
pub fn run(cli: &Cli, command: &Steer, out: &mut Output) -> Result<Exit, Failure> {
    asked::run(cli, command.watch(), out, async |asked| match command {
        Steer::Actions { all, .. } => actions::list(asked, *all).await,
        Steer::Audit { limit, .. } => audit::list(asked, *limit).await,
        Steer::Evidence { job } => audit::evidence(asked, job.as_deref()).await,
        Steer::Ledger { job, .. } => ledger::run(asked, job.as_deref()).await,
        Steer::Checkpoint { job, iteration, took } => ledger::checkpoint(asked, job, *iteration, *took).await,
        decision => decide::run(asked, decision).await,
    })
}
