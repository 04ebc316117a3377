//! `c4ctl topology` through the real binary, on what lldpd 1.0.16 printed in network namespaces; and on what it prints here, where
//! it is installed and namespaces may be made.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

mod support;

use serde_json::Value;
use support::{command, json as document, text};

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lldp").join(name)
}

fn topology(folder: &Path, more: &[&str]) -> Output {
    let mut args = vec!["topology", "--lldp", folder.to_str().expect("UTF-8")];
    args.extend(more);
    command(&args).output().expect("runs")
}

const FABRIC: [&str; 4] = ["--ports", "enp*", "--switch-ports", "swp*"];

#[test]
fn recorded_cables_are_a_topology_that_plan_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = topology(&recorded("fabric"), &FABRIC);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let yaml = text(&output.stdout);
    for line in [
        "# node2 sees neighbours on 1 ports, most hosts (2) on 2",
        "  - {name: leaf0, tier: leaf, addresses: [\"10.255.0.1\"]}",
        "  - {name: spine1, tier: spine, addresses: [\"10.255.0.4\"]}",
        "  - {a: leaf0, b: spine0, gbps: 10, count: 2}",
        "  - {a: leaf1, b: spine1, gbps: 10}",
        "      - {name: enp65s0, ports: [{switch: leaf0, gbps: 10}, {switch: leaf1, gbps: 10}]}",
    ] {
        assert!(yaml.lines().any(|found| found == line), "{line}\n{yaml}");
    }
    assert!(!yaml.contains("mgmt"), "{yaml}");
    fs::write(dir.path().join("t.yaml"), &yaml).expect("written");
    let flows = r#"{"flows": [{"id": "f", "job": "j", "src": {"host": "node0", "nic": "enp65s0"},
        "dst": {"host": "node1", "nic": "enp65s0"}}]}"#;
    fs::write(dir.path().join("f.json"), flows).expect("written");
    let args = ["plan", "--topology", "t.yaml", "--flows", "f.json", "--json"];
    let plan = command(&args).current_dir(dir.path()).output().expect("runs");
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan.stderr));
}

#[test]
fn a_file_that_says_otherwise_is_told_line_by_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let yaml = text(&topology(&recorded("fabric"), &FABRIC).stdout);
    let file = dir.path().join("t.yaml");
    let against = |content: &str, more: &[&str]| {
        fs::write(&file, content).expect("written");
        let options: Vec<&str> =
            FABRIC.iter().chain(&["--against", file.to_str().expect("UTF-8")]).chain(more).copied().collect();
        topology(&recorded("fabric"), &options)
    };
    let same = against(&yaml, &[]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    let changed = yaml
        .replace("{a: leaf0, b: spine0, gbps: 10, count: 2}", "{a: leaf0, b: spine0, gbps: 10}")
        .replacen(
            "{switch: leaf0, gbps: 10}, {switch: leaf1,",
            "{switch: leaf1, gbps: 10}, {switch: leaf1,",
            1,
        );
    let line = |what: &str| 1 + changed.lines().position(|line| line.contains(what)).expect("there");
    let output = against(&changed, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    let name = file.display();
    for expected in [
        format!("{name}:{}: leaf0–spine0: 1 link in the file, 2 are there", line("{a: leaf0, b: spine0")),
        format!(
            "{name}:{}: node0: port 0 of enp65s0 is cabled to leaf0, not to leaf1",
            line("{switch: leaf1, gbps: 10}, {switch: leaf1")
        ),
        "2 differences".to_owned(),
    ] {
        assert!(told.lines().any(|found| found == expected), "{expected}\n{told}");
    }
    let answer = document(&against(&changed, &["--json"]));
    assert_eq!(answer["differences"].as_array().map(Vec::len), Some(2), "{answer:#}");
    assert_eq!(answer["topology"]["switches"].as_array().map(Vec::len), Some(4));
    assert!(answer["differences"][0]["line"].is_u64());
}

#[test]
fn every_mistake_is_told_with_file_and_place() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("node0.json"), "{\"lldp\": {\"interface\": [1]}}").expect("written");
    fs::write(dir.path().join("node1.txt"), "lldp.eth0.via=LLDP\nlldp.eth1.rid=1\n").expect("written");
    fs::write(dir.path().join(".hidden"), "no matter").expect("written");
    let output = topology(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    assert!(told.contains("node0.json: lldp.interface[0]: expected a port and its neighbour"), "{told}");
    assert!(told.contains("node1.txt: line 2: expected what"), "{told}");
    assert!(told.contains("2 mistakes"), "{told}");
    let nowhere = topology(&dir.path().join("nowhere"), &[]);
    assert_eq!(nowhere.status.code(), Some(64), "{}", text(&nowhere.stderr));
    let mixed = topology(&recorded("fabric/switches"), &[]);
    assert_eq!(mixed.status.code(), Some(64));
    assert!(text(&mixed.stderr).contains("its file belongs in switches/"), "{}", text(&mixed.stderr));
}

#[test]
fn lldpd_itself_is_understood_where_it_is_installed() {
    let Some(real) = real::printed() else {
        println!("no lldpd, or no network namespaces, here: only recorded output was read");
        return;
    };
    let output = topology(&real.path(), &["--nic-gbps", "400", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer: Value = document(&output);
    let expected = serde_json::json!({
        "switches": [{"name": "sw0", "tier": "leaf"}],
        "links": [],
        "hosts": [{"name": "h0", "nics": [{"name": "c4h0", "ports": [{"switch": "sw0", "gbps": 400.0}]}]}],
    });
    assert_eq!(answer["topology"], expected, "{answer:#}");
}

/// Two namespaces with a cable between them, and an lldpd in each.
mod real {
    use std::{
        path::Path,
        process::{Command, Stdio},
        thread,
        time::Duration,
    };

    /// The two, with their daemons, until everything of theirs is ended.
    const SCRIPT: &str = r#"
set -e
cd "$1"
ip link set lo up
unshare -n -u sh -c 'echo $$ > sw.pid; hostname sw0; ip link set lo up
  until ip link show c4sw0 >/dev/null 2>&1; do sleep 0.1; done; ip link set c4sw0 up
  sysctl -qw net.ipv4.ip_forward=1
  exec lldpd -d -u ./sw.sock -O /dev/null -S switch' 2>sw.err & sw=$!
while [ ! -s sw.pid ]; do sleep 0.1; done
hostname h0
ip link add c4h0 type veth peer name c4sw0 netns "$(cat sw.pid)"
ip link set c4h0 up
lldpd -d -u ./h.sock -O /dev/null -S host 2>h.err & h=$!
trap 'kill $h $sw 2>/dev/null; wait' EXIT
for try in $(seq 100); do
  for d in h sw; do lldpcli -u ./$d.sock configure lldp tx-interval 1 >/dev/null 2>&1 || true; done
  lldpctl -u ./h.sock -f json > h0.new 2>/dev/null || true
  if grep -q sw0 h0.new; then mkdir -p out; mv h0.new out/h0.json; exit 0; fi
  kill -0 $h $sw
  sleep 0.2
done
exit 1
"#;

    /// What the host's lldpd printed; none where there is none, or it may not run.
    pub(super) fn printed() -> Option<Printed> {
        let there = |program: &str| {
            let run = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
            run.is_ok()
        };
        if !["lldpd", "unshare", "ip", "lldpctl"].into_iter().all(there) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut script = Command::new("unshare")
            .args(["-n", "-u", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let ended = loop {
            match script.try_wait().expect("waits") {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(100)),
            }
        };
        ended.success().then_some(Printed(dir))
    }

    pub(super) struct Printed(tempfile::TempDir);

    impl Printed {
        pub(super) fn path(&self) -> std::path::PathBuf {
            let path: &Path = self.0.path();
            path.join("out")
        }
    }
}
