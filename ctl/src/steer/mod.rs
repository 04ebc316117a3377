//! Actions: what is done about findings, what was, and what operators decide about it.

use std::time::Duration;

use c4_proto::v1::steering_client::SteeringClient;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    cli::{Cli, Steer},
    client::{Client, Token},
    failure::{Exit, Failure},
    output::Output,
};

mod actions;
mod audit;
mod decide;
mod ledger;

/// Runs one of the commands.
///
/// # Errors
/// When the controller cannot be reached or refuses, or when nobody says yes.
pub fn run(cli: &Cli, command: &Steer, out: &mut Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let timeout = Duration::from_secs(cli.timeout);
        let client = Client::connect(&cli.controller, &cli.credentials, timeout).await?;
        let calls = client.steering.clone();
        let mut asked = Asked { client, calls, timeout, json: cli.json, out };
        match command {
            Steer::Actions { all } => actions::list(&mut asked, *all).await?,
            Steer::Audit { limit } => audit::list(&mut asked, *limit).await?,
            Steer::Evidence { job } => audit::evidence(&mut asked, job.as_deref()).await?,
            Steer::Ledger { job } => ledger::run(&mut asked, job.as_deref()).await?,
            decision => decide::run(&mut asked, decision).await?,
        }
        asked.out.flush()?;
        Ok(Exit::Fine)
    })
}

/// What every command needs.
struct Asked<'a> {
    client: Client,
    calls: SteeringClient<InterceptedService<Channel, Token>>,
    timeout: Duration,
    json: bool,
    out: &'a mut Output,
}
