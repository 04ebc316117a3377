//! Commands that ask a controller. Each asks first and prints afterwards, so that a controller that vanishes leaves no
//! half an answer; only `events --follow` prints as it hears.

use std::time::Duration;

use crate::{
    cli::{Cli, Live},
    client::Client,
    contexts::{self, Target},
    failure::{Exit, Failure},
    output::Output,
};

mod bundle;
mod events;
mod findings;
mod job;
mod jobs;
mod redact;
mod report;
mod status;
mod top;

/// Runs one of them.
///
/// # Errors
/// When the controller cannot be reached or refuses.
pub fn run(cli: &Cli, command: &Live, out: &mut Output) -> Result<Exit, Failure> {
    let target = contexts::target(cli)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let timeout = Duration::from_secs(cli.timeout);
    runtime.block_on(async {
        if matches!(command, Live::Top) {
            return top::run(&target, timeout, cli.color).await;
        }
        let Some(seconds) = command.watch() else {
            once(&target, cli, command, out).await?;
            return Ok(Exit::Fine);
        };
        let mut pace = tokio::time::interval(Duration::from_secs(seconds));
        while !out.gone() {
            pace.tick().await;
            // Whoever watches wants to see it come back as well.
            let answer = once(&target, cli, command, out).await;
            if let Err(failure) = answer {
                if !matches!(failure, Failure::Unreachable { .. }) {
                    return Err(failure);
                }
                if !cli.is_json() {
                    out.again()?;
                }
                eprintln!("c4ctl: {failure}");
                out.flush()?;
            }
        }
        Ok(Exit::Fine)
    })
}

async fn once(target: &Target, cli: &Cli, command: &Live, out: &mut Output) -> Result<(), Failure> {
    let timeout = Duration::from_secs(cli.timeout);
    let client = Client::connect(&target.controller, &target.credentials, timeout).await?;
    let mut asked = Asked { client, timeout, json: cli.is_json(), again: command.watch().is_some(), out };
    match command {
        Live::Status { .. } => status::run(&mut asked).await?,
        Live::Jobs { .. } => jobs::run(&mut asked).await?,
        Live::Job { job, .. } => job::run(&mut asked, job).await?,
        Live::Findings { all, job, .. } => findings::list(&mut asked, *all, job.as_deref()).await?,
        Live::Explain { id } => findings::explain(&mut asked, id).await?,
        Live::Events { follow, history } => events::run(&mut asked, *follow, *history).await?,
        Live::Report { job, file } => report::run(&mut asked, job, file.as_deref()).await?,
        Live::Bundle { id, file } => bundle::run(&mut asked, id, file.as_deref()).await?,
        Live::Top => {}
    }
    asked.out.flush()?;
    Ok(())
}

/// What every command needs.
struct Asked<'a> {
    client: Client,
    timeout: Duration,
    json: bool,
    /// The answer takes the place of an earlier one.
    again: bool,
    out: &'a mut Output,
}

impl Asked<'_> {
    /// Everything was asked; what follows is the answer.
    fn begin(&mut self) -> std::io::Result<()> {
        if self.again && !self.json { self.out.again() } else { Ok(()) }
    }
}
