//! A real etcd of three members on this machine, each of which can be killed and come back.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

/// Ports that nobody has, and that the system gives to nobody who asks for any: a member must find its own free again.
fn free_ports() -> [u16; 3] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 1_000).unwrap_or(0) * 20;
    [(); 3].map(|()| {
        loop {
            let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}

pub(crate) struct Etcd {
    dir: TempDir,
    members: Vec<Option<Child>>,
    clients: [u16; 3],
    peers: [u16; 3],
    quota: u64,
}

impl Etcd {
    /// Starts three members, whose data may take so many bytes (0: as usual), and waits until they agree.
    pub(crate) async fn start(quota: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut etcd =
            Self { dir, members: vec![None, None, None], clients: free_ports(), peers: free_ports(), quota };
        for index in 0..3 {
            etcd.revive(index);
        }
        for _ in 0..300 {
            if etcd.ctl(&["endpoint", "health"]).is_some() {
                return etcd;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd does not come up:\n{}", etcd.logs());
    }

    /// Address of a member.
    pub(crate) fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.clients[index])
    }

    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut member) = self.members[index].take() {
            let _ = member.kill();
            let _ = member.wait();
        }
    }

    pub(crate) fn revive(&mut self, index: usize) {
        let cluster: Vec<String> =
            (0..3).map(|n| format!("m{n}=http://127.0.0.1:{}", self.peers[n])).collect();
        let (client, peer) = (self.clients[index], self.peers[index]);
        let log = std::fs::File::options().create(true).append(true).open(self.log(index)).expect("a log");
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{index}"), "--data-dir"]);
        command.arg(self.dir.path().join(format!("m{index}")));
        for (name, port) in [
            ("--listen-client-urls", client),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
        ] {
            command.args([name, &format!("http://127.0.0.1:{port}")]);
        }
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"]);
        command.args(["--quota-backend-bytes", &self.quota.to_string(), "--logger", "zap"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("etcd, of Debian's package etcd-server");
        self.members[index] = Some(child);
    }

    /// Runs `etcdctl`; what it says if it succeeds.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Option<String> {
        let endpoints: Vec<String> = (0..3).map(|index| self.address(index)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &endpoints.join(","),
            "--command-timeout",
            "3s",
        ]);
        let output = command.args(arguments).output().expect("etcdctl, of Debian's package etcd-client");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Every row of a table.
    pub(crate) fn rows(&self, table: &str) -> Vec<String> {
        let prefix = format!("/c4/rows/{table}/");
        let found = self.ctl(&["get", "--prefix", "--print-value-only", &prefix]).expect("etcd answers");
        found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("m{index}.log"))
    }

    fn logs(&self) -> String {
        (0..3).map(|index| std::fs::read_to_string(self.log(index)).unwrap_or_default()).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..3 {
            self.kill(index);
        }
    }
}
