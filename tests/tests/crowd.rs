//! `c4-crowd` with a crowd that is small enough for any machine: the limits hold, those who say nothing are cut off, and an agent gets
//! through. Its figures are what the program prints, and are not tested. Where namespaces may not be had, the program has to say so.

use std::process::{Command, Output};

use c4_tests::cluster::Programs;
use serde_json::Value;

#[test]
fn a_crowd_has_its_share_and_an_agent_gets_through() {
    Programs::built().expect("programs");
    let args = ["--connections", "200", "--per-address", "16", "--polite", "50", "--hold", "1", "--json"];
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_c4-crowd")).args(args).output().expect("runs");
    let said = String::from_utf8_lossy(&stderr);
    if said.contains("network namespaces need root") {
        println!("not on this machine: {said}");
        return;
    }
    assert!(status.success(), "{said}");
    let report: Value = serde_json::from_slice(&stdout).expect("JSON");
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report:#}"));
    // On a machine with much else to do some of the polite answer too late and are cut off, too, so these are limits.
    let one = |index: usize| report["one_address"][index].as_u64().unwrap_or_else(|| panic!("{report:#}"));
    assert!(one(0) <= 16 && one(1) >= 20, "{report:#}");
    assert_eq!(number("tried"), 220);
    // A page of metrics and what the runtime opens by itself may be among the descriptors.
    assert!(number("open_at_most") <= 202, "{report:#}");
    // Those of the one address at least: of the crowd, the silent may be cut off before all of them are there.
    assert!(number("turned_away") > 0, "{report:#}");
    // That there is an answer at all: the agent was served, after those who said nothing were cut off.
    assert!(number("open_after") <= 103, "{report:#}");
}
