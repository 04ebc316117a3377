//! Commands that ask a controller. Each asks first and prints afterwards, so that a controller that vanishes leaves no
//! half an answer; only `events --follow` prints as it hears.

use std::time::Duration;

use crate::{
    cli::{Alerts, Cli, Live},
    client::Client,
    failure::{Exit, Failure},
    output::Output,
};

mod alerts;
mod events;
mod findings;
mod job;
mod jobs;
mod paths;
mod status;

/// Runs one of them.
///
/// # Errors
/// When the controller cannot be reached or refuses.
pub fn run(cli: &Cli, command: &Live, out: &mut Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let timeout = Duration::from_secs(cli.timeout);
        let client = Client::connect(&cli.controller, &cli.credentials, timeout).await?;
        let mut asked = Asked { client, timeout, json: cli.json, out };
        match command {
            Live::Status => status::run(&mut asked).await?,
            Live::Jobs => jobs::run(&mut asked).await?,
            Live::Job { job } => job::run(&mut asked, job).await?,
            Live::Findings { all, job } => findings::list(&mut asked, *all, job.as_deref()).await?,
            Live::Explain { id } => findings::explain(&mut asked, id).await?,
            Live::Alerts { command: Alerts::Test } => alerts::test(&mut asked).await?,
            Live::Paths { job } => paths::run(&mut asked, job.as_deref()).await?,
            Live::Events { follow, history } => events::run(&mut asked, *follow, *history).await?,
        }
        asked.out.flush()?;
        Ok(Exit::Fine)
    })
}

/// What every command needs.
struct Asked<'a> {
    client: Client,
    timeout: Duration,
    json: bool,
    out: &'a mut Output,
}
