//! Every dashboard against a real Prometheus that scrapes a whole C4: no query may be wrong, and none empty where there is
//! something to show.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use c4_dashboards::{Needs, Panel, View, boards};
use c4_tests::{
    cluster::{Cluster, Spec, wait_for},
    faults::{WorkerFault, inject},
    prometheus::{Prometheus, get, lint},
    ringjob::clock,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const JOB: &str = "boards";
const NODE: &str = "node-0";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_files_are_what_is_generated() {
    for board in boards() {
        let path = repository().join("dashboards").join(board.file());
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert!(known == board.text(), "{} is not what `cargo run -p c4-dashboards` writes", path.display());
    }
}

#[test]
fn boards_are_what_grafana_takes() {
    let uids: BTreeSet<&str> = boards().iter().map(|board| board.uid).collect();
    assert_eq!(uids.len(), boards().len(), "every board has an address of its own");
    for board in boards() {
        let json = board.json();
        assert!(json["schemaVersion"].as_u64().expect("a version") >= 36);
        let known: BTreeSet<&str> = json["templating"]["list"]
            .as_array()
            .expect("variables")
            .iter()
            .map(|v| v["name"].as_str().unwrap())
            .collect();
        for link in json["links"].as_array().expect("links") {
            let uid = link["url"].as_str().and_then(|url| url.strip_prefix("/d/")).expect("a board");
            assert!(uids.contains(uid), "{}: no board {uid}", board.title);
        }
        let panels = json["panels"].as_array().expect("panels");
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels {
            check_panel(panel, &known, &uids);
            assert!(
                ids.insert(panel["id"].as_u64().expect("an id")),
                "{}: two panels with one id",
                board.title
            );
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{panel:#}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{}: {} lies on another panel", board.title, panel["title"]);
            }
        }
    }
}

fn check_panel(panel: &Value, variables: &BTreeSet<&str>, uids: &BTreeSet<&str>) {
    let kind = panel["type"].as_str().expect("a type");
    assert!(["row", "timeseries", "stat", "table", "heatmap"].contains(&kind), "{kind}");
    assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel:#}");
    if kind == "row" {
        return;
    }
    assert_eq!(panel["datasource"]["uid"], "${source}");
    assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()));
    let targets = panel["targets"].as_array().expect("targets");
    let names: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
    assert!(!targets.is_empty() && names.len() == targets.len(), "{panel:#}");
    for target in targets {
        let expr = target["expr"].as_str().expect("a query");
        for used in expr
            .split('$')
            .skip(1)
            .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap())
        {
            assert!(used.starts_with("__") || variables.contains(used), "{expr}: no variable {used}");
        }
    }
    for link in panel["fieldConfig"]["overrides"].as_array().into_iter().flatten() {
        let url = link["properties"][0]["value"][0]["url"].as_str().expect("a link");
        let (uid, variable) =
            url.strip_prefix("/d/").and_then(|rest| rest.split_once("?var-")).expect("a board");
        assert!(uids.contains(uid), "{url}");
        assert_eq!(Some(variable.split('=').next().unwrap()), link["matcher"]["options"].as_str());
    }
}

/// Two hosts under a leaf each, two spines, one link down.
const TOPOLOGY: &str = "\
switches:
- {name: leaf0, tier: leaf}
- {name: leaf1, tier: leaf}
- {name: spine0, tier: spine, addresses: [127.8.0.0]}
- {name: spine1, tier: spine, addresses: [127.8.0.1]}
links:
- {a: leaf0, b: spine0, gbps: 400}
- {a: leaf0, b: spine1, gbps: 400}
- {a: leaf1, b: spine0, gbps: 400}
- {a: leaf1, b: spine1, gbps: 400, state: down}
hosts:
- {name: node-0, nics: [{name: eth7, ports: [{switch: leaf0, gbps: 400, address: 127.0.0.2}]}]}
- {name: node-1, nics: [{name: eth7, ports: [{switch: leaf1, gbps: 400, address: 127.0.0.3}]}]}
";

/// A job on planned paths that was restarted, with a rank that is late now, and a NIC whose link is gone.
fn scene(dir: &Path) -> Cluster {
    let nic = dir.join("sys/class/net/eth7");
    let file = |name: &str, text: &str| {
        let path = nic.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    for (name, text) in [
        ("operstate", "up\n"),
        ("speed", "400000\n"),
        ("carrier_down_count", "0\n"),
        ("device/vendor", "0x15b3\n"),
        ("statistics/rx_bytes", "1000\n"),
        ("statistics/tx_bytes", "2000\n"),
    ] {
        file(name, text);
    }
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![(NODE.into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "40000", "--bytes", "4096,262144"].map(str::to_owned).into();
    let topology = dir.join("topology.yaml");
    fs::write(&topology, TOPOLOGY).expect("a file");
    // Its switches are not there, so agents look for ports in vain: that is shown, too.
    spec.agent_yaml = format!(
        "sensors: {{nic: {{sys_root: {}}}}}\npaths: {{orders: controller, table: {}/{{node}}.paths}}\n",
        dir.join("sys").display(),
        dir.display()
    );
    // Whoever answers there takes no alerts, which is something to show as well.
    spec.controller_yaml = format!(
        "alerts: [{{kind: json, url: \"http://127.0.0.1:9/\", attempts: 2}}]\npaths: {{topology: {}}}\n",
        topology.display()
    );
    let cluster = Cluster::start(spec).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    inject::signal(&cluster.faults(), 1, Signal::KILL).expect("killed");
    ctl.wait_healthy(JOB, 1, LIMIT).expect("healthy again");
    // A change of the iteration time can be told once it is known what is usual.
    let before = cluster.faults().read_iteration(0).map_or(0, |(iteration, _)| iteration);
    wait_for("iterations", LIMIT, || {
        Ok(cluster.faults().read_iteration(0).filter(|(iteration, _)| *iteration > before + 150))
    })
    .expect("iterations");
    let late = WorkerFault::Sleep { us: 40_000, until_iteration: None };
    inject::misbehave(&cluster.faults(), 1, &late).expect("told");
    file("operstate", "down\n");
    file("carrier_down_count", "1\n");
    ctl.wait_finding(JOB, &ctl.findings(JOB).expect("findings"), LIMIT).expect("a finding");
    cluster
}

#[test]
fn every_query_of_every_panel_has_an_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = scene(dir.path());
    let mut targets = vec![cluster.http.clone()];
    targets.extend(cluster.agent_pages().expect("pages"));
    let rules = repository().join("dashboards/rules");
    let prometheus = Prometheus::start(&targets, &rules, dir.path()).expect("a Prometheus");
    for target in &targets {
        lint(&get(target, "/metrics").expect("metrics"));
    }
    let mut wrong = Vec::new();
    for board in boards() {
        for panel in board.panels() {
            wrong.extend(
                check_queries(&prometheus, panel)
                    .map_err(|why| format!("{} / {}: {why}", board.title, panel.title))
                    .err(),
            );
        }
        let annotations = board.json()["annotations"]["list"].as_array().cloned().unwrap_or_default();
        for annotation in annotations {
            let expr = annotation["expr"].as_str().expect("a query");
            wrong.extend(
                prometheus
                    .query(&filled(expr))
                    .map_err(|error| format!("{}: {error}", annotation["name"]))
                    .err(),
            );
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), cluster.logs());
    for rule in prometheus.rules().expect("rules") {
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
}

fn check_queries(prometheus: &Prometheus, panel: &Panel) -> Result<(), String> {
    let now = matches!(panel.view, View::Table(_) | View::Matrix { .. });
    for query in &panel.queries {
        let expr = filled(&query.expr);
        let ask = || {
            if now {
                return prometheus.query(&expr);
            }
            let to = clock::unix_us() / 1_000_000;
            prometheus.query_range(&expr, to - 20, to)
        };
        // A wrong query is wrong at once; one that is empty may only be early.
        let first = ask().map_err(|error| format!("{expr}: {error:#}"))?;
        if panel.needs != Needs::Job || first.iter().any(is_something) {
            continue;
        }
        let some = wait_for("an answer", LIMIT, || Ok(ask()?.iter().any(is_something).then_some(())));
        some.map_err(|error| format!("{expr}: {error:#}"))?;
    }
    Ok(())
}

/// A result that holds a number: quantiles of nothing are none.
fn is_something(result: &Value) -> bool {
    let number = |sample: &Value| sample[1].as_str().is_some_and(|text| text != "NaN");
    number(&result["value"]) || result["values"].as_array().is_some_and(|samples| samples.iter().any(number))
}

/// A query with what Grafana would put in place of its variables.
fn filled(expr: &str) -> String {
    expr.replace("$__rate_interval", "10s")
        .replace("$__range", "1m")
        .replace("$job", JOB)
        .replace("$node", NODE)
}
