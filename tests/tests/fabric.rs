//! `c4-fabric`: planned paths on a fabric of network namespaces. Rates are what the program prints, and are not tested: what
//! is, is that every path is found, that every connection has a port of its planned path, and that a link's death is
//! survived. Where namespaces may not be had, the program has to say so.

use std::process::{Command, Output};

use c4_tests::cluster::Programs;
use serde_json::Value;

/// Runs it; none where the machine does not allow it.
fn run(args: &[&str]) -> Option<Value> {
    Programs::built().expect("programs");
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_c4-fabric")).args(args).arg("--json").output().expect("runs");
    let said = String::from_utf8_lossy(&stderr);
    if said.contains("network namespaces need root") || said.contains("(CONFIG_") {
        println!("not on this machine: {said}");
        return None;
    }
    assert!(status.success(), "{said}");
    Some(serde_json::from_slice(&stdout).expect("JSON"))
}

#[test]
fn flows_take_planned_paths_and_others_when_a_link_dies() {
    let args = ["--spines", "2", "--flows", "2", "--mbit", "20", "--seconds", "0.5", "--cut", "--seed", "3"];
    let Some(said) = run(&args) else { return };
    let trial = &said["trials"][0];
    assert_eq!(trial["learned"]["paths"], trial["learned"]["paths_there"], "{trial}");
    // The program itself checks ports; that flows moved data shows that they were there.
    for rates in [&trial["hashed"], &trial["planned"], &trial["cut"]["planned"]] {
        assert!(rates["slowest"].as_f64().expect("a rate") > 0.0, "{trial}");
    }
    let (leaf, spine) = (&trial["cut"]["link"][0], &trial["cut"]["link"][1]);
    assert!(leaf.is_u64() && spine.is_u64());
    assert_eq!(trial["cut"]["learned"]["paths"], trial["cut"]["learned"]["paths_there"], "{trial}");
}

#[test]
fn a_controller_puts_jobs_on_planned_paths_and_finds_a_dead_link() {
    let args = ["--spines", "2", "--hosts", "2", "--jobs", "2", "--ranks", "2", "--seconds", "1", "--cut"];
    let Some(said) = run(&args) else { return };
    let trial = &said["trials"][0];
    for times in ["hashed", "planned"] {
        let times = trial[times].as_array().expect("a list");
        assert!(
            times.len() == 2 && times.iter().all(|time| time.as_f64().is_some_and(|s| s > 0.0)),
            "{trial}"
        );
    }
    // That it was found is why there are figures at all: the program waits for a plan that avoids it.
    let cut = &trial["cut"];
    assert!(cut["link"][0].is_u64() && cut["planned_slowest"].as_f64().is_some_and(|s| s > 0.0), "{trial}");
}

#[test]
fn a_controller_without_a_topology_learns_it_and_plans_on_it() {
    let args =
        ["--leaves", "3", "--spines", "2", "--hosts", "2", "--jobs", "2", "--ranks", "3", "--seconds", "1"];
    let more = ["--icmp-every-ms", "0", "--learned"];
    let Some(said) = run(&[&args[..], &more].concat()) else { return };
    let trial = &said["trials"][0];
    let learned = &trial["learned"];
    assert_eq!([&learned["leaves"], &learned["spines"], &learned["links"]], [3, 2, 6], "{learned}");
    let under = |leaf: usize| (0..2).map(|host| format!("host{leaf}-{host}")).collect::<Vec<_>>();
    assert_eq!(learned["under"], serde_json::json!([under(0), under(1), under(2)]));
    // That all agents follow the plan on it is why there are figures at all.
    let planned = trial["planned"].as_array().expect("a list");
    assert!(
        planned.len() == 2 && planned.iter().all(|time| time.as_f64().is_some_and(|s| s > 0.0)),
        "{trial}"
    );
    assert_eq!(trial["accused"], 0, "{trial}");
}

#[test]
fn a_link_of_the_file_that_is_not_there_is_told_with_its_line_and_planned_around() {
    let args =
        ["--leaves", "3", "--spines", "2", "--hosts", "2", "--jobs", "2", "--ranks", "3", "--seconds", "1"];
    let Some(said) = run(&[&args[..], &["--wrong-file"]].concat()) else { return };
    let trial = &said["trials"][0];
    // That jobs are planned, and agents know ports for all of it, is why there are figures at all.
    assert!(trial["planned_slowest"].as_f64().is_some_and(|s| s > 0.0), "{trial}");
    let mistakes = trial["mistakes"].as_array().expect("a list");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    let told = mistakes[0].as_str().expect("a sentence");
    let (place, what) = told.split_once(": ").expect("a place");
    assert!(what.starts_with("leaf0–spine0 is in the file, no probe ever crosses it"), "{told}");
    // Behind three leaves and two spines, and what stands over them and over the links.
    assert!(place.ends_with("topology.yaml:8"), "{told}");
}

#[test]
fn where_namespaces_may_not_be_had_it_is_said_what_is_in_the_way() {
    let own = ["--user", "--map-root-user"];
    let probe = Command::new("unshare").args(own).arg("true").status();
    if !probe.as_ref().is_ok_and(std::process::ExitStatus::success) {
        println!("not on this machine: no user namespaces ({probe:?})");
        return;
    }
    // Root of a user namespace may take network namespaces away from itself.
    let script = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\"";
    let mut command = Command::new("unshare");
    command.args(own).args(["sh", "-c", script, env!("CARGO_BIN_EXE_c4-fabric")]);
    let Output { status, stderr, .. } = command.output().expect("runs");
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("network namespaces need root (CAP_SYS_ADMIN), or unprivileged user"), "{said}");
    assert!(said.contains("neither is there: user.max_net_namespaces is 0"), "{said}");
}

#[test]
fn a_link_that_loses_packets_is_found_avoided_and_cleared() {
    let args =
        ["--leaves", "3", "--spines", "2", "--hosts", "2", "--jobs", "2", "--ranks", "3", "--seconds", "1"];
    let Some(said) = run(&[&args[..], &["--lose-one-in", "20"]].concat()) else { return };
    let lossy = &said["trials"][0]["lossy"];
    // That it was named, avoided and cleared is why there are figures at all. Who shares its fate is on the same spine.
    let spine = format!("spine{}", lossy["link"][1].as_u64().expect("a spine"));
    let named = lossy["named"].as_array().expect("a list");
    assert!(
        !named.is_empty() && named.iter().all(|link| link.as_str().expect("a link").contains(&spine)),
        "{lossy}"
    );
    assert!(lossy["planned_slowest"].as_f64().is_some_and(|s| s > 0.0), "{lossy}");
}
