//! What commands that ask a controller have in common.

use std::time::Duration;

use crate::{
    cli::Cli,
    client::Client,
    failure::{Exit, Failure},
    output::Output,
};

/// What every such command needs.
pub(crate) struct Asked<'a> {
    pub(crate) client: Client,
    pub(crate) timeout: Duration,
    pub(crate) json: bool,
    pub(crate) out: &'a mut Output,
}

impl Asked<'_> {
    /// There is nothing to list.
    pub(crate) fn no_jobs(&mut self) -> Result<(), Failure> {
        self.out.line("No jobs: none has been seen by an agent yet.")?;
        Ok(())
    }
}

/// Connects, runs a command, and prints all of it.
///
/// # Errors
/// When the controller cannot be reached, and those of the command.
pub(crate) fn run(
    cli: &Cli,
    out: &mut Output,
    command: impl AsyncFnOnce(&mut Asked<'_>) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let timeout = Duration::from_secs(cli.timeout);
        let client = Client::connect(&cli.controller, &cli.credentials, timeout).await?;
        let mut asked = Asked { client, timeout, json: cli.json, out };
        command(&mut asked).await?;
        asked.out.flush()?;
        Ok(Exit::Fine)
    })
}
