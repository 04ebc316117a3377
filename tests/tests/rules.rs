//! The rules for Prometheus: its own tool tests each alert, and each leads to a page that says what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = repository().join(directory);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    assert!(!files.is_empty(), "no rules in {}", directory.display());
    files
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file");
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool").args(arguments).args(files).output();
    let output = output.expect("promtool of Debian's package prometheus");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn alerts() -> Vec<Value> {
    let groups = files("dashboards/rules")
        .into_iter()
        .flat_map(|path| yaml(&path)["groups"].as_array().cloned().expect("groups"));
    let rules = groups.flat_map(|group| group["rules"].as_array().cloned().expect("rules"));
    rules.filter(|rule| rule.get("alert").is_some()).collect()
}

#[test]
fn the_rules_are_right_and_do_what_their_tests_say() {
    promtool(&["check", "rules"], &files("dashboards/rules"));
    promtool(&["test", "rules"], &files("dashboards/rules/tests"));
}

#[test]
fn the_samples_beside_them_are_taken_by_their_programs() {
    let watch = repository().join("deploy/watch");
    // The path of the rules is that of a container.
    promtool(&["check", "config", "--syntax-only"], &[watch.join("prometheus.yml")]);
    let output = Command::new("amtool").arg("check-config").arg(watch.join("alertmanager.yml")).output();
    let output = output.expect("amtool of Debian's package prometheus-alertmanager");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in [
        "compose.yaml",
        "grafana/provisioning/datasources/c4.yaml",
        "grafana/provisioning/dashboards/c4.yaml",
    ] {
        assert!(yaml(&watch.join(file)).is_object(), "{file}");
    }
}

/// What the rules' tests expect, each with the name of its test.
fn expectations() -> Vec<(String, Value)> {
    let tests = files("dashboards/rules/tests")
        .into_iter()
        .flat_map(|path| yaml(&path)["tests"].as_array().cloned().expect("tests"));
    tests
        .flat_map(|test| {
            let name = test["name"].as_str().expect("a name").to_owned();
            let expected = test["alert_rule_test"].as_array().cloned().expect("alerts");
            expected.into_iter().map(move |expects| (name.clone(), expects))
        })
        .collect()
}

#[test]
fn no_alert_flaps() {
    let mut firing: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (test, expects) in expectations() {
        let fires = expects["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        let alert = expects["alertname"].as_str().expect("a name").to_owned();
        *firing.entry((alert, test)).or_default() += usize::from(fires);
    }
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(alert["keep_firing_for"].is_string(), "{name} ends with the first scrape that is missing");
        let held = firing.iter().any(|((alert, _), times)| alert == name && *times > 1);
        assert!(held, "{name} is not tested to go on while its cause comes and goes");
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_to_end() {
    let tests: Vec<Value> = expectations().into_iter().map(|(_, expects)| expects).collect();
    let tested = |fires: bool| -> BTreeSet<String> {
        let expects =
            |test: &&Value| test["exp_alerts"].as_array().is_some_and(|alerts| alerts.is_empty() != fires);
        tests
            .iter()
            .filter(expects)
            .map(|test| test["alertname"].as_str().expect("a name").to_owned())
            .collect()
    };
    let (fire, end) = (tested(true), tested(false));
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(fire.contains(name) && end.contains(name), "{name} is not tested");
    }
}

#[test]
fn each_alert_says_how_bad_it_is_and_what_to_do() {
    // Runbooks of findings are named by their kinds.
    let kinds = [
        "process_death",
        "non_comm_hang",
        "comm_hang",
        "desync",
        "non_comm_slow",
        "comm_slow",
        "health",
        "workload_imbalance",
        "path_fault",
    ];
    let has = |page: &str| repository().join("docs/runbooks").join(format!("{page}.md")).is_file();
    for kind in kinds {
        assert!(has(kind), "no runbook for {kind}");
    }
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity:?}");
        assert!(alert["annotations"]["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let url = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let page = url
            .strip_prefix("{{ $externalLabels.c4_docs }}/runbooks/")
            .and_then(|page| page.strip_suffix(".md"));
        let page = page.unwrap_or_else(|| panic!("{name}: runbook {url:?}"));
        assert!(page == "{{ $labels.kind }}" || has(page), "{name}: no page {page}");
    }
}
