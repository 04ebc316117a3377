use std::path::Path;

use c4_detect::observation::NodeName;

use super::*;
use crate::steer::{
    action::{Deed, Step},
    testing,
};

fn order() -> Order {
    let action = testing::action("ticket-n7-1", Deed::Ticket { node: NodeName("n7".into()) });
    Order { id: "o".into(), action, step: Step::Ticket, grace_us: 0, timeout_us: 0 }
}

fn sh(script: &str, seconds: f64) -> HookActuator {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    HookActuator::new(Config { command, timeout_seconds: seconds, ..Config::default() })
}

async fn failure(script: &str) -> String {
    sh(script, 30.0).carry_out(&order()).await.expect_err("fails").to_string()
}

#[tokio::test]
async fn the_program_gets_the_document_and_its_first_line_is_kept() {
    let answer = sh("grep -o '\"nodes\":\\[\"n7\"\\]'; echo second", 30.0).carry_out(&order()).await;
    assert_eq!(answer, Ok("\"nodes\":[\"n7\"]".into()));
    // One that does not read, and says a lot.
    let answer = sh("yes | head -c 200000; exit 0", 30.0).carry_out(&order()).await;
    assert_eq!(answer, Ok("y".into()));
}

#[tokio::test]
async fn exit_codes_have_meanings() {
    assert!(failure("echo no such queue >&2; exit 3").await.contains("exit code 3: no such queue"));
    assert!(failure("exit 75").await.contains("not possible now"));
    assert!(failure("kill -9 $$").await.contains("ended by a signal"));
    let missing = Config { command: vec!["/no/such/program".into()], ..Config::default() };
    let error = HookActuator::new(missing).carry_out(&order()).await.expect_err("fails").to_string();
    assert!(error.contains("/no/such/program"), "{error}");
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let pid = dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! >{}; wait", pid.display());
    let error = sh(&script, 1.0).carry_out(&order()).await.expect_err("too long").to_string();
    assert!(error.contains("took longer than 1 s and was killed"), "{error}");
    let child = std::fs::read_to_string(&pid).expect("it ran");
    let gone = async {
        loop {
            let state = std::fs::read_to_string(Path::new("/proc").join(child.trim()).join("stat"));
            // An orphan whose new parent does not look is a zombie.
            if state.map_or(true, |state| state.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.expect("what it started is gone too");
}

#[tokio::test]
async fn the_sample_files_one_ticket_for_an_action() {
    let dir = tempfile::tempdir().expect("a directory");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/ticket");
    let hook = sh(&format!("C4_TICKETS={} {sample}", dir.path().display()), 30.0);
    let first = hook.carry_out(&order()).await.expect("filed");
    let second = hook.carry_out(&order()).await.expect("filed before");
    assert!(first.starts_with("ticket ") && second.contains("filed before"), "{first}, {second}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1);
}
