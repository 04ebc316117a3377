//! Every command that asks a controller, through the real binary and a real gRPC connection.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::Stdio,
};

#[path = "support/controller.rs"]
mod controller;
mod support;

use controller::Controller;
use support::{command, json, text};

#[test]
fn status_shows_nodes_and_what_is_lost() {
    let controller = Controller::start();
    let output = controller.ask(&["status"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    for expected in ["mode observe", "1 h 2 min", "1 open finding", "n1", "lost", "missing: nvml"] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "no colours away from a terminal");
    let document = json(&controller.ask(&["status", "--json"]));
    assert_eq!(document["nodes"][1]["connected"], false);
    assert_eq!(document["uptime_seconds"], 3723.0);
}

#[test]
fn paths_show_the_plan_and_what_agents_know() {
    let controller = Controller::start();
    let shown = text(&controller.ask(&["paths", "--job", "train"]).stdout);
    for expected in [
        "between switches 50 %",
        "answered by 10.9.9.9",
        "ring of 8 hosts",
        "250 ms",
        "NEXT",
        "leaf0 → spine1 → leaf1",
        "MEASURED",
        "25 %",
        "avoid",
        "does not follow yet",
        "settled",
    ] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    assert!(!shown.contains("spine3"), "links that carry nothing and are fine are left out\n{shown}");
    let document = json(&controller.ask(&["paths", "--json"]));
    assert_eq!(document["flows"][0]["pieces"][0]["path"][1], "spine1");
    assert_eq!(document["jobs"][0]["next_unix_us"], 1_700_000_000_250_000i64);
    assert_eq!(document["links"].as_array().map(Vec::len), Some(3));
    assert_eq!(document["nodes"][1]["follows"], false);
}

#[test]
fn the_topology_that_probes_tell_is_printed_as_plan_takes_it() {
    let controller = Controller::start();
    let output = controller.ask(&["topology", "--probed"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for expected in [
        "# of before: 1 node of 2 explore anew",
        "# assumed: the rate of 2 ports of NICs, 400 Gbit/s",
        "  - {name: leaf-10.255.0.1, tier: leaf}",
    ] {
        assert!(shown.lines().any(|line| line == expected), "{expected:?} in\n{shown}");
    }
    let document = json(&controller.ask(&["topology", "--probed", "--json"]));
    assert_eq!(document["topology"]["switches"][0]["tier"], "leaf");
    assert_eq!(document["planned"], true);
    assert_eq!(controller.ask(&["topology"]).status.code(), Some(2), "from where?");
}

#[test]
fn jobs_and_one_job() {
    let controller = Controller::start();
    let shown = text(&controller.ask(&["jobs"]).stdout);
    for expected in ["train", "faulty", "7/8", "250 ms"] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    assert_eq!(json(&controller.ask(&["jobs", "--json"]))["jobs"][0]["iteration_seconds"], 0.25);
    let shown = text(&controller.ask(&["job", "train"]).stdout);
    for expected in [
        "1 restart",
        "250 ms ± 1.2 %",
        "never entered",
        "waiting for others in dp",
        "1.50 s",
        "Downtime: 4.10 s",
        "500 ms",
    ] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    let document = json(&controller.ask(&["job", "train", "--json"]));
    assert_eq!(document["job"]["state"], "faulty");
    assert_eq!(document["ranks"][0]["rank"], 3);
    assert_eq!(document["findings"][0]["id"], "f-1");
    assert_eq!(document["ledger"]["entries"][0]["complete"], true);
    let change = &document["iteration_changes"][0];
    assert_eq!((&change["at"], &change["after_seconds"]), (&"2025-11-24T16:00:00.000Z".into(), &2.0.into()));
    assert_eq!(change["grew"][0]["part"], "waiting");
}

#[test]
fn findings_follow_the_published_schema() {
    let controller = Controller::start();
    let output = controller.ask(&["findings"]);
    assert_eq!(output.status.code(), Some(0), "listing open findings is no failure");
    assert!(text(&output.stdout).contains("Rank 3 on n1 never entered"));
    assert_eq!(
        json(&controller.ask(&["findings", "--all", "--json"]))["findings"].as_array().map(Vec::len),
        Some(2)
    );
    let document = json(&controller.ask(&["findings", "--json"]));
    let finding = &document["findings"][0];
    assert_eq!(finding["id"], "f-1");
    assert_eq!(finding["kind"], "non_comm_hang");
    assert_eq!(finding["suspects"][0]["rank"], 3);
    assert!(finding["suspects"][0].get("nic").is_none(), "what is not known is left out");
    assert_eq!(finding["since"], "2025-11-24T16:00:00.000Z");
    assert!(finding["cleared"].is_null());
    assert_eq!(finding["evidence"]["waiting_ranks"][2], 2);
    assert_eq!(finding["incarnation"], 1);
    assert_eq!(finding["actions"][0], "restart 1 of 3, from iteration 100");
    let none = controller.ask(&["findings", "--job", "other"]);
    assert_eq!(text(&none.stdout), "No open findings.\n");
}

#[test]
fn explain_begins_with_the_sentence() {
    let controller = Controller::start();
    let output = controller.ask(&["explain", "f-1"]);
    let shown = text(&output.stdout);
    assert!(
        shown.starts_with("Rank 3 on n1 never entered AllReduce #120 that 7 ranks wait in.\n"),
        "{shown}"
    );
    let order = [
        "97 %",
        "Suspects",
        "1. rank 3 (n1, GPU 3), score 0.97",
        "The numbers it rests on",
        "waited seconds: median",
        "It also explains",
        "What would show it wrong",
        "What was done",
        "restart 1 of 3",
    ];
    let mut from = 0;
    for expected in order {
        let place =
            shown[from..].find(expected).unwrap_or_else(|| panic!("{expected:?} in order in\n{shown}"));
        from += place;
    }
    assert_eq!(json(&controller.ask(&["explain", "f-1", "--json"]))["findings"][0]["id"], "f-1");
}

#[test]
fn what_does_not_exist_is_exit_1_and_says_where_to_look() {
    let controller = Controller::start();
    for (args, hint) in [
        (["explain", "f-9"], "c4ctl findings --all"),
        (["job", "other"], "c4ctl jobs"),
        (["explain", "odd"], "gremlins"),
    ] {
        let output = controller.ask(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains(hint), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn events_end_with_the_history_unless_followed() {
    let controller = Controller::start();
    let output = controller.ask(&["events", "--history", "2"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains("2025-11-24T16:00:00.000Z  finding   train: event 0"), "{shown}");
    let document = json(&controller.ask(&["events", "--json"]));
    assert_eq!(document["events"][1]["text"], "event 1");
}

#[test]
fn events_are_streamed_a_line_each_as_they_come() {
    let controller = Controller::start();
    let mut child =
        command(&["events", "--follow", "--history", "2", "--json", "--controller", &controller.url()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for number in 0..2 {
        let line = lines.next().expect("a line").expect("text");
        let event: serde_json::Value = serde_json::from_str(&line).expect("one object a line");
        assert_eq!(event["text"], format!("event {number}"));
    }
    child.kill().expect("still following");
    child.wait().expect("ends");
}

#[test]
fn a_stream_that_ends_is_not_taken_for_peace() {
    let controller = Controller::start();
    let mut child = command(&["events", "--follow", "--history", "1", "--controller", &controller.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut first).expect("a line");
    drop(controller);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
}

#[test]
fn nobody_there_is_exit_69_and_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let url = format!("http://{free}");
    let output = command(&["status", "--controller", &url]).output().expect("runs");
    assert_eq!(output.status.code(), Some(69));
    let expected = format!(
        "c4ctl: cannot reach the controller at {url}: connection refused; is c4-controller running there? set \
         --controller or C4_CONTROLLER\n"
    );
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn somebody_else_there_is_exit_69_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").expect("written");
    });
    let output = command(&["jobs", "--controller", &url, "--timeout", "5"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    server.join().expect("ends");
}

#[test]
fn silence_is_exit_69_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let output = command(&["jobs", "--controller", &url, "--timeout", "1"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("no answer within 1 s"), "{}", text(&output.stderr));
}

#[test]
fn a_wrong_address_is_exit_64_and_a_wrong_command_exit_2() {
    for address in ["https://c4:4400", "", "http://"] {
        let output = command(&["status"]).env("C4_CONTROLLER", address).output().expect("runs");
        assert_eq!(output.status.code(), Some(64), "{address:?}: {}", text(&output.stderr));
    }
    for args in [&["frobnicate"][..], &[], &["explain"], &["status", "--timeout", "0"]] {
        assert_eq!(command(args).output().expect("runs").status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn colours_on_request() {
    let controller = Controller::start();
    assert!(text(&controller.ask(&["status", "--color", "always"]).stdout).contains("\x1b[31m"));
}

#[test]
fn a_receiver_of_alerts_that_is_deaf_is_exit_1() {
    let controller = Controller::start();
    let output = controller.ask(&["alerts", "test"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(shown.contains("alerts[0] (slack) ok\n"), "{shown}");
    assert!(shown.contains("alerts[1] (json) failed: it answered 503"), "{shown}");
    assert!(text(&output.stderr).contains("1 receiver did not take the test"));
    let document = json(&controller.ask(&["alerts", "test", "--json"]));
    assert_eq!(document["receivers"][1]["ok"], false);
}
