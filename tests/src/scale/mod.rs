//! How a controller bears a large cluster: its program as it is shipped, under agents that speak the real protocol.
//!
//! What is real: the controller, one gRPC stream for each node over a connection of its own, the messages, what they
//! say (simulated ranks aggregated by the agent's code), their rate, and the interfaces through which the verdict is
//! seen. What is not: most ranks repeat what a simulated one says ([`fleet`]), nobody tells of the timing of network
//! links, all bytes stay on this machine, and agents neither spool nor reconnect. CPU time is what the kernel counts for the controller's process, the network
//! stack's share on its behalf included as far as Linux charges it to the process.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::Receiver,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};

pub mod agent;
pub mod agents;
pub mod args;
pub mod controller;
pub mod fleet;
pub mod report;
pub mod source;
pub mod verdict;
pub mod wire;

use agents::{Agents, Observer, Standing};
use args::Args;
use controller::{Controller, Cores};
use fleet::Fleet;
use report::{Outcome, Quantiles, Row};
use source::Said;
use verdict::Operator;

use crate::{cluster::Programs, ringjob::clock};

const JOB: &str = "scale";
/// The fault comes this long after the measurement.
const MARGIN: Duration = Duration::from_secs(1);
/// Longest wait for a verdict.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest wait for the controller to take what the agents say first.
const START: Duration = Duration::from_secs(180);
/// Files of this process, and of the controller, that are no connections of agents.
const OTHER_FILES: u64 = 200;

/// Makes one run for each size.
///
/// # Errors
/// When the controller does not come up, or ends.
pub fn run(args: &Args) -> anyhow::Result<Vec<Row>> {
    let program = match &args.controller {
        Some(program) => program.clone(),
        None => Programs::built()?.controller(),
    };
    let cores = Cores::divide(&args.cores)?;
    eprintln!("controller on cores {:?}, agents on {:?}", cores.controller, cores.agents);
    let connections = connections();
    args.ranks.iter().map(|ranks| size(args, *ranks, &program, &cores, connections)).collect()
}

/// Raises the limit of open files, which the controller inherits, and returns how many connections fit.
fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Refused: then the old limit holds.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX)
}

fn size(args: &Args, ranks: u32, program: &Path, cores: &Cores, connections: usize) -> anyhow::Result<Row> {
    let fleet = Fleet::new(ranks, args.distinct)?;
    let mut controller = Controller::start(program, cores)?;
    let workers = cores.agents.len().clamp(1, 16);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let row = runtime.block_on(one(args, fleet, &mut controller, connections));
    runtime.shutdown_timeout(Duration::from_secs(5));
    row.with_context(|| format!("{ranks} ranks; the controller's log ends:\n{}", controller.log_tail()))
}

async fn one(
    args: &Args,
    fleet: Fleet,
    controller: &mut Controller,
    connections: usize,
) -> anyhow::Result<Row> {
    let began = clock::now();
    let mut operator = Operator::connect(&controller.grpc).await?;
    let agents = Agents::connect(&controller.grpc, &fleet, JOB, connections).await?;
    let observer = agents.observer();
    let connected = agents.connections;
    settled(&observer).await?;
    let start = clock::now().duration_since(began);
    eprintln!(
        "{} ranks: {} agents connected in {:.1} s",
        fleet.layout.ranks(),
        fleet.nodes(),
        start.as_secs_f64()
    );

    let (warm_up, measure) = (Duration::from_secs(args.warm_up), Duration::from_secs(args.measure));
    let breaks = warm_up + measure + MARGIN;
    let said = source::start(fleet, args.seed, args.fault, breaks, breaks + PATIENCE);
    let player = Player::start(fleet, agents, said);
    player.until(warm_up).await;
    let before = Sample::take(&observer, controller)?;
    let _ = observer.delays();
    player.until(warm_up + measure).await;
    let after = Sample::take(&observer, controller)?;
    let delays = observer.delays();
    let metrics = controller.scrape()?;
    let false_alarms = operator.told();
    let verdict = match args.fault.kind() {
        None => None,
        Some(_) => Some(judge(&fleet, &player, breaks, &mut operator).await),
    };
    let usage = controller.usage()?;
    let played = player.stop()?;
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let cores = (after.usage.cpu - before.usage.cpu).as_secs_f64() / seconds;
    let ranks = f64::from(fleet.layout.ranks());
    let rate = |after: u64, before: u64| (after - before) as f64 / seconds;
    let (standing, earlier) = (&after.standing, &before.standing);
    Ok(Row {
        ranks: fleet.layout.ranks(),
        nodes: fleet.nodes(),
        connections: connected,
        start_seconds: start.as_secs_f64(),
        cores,
        cpu_us_per_rank: cores * 1e6 / ranks,
        rss_peak_bytes: usage.rss_peak,
        rss_bytes_per_rank: usage.rss_peak as f64 / ranks,
        wire_up_bytes_per_rank: rate(standing.bytes.0, earlier.bytes.0) / ranks,
        wire_down_bytes_per_rank: rate(standing.bytes.1, earlier.bytes.1) / ranks,
        windows_per_second: rate(standing.windows, earlier.windows),
        ack_ms: Quantiles::of(&delays),
        agents_late_ms: played.late.as_secs_f64() * 1e3,
        metrics,
        refused: standing.refused,
        closed: standing.closed,
        overflowed: played.overflowed,
        complaint: standing.complaint.clone(),
        false_alarms,
        verdict,
    })
}

/// Waits until the controller has taken all that was said.
async fn settled(observer: &Observer) -> anyhow::Result<()> {
    let deadline = clock::now() + START;
    loop {
        let standing = observer.standing();
        anyhow::ensure!(standing.closed == 0, "a stream was closed: {:?}", standing.complaint);
        if standing.pending == 0 {
            return Ok(());
        }
        anyhow::ensure!(clock::now() < deadline, "{} messages are still not taken", standing.pending);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Sample {
    at: Instant,
    standing: Standing,
    usage: controller::Usage,
}

impl Sample {
    fn take(observer: &Observer, controller: &mut Controller) -> anyhow::Result<Self> {
        Ok(Self { at: clock::now(), standing: observer.standing(), usage: controller.usage()? })
    }
}

async fn judge(fleet: &Fleet, player: &Player, breaks: Duration, operator: &mut Operator) -> Outcome {
    let node = fleet.replicas(fleet.simulated.node(fleet.broken()))[0];
    let rank = fleet.counterpart(fleet.broken(), node);
    player.until(breaks).await;
    let mut others = Vec::new();
    let verdict = operator.verdict(rank, PATIENCE, &mut others).await;
    let evident = player.evident.get().copied();
    let fault = player.began + breaks;
    let mut outcome = Outcome {
        rank,
        found: verdict.is_ok(),
        kind: String::new(),
        summary: String::new(),
        since_fault: 0.0,
        since_evidence: None,
        listed_since_evidence: None,
        others,
    };
    match verdict {
        Ok(verdict) => {
            outcome.since_fault = verdict.told.duration_since(fault).as_secs_f64();
            outcome.since_evidence = evident.map(|at| seconds_between(at, verdict.told));
            outcome.listed_since_evidence = evident.map(|at| seconds_between(at, verdict.listed));
            (outcome.kind, outcome.summary) = (verdict.finding.kind, verdict.finding.summary);
        }
        Err(error) => outcome.summary = format!("{error:#}"),
    }
    outcome
}

/// Seconds from one moment to another, less than 0 if that came before.
fn seconds_between(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() - from.duration_since(to).as_secs_f64()
}

/// The thread that has agents say what is said when it is.
struct Player {
    began: Instant,
    evident: Arc<OnceLock<Instant>>,
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Played>,
}

struct Played {
    late: Duration,
    overflowed: u64,
}

impl Player {
    fn start(fleet: Fleet, mut agents: Agents, said: Receiver<Said>) -> Self {
        let began = clock::now();
        let (evident, enough) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (mark, stop) = (evident.clone(), enough.clone());
        let thread = std::thread::spawn(move || {
            let mut late = Duration::ZERO;
            for said in said {
                if stop.load(Relaxed) {
                    break;
                }
                let due = began + said.at;
                std::thread::sleep(due.saturating_duration_since(clock::now()));
                say(&fleet, &mut agents, &said);
                late = late.max(clock::now().saturating_duration_since(due));
                if said.evident {
                    let _ = mark.set(clock::now());
                }
            }
            Played { late, overflowed: agents.overflowed }
        });
        Self { began, evident, enough, thread }
    }

    async fn until(&self, at: Duration) {
        tokio::time::sleep_until((self.began + at).into()).await;
    }

    fn stop(self) -> anyhow::Result<Played> {
        self.enough.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the agents' thread ended badly"))
    }
}

fn say(fleet: &Fleet, agents: &mut Agents, said: &Said) {
    use c4_proto::v1::agent_message::Body;
    for node in fleet.replicas(said.node) {
        let readdressed = |process: u64| fleet.counterpart(fleet::rank(process), node);
        let bodies = said.bodies.iter().cloned().map(|mut body| {
            if let Body::Windows(windows) = &mut body {
                for window in &mut windows.windows {
                    fleet.readdress(window, fleet::rank(window.process), readdressed(window.process));
                }
            } else if let Body::ProcessEnded(end) = &mut body {
                end.process = fleet::process(readdressed(end.process));
            }
            body
        });
        agents.send(node, bodies);
    }
}
