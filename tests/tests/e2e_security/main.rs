//! Who gets in and who does not, with the programs as they ship and certificates as a site has them.

mod oidc;
mod recorders;
mod site;

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use c4_tests::{authority::Authority, cluster::wait_for};
use reqwest::StatusCode;
use site::{LIMIT, Site, said};

const UNREACHABLE: Option<i32> = Some(69);

fn connected(status: &serde_json::Value, node: &str) -> bool {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.filter(|found| found["name"] == node && found["connected"] == true).count() == 1
}

/// GETs a page of the controller over TLS.
fn get(site: &Site, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = fs::read(site.authority.ca()).expect("a certificate");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
            .timeout(LIMIT)
            .build()
            .expect("a client");
        let mut request = client.get(format!("https://localhost:{}{path}", site.http));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a text"))
    })
}

#[test]
fn an_agent_speaks_for_its_own_node_and_no_other() {
    let site = Site::new("");
    let alice = site.authority.issue("alice", &["alice"], 10);
    let _honest = site.agent("n0", &site.authority.issue("n0", &["n0"], 11));
    let impostor = site.agent("n7", &site.authority.issue("n1", &["n1"], 12));
    site.wait_for_status(&alice, |status| connected(status, "n0"));
    wait_for("the refusal", LIMIT, || {
        Ok(site.log().contains("an agent speaks for another node").then_some(()))
    })
    .expect("it is written down");
    let output = site.ctl_as(&alice, &["status", "--json"]);
    assert!(!said(&output).contains("n7"), "{}", said(&output));
    wait_for("the impostor's log", LIMIT, || {
        let log = fs::read_to_string(site.dir.path().join("agent-n1.log"))?;
        Ok(log.contains("n1 may not speak for node n7").then_some(()))
    })
    .expect("the agent says why");
    drop(impostor);

    // Both ends call their conversation by one name.
    let log = fs::read_to_string(site.dir.path().join("agent-n0.log")).expect("a log");
    let trace = log.split("trace=").nth(1).and_then(|rest| rest.get(..32)).expect("the agent names it");
    wait_for("the same name", LIMIT, || Ok(site.log().contains(trace).then_some(()))).expect("in both logs");
}

#[test]
fn whoever_is_not_known_gets_nothing() {
    let site = Site::new("");
    let ca = site.authority.ca();
    let nothing = site.ctl(&[("--ca", &ca)], &["status"]);
    assert_eq!(nothing.status.code(), Some(1), "{}", said(&nothing));
    assert!(said(&nothing).contains("--token-file"), "{}", said(&nothing));

    let stranger = site.authority.issue("mallory", &["mallory"], 20);
    let refused = site.ctl_as(&stranger, &["status"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("needs the role viewer"), "{}", said(&refused));

    let grafana = site.authority.issue("grafana", &["grafana"], 21);
    assert!(site.ctl_as(&grafana, &["jobs"]).status.success());

    // Another authority's certificate, for the right name.
    let other = Authority::new(&site.dir.path().join("other"));
    let forged = other.issue("alice", &["alice"], 1);
    assert_eq!(site.ctl_as(&forged, &["status"]).status.code(), UNREACHABLE);
    // And a controller that another authority vouches for.
    let refused = site.ctl(&[("--ca", &other.ca())], &["status"]);
    assert_eq!(refused.status.code(), UNREACHABLE, "{}", said(&refused));
    // The name in the certificate, where the address is another.
    let by_address = |name: &[&str]| {
        let mut ctl = Command::new(site.programs.ctl());
        ctl.args(["--controller", &format!("https://127.0.0.1:{}", site.grpc), "--timeout", "10", "--ca"]);
        ctl.arg(&ca).args(name).arg("status").output().expect("runs").status.code()
    };
    assert_eq!(by_address(&[]), UNREACHABLE);
    assert_eq!(by_address(&["--server-name", "c4.example"]), UNREACHABLE);
    assert_eq!(by_address(&["--server-name", "localhost"]), Some(1), "believed, but who asks is not known");
    // In the clear.
    let mut plain = Command::new(site.programs.ctl());
    plain.args(["--controller", &format!("http://localhost:{}", site.grpc), "--timeout", "10", "status"]);
    assert_eq!(plain.output().expect("runs").status.code(), UNREACHABLE);
}

#[test]
fn a_token_counts_until_it_is_taken_back_and_no_secret_is_logged() {
    let site = Site::new("");
    let ca = site.authority.ca();
    let token = site.token("viewer", "ci");
    let ask = |token: &Path| site.ctl(&[("--ca", &ca), ("--token-file", token)], &["status"]);
    wait_for("the token to count", LIMIT, || Ok(ask(&token).status.success().then_some(())))
        .expect("the file is read again");
    let secret = fs::read_to_string(&token).expect("a token");
    assert_eq!(get(&site, "/metrics", None).0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&site, "/metrics", Some("c4_guess")).0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&site, "/healthz", None).0, StatusCode::OK, "whether it lives is no secret");
    let (status, metrics) = get(&site, "/metrics", Some(&secret));
    assert_eq!(status, StatusCode::OK);
    // At least the guess: the token itself may have been tried before it counted.
    let denied = "c4_controller_denied_total{reason=\"bad_token\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(denied)?.parse::<f64>().ok());
    assert!(count.is_some_and(|count| count >= 1.0), "{metrics}");

    site.drop_tokens();
    wait_for("the token to be gone", LIMIT, || Ok((ask(&token).status.code() == Some(1)).then_some(())))
        .expect("the file is read again");
    let key = fs::read_to_string(site.dir.path().join("authority/controller.key")).expect("a key");
    let log = site.log();
    for (what, secret) in [("token", secret.as_str()), ("key", key.lines().nth(1).expect("base64"))] {
        assert!(!log.contains(secret) && !metrics.contains(secret), "the {what} is shown");
    }
}

#[test]
fn certificates_are_replaced_without_a_restart_and_revoked_ones_stop_counting() {
    let site = Site::new("");
    let alice = site.authority.issue("alice", &["alice"], 30);
    let _agent = site.agent("n0", &site.authority.issue("n0", &["n0"], 31));
    site.wait_for_status(&alice, |status| connected(status, "n0"));

    // The controller gets a certificate of another authority, in the same files.
    let other = Authority::new(&site.dir.path().join("other"));
    let next = other.issue("controller", &["localhost"], 1);
    let used = site.dir.path().join("authority");
    fs::copy(&next.key, used.join("controller.key")).expect("copied");
    fs::copy(&next.certificate, used.join("controller.crt")).expect("copied");
    let ask = || {
        let ca = other.ca();
        site.ctl(
            &[("--ca", &ca), ("--cert", &alice.certificate), ("--key", &alice.key)],
            &["status", "--json"],
        )
    };
    wait_for("the new certificate", LIMIT, || Ok(ask().status.success().then_some(())))
        .expect("it is taken without a restart");
    let status = serde_json::from_slice(&ask().stdout).expect("JSON");
    assert!(connected(&status, "n0"), "who was connected stays: {status}");

    site.authority.revoke(&[30]);
    wait_for("the revocation", LIMIT, || Ok((ask().status.code() == UNREACHABLE).then_some(())))
        .expect("a revoked certificate is refused");
}

#[test]
fn those_who_only_take_up_room_do_not_keep_others_out() {
    let site = Site::new("  connections: 400\n");
    let alice = site.authority.issue("alice", &["alice"], 40);
    let address = SocketAddr::from(([127, 0, 0, 1], site.grpc));
    // They connect and say nothing: their handshakes are given up, and their places are free again.
    let mut silent: Vec<_> = (0..390).map(|_| TcpStream::connect(address).expect("connects")).collect();
    assert!(site.ctl_as(&alice, &["status"]).status.success(), "some places are left, and one is enough");
    let last = silent.last_mut().expect("some");
    last.set_read_timeout(Some(LIMIT)).expect("set");
    assert_eq!(last.read(&mut [0; 16]).expect("closed, not forgotten"), 0);
    drop(silent);

    let page = SocketAddr::from(([127, 0, 0, 1], site.http));
    let mut slow = TcpStream::connect(page).expect("connects");
    slow.set_read_timeout(Some(LIMIT)).expect("set");
    let closed = wait_for("the slow one to be cut off", LIMIT, || {
        use std::io::Write;
        // A byte now and then of a handshake that never ends.
        let more = slow.write_all(&[22]).is_ok();
        std::thread::sleep(Duration::from_millis(50));
        Ok((!more).then_some(()))
    });
    closed.expect("a handshake has an end");
}

#[test]
fn a_controller_does_not_open_itself_to_others_unless_told_so() {
    let programs = c4_tests::cluster::Programs::built().expect("programs");
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("open.yaml");
    fs::write(&config, "listen: 0.0.0.0:0\nhttp: 127.0.0.1:0\n").expect("written");
    let output = Command::new(programs.controller()).arg("--config").arg(&config).output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("insecure: true"), "{}", said(&output));
}
