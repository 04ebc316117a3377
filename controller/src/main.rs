//! `c4-controller`: the control plane's one program.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use c4_controller::{
    access::tokens,
    config::{Config, Log, LogFormat},
    server,
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
}

/// Exit code for a wrong configuration.
const CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some([grant, name]) = arguments.new_token.as_deref() {
        return new_token(grant, name);
    }
    let Some(config) = read(arguments.config) else { return ExitCode::from(CONFIGURATION) };
    if arguments.check_config {
        println!("configuration is valid");
        return ExitCode::SUCCESS;
    }
    trace(&config.log);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c4-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut running = server::start(config).await?;
    announce(&format!("listening grpc={} http={}", running.grpc, running.http))?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        why = running.broken() => anyhow::bail!(why),
    }
    if !running.drain().await {
        tracing::warn!("not everything ended within drain_seconds");
    }
    Ok(())
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

/// Reads the configuration; says everything that is wrong with it.
fn read(path: Option<PathBuf>) -> Option<Config> {
    let Some(path) = path else { return Some(Config::default()) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return None;
        }
    };
    match Config::parse(&text) {
        Ok(config) => Some(config),
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{}: {mistake}", path.display());
            }
            None
        }
    }
}

fn trace(log: &Log) {
    // The level was checked with the rest of the configuration.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Scripts wait for this line. A closed standard output is nobody waiting.
fn announce(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
