//! A real etcd of three members on this machine, each of which can be killed or stopped, and come back.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    authority::Identity,
    cluster::{Child, wait_for},
};

/// Members.
pub const MEMBERS: usize = 3;
/// Longest time for them to agree.
const UP: Duration = Duration::from_secs(60);

/// What connections to etcd are protected with.
#[derive(Clone, Debug)]
pub struct Protection {
    /// Who signs certificates of members and of clients, which have to show one.
    pub ca: PathBuf,
    /// The members' own.
    pub member: Identity,
    /// That of `etcdctl`.
    pub operator: Identity,
}

/// See the module. All ends when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    members: [Option<Child>; MEMBERS],
    clients: [u16; MEMBERS],
    peers: [u16; MEMBERS],
    quota: u64,
    protection: Option<Protection>,
}

impl Etcd {
    /// Starts three members, whose data may take so many bytes (0: as usual), and waits until they agree.
    ///
    /// # Errors
    /// There is no etcd, or it does not come up.
    pub fn start(quota: u64, protection: Option<Protection>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("c4-etcd-").tempdir()?;
        let (clients, peers) = (lasting_ports()?, lasting_ports()?);
        let mut etcd = Self { dir, members: [None, None, None], clients, peers, quota, protection };
        for index in 0..MEMBERS {
            etcd.revive(index)?;
        }
        let up = wait_for("etcd", UP, || Ok(etcd.ctl(&["endpoint", "health"])?.map(drop)));
        up.with_context(|| etcd.members.iter().flatten().map(Child::log_tail).collect::<String>())?;
        Ok(etcd)
    }

    /// Host and port of a member.
    #[must_use]
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.clients[index])
    }

    /// Address of a member as a URL.
    #[must_use]
    pub fn url(&self, index: usize) -> String {
        format!("{}://{}", self.scheme(), self.address(index))
    }

    /// Where its members' data and logs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn scheme(&self) -> &'static str {
        if self.protection.is_some() { "https" } else { "http" }
    }

    /// Kills a member.
    pub fn kill(&mut self, index: usize) {
        self.members[index] = None;
    }

    /// Stops a member, or lets it go on: its disk has stalled, or its machine is overloaded.
    pub fn stall(&self, index: usize, stalled: bool) {
        let Some(member) = &self.members[index] else { return };
        if let Some(pid) = i32::try_from(member.pid()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, if stalled { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Starts a member that was killed, with the data that it had.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn revive(&mut self, index: usize) -> anyhow::Result<()> {
        let cluster: Vec<String> =
            (0..MEMBERS).map(|n| format!("m{n}=http://127.0.0.1:{}", self.peers[n])).collect();
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{index}"), "--logger", "zap", "--data-dir"]);
        command.arg(self.dir.path().join(format!("m{index}")));
        let peer = format!("http://127.0.0.1:{}", self.peers[index]);
        for (name, url) in [
            ("--listen-client-urls", self.url(index)),
            ("--advertise-client-urls", self.url(index)),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
        ] {
            command.args([name, &url]);
        }
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"]);
        command.args(["--quota-backend-bytes", &self.quota.to_string()]);
        command.args(["--auto-compaction-mode", "revision", "--auto-compaction-retention", "1000"]);
        if let Some(Protection { ca, member, .. }) = &self.protection {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(&member.certificate).arg("--key-file").arg(&member.key);
        }
        let log = self.dir.path().join(format!("m{index}.log"));
        let child = Child::start("etcd", &mut command, &log).context("Debian has it in etcd-server")?;
        self.members[index] = Some(child);
        Ok(())
    }

    /// Runs `etcdctl`; what it says if it succeeds.
    ///
    /// # Errors
    /// There is no such program.
    pub fn ctl(&self, arguments: &[&str]) -> anyhow::Result<Option<String>> {
        let endpoints: Vec<String> = (0..MEMBERS).map(|index| self.url(index)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &endpoints.join(","),
            "--command-timeout",
            "3s",
        ]);
        if let Some(Protection { ca, operator, .. }) = &self.protection {
            command.arg("--cacert").arg(ca);
            command.arg("--cert").arg(&operator.certificate).arg("--key").arg(&operator.key);
        }
        let output = command.args(arguments).output().context("etcdctl, of Debian's package etcd-client")?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The rows of a table of C4's store below `/c4`, by key.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn rows(&self, table: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let prefix = format!("/c4/rows/{table}/");
        let found = self.ctl(&["get", "--prefix", &prefix])?.context("etcd does not answer")?;
        // A key and its value are a line each: JSON has no line feeds.
        let lines: Vec<&str> = found.lines().collect();
        let key = |line: &str| line.strip_prefix(&prefix).unwrap_or(line).to_owned();
        Ok(lines.chunks_exact(2).map(|row| (key(row[0]), row[1].to_owned())).collect())
    }

    /// Writes until it takes no more (it has a quota).
    ///
    /// # Errors
    /// It takes more than it should.
    pub fn fill(&self) -> anyhow::Result<()> {
        let filler = "x".repeat(100_000);
        for number in 0..=self.quota / 50_000 {
            if self.ctl(&["put", &format!("/filler/{number}"), &filler])?.is_none() {
                return Ok(());
            }
        }
        anyhow::bail!("etcd takes more than its quota of {} bytes", self.quota)
    }

    /// Makes room again, as an operator would.
    ///
    /// # Errors
    /// A step does not succeed; which.
    pub fn make_room(&self) -> anyhow::Result<()> {
        let step = |arguments: &[&str]| {
            self.ctl(arguments)?.with_context(|| format!("etcdctl {} did not succeed", arguments.join(" ")))
        };
        step(&["del", "--prefix", "/filler/"])?;
        let status = step(&["endpoint", "status", "--write-out", "fields"])?;
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        step(&["compact", revision.context("etcdctl tells no revision")?])?;
        step(&["defrag"])?;
        step(&["alarm", "disarm"])?;
        Ok(())
    }
}

/// Ports that nobody has, and that the system gives to nobody who asks for any: who is started again must find its own free.
///
/// # Errors
/// There are none.
pub fn lasting_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 500)? * 40;
    let mut ports = [0; N];
    for port in &mut ports {
        while *port == 0 {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            ensure!(next < 2_000, "no free ports from {base}");
            if TcpListener::bind(("127.0.0.1", base + next)).is_ok() {
                *port = base + next;
            }
        }
    }
    Ok(ports)
}
