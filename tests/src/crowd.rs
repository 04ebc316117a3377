//! A crowd at a controller's door: as many connections as the machine has descriptors for, each of which costs its sender next to
//! nothing. Which limits hold, what each connection costs the controller, and whether a proper agent still gets through.
//!
//! All of it happens in a network namespace whose loopback interface has addresses that are not the machine's own: those are not counted
//! one by one. The controller is the program as it is shipped; the agent speaks its protocol and tries again as agents do.

mod client;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{Child, Programs},
    fabric::Namespace,
    scale::controller::usage,
};
use client::{Crowd, Manner};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(180);
/// Connections that have not been accepted for so long are not going to be: there is no room.
const ACCEPTED: Duration = Duration::from_secs(2);
/// Beyond its share, one address tries so many more.
const TOO_MANY: u32 = 20;
/// Files of a process that are no connections of the crowd.
const OTHER_FILES: u64 = 300;
/// Where the controller is; the crowd comes from 10.78.0.0/16, the agent from 10.79.0.1.
const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const AGENT: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);

/// Lets a crowd connect to a controller, and prints what that costs it. Needs root or an unprivileged user namespace.
#[derive(Clone, Debug, Parser)]
#[command(name = "c4-crowd", version)]
pub struct Args {
    /// Connections that the controller has room for; the crowd tries a tenth more.
    #[arg(long, default_value_t = 100_000)]
    pub connections: u32,
    /// Connections from one address.
    #[arg(long, default_value_t = 256)]
    pub per_address: u32,
    /// Of a hundred connections, so many answer HTTP/2's pings, as one that is idle does; the others say nothing, or only half of
    /// their first words.
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u32).range(0..=99))]
    pub polite: u32,
    /// Seconds for which the crowd's polite part is held, and measured.
    #[arg(long, default_value_t = 10)]
    pub hold: u64,
    /// The controller's program. Default: the one of this build.
    #[arg(long)]
    pub controller: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Room for connections, altogether.
    pub room: u32,
    /// The same, less than was asked for if the machine has too few descriptors.
    pub asked: u32,
    /// Of one address that tried more than its share: how many were held, and how many turned away.
    pub one_address: (u32, u32),
    /// Connections that were tried.
    pub tried: u32,
    /// Descriptors of the controller at most.
    pub open_at_most: u32,
    /// Seconds until all had tried.
    pub seconds: f64,
    /// Connections that the controller counted as too many, those of the one address among them.
    pub turned_away: u64,
    /// Its memory for each connection, in bytes.
    pub bytes_each: f64,
    /// Its memory at most.
    pub rss_peak_bytes: u64,
    /// Cores that it used while the polite were held.
    pub cores: f64,
    /// Connections that were still open after those that said nothing were cut off.
    pub open_after: u32,
    /// Seconds from when there was no room until a proper agent was served.
    pub agent_seconds: f64,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "room for {} connections ({} asked for); one address: {} held, {} turned away\n\
             {} tried in {:.1} s: {} open at most; {} turned away in all; {:.0} bytes each, {:.0} MB in all; {:.2} cores while they were held\n\
             {} open once the silent were cut off; a proper agent was served {:.1} s after there was no room\n",
            self.room,
            self.asked,
            self.one_address.0,
            self.one_address.1,
            self.tried,
            self.seconds,
            self.open_at_most,
            self.turned_away,
            self.bytes_each,
            self.rss_peak_bytes as f64 / 1e6,
            self.cores,
            self.open_after,
            self.agent_seconds,
        )
    }
}

/// Runs it.
///
/// # Errors
/// A program is missing, or the machine does not allow it.
pub fn run(args: &Args) -> anyhow::Result<Report> {
    let program = match &args.controller {
        Some(program) => program.clone(),
        None => Programs::built()?.controller(),
    };
    let room = args.connections.min(descriptors()?);
    let addresses = (room + room / 10).div_ceil(args.per_address.max(1)) + 2;
    let all = (0..addresses).map(address).chain([CONTROLLER, AGENT]);
    let namespace = Namespace::with_addresses(all).context("cannot have a network namespace")?;
    let dir = tempfile::Builder::new().prefix("c4-crowd-").tempdir()?;
    let (controller, grpc, http) = start(&program, dir.path(), &namespace, room, args.per_address)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pid = controller.pid();
    namespace.run(|| runtime.block_on(crowd(args, room, pid, grpc, http)))?
}

/// An address of the crowd.
fn address(index: u32) -> Ipv4Addr {
    let [_, _, high, low] = (index + 1).to_be_bytes();
    Ipv4Addr::new(10, 78, high, low)
}

/// Raises the limit of open files, which the controller inherits, and returns how many connections fit.
fn descriptors() -> anyhow::Result<u32> {
    let wanted = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse::<u64>()?;
    // As root more than before may be had.
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    // The crowd tries a tenth more than there is room for.
    Ok(u32::try_from(most / 11 * 10).unwrap_or(u32::MAX))
}

fn start(
    program: &Path,
    dir: &Path,
    namespace: &Namespace,
    room: u32,
    each: u32,
) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let config = dir.join("controller.yaml");
    fs::write(
        &config,
        format!(
            "listen: {CONTROLLER}:4400\nhttp: {CONTROLLER}:4401\ninsecure: true\nlog: {{level: warn}}\n\
             access: {{connections: {room}, connections_per_address: {each}}}\n"
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("--config").arg(&config);
    namespace.hold(&mut command);
    let mut child = Child::start("controller", &mut command, &dir.join("controller.log"))?;
    child.first_line(LIMIT, |line| line.starts_with("listening "))?;
    let at = |port| SocketAddr::V4(SocketAddrV4::new(CONTROLLER, port));
    Ok((child, at(4400), at(4401)))
}

async fn crowd(
    args: &Args,
    room: u32,
    controller: u32,
    grpc: SocketAddr,
    http: SocketAddr,
) -> anyhow::Result<Report> {
    let open = || open_files(controller);
    let before = (usage(controller)?, open()?);
    // One address alone.
    let mut one = Crowd::new(grpc);
    one.enter(address(0), args.per_address + TOO_MANY, Manner::Polite).await;
    let mut held = one.still_open();
    until(|| {
        held = one.still_open();
        Ok(held <= args.per_address)
    })
    .await
    .with_context(|| format!("one address holds {held} connections, and may {}", args.per_address))?;
    let one_address = (held, one.tried() - held);
    drop(one);
    until(|| Ok(open()? <= before.1 + 2)).await.context("connections that were closed are still open")?;

    let began = Instant::now();
    let tried = room + room / 10;
    let polite = u32::try_from(u64::from(room) * u64::from(args.polite) / 100)?;
    let mut crowd = Crowd::new(grpc);
    let mut entered = 0;
    let mut next = 1;
    while entered < tried {
        // The polite come first, so that the others have not been cut off by the time that all are there.
        let manner = match entered {
            _ if entered < polite => Manner::Polite,
            _ if next % 2 == 0 => Manner::Silent,
            _ => Manner::Halting,
        };
        let ends = if manner == Manner::Polite { polite } else { tried };
        let many = args.per_address.min(ends - entered);
        crowd.enter(address(next), many, manner).await;
        (entered, next) = (entered + many, next + 1);
    }
    let seconds = began.elapsed().as_secs_f64();
    // Connected is not yet accepted.
    let (mut open_at_most, mut full) = (0, before.0);
    let mut no_room = Instant::now();
    while no_room.elapsed() < ACCEPTED {
        let now = open()?.saturating_sub(before.1);
        if now > open_at_most {
            (open_at_most, full, no_room) = (now, usage(controller)?, Instant::now());
        }
        sleep(Duration::from_millis(100)).await;
    }
    // Whoever is proper comes when there is no room, and tries again as agents do.
    client::agent(AGENT, grpc, LIMIT).await.context("the agent")?;
    let agent_seconds = no_room.elapsed().as_secs_f64();
    until(|| Ok(open()? <= before.1 + polite + 2)).await.context("those who say nothing are not cut off")?;
    let first = usage(controller)?;
    let start = Instant::now();
    crowd.hold(Duration::from_secs(args.hold)).await;
    let last = usage(controller)?;
    let cores = (last.cpu - first.cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    let open_after = open()?.saturating_sub(before.1);
    let turned_away = turned_away(http)?;
    let grown = full.rss.saturating_sub(before.0.rss) as f64;
    Ok(Report {
        room,
        asked: args.connections,
        one_address,
        tried,
        open_at_most,
        seconds,
        turned_away,
        bytes_each: grown / f64::from(open_at_most.max(1)),
        rss_peak_bytes: last.rss_peak,
        cores,
        open_after,
        agent_seconds,
    })
}

async fn until(mut is: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let wait = async {
        while !is()? {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    timeout(LIMIT, wait).await.context("it took too long")?
}

fn open_files(pid: u32) -> anyhow::Result<u32> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("the controller has ended")?;
    Ok(u32::try_from(files.count())?)
}

/// What the controller counts.
fn turned_away(http: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = std::net::TcpStream::connect(http).context("/metrics")?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {http}\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.contains("c4_controller"), "/metrics: {page}");
    let line = page.lines().find(|line| line.contains("too_many_connections"));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0))
}
