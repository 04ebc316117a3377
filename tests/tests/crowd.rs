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
    assert_eq!((report["one_address"][0].as_u64(), report["one_address"][1].as_u64()), (Some(16), Some(20)));
    assert_eq!(number("tried"), 220);
    // A page of metrics and what the runtime opens by itself may be among the descriptors.
    assert!(number("open_at_most") <= 202, "{report:#}");
    assert!(number("turned_away") >= 18, "{report:#}");
    // The polite, and one agent at most: that they were held shows that nobody was cut off who should not be.
    assert!((98..=103).contains(&number("open_after")), "{report:#}");
}
