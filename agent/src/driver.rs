//! Puts the parts together and keeps them running.
//!
//! Tasks: the sampler (recorders), the stream (or, without a controller, a diagnosis or a sink), `/metrics`, and with `run` the
//! supervisor; sensors and learning of paths have threads. One channel for reports, `REPORTS` deep: whoever reports waits when it is full, and
//! the stream empties it into its spool without waiting for anybody, so it is never full for long. One for commands, `COMMANDS`
//! deep. One for wishes to time all steps, from the stream to the sampler, `WISHES` deep: what does not fit is dropped, since
//! the controller says it again. At the end the sampler looks once more (so that deaths are told), then the stream delivers what is left.

mod diagnose;
mod run;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use c4_daemon::Manager;
use c4_tls::Accepting;
pub use run::run_job;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    checks::{self, CheckSettings},
    config::Config,
    http,
    metrics::Metrics,
    paths::{explore::Explorer, service::Service},
    recorders::{Exits, RecorderDirectory, Sampler, Settings},
    report::{Captured, Command, CommandAction, Report, TimeSteps},
    sensors::{Sensors, nic_class},
    stream::{Stream, StreamSettings, Tcp},
    supervise::ledger::{Ledger, Verdict},
};

/// Reports on their way to the stream.
const REPORTS: usize = 1024;

/// Commands on their way to the supervisor.
const COMMANDS: usize = 64;

/// Wishes for all steps to be timed on their way to the sampler.
const WISHES: usize = 16;

/// Time between two looks at the file that says that the node is to be left alone.
const WISH: Duration = Duration::from_secs(2);

/// How long the first connection waits for sensors that are slow to start.
const SENSORS_SETTLE: Duration = Duration::from_secs(3);

/// What becomes of reports without a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    /// The agent finds out itself what is wrong, as far as its own node shows it.
    Diagnose,
    /// What matters goes to the log.
    Log,
}

/// A running agent.
struct Agent {
    reports: mpsc::Sender<Captured>,
    commands: mpsc::Receiver<Command>,
    sampling: CancellationToken,
    streaming: CancellationToken,
    sampler: JoinHandle<()>,
    stream: JoinHandle<()>,
    server: Option<JoinHandle<()>>,
    sampled: watch::Receiver<Instant>,
    sensors: Sensors,
    paths: Option<Service>,
    explorer: Option<Explorer>,
}

impl Agent {
    async fn start(config: &Config, session: &str, exits: Exits, alone: Alone) -> Result<Self> {
        let metrics = Metrics::new(&config.node)?;
        let listener = bind(config).await?;
        let dial = config
            .controller
            .as_deref()
            .map(|address| Tcp::new(address, config.tls.clone(), config.connect_timeout))
            .transpose()?;

        let (reports, reports_receiver) = mpsc::channel(REPORTS);
        let paths = config.paths.clone();
        let paths = paths.map(|paths| Service::start(paths, metrics.clone(), reports.clone())).transpose();
        let paths = paths.context("cannot start learning paths")?;
        let explorer = config.paths.as_ref().and_then(|paths| paths.explore.clone());
        let explorer = explorer.map(|settings| Explorer::start(settings, reports.clone())).transpose();
        let explorer = explorer.context("cannot start exploring paths")?;
        let (commands_sender, commands) = mpsc::channel(COMMANDS);
        let (wishes, wishes_receiver) = mpsc::channel(WISHES);
        let (sampled, sampled_receiver) = watch::channel(Instant::now());
        let (sampling, streaming) = (CancellationToken::new(), CancellationToken::new());

        let mut sensors =
            Sensors::start(&config.sensors, config.recorder_dir.display().to_string(), &reports, &metrics);
        let sampler = tokio::spawn(sample(
            sampler(config, exits.clone(), &sensors),
            exits,
            config.sample_interval,
            reports.clone(),
            wishes_receiver,
            sampled,
            metrics.clone(),
            sampling.clone(),
        ));
        let server = listener.map(|listener| {
            let (metrics, sampled, shutdown) = (metrics.clone(), sampled_receiver.clone(), streaming.clone());
            tokio::spawn(async move {
                http::serve(listener, metrics, sampled, shutdown).await;
            })
        });
        tokio::spawn(watch_wish(config.leave_alone.clone(), reports.clone(), sampling.clone()));
        let status = sensors.status.clone();
        tokio::spawn(watch_sensors(status.clone(), metrics.clone()));
        let stream = match dial {
            Some(dial) => {
                sensors.settle(SENSORS_SETTLE).await;
                let settings = stream_settings(config, session);
                let stream = Stream::new(dial, settings, status, commands_sender, wishes, metrics);
                let stream = stream.with_orders(paths.as_ref().map(Service::mailbox));
                let stream = stream.with_explorer(explorer.as_ref().map(Explorer::wishes));
                tokio::spawn(stream.run(reports_receiver, streaming.clone()))
            }
            None if alone == Alone::Diagnose => {
                let node = config.node.clone();
                tokio::spawn(diagnose::diagnose(node, reports_receiver, wishes, streaming.clone()))
            }
            None => tokio::spawn(discard(reports_receiver, streaming.clone())),
        };
        let sampled = sampled_receiver;
        Ok(Self {
            reports,
            commands,
            sampling,
            streaming,
            sampler,
            stream,
            server,
            sampled,
            sensors,
            paths,
            explorer,
        })
    }

    /// Looks once more, delivers what is left, ends.
    async fn finish(self) {
        self.sampling.cancel();
        let _ = self.sampler.await;
        drop(self.sensors);
        drop(self.paths);
        drop(self.explorer);
        drop(self.reports);
        self.streaming.cancel();
        let _ = self.stream.await;
        if let Some(server) = self.server {
            // Somebody who keeps a connection to /metrics open does not keep the agent.
            server.abort();
        }
    }
}

/// Runs as the node's daemon until SIGINT or SIGTERM; `reload` is called at SIGHUP.
///
/// # Errors
/// An address is in use, or the process lacks something basic.
pub async fn daemon(config: Config, manager: Manager, reload: impl Fn()) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let session = session_id();
    info!(node = %config.node, recorders = %config.recorder_dir.display(), %session, "c4-agent runs");
    if let Err(error) = RecorderDirectory::new(&config.recorder_dir).share() {
        let path = config.recorder_dir.display();
        warn!(%path, %error, "the recorder directory is not open to every user: C4 will not see jobs of other users");
    }
    let mut agent = Agent::start(&config, &session, Exits::default(), Alone::Log).await?;
    let checks = CheckSettings { sensors: config.sensors, ..config.checks };
    manager.ready();
    let sampled = agent.sampled.clone();
    let watched = tokio::spawn(manager.watch(move || http::is_fresh(&sampled)));
    {
        let obeying = obey(&mut agent.commands, &agent.reports, &checks);
        tokio::pin!(obeying);
        loop {
            tokio::select! {
                _ = signals.next() => break,
                _ = hangup.recv() => reload(),
                () = &mut obeying => break,
            }
        }
    }
    info!("ending");
    watched.abort();
    manager.stopping();
    agent.finish().await;
    Ok(())
}

/// Checks the node once, and says what was found.
///
/// # Errors
/// Standard output cannot be written to.
pub async fn check(config: Config, json: bool) -> Result<u8> {
    let settings = CheckSettings { sensors: config.sensors, ..config.checks };
    let results = checks::run(settings).await;
    let text = if json { checks::document(&results).to_string() } else { checks::lines(&results) };
    std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())
        .context("cannot write to standard output")?;
    Ok(u8::from(results.iter().any(|result| result.outcome == checks::Outcome::Failed)))
}

/// The daemon supervises nothing; checking its node is all it can be told to do.
async fn obey(
    commands: &mut mpsc::Receiver<Command>,
    reports: &mpsc::Sender<Captured>,
    checks: &CheckSettings,
) {
    let mut known = Ledger::default();
    while let Some(command) = commands.recv().await {
        if known.enter(&command.id) != Verdict::New {
            continue;
        }
        if command.action == CommandAction::CheckNode {
            let span = command.span();
            checks::answer(command.id, checks.clone(), reports.clone(), span);
            continue;
        }
        let detail = "this agent supervises no processes".to_owned();
        let report = Report::CommandResult { command_id: command.id, ok: false, detail };
        if reports.send(Captured::now(report)).await.is_err() {
            return;
        }
    }
    // Without a controller nobody commands.
    std::future::pending().await
}

/// Tells whether the node is to be left alone, whenever that changes.
async fn watch_wish(file: PathBuf, reports: mpsc::Sender<Captured>, shutdown: CancellationToken) {
    let mut told = None;
    let mut tick = interval(WISH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let wish = match tokio::fs::read_to_string(&file).await {
            Ok(text) => {
                let first = text.lines().next().unwrap_or_default().trim().to_owned();
                Some(if first.is_empty() { format!("{} is there", file.display()) } else { first })
            }
            // A file that cannot be read is there all the same.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Some(error.to_string()),
            Err(_) => None,
        };
        if told.as_ref() != Some(&wish) {
            told = Some(wish.clone());
            if reports.send(Captured::now(Report::Wish(wish))).await.is_err() {
                return;
            }
        }
    }
}

async fn bind(config: &Config) -> Result<Option<Accepting>> {
    let Some(address) = config.http else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    let listener = bound.with_context(|| format!("cannot serve metrics on {address}"))?;
    info!(address = %listener.local_addr()?, "serving /metrics and /healthz");
    Ok(Some(http::protect(listener, config)?))
}

fn sampler(config: &Config, exits: Exits, sensors: &Sensors) -> Sampler<RecorderDirectory> {
    let settings = Settings {
        node: config.node.clone(),
        interval: config.sample_interval,
        window: config.window,
        overdue: config.overdue,
        retention: config.evidence,
        proc_root: "/proc".into(),
        sys_root: config.sensors.sys_root(),
    };
    let source = RecorderDirectory::new(&config.recorder_dir);
    let sampler = Sampler::new(source, settings, exits, c4_recorder::monotonic_now_ns());
    sampler.with_spinning(sensors.spinning.clone()).with_gpus(sensors.gpus.clone())
}

fn stream_settings(config: &Config, session: &str) -> StreamSettings {
    StreamSettings {
        node: config.node.clone(),
        session_id: session.to_owned(),
        token_file: config.token_file.clone(),
        nic_class: config.sensors.nic.as_ref().and_then(|nic| nic_class(&nic.sys_root)),
        limits: config.spool,
        backoff: config.reconnect,
        connect_timeout: config.connect_timeout,
        drain: config.drain,
    }
}

#[expect(clippy::too_many_arguments, reason = "the ends of the sampler's channels")]
async fn sample(
    mut sampler: Sampler<RecorderDirectory>,
    exits: Exits,
    pause: Duration,
    reports: mpsc::Sender<Captured>,
    mut wishes: mpsc::Receiver<TimeSteps>,
    sampled: watch::Sender<Instant>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let mut tick = interval(pause);
    // After a stall one look is enough: a recorder says where it stands, not what each moment was like.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The last looks are two: an exit status may come one sample after the death.
        let last = tokio::select! {
            biased;
            () = shutdown.cancelled() => true,
            // At once: others die of the first death within milliseconds, and who was first matters.
            () = exits.news() => false,
            _ = tick.tick() => false,
        };
        for _ in 0..if last { 2 } else { 1 } {
            let begin = Instant::now();
            while let Ok(wish) = wishes.try_recv() {
                sampler.time_steps(&wish, c4_recorder::monotonic_now_ns());
            }
            let said = sampler.sample(c4_recorder::monotonic_now_ns());
            metrics.sampled(sampler.figures(), begin.elapsed());
            metrics.collectives(sampler.take_collectives());
            sampled.send_replace(begin);
            for report in said {
                if reports.send(captured(begin, report)).await.is_err() {
                    return;
                }
            }
        }
        if last {
            return;
        }
    }
}

/// A report of a look that began then. Windows hold everything up to its beginning. Whoever was seen to have ended had ended when it
/// was over; one that was found ended is told as of its last sign of life.
fn captured(began: Instant, mut report: Report) -> Captured {
    let at = match &mut report {
        Report::ProcessEnded(end) if end.found => {
            let ago = Duration::from_micros(std::mem::take(&mut end.ago_us));
            began.checked_sub(ago).unwrap_or(began)
        }
        Report::ProcessEnded(_) => Instant::now(),
        _ => began,
    };
    Captured { at, report }
}

async fn watch_sensors(mut status: watch::Receiver<Vec<crate::report::SensorStatus>>, metrics: Metrics) {
    loop {
        metrics.sensors(&status.borrow_and_update());
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Without a controller: what matters goes to the log, the rest nowhere.
async fn discard(mut reports: mpsc::Receiver<Captured>, shutdown: CancellationToken) {
    loop {
        let report = tokio::select! {
            biased;
            report = reports.recv() => report,
            () = shutdown.cancelled() => return,
        };
        match report.map(|captured| captured.report) {
            None => return,
            Some(Report::Health(health)) => {
                info!(code = %health.code, detail = %health.detail, cleared = health.cleared, "health");
            }
            Some(Report::Windows(_)) => {}
            Some(other) => tracing::debug!(report = ?other, "nobody to tell"),
        }
    }
}

/// New at each start. The standard library seeds its hashers from the system's random numbers.
fn session_id() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}
