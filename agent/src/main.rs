//! `c4-agent`: see the library.

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use c4_agent::{
    cli::{Cli, Verb},
    config::{Config, LogFormat},
    driver, plugin,
};
use c4_daemon::{Collector, CollectorError, Format, Log, Manager};
use clap::{CommandFactory, Parser, error::ErrorKind};

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
    let mut config = config;
    if let Some(Verb::Run(options)) = &cli.command {
        if let Err(mistake) = options.check() {
            Cli::command().error(ErrorKind::ValueValidation, mistake).exit();
        }
        if let Some(node) = &options.node {
            config.node.clone_from(node);
        }
        // Whoever names no controller has none: a job must not wait for one that is not there.
        if cli.config.is_none() {
            config.controller = None;
        }
    }
    if cli.check_config {
        return ExitCode::SUCCESS;
    }
    if let Some(Verb::InstallPlugin { directory }) = &cli.command {
        return install_plugin(directory);
    }
    let done = start_log(&config)
        .map_err(Into::into)
        .and_then(|log| run(config, cli.command, cli.config.as_deref(), &log));
    done.unwrap_or_else(|error| {
        eprintln!("c4-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(config: Config, verb: Option<Verb>, path: Option<&Path>, log: &Log) -> Result<ExitCode> {
    let manager = Manager::from_environment();
    // Two workers: one may be in a look at the recorders while the other keeps the stream going.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        match verb {
            Some(Verb::Run(options)) => driver::run_job(config, *options).await,
            Some(Verb::Check { json }) => driver::check(config, json).await,
            _ => driver::daemon(config, manager, || reload(path, log)).await.map(|()| 0),
        }
    });
    // Sensors may hang in a driver call: nobody waits for them.
    runtime.shutdown_background();
    code.map(ExitCode::from)
}

fn install_plugin(directory: &Path) -> ExitCode {
    let installed =
        plugin::find().context("the plugin is neither beside this program nor in ../lib/c4").and_then(
            |found| plugin::install(&found, directory).with_context(|| directory.display().to_string()),
        );
    match installed {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("c4-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr: stdout belongs to the job.
fn start_log(config: &Config) -> Result<Log, CollectorError> {
    let format = match config.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let collector = config.otlp.as_ref().map(|address| Collector {
        address: address.clone(),
        ca: config.otlp_ca.clone(),
        service: "c4-agent",
        version: env!("CARGO_PKG_VERSION"),
        instance: config.node.clone(),
    });
    let filter = env::var("RUST_LOG").unwrap_or_else(|_| config.log_filter.clone());
    Log::start(&filter, format, collector.as_ref())
}

/// What a running agent takes of a changed configuration: the log's level. Certificates it reads by itself, and the rest
/// with its next start.
fn reload(path: Option<&Path>, log: &Log) {
    match path.map(Config::load).transpose() {
        Ok(config) => log.change(&config.unwrap_or_default().log_filter),
        Err(error) => tracing::error!(%error, "SIGHUP: the configuration is wrong, nothing was changed"),
    }
}
