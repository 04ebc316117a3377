//! Three members of etcd, three controllers, and networks between them and to the agents: everything that can be broken.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context;
use c4_proto::v1::{self, operations_client::OperationsClient};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{Child, Programs},
    etcd::{Etcd, MEMBERS, lasting_ports},
    proxy::Proxy,
};

/// Controllers.
pub(super) const CONTROLLERS: usize = 3;
/// Longest time for all to come up.
const UP: Duration = Duration::from_secs(240);
/// So little that it is soon full, and more than a soak writes.
const QUOTA_BYTES: u64 = 12 << 20;

/// See the module.
pub(super) struct Site {
    pub(super) programs: Programs,
    pub(super) etcd: Etcd,
    /// From controllers to members of etcd.
    pub(super) to_etcd: Vec<[Proxy; MEMBERS]>,
    /// From two halves of the agents to the controllers.
    pub(super) to_controllers: Vec<[Proxy; CONTROLLERS]>,
    controllers: [Option<Child>; CONTROLLERS],
    ports: [u16; CONTROLLERS],
    dir: TempDir,
    /// Controllers that ended without being asked to, with what they said last.
    pub(super) ended: Vec<String>,
}

impl Site {
    pub(super) async fn start(programs: Programs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("c4-soak-").tempdir()?;
        let etcd = Etcd::start(QUOTA_BYTES, None)?;
        let ports = lasting_ports()?;
        let mut to_etcd = Vec::new();
        for _ in 0..CONTROLLERS {
            to_etcd.push([
                Proxy::to(etcd.address(0)).await?,
                Proxy::to(etcd.address(1)).await?,
                Proxy::to(etcd.address(2)).await?,
            ]);
        }
        let mut to_controllers = Vec::new();
        for _ in 0..2 {
            let proxy = |index: usize| Proxy::to(format!("127.0.0.1:{}", ports[index]));
            to_controllers.push([proxy(0).await?, proxy(1).await?, proxy(2).await?]);
        }
        let controllers = [None, None, None];
        let mut site =
            Self { programs, etcd, to_etcd, to_controllers, controllers, ports, dir, ended: Vec::new() };
        for index in 0..CONTROLLERS {
            site.start_controller(index)?;
        }
        site.leads().await?;
        Ok(site)
    }

    /// Lists of controllers, one for each half of the agents.
    pub(super) fn addresses(&self) -> Vec<String> {
        let list =
            |half: &[Proxy; CONTROLLERS]| half.clone().map(|proxy| format!("http://{}", proxy.address));
        self.to_controllers.iter().map(|half| list(half).join(",")).collect()
    }

    /// Waits until one of them leads; which.
    pub(super) async fn leads(&self) -> anyhow::Result<usize> {
        let until = Instant::now() + UP;
        while Instant::now() < until {
            if let Some((leader, _)) = self.status().await {
                return Ok(leader);
            }
            sleep(Duration::from_millis(50)).await;
        }
        let tails = self.controllers.iter().flatten().map(Child::log_tail);
        anyhow::bail!("nobody leads:\n{}", tails.collect::<Vec<_>>().join("\n---\n"))
    }

    /// Who leads now, if anybody does, and what it says of itself.
    pub(super) async fn status(&self) -> Option<(usize, v1::Status)> {
        for index in 0..CONTROLLERS {
            let ask = async {
                let mut client = OperationsClient::connect(self.grpc(index)).await.ok()?;
                Some(client.get_status(v1::GetStatusRequest {}).await.ok()?.into_inner())
            };
            if let Ok(Some(status)) = timeout(Duration::from_secs(1), ask).await {
                return Some((index, status));
            }
        }
        None
    }

    /// Waits until the leader sees so many nodes.
    pub(super) async fn sees(&self, nodes: usize) -> anyhow::Result<()> {
        let until = Instant::now() + UP;
        let mut seen = 0;
        while Instant::now() < until {
            if let Some((_, status)) = self.status().await {
                seen = status.nodes.iter().filter(|node| node.connected).count();
                if seen >= nodes {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the leader sees {seen} of {nodes} nodes")
    }

    /// Everything that the leader has found.
    pub(super) async fn findings(&self) -> anyhow::Result<Vec<v1::Finding>> {
        let ask = async {
            let leader = self.leads().await?;
            let mut client = OperationsClient::connect(self.grpc(leader)).await?;
            let request = v1::ListFindingsRequest { include_cleared: true, ..Default::default() };
            Ok(client.list_findings(request).await?.into_inner().findings)
        };
        timeout(Duration::from_secs(30), ask).await.context("the leader does not answer")?
    }

    /// Process ids of the controllers that run.
    pub(super) fn pids(&self) -> impl Iterator<Item = (usize, u32)> {
        let pid = |(index, child): (usize, &Option<Child>)| Some((index, child.as_ref()?.pid()));
        self.controllers.iter().enumerate().filter_map(pid)
    }

    /// Looks whether all controllers run that should; one that does not is started again.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        for index in 0..CONTROLLERS {
            let ended = |child: &mut Child| child.try_wait().map(|status| (status, child.log_tail()));
            if let Some((status, log)) = self.controllers[index].as_mut().and_then(ended) {
                self.ended.push(format!("controller {index} ended by itself ({status}):\n{log}"));
                self.start_controller(index)?;
            }
        }
        Ok(())
    }

    /// Kills a controller (SIGKILL).
    pub(super) fn kill(&mut self, index: usize) {
        self.controllers[index] = None;
    }

    /// Stops a controller, or lets it go on.
    pub(super) fn signal(&self, index: usize, signal: Signal) {
        let pid = self.controllers[index].as_ref().and_then(|child| i32::try_from(child.pid()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Sets the wall clock of a controller wrong by so many seconds.
    pub(super) fn set_clock(&self, index: usize, seconds_off: i64) -> anyhow::Result<()> {
        Ok(fs::write(self.clock(index), seconds_off.to_string())?)
    }

    fn clock(&self, index: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("c{index}.clock"))
    }

    fn grpc(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index])
    }

    /// Starts a controller at its address.
    pub(super) fn start_controller(&mut self, index: usize) -> anyhow::Result<()> {
        let members: Vec<String> =
            self.to_etcd[index].iter().map(|proxy| format!("'http://{}'", proxy.address)).collect();
        let config = self.dir.path().join(format!("c{index}.yaml"));
        let text = format!(
            "listen: 127.0.0.1:{}\nhttp: 127.0.0.1:0\nha: {{etcd: [{}], name: c{index}, lease_seconds: 2}}\n",
            self.ports[index],
            members.join(", ")
        );
        fs::write(&config, text)?;
        let mut command = Command::new(self.programs.controller());
        command.arg("--config").arg(&config);
        command.env("LD_PRELOAD", self.programs.clockfault()).env("C4_CLOCK_FILE", self.clock(index));
        let log = self.dir.path().join(format!("c{index}.log"));
        let mut child = Child::start("controller", &mut command, &log)?;
        child.first_line(UP, |line| line.starts_with("listening "))?;
        self.controllers[index] = Some(child);
        Ok(())
    }

    /// Where logs are.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}
