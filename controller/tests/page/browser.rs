//! A real browser: Debian's chromium, headless, driven over WebDriver.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Value, json};

/// Far more than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The version that is looked for; rules change between versions.
const AXE: &str = "axe-core@4.14.1";

/// Colours that the system prefers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Dark,
    Light,
}

pub(crate) struct Browser {
    client: Client,
    driver: Child,
    axe: Option<String>,
    shots: PathBuf,
}

/// A command that only Chromium's driver has.
#[derive(Debug)]
struct Vendor(&'static str, Value);

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as std::str::FromStr>::Err> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver, of Debian's package chromium-driver");
        let out = BufReader::new(driver.stdout.take().expect("piped"));
        let port = out
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver says its port");
        // Everything runs in a container as root, where Chromium's sandbox cannot.
        let options = json!({
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            ]},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(capabilities) = options else { unreachable!("an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("a browser");
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&shots).expect("a folder for screenshots");
        Self { client, driver, axe: axe(), shots }
    }

    pub(crate) async fn stop(self) {
        let _ = self.client.clone().close().await;
    }

    async fn developer(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.client.issue_cmd(Vendor("goog/cdp/execute", body)).await.expect("Chromium takes it");
    }

    pub(crate) async fn window(&self, width: u32, height: u32, scheme: Scheme) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.developer("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = match scheme {
            Scheme::Dark => "dark",
            Scheme::Light => "light",
        };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.developer("Emulation.setEmulatedMedia", features).await;
    }

    pub(crate) async fn open(&self, url: &str) {
        // Only the fragment may differ, which loads nothing anew.
        self.client.goto("about:blank").await.expect("a blank page");
        self.client.goto(url).await.expect("the page");
    }

    pub(crate) async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an element whose text contains `text` is there.
    pub(crate) async fn wait_for(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({selector:?})].some((e) => e.textContent.includes({text:?}))"
        );
        let there = async {
            while self.script(&script).await != json!(true) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, there).await.is_err() {
            let body = self.script("return document.body.innerText").await;
            panic!(
                "no {selector} ever said {text:?}; the page says:\n{}\n{:?}",
                body.as_str().unwrap_or(""),
                self.complaints().await
            );
        }
    }

    pub(crate) async fn press(&self, selector: &str, keys: &str) {
        let element = self.client.find(Locator::Css(selector)).await.expect(selector);
        element.send_keys(keys).await.expect("keys");
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.expect(selector).click().await.expect("a click");
    }

    /// What the console was told since this was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(Vendor("se/log", json!({"type": "browser"}))).await.expect("the log");
        let said = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        log.as_array().into_iter().flatten().map(said).collect()
    }

    /// Judges what is shown: nothing sticks out, the console is empty, no serious violation of accessibility rules. Keeps a
    /// screenshot of all of it.
    pub(crate) async fn judge(&self, name: &str, width: u32) {
        let overflow = self.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert!(overflow.as_i64().is_some_and(|more| more <= 0), "{name}: {overflow} pixels too wide");
        let complaints = self.complaints().await;
        assert!(complaints.is_empty(), "{name}: {complaints:#?}");
        if let Some(axe) = &self.axe {
            self.script(axe).await;
            let serious = "return axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations
                .filter((one) => ['serious', 'critical'].includes(one.impact))
                .map((one) => [one.id, one.nodes.slice(0, 3).map((node) => node.html + ' ' + node.failureSummary)]))";
            let found = self.script(serious).await;
            assert_eq!(found, json!([]), "{name}");
        }
        let height =
            self.script("return document.documentElement.scrollHeight").await.as_u64().unwrap_or(900);
        let metrics = json!({"width": width, "height": height.clamp(600, 6_000), "deviceScaleFactor": 1, "mobile": false});
        self.developer("Emulation.setDeviceMetricsOverride", metrics).await;
        let shot = self.client.screenshot().await.expect("a screenshot");
        std::fs::write(self.shots.join(format!("{name}.png")), shot).expect("room for a screenshot");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test that fails leaves nothing running: neither the driver nor the browser that it has started.
        let group = rustix::process::Pid::from_raw(self.driver.id().cast_signed());
        let _ = group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
        let _ = self.driver.wait();
    }
}

/// The rules of accessibility, from npm where that is to be had: they are not Debian's.
fn axe() -> Option<String> {
    static AXE_SOURCE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    AXE_SOURCE
        .get_or_init(|| {
            let dir = tempfile::tempdir().ok()?;
            let run = |program: &str, arguments: &[&str]| {
                let output = Command::new(program).args(arguments).current_dir(&dir).output().ok()?;
                output.status.success().then_some(output.stdout)
            };
            let packed = run("npm", &["pack", "--silent", AXE])
                .and_then(|name| run("tar", &["xzf", String::from_utf8(name).ok()?.trim()]));
            let source =
                packed.and_then(|_| std::fs::read_to_string(dir.path().join("package/axe.min.js")).ok());
            if source.is_none() {
                eprintln!("no {AXE} to be had: accessibility rules are not checked");
            }
            source
        })
        .clone()
}
