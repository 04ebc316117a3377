//! `c4ctl plan` and `c4ctl what-if`, through the real binary.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

mod support;

use serde_json::{Value, json};
use support::{command, json as document, text};

const TOPOLOGY: &str = "
switches:
  - {name: leaf0, tier: leaf}
  - {name: leaf1, tier: leaf}
  - {name: spine0, tier: spine}
  - {name: spine1, tier: spine}
links:
  - {a: leaf0, b: spine0, gbps: 100}
  - {a: leaf0, b: spine1, gbps: 100}
  - {a: leaf1, b: spine0, gbps: 100}
  - {a: leaf1, b: spine1, gbps: 100}
hosts:
  - {name: a, nics: [{name: n, ports: [{switch: leaf0, gbps: 100}]}]}
  - {name: b, nics: [{name: n, ports: [{switch: leaf0, gbps: 100}]}]}
  - {name: c, nics: [{name: n, ports: [{switch: leaf1, gbps: 100}]}]}
  - {name: d, nics: [{name: n, ports: [{switch: leaf1, gbps: 100}]}]}
";

fn flow(id: &str, src: &str, dst: &str) -> Value {
    json!({"id": id, "job": "j", "src": {"host": src, "nic": "n"}, "dst": {"host": dst, "nic": "n"}, "gbps": 50.0})
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a directory") };
        files.write("t.yaml", TOPOLOGY);
        files.write("f.json", &json!({"flows": [flow("f0", "a", "c"), flow("f1", "b", "d")]}).to_string());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn run(&self, args: &[&str]) -> Output {
        command(args).current_dir(self.dir.path()).output().expect("runs")
    }

    fn plan(&self, more: &[&str]) -> Output {
        let mut args = vec!["plan", "--topology", "t.yaml", "--flows", "f.json"];
        args.extend(more);
        self.run(&args)
    }
}

#[test]
fn two_flows_take_two_spines() {
    let files = Files::new();
    let output = files.plan(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let plan = document(&output);
    assert_eq!(plan["max_link_utilisation"], 0.5, "{plan:#}");
    assert_eq!(plan["max_fabric_utilisation"], 0.5);
    assert_eq!(plan["lower_bound"], 0.5);
    assert_eq!(plan["moves"], 0);
    assert_eq!(plan["unplaced"], json!([]));
    let spine = |flow: usize| plan["flows"][flow]["pieces"][0]["path"][1].clone();
    assert_ne!(spine(0), spine(1));
    assert_eq!(plan["flows"][0]["pieces"][0]["share"], 1.0);
    assert_eq!(plan["flows"][0]["pieces"][0]["path"].as_array().expect("a path").len(), 3);
    assert_eq!(output.stdout, files.plan(&["--json"]).stdout, "the same bytes");
}

#[test]
fn what_need_not_move_stays() {
    let files = Files::new();
    files.write("p.json", &text(&files.plan(&["--json"]).stdout));
    let again = document(&files.plan(&["--json", "--previous", "p.json"]));
    assert_eq!(again["moves"], 0);
    // The first flow's spine dies for it: it moves, the other one does not.
    let before = document(&files.plan(&["--json"]));
    let spine = before["flows"][0]["pieces"][0]["path"][1].as_str().expect("a name").to_owned();
    files.write(
        "t.yaml",
        &TOPOLOGY.replace(
            &format!("{{a: leaf0, b: {spine}, gbps: 100}}"),
            &format!("{{a: leaf0, b: {spine}, gbps: 100, state: down}}"),
        ),
    );
    let after = document(&files.plan(&["--json", "--previous", "p.json"]));
    assert_eq!(after["moves"], 1, "{after:#}");
    assert_eq!(after["flows"][1], before["flows"][1]);
    let shown = text(&files.plan(&["--previous", "p.json"]).stdout);
    assert!(shown.contains("moves         1"), "{shown}");
}

#[test]
fn a_flow_without_a_path_is_named_and_the_others_are_placed() {
    let files = Files::new();
    files.write(
        "t.yaml",
        &TOPOLOGY.replace(
            "[{switch: leaf1, gbps: 100}]}]}\n  - {name: d",
            "[{switch: leaf1, gbps: 100, state: down}]}]}\n  - {name: d",
        ),
    );
    let output = files.plan(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let plan = document(&output);
    assert_eq!(plan["unplaced"][0]["id"], "f0", "{plan:#}");
    assert!(plan["unplaced"][0]["why"].as_str().expect("a reason").contains("destination"));
    assert_eq!(plan["flows"].as_array().expect("flows").len(), 1);
    let shown = files.plan(&[]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stdout).contains("1 flow without a path"), "{}", text(&shown.stdout));
}

#[test]
fn no_flows_are_an_empty_plan() {
    let files = Files::new();
    files.write("f.json", r#"{"flows": []}"#);
    let output = files.plan(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(document(&output)["flows"], json!([]));
    assert_eq!(files.plan(&[]).status.code(), Some(0));
}

#[test]
fn all_mistakes_are_told_with_file_line_and_field() {
    let files = Files::new();
    files.write(
        "t.yaml",
        &TOPOLOGY
            .replace("tier: spine}\n  - {name: spine1", "tier: spin}\n  - {name: leaf1")
            .replace("gbps: 100}\nhosts", "gbps: -1}\nhosts"),
    );
    let output = files.plan(&[]);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    for expected in
        ["t.yaml:5: switches[2].tier", "t.yaml:6: switches[3].name", "t.yaml:11: links[3].gbps", "mistakes"]
    {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn a_mistake_hides_no_other_one_beside_it() {
    let files = Files::new();
    let wrong = [
        ("{name: leaf1, tier: leaf}", "{name: leaf0, tier: leaf, addresses: [10.0.0.256]}"),
        ("b: spine0, gbps: 100}", "b: spine9, gbps: 0, count: 0, state: dead, a_address: x, b_address: 1}"),
        (
            "name: n, ports: [{switch: leaf0, gbps: 100}]}",
            "name: n, ports: [{switch: leaf9, gbps: 0, state: dead, address: y}]}",
        ),
    ];
    let topology = wrong.iter().fold(TOPOLOGY.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    files.write("t.yaml", &topology);
    let output = files.plan(&[]);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    let expected = [
        "t.yaml:4: switches[1].name",
        "t.yaml:4: switches[1].addresses[0]",
        "t.yaml:8: links[0].b",
        "t.yaml:8: links[0].gbps",
        "t.yaml:8: links[0].count",
        "t.yaml:8: links[0].state",
        "t.yaml:8: links[0].a_address",
        "t.yaml:8: links[0].b_address",
        "t.yaml:13: hosts[0].nics[0].ports[0].switch",
        "t.yaml:13: hosts[0].nics[0].ports[0].gbps",
        "t.yaml:13: hosts[0].nics[0].ports[0].state",
        "t.yaml:13: hosts[0].nics[0].ports[0].address",
    ];
    for mistake in expected {
        assert_eq!(told.matches(&format!("{mistake}: ")).count(), 1, "{mistake}: {told}");
    }
}

#[test]
fn mistakes_in_flows_and_in_the_previous_plan_are_told_too() {
    let files = Files::new();
    files.write("f.json", &json!({"flows": [flow("f0", "a", "a"), flow("f1", "b", "x")]}).to_string());
    let output = files.plan(&[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("f.json:1: flows[0].dst"), "{}", text(&output.stderr));
    let files = Files::new();
    files.write("p.json", "{\"flows\": [\n{}]}");
    let output = files.plan(&["--previous", "p.json"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("p.json:2: flows[0].id"), "{}", text(&output.stderr));
    for missing in ["gone.yaml", "."] {
        let output = files.run(&["plan", "--topology", missing, "--flows", "f.json"]);
        assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    }
    assert_eq!(files.run(&["plan", "--topology", "t.yaml"]).status.code(), Some(2));
}

#[test]
fn what_if_shows_before_and_after() {
    let files = Files::new();
    files.write("g.json", &json!({"flows": [flow("g0", "c", "a")]}).to_string());
    let args =
        ["what-if", "--topology", "t.yaml", "--flows", "f.json", "--down", "leaf0-spine1", "--add", "g.json"];
    let mut with_json = args.to_vec();
    with_json.push("--json");
    let output = files.run(&with_json);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let both = document(&output);
    assert_eq!(both["before"]["max_link_utilisation"], 0.5);
    assert_eq!(both["after"]["max_link_utilisation"], 1.0);
    assert_eq!(both["after"]["moves"], 1, "{both:#}");
    assert_eq!(both["after"]["flows"].as_array().expect("flows").len(), 3);
    let shown = text(&files.run(&args).stdout);
    for expected in ["BEFORE", "AFTER", "50.0 %", "100.0 %", "1 move of flows that were there before"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn what_hashing_would_give_is_shown_beside_the_plan() {
    let files = Files::new();
    let flows = [("f0", "a", "c"), ("f1", "b", "d"), ("f2", "c", "a"), ("f3", "d", "b")];
    let flows: Vec<Value> = flows
        .iter()
        .map(|(id, src, dst)| {
            let mut flow = flow(id, src, dst);
            flow["gbps"] = json!(100.0);
            flow
        })
        .collect();
    files.write("f.json", &json!({"flows": flows}).to_string());
    let lines = document(&files.plan(&["--json", "--compare"]))["comparison"].clone();
    let names: Vec<&str> =
        lines.as_array().expect("lines").iter().map(|line| line["paths"].as_str().expect("a name")).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    let of = |line: usize, what: &str| lines[line][what].as_f64().expect("a number");
    // Two flows of a leaf over two spines: by chance they meet on one half of the time, and get half of it.
    let hashed = of(0, "slowest_gbps");
    assert!(hashed > 50.0 - 1e-6 && hashed < 90.0, "{hashed}");
    for (name, line) in
        names.iter().zip(0..).filter(|(name, _)| ["this plan", "ideal spraying"].contains(*name))
    {
        for (what, expected) in [("slowest_gbps", 100.0), ("sum_gbps", 400.0), ("bus_gbps", 100.0)] {
            let found = of(line, what);
            assert!((found - expected).abs() < 1e-6, "{name}: {what} is {found}");
        }
    }
    let shown = text(&files.plan(&["--compare"]).stdout);
    assert!(shown.contains("ECMP, 16 queue pairs") && shown.contains("ALL-REDUCE"), "{shown}");
    let args =
        ["what-if", "--topology", "t.yaml", "--flows", "f.json", "--down", "leaf0-spine1", "--compare"];
    let shown = text(&files.run(&args).stdout);
    assert!(shown.contains("flows get, before") && shown.contains("flows get, after"), "{shown}");
    assert!(document(&files.plan(&["--json"])).get("comparison").is_none());
}

#[test]
fn a_link_that_is_not_there_cannot_die() {
    let files = Files::new();
    let output =
        files.run(&["what-if", "--topology", "t.yaml", "--flows", "f.json", "--down", "leaf0-leaf1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("leaf0-leaf1"), "{}", text(&output.stderr));
}

#[test]
fn the_sample_files_are_planned() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let output = command(&[
        "what-if",
        "--json",
        "--topology",
        "topology.yaml",
        "--flows",
        "flows.json",
        "--add",
        "job2.json",
    ])
    .current_dir(samples)
    .output()
    .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn orders_are_the_plan_in_addresses() {
    let files = Files::new();
    let output = files.plan(&["--orders", "o.json"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("a/n:0"), "{}", text(&output.stderr));
    let topology = TOPOLOGY
        .replace("spine0, tier: spine", "spine0, tier: spine, addresses: [172.16.0.2, 172.16.1.2]")
        .replace("spine1, tier: spine", "spine1, tier: spine, addresses: [\"fd00::1\"]");
    let mut host = 0;
    let lines = topology.lines().map(|line| {
        host += usize::from(line.contains("nics"));
        line.replace("gbps: 100}]}]}", &format!("gbps: 100, address: 10.0.0.{host}}}]}}]}}")) + "\n"
    });
    files.write("t.yaml", &lines.collect::<String>());
    let output = files.plan(&["--orders", "o.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let orders: Value =
        serde_json::from_str(&fs::read_to_string(files.path("o.json")).expect("written")).expect("JSON");
    let orders = orders["orders"].as_array().expect("a list");
    assert_eq!(orders.len(), 2);
    assert_eq!(
        (&orders[0]["host"], &orders[0]["from"], &orders[0]["to"]),
        (&json!("a"), &json!("10.0.0.1"), &json!("10.0.0.3"))
    );
    let spines: Vec<&Value> = orders.iter().map(|order| &order["paths"][0]["via"][0]).collect();
    assert!(spines.contains(&&json!(["172.16.0.2", "172.16.1.2"])) && spines.contains(&&json!(["fd00::1"])));
    // Wrong and doubled addresses, with their lines.
    files.write("t.yaml", &topology.replace("fd00::1", "172.16.1.2").replace("172.16.0.2", "172.16.0"));
    let output = files.plan(&[]);
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(
        said.contains("t.yaml:5: switches[2].addresses[0]")
            && said.contains("t.yaml:6: switches[3].addresses[0]"),
        "{said}"
    );
}
