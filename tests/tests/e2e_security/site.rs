//! A controller of a site with an authority, and whoever talks to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use c4_tests::{
    authority::{Authority, Identity, write_secret},
    cluster::{Child, Programs, wait_for},
};

/// Far more than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) programs: Programs,
    pub(crate) authority: Authority,
    _controller: Child,
    /// Port of gRPC.
    pub(crate) grpc: u16,
    /// Port of the pages.
    pub(crate) http: u16,
    tokens: PathBuf,
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

impl Site {
    /// A controller that listens beyond this machine, with `alice` as its administrator and `more` in its configuration.
    pub(crate) fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let programs = Programs::built().expect("programs");
        let authority = Authority::new(&dir.path().join("authority"));
        let own = authority.issue("controller", &["localhost"], 1);
        let (tokens, revoked) = (dir.path().join("tokens"), authority.revoke(&[]));
        write_secret(&tokens, "");
        let config = dir.path().join("controller.yaml");
        let text = format!(
            "listen: 0.0.0.0:0\nhttp: 0.0.0.0:0\nlog: {{level: debug}}\n\
             tls: {{certificate: {}, key: {}, client_ca: {}, revoked: {}}}\n\
             access:\n  tokens: {}\n  certificates: {{alice: admin, grafana: viewer}}\n{more}",
            own.certificate.display(),
            own.key.display(),
            authority.ca().display(),
            revoked.display(),
            tokens.display(),
        );
        fs::write(&config, text).expect("written");
        let mut command = Command::new(programs.controller());
        let log = dir.path().join("controller.log");
        let mut controller =
            Child::start("controller", command.arg("--config").arg(&config), &log).expect("starts");
        let line = controller.first_line(LIMIT, |line| line.starts_with("listening")).expect("it listens");
        let mut ports = line.split(':').filter_map(|part| part.split(' ').next()?.parse().ok());
        let (grpc, http) = (ports.next().expect("a port"), ports.next().expect("a port"));
        Self { dir, programs, authority, _controller: controller, grpc, http, tokens }
    }

    /// What the controller has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("controller.log")).expect("a log")
    }

    /// Adds a token, and gives the file that it is in.
    pub(crate) fn token(&self, grant: &str, name: &str) -> PathBuf {
        let output = Command::new(self.programs.controller())
            .args(["--new-token", grant, name])
            .output()
            .expect("runs");
        let said = said(&output);
        let value = |start: &str| {
            let line = said.lines().find(|line| line.starts_with(start)).expect("it is printed");
            line.split_once(": ").expect("a value").1.to_owned()
        };
        let mut lines = fs::read_to_string(&self.tokens).expect("tokens");
        lines.push_str(&format!("{}\n", value("line ")));
        write_secret(&self.tokens, &lines);
        let file = self.dir.path().join(format!("{name}.token"));
        write_secret(&file, &value("token "));
        file
    }

    /// Takes all tokens back.
    pub(crate) fn drop_tokens(&self) {
        write_secret(&self.tokens, "# none\n");
    }

    /// Runs `c4ctl` with whatever it is to show.
    pub(crate) fn ctl(&self, credentials: &[(&str, &Path)], command: &[&str]) -> Output {
        let mut ctl = Command::new(self.programs.ctl());
        ctl.args(["--controller", &format!("https://localhost:{}", self.grpc), "--timeout", "10"]);
        for (option, path) in credentials {
            ctl.arg(option).arg(path);
        }
        ctl.args(command).output().expect("runs")
    }

    /// The same, as somebody with a certificate.
    pub(crate) fn ctl_as(&self, who: &Identity, command: &[&str]) -> Output {
        let ca = self.authority.ca();
        self.ctl(&[("--ca", &ca), ("--cert", &who.certificate), ("--key", &who.key)], command)
    }

    /// Starts an agent that says it is `node`.
    pub(crate) fn agent(&self, node: &str, who: &Identity) -> Child {
        let name = who.certificate.file_stem().expect("a name").to_string_lossy().into_owned();
        let config = self.dir.path().join(format!("agent-{name}.yaml"));
        let text = format!(
            "node: {node}\ncontroller: https://localhost:{}\nhttp: null\nrecorder_dir: {}\n\
             reconnect: {{max_ms: 500}}\ntls: {{ca: {}, certificate: {}, key: {}}}\n",
            self.grpc,
            self.dir.path().join("recorders").display(),
            self.authority.ca().display(),
            who.certificate.display(),
            who.key.display(),
        );
        fs::write(&config, text).expect("written");
        let mut command = Command::new(self.programs.agent());
        let log = self.dir.path().join(format!("agent-{name}.log"));
        Child::start(&name, command.arg("--config").arg(&config), &log).expect("starts")
    }

    /// Waits until `c4ctl status` says so.
    pub(crate) fn wait_for_status(&self, alice: &Identity, wanted: impl Fn(&serde_json::Value) -> bool) {
        wait_for("the status", LIMIT, || {
            let output = self.ctl_as(alice, &["status", "--json"]);
            let status = serde_json::from_slice(&output.stdout).unwrap_or_default();
            Ok(wanted(&status).then_some(()))
        })
        .expect("it comes to be");
    }
}
