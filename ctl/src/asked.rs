//! What commands that ask a controller have in common.

use std::time::Duration;

use crate::{
    cli::Cli,
    client::Client,
    contexts::{self, Target},
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

/// How long a controller may take to answer.
pub(crate) fn timeout(cli: &Cli) -> Duration {
    Duration::from_secs(cli.timeout)
}

/// What waits for a controller: one thread is enough.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Connects, runs a command, and prints all of it; every `watch` seconds again, until nobody reads any more.
///
/// # Errors
/// When the controller cannot be reached, and those of the command. Whoever watches wants to see a controller come back
/// as well: then that it cannot be reached is no error.
pub(crate) fn run(
    cli: &Cli,
    watch: Option<u64>,
    out: &mut Output,
    command: impl AsyncFn(&mut Asked<'_>) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let target = contexts::target(cli)?;
    runtime()?.block_on(async {
        let Some(seconds) = watch else {
            once(cli, &target, out, &command).await?;
            return Ok(Exit::Fine);
        };
        let mut pace = tokio::time::interval(Duration::from_secs(seconds));
        while !out.gone() {
            pace.tick().await;
            if !cli.is_json() {
                // Waits in the buffer until there is an answer.
                out.again()?;
            }
            match once(cli, &target, out, &command).await {
                Err(failure @ Failure::Unreachable { .. }) => {
                    out.flush()?;
                    eprintln!("c4ctl: {failure}");
                }
                result => result?,
            }
        }
        Ok(Exit::Fine)
    })
}

async fn once(
    cli: &Cli,
    target: &Target,
    out: &mut Output,
    command: impl AsyncFn(&mut Asked<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let client = Client::connect(&target.controller, &target.credentials, timeout(cli)).await?;
    let mut asked = Asked { client, timeout: timeout(cli), json: cli.is_json(), out };
    command(&mut asked).await?;
    asked.out.flush()?;
    Ok(())
}
