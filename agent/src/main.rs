//! `c4-agent`: see the library.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result};
use c4_agent::{
    cli::{Cli, Verb},
    config::{Config, LogFormat},
    driver,
};
use clap::{CommandFactory, Parser, error::ErrorKind};
use tracing_subscriber::EnvFilter;

/// The configuration is wrong.
const EX_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match cli.config.as_deref().map(Config::load).transpose() {
        Ok(config) => config.unwrap_or_default(),
        Err(error) => {
            let file = cli.config.unwrap_or_default();
            eprintln!("c4-agent: configuration {}: {error}", file.display());
            return ExitCode::from(EX_CONFIG);
        }
    };
    if let Some(Verb::Run(options)) = &cli.command
        && let Err(mistake) = options.check()
    {
        Cli::command().error(ErrorKind::ValueValidation, mistake).exit();
    }
    if cli.check_config {
        return ExitCode::SUCCESS;
    }
    start_log(&config);
    run(config, cli.command).unwrap_or_else(|error| {
        eprintln!("c4-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(config: Config, verb: Option<Verb>) -> Result<ExitCode> {
    // Two workers: one may be in a look at the recorders while the other keeps the stream going.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        match verb {
            Some(Verb::Run(options)) => driver::run_job(config, *options).await,
            None => driver::daemon(config).await.map(|()| 0),
        }
    });
    // Sensors may hang in a driver call: nobody waits for them.
    runtime.shutdown_background();
    code.map(ExitCode::from)
}

/// Logs go to stderr: stdout belongs to the job.
fn start_log(config: &Config) {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&config.log_filter));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")));
    match config.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
