//! A real Prometheus, which scrapes a cluster and is asked what it has seen.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cluster::{Child, wait_for};

/// How long Prometheus may take to come up, or to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _child: Child,
    address: String,
}

impl Prometheus {
    /// Starts one that scrapes these addresses every second and evaluates these files of rules; its files are below `dir`.
    ///
    /// # Errors
    /// When it is not installed (Debian's package is `prometheus`) or does not come up.
    pub fn start(targets: &[String], rules: &Path, dir: &Path) -> anyhow::Result<Self> {
        let config = dir.join("prometheus.yml");
        let targets = serde_json::to_string(targets)?;
        // Labels of C4's own, such as `job`, are to stay as they are.
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n- job_name: c4\n  \
             honor_labels: true\n  static_configs:\n  - targets: {targets}\n",
            rules.join("*.yml")
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        // Prometheus cannot be given port 0 and asked which one it took.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut child = Child::start("prometheus", &mut command, &dir.join("prometheus.log"))
            .context("is the package prometheus installed?")?;
        wait_for("Prometheus", LIMIT, || {
            ensure!(child.try_wait().is_none(), "Prometheus has ended:\n{}", child.log_tail());
            Ok(get(&address, "/-/ready").is_ok().then_some(()))
        })?;
        Ok(Self { _child: child, address })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The result of a query now.
    ///
    /// # Errors
    /// When Prometheus calls it wrong.
    pub fn query(&self, expr: &str) -> anyhow::Result<Vec<Value>> {
        self.ask(&format!("/api/v1/query?query={}", encode(expr)))
    }

    /// The result of a query over the time from `from` to `to` (Unix time), in steps of two seconds.
    ///
    /// # Errors
    /// See [`Prometheus::query`].
    pub fn query_range(&self, expr: &str, from: u64, to: u64) -> anyhow::Result<Vec<Value>> {
        self.ask(&format!("/api/v1/query_range?query={}&start={from}&end={to}&step=2", encode(expr)))
    }

    /// What it says of all rules: name, health and last error.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let document: Value = serde_json::from_str(&get(&self.address, "/api/v1/rules")?)?;
        let groups = document["data"]["groups"].as_array().context("no groups of rules")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        Ok(rules.collect())
    }

    fn ask(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let document: Value = serde_json::from_str(&get(&self.address, path)?)?;
        ensure!(document["status"] == "success", "{document}");
        document["data"]["result"].as_array().cloned().context("no result")
    }
}

/// The body of a page.
///
/// # Errors
/// When there is no such page.
pub fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    // Of a bad query Prometheus says in JSON what is wrong with it.
    ensure!(status == "200" || body.starts_with('{'), "{path}: status {status}");
    Ok(body.to_owned())
}

/// Has Prometheus' own tool look at a page of metrics.
///
/// # Panics
/// When it has anything to say, or is not installed (Debian's package is `prometheus`).
pub fn lint(page: &str) {
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().expect("promtool of Debian's package prometheus");
    tool.stdin.take().expect("its input").write_all(page.as_bytes()).expect("written");
    let output = tool.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encoded = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encoded).collect()
}
