//! `c4-controller`: the control plane's one program.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use c4_controller::{
    access::tokens,
    config::{Config, LogFormat, TopologySource},
    ha::member::Controller,
    paths, server,
};
use c4_daemon::{Collector, CollectorError, Format, Log, Manager};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Messages are decoded on one thread and freed on another a hundred thousand times a second: glibc's allocator needs a
/// quarter of the CPU time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finds the faulty rank, tells people, and restarts jobs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (YAML). Without one, every default applies.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is right, 64 if not.
    #[arg(long)]
    check_config: bool,
    /// Print a new token, and the line by which `access.tokens` knows it, and exit. GRANT is viewer, operator, admin,
    /// agent or job:NAME.
    #[arg(long, num_args = 2, value_names = ["GRANT", "NAME"])]
    new_token: Option<Vec<String>>,
    /// Fill the empty store of the configuration from a file of `c4ctl backup`, and exit. No controller may run.
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
}

/// Exit code for a wrong configuration.
const CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some([grant, name]) = arguments.new_token.as_deref() {
        return new_token(grant, name);
    }
    let path = arguments.config;
    let Some(config) = read(path.as_deref()) else { return ExitCode::from(CONFIGURATION) };
    if arguments.check_config {
        println!("configuration is valid");
        return ExitCode::SUCCESS;
    }
    let done = start_log(&config).map_err(Into::into).and_then(|log| match &arguments.restore {
        Some(file) => restore(&config, file),
        None => run(config, path.as_deref(), &log, Manager::from_environment()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c4-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(config: &Config) -> Result<Log, CollectorError> {
    let format = match config.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let collector = config.log.otlp.as_ref().map(|address| Collector {
        address: address.clone(),
        ca: config.log.otlp_ca.clone(),
        service: "c4-controller",
        version: env!("CARGO_PKG_VERSION"),
        instance: config
            .ha
            .as_ref()
            .and_then(|ha| ha.name.clone())
            .unwrap_or_else(|| config.listen.to_string()),
    });
    Log::start(&config.log.level, format, collector.as_ref())
}

#[tokio::main]
async fn run(config: Config, path: Option<&Path>, log: &Log, manager: Manager) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut running = Controller::start(config).await?;
    let (grpc, http) = running.addresses();
    announce(&format!("listening grpc={grpc} http={http}"))?;
    manager.ready();
    let watched = tokio::spawn(manager.watch(running.alive()));
    loop {
        tokio::select! {
            _ = terminate.recv() => break tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => break tracing::info!("SIGINT: draining"),
            _ = hangup.recv() => reload(path, log),
            why = running.broken() => anyhow::bail!(why),
        }
    }
    watched.abort();
    manager.stopping();
    if !running.drain().await {
        tracing::warn!("not everything ended within drain_seconds");
    }
    Ok(())
}

#[tokio::main]
async fn restore(config: &Config, file: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let rows = server::restore(config, &bytes).await.with_context(|| file.display().to_string())?;
    announce(&format!("restored {rows} rows"))
}

fn new_token(grant: &str, name: &str) -> ExitCode {
    match tokens::new_token(grant, name) {
        Ok(Some((token, line))) => {
            println!("token (shown once): {token}\nline for access.tokens: {line}");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("expected viewer, operator, admin, agent or job:NAME, and a name, both of one word");
            ExitCode::from(2)
        }
        Err(_) => {
            eprintln!("the system has no random numbers");
            ExitCode::FAILURE
        }
    }
}

/// What a running controller takes of a changed configuration: the log's level. Certificates and tokens it reads by itself,
/// and the rest with its next start.
fn reload(path: Option<&Path>, log: &Log) {
    match read(path) {
        Some(config) => log.change(&config.log.level),
        None => tracing::error!("SIGHUP: the configuration is wrong, nothing was changed"),
    }
}

/// Reads the configuration; says everything that is wrong with it.
fn read(path: Option<&Path>) -> Option<Config> {
    let Some(path) = path else { return Some(with_state(Config::default())) };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return None;
        }
    };
    match Config::parse(&text) {
        Ok(config) => match config.paths.topology.as_ref().and_then(TopologySource::file).map(paths::load) {
            Some(Err(mistakes)) => {
                for mistake in mistakes {
                    eprintln!("paths.topology: {mistake}");
                }
                None
            }
            _ => Some(with_state(config)),
        },
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{}: {mistake}", path.display());
            }
            None
        }
    }
}

/// Without a configured directory, the one that the service manager gives is used, if it gives one.
fn with_state(mut config: Config) -> Config {
    let given = std::env::var_os("STATE_DIRECTORY").filter(|given| !given.is_empty());
    config.state = config.state.or(given.map(PathBuf::from));
    config
}

/// Scripts wait for this line. A closed standard output is nobody waiting.
fn announce(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
