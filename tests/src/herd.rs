//! A thundering herd: thousands of agents, as real ones connect, whose controller is killed and comes back; how soon
//! everything is as before.

use std::{fs, process::Command, time::Duration};

use anyhow::Context;
use c4_proto::v1::{self, operations_client::OperationsClient};
use clap::Parser;
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Child, Programs},
    etcd::lasting_ports,
    scale::controller::usage,
    soak::fleet::{self, Fleet},
    soak::truth::Fault,
};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(120);
/// Everything is to be as before within this time.
const AIM: f64 = 10.0;

/// Has the controller of many agents come back, and measures how soon it is as before.
#[derive(Clone, Debug, Parser)]
#[command(name = "c4-herd", version)]
pub struct Args {
    /// Agents, each with one rank; jobs have four.
    #[arg(long, default_value_t = 10_000)]
    pub agents: u32,
    /// Seconds that the controller is away.
    #[arg(long, default_value_t = 20)]
    pub away: u64,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What was measured, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Agents.
    pub agents: usize,
    /// From the first agent's start until all were connected.
    pub first_connected: f64,
    /// From when the controller listened again until all were connected.
    pub connected_again: f64,
    /// From a rank's death, right after that, until it could be read.
    pub death_told: f64,
    /// CPU time of the controller from its start until then.
    pub cpu: f64,
    /// Its memory at most, in bytes.
    pub rss_peak_bytes: u64,
}

impl Report {
    /// Whether it was as before in time.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.connected_again + self.death_told <= AIM
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{} agents connected in {:.1} s; after the controller was back, all again in {:.1} s (aim: {AIM} s); a death right \
             after that was told in {:.2} s; {:.1} s of CPU and {:.0} MB at most\n",
            self.agents,
            self.first_connected,
            self.connected_again,
            self.death_told,
            self.cpu,
            self.rss_peak_bytes as f64 / 1e6
        )
    }
}

/// Runs it.
///
/// # Errors
/// A program is missing, or agents do not connect.
pub async fn run(args: &Args) -> anyhow::Result<Report> {
    let programs = Programs::built()?;
    let dir = tempfile::Builder::new().prefix("c4-herd-").tempdir()?;
    let [port] = lasting_ports()?;
    let address = format!("http://127.0.0.1:{port}");
    let first = start(&programs, &dir, port)?;
    let began = Instant::now();
    let jobs = args.agents.div_ceil(fleet::RANKS).max(1);
    let fleet = Fleet::start(jobs, std::slice::from_ref(&address))?;
    let agents = usize::try_from(jobs * fleet::RANKS)?;
    connected(&address, agents).await?;
    let first_connected = began.elapsed().as_secs_f64();
    drop(first);
    sleep(Duration::from_secs(args.away)).await;
    let again = start(&programs, &dir, port)?;
    let back = Instant::now();
    connected(&address, agents).await?;
    let connected_again = back.elapsed().as_secs_f64();
    let died = Instant::now();
    fleet.hurt(0, 0, Fault::Death);
    told(&address, &fleet::name(0)).await?;
    let (death_told, used) = (died.elapsed().as_secs_f64(), usage(again.pid())?);
    let (cpu, rss_peak_bytes) = (used.cpu.as_secs_f64(), used.rss_peak);
    Ok(Report { agents, first_connected, connected_again, death_told, cpu, rss_peak_bytes })
}

fn start(programs: &Programs, dir: &TempDir, port: u16) -> anyhow::Result<Child> {
    let config = dir.path().join("controller.yaml");
    let text = format!(
        "listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:0\nstate: {}\nlog: {{level: warn}}\naccess: {{connections: 30000}}\n",
        dir.path().join("state").display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(programs.controller());
    command.arg("--config").arg(&config);
    let mut child = Child::start("controller", &mut command, &dir.path().join("controller.log"))?;
    child.first_line(LIMIT, |line| line.starts_with("listening "))?;
    Ok(child)
}

/// Waits until so many agents are connected.
async fn connected(address: &str, agents: usize) -> anyhow::Result<()> {
    let until = Instant::now() + LIMIT;
    let mut seen = 0;
    while Instant::now() < until {
        if let Ok(mut client) = OperationsClient::connect(address.to_owned()).await {
            client = client.max_decoding_message_size(64 << 20);
            if let Ok(status) = client.get_status(v1::GetStatusRequest {}).await {
                seen = status.into_inner().nodes.iter().filter(|node| node.connected).count();
                if seen >= agents {
                    return Ok(());
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{seen} of {agents} agents connected in {} s", LIMIT.as_secs())
}

/// Waits until something is told of a job.
async fn told(address: &str, job: &str) -> anyhow::Result<()> {
    let mut client = OperationsClient::connect(address.to_owned()).await?;
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let request = v1::ListFindingsRequest { job: job.to_owned(), ..Default::default() };
        let findings = client.list_findings(request).await.context("findings")?.into_inner().findings;
        if !findings.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("nothing was told of {job} in {} s", LIMIT.as_secs())
}
