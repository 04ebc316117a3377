//! Three controllers as they ship, a real etcd, and a job with its agents.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use c4_proto::v1::{self, backups_client::BackupsClient, operations_client::OperationsClient};
use c4_tests::{etcd::Etcd, proxy::Proxy};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::support::{
    PATIENCE, actions,
    world::{RANKS, World, agent},
};

/// How long the lead outlives its leader.
const LEASE_SECONDS: u32 = 2;

pub(crate) struct Site {
    pub(crate) etcd: Etcd,
    pub(crate) world: Arc<Mutex<World>>,
    controllers: Vec<Option<Child>>,
    proxies: Vec<[Proxy; 3]>,
    ports: [(u16, u16); 3],
    dir: TempDir,
    agents: Vec<JoinHandle<()>>,
}

impl Site {
    /// Everything runs, and one of the controllers leads. It kills itself at the moment `crash`, if there is one.
    pub(crate) async fn start(quota: u64, crash: Option<&str>) -> Self {
        let etcd = Etcd::start(quota, None).expect("etcd");
        let mut proxies = Vec::new();
        for _ in 0..3 {
            proxies.push([
                Proxy::to(etcd.address(0)).await.expect("a port"),
                Proxy::to(etcd.address(1)).await.expect("a port"),
                Proxy::to(etcd.address(2)).await.expect("a port"),
            ]);
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut site = Self {
            etcd,
            world: Arc::default(),
            controllers: vec![None, None, None],
            proxies,
            ports: [(0, 0); 3],
            dir,
            agents: Vec::new(),
        };
        for index in 0..3 {
            site.start_controller(index, crash.filter(|_| index == 0)).await;
            if index == 0 {
                // The first leads, so that a test knows whom it kills.
                site.leader(&[0]).await;
            }
        }
        let addresses: Vec<String> =
            site.ports.iter().map(|(grpc, _)| format!("http://127.0.0.1:{grpc}")).collect();
        for node in 0..RANKS as usize {
            site.agents.push(tokio::spawn(agent(node, addresses.clone(), site.world.clone())));
        }
        site
    }

    pub(crate) async fn start_controller(&mut self, index: usize, crash: Option<&str>) {
        let members: Vec<String> =
            self.proxies[index].iter().map(|proxy| format!("\"http://{}\"", proxy.address)).collect();
        let config = self.dir.path().join(format!("c{index}.yaml"));
        let text = format!(
            "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nha: {{etcd: [{}], name: c{index}, lease_seconds: {LEASE_SECONDS}}}\n\
             steer: {{mode: auto, settle_seconds: 0.0, stop_timeout_seconds: 25.0}}\n",
            members.join(", ")
        );
        std::fs::write(&config, text).expect("written");
        let log = self.dir.path().join(format!("c{index}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_c4-controller"));
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.kill_on_drop(true).env_remove("C4_CRASH_AT");
        if let Some(crash) = crash {
            command.env("C4_CRASH_AT", crash);
        }
        let mut child = command.spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        let line = line.unwrap_or_else(|| panic!("c{index} does not come up:\n{}", self.logs()));
        let port = |name: &str| {
            let address = line.split(' ').find_map(|word| word.strip_prefix(name)).expect("an address");
            address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
        };
        self.ports[index] = (port("grpc="), port("http="));
        self.controllers[index] = Some(child);
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("unpoisoned")
    }

    /// Waits until one of these leads; which.
    pub(crate) async fn leader(&self, among: &[usize]) -> usize {
        let wait = async {
            loop {
                for index in among {
                    if self.page(*index, "/leaderz").await.is_some_and(|page| page.contains("200 OK")) {
                        return *index;
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(leader) = timeout(PATIENCE, wait).await else { panic!("nobody leads:\n{}", self.logs()) };
        leader
    }

    /// A page of a controller, with its head. None: it does not answer.
    pub(crate) async fn page(&self, index: usize, path: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports[index].1)).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(Duration::from_secs(2), ask).await.ok().flatten()
    }

    /// What a controller says of itself. None: it does not lead, or is gone.
    pub(crate) async fn status(&self, index: usize) -> Option<v1::Status> {
        let ask = async {
            let mut client = OperationsClient::connect(self.grpc(index)).await.ok()?;
            Some(client.get_status(v1::GetStatusRequest {}).await.ok()?.into_inner())
        };
        timeout(Duration::from_secs(2), ask).await.ok().flatten()
    }

    /// Waits until a controller sees both nodes; how long that took.
    pub(crate) async fn sees_all(&self, index: usize) -> Duration {
        let begin = Instant::now();
        let wait = async {
            while self.status(index).await.is_none_or(|status| {
                status.nodes.iter().filter(|node| node.connected).count() < RANKS as usize
                    || status.ranks < RANKS - 1
            }) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "c{index} does not see the nodes:\n{}", self.logs());
        begin.elapsed()
    }

    /// Waits until the job was restarted, and checks that everything was done once.
    pub(crate) async fn restarted_once(&self, leader: usize) {
        let wait = async {
            loop {
                let found = actions(&format!("127.0.0.1:{}", self.ports[leader].0)).await.unwrap_or_default();
                if found.iter().any(|action| action.state == "done") {
                    return found;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(found) = timeout(PATIENCE, wait).await else {
            panic!("the job is not restarted: {:#?}\n{}", self.world(), self.logs());
        };
        assert_eq!(found.len(), 1, "{found:#?}");
        {
            let world = self.world();
            for node in 0..RANKS as usize {
                assert_eq!(world.stops.get(&(node, 0)), Some(&1), "{world:#?}");
                assert_eq!(world.starts.get(&(node, 1)), Some(&1), "{world:#?}");
                assert_eq!((world.incarnation[node], world.stopped[node]), (1, false), "{world:#?}");
            }
            assert_eq!((world.stops.len(), world.starts.len()), (2, 2), "{world:#?}");
        }
        self.told_once();
    }

    /// One death, one outage, one finding: whoever led, it was told once.
    pub(crate) fn told_once(&self) {
        let ledger = self.rows("ledger");
        assert_eq!(ledger.len(), 1, "{ledger:#?}");
        let account: serde_json::Value = serde_json::from_str(&ledger[0]).expect("JSON");
        assert_eq!(account["outages"].as_array().map(Vec::len), Some(1), "{account:#}");
        let findings = self.rows("findings");
        let deaths = findings.iter().filter(|row| row.contains("\"process_death\"")).count();
        assert_eq!(deaths, 1, "{findings:#?}");
    }

    /// Every row of a table of the store.
    pub(crate) fn rows(&self, table: &str) -> Vec<String> {
        self.etcd.rows(table).expect("etcd answers").into_values().collect()
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        let pid = self.controllers[index].as_ref().and_then(Child::id).expect("it runs");
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    /// Waits until a controller has ended by itself.
    pub(crate) async fn ended(&mut self, index: usize) {
        let child = self.controllers[index].as_mut().expect("it ran");
        timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status");
    }

    /// Cuts a controller off from etcd, or lets it back.
    pub(crate) fn connect(&self, index: usize, open: bool) {
        for proxy in &self.proxies[index] {
            proxy.set(open);
        }
    }

    /// Has whatever controllers and etcd say to each other take a random time up to this, each way.
    pub(crate) fn slow(&self, delay: Duration) {
        self.proxies.iter().flatten().for_each(|proxy| proxy.delay(delay));
    }

    /// Keeps everything that a leader must not forget; where.
    pub(crate) async fn backup(&self, index: usize) -> PathBuf {
        let mut client = BackupsClient::connect(self.grpc(index)).await.expect("connects");
        let mut parts = client.get_backup(v1::GetBackupRequest {}).await.expect("a backup").into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.expect("whole") {
            bytes.extend(part.bytes);
        }
        let file = self.dir.path().join("backup");
        std::fs::write(&file, bytes).expect("written");
        file
    }

    /// Restores a backup as the program does, with this configuration. Whether it did, and what it said.
    pub(crate) async fn restore(&self, file: &Path, configuration: &str) -> (bool, String) {
        let config = self.dir.path().join("restore.yaml");
        std::fs::write(&config, configuration).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_c4-controller"));
        command.arg("--config").arg(&config).arg("--restore").arg(file);
        let output = command.output().await.expect("runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// A directory for what a test keeps.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn grpc(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index].0)
    }

    pub(crate) fn logs(&self) -> String {
        let log = |index| {
            let text =
                std::fs::read_to_string(self.dir.path().join(format!("c{index}.log"))).unwrap_or_default();
            format!("--- c{index}\n{text}")
        };
        (0..3).map(log).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for agent in &self.agents {
            agent.abort();
        }
    }
}
