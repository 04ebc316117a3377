//! Who gets in.

use std::{net::SocketAddr, path::Path, sync::Arc};

use c4_detect::observation::{JobId, NodeName, Timestamp};
use c4_tls::Peer;
use tokio::sync::watch;

use super::{
    tokens::{Tokens, TokensError, new_token},
    *,
};

const VIEWER: Need = Need::Role(Role::Viewer);
const OPERATOR: Need = Need::Role(Role::Operator);
const ADMIN: Need = Need::Role(Role::Admin);
const NOW: Timestamp = Timestamp(1_000_000);

fn peer(names: &[&str]) -> Peer {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Peer { address: SocketAddr::from(([10, 0, 0, 9], 40_000)), names: names.into(), encrypted: true }
}

fn gate(anonymous: Anonymous, tokens: Tokens) -> (Gate, watch::Sender<Arc<Tokens>>) {
    let (sender, receiver) = watch::channel(Arc::new(tokens));
    let access = Access {
        certificates: [
            ("alice.example".into(), Grant::Admin),
            ("Grafana".into(), Grant::Viewer),
            ("agents".into(), Grant::Agent),
        ]
        .into(),
        node_domain: Some("cluster.example".into()),
        calls_per_second: 1000.0,
        ..Access::default()
    };
    (Gate::new(&access, anonymous, receiver, None), sender)
}

fn parse(text: &str) -> Result<Tokens, TokensError> {
    Tokens::parse(text.as_bytes(), Path::new("tokens"))
}

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

#[test]
fn whoever_shows_nothing_gets_nothing() {
    let (gate, _tokens) = gate(Anonymous::Nothing, Tokens::default());
    for need in [VIEWER, OPERATOR, ADMIN, Need::Agent] {
        assert_eq!(gate.admit(&peer(&[]), None, need, NOW), Err(Denied::Unknown));
    }
    assert!(gate.admit(&peer(&[]), None, Need::Nothing, NOW).is_ok(), "whether it lives is no secret");
}

#[test]
fn a_certificate_gives_its_role_and_no_more() {
    let (gate, _tokens) = gate(Anonymous::Nothing, Tokens::default());
    let alice = gate.admit(&peer(&["alice.example"]), None, ADMIN, NOW).expect("an administrator");
    assert_eq!(
        (alice.name.as_str(), alice.via, alice.role),
        ("alice.example", Via::Certificate, Some(Role::Admin))
    );
    assert!(gate.admit(&peer(&["grafana"]), None, VIEWER, NOW).is_ok(), "names have no case");
    assert_eq!(gate.admit(&peer(&["grafana"]), None, OPERATOR, NOW), Err(Denied::Role(OPERATOR)));
    assert_eq!(gate.admit(&peer(&["somebody"]), None, VIEWER, NOW), Err(Denied::Role(VIEWER)));
}

#[test]
fn an_agent_speaks_for_the_node_in_its_certificate_only() {
    let (gate, _tokens) = gate(Anonymous::Nothing, Tokens::default());
    let agent = gate.admit(&peer(&["gpu-17"]), None, Need::Agent, NOW).expect("an agent");
    assert!(agent.speaks_for(&node("gpu-17")) && agent.speaks_for(&node("GPU-17")));
    for other in ["gpu-18", "gpu-1", "gpu-177", "gpu-17.cluster.example", ""] {
        assert!(!agent.speaks_for(&node(other)), "{other:?}");
    }
    let agent = gate.admit(&peer(&["gpu-17.cluster.example"]), None, Need::Agent, NOW).expect("an agent");
    assert!(agent.speaks_for(&node("gpu-17")), "the domain may follow");
    assert!(!agent.speaks_for(&node("gpu-18")));
    let agent = gate.admit(&peer(&["gpu-17.evil.example"]), None, Need::Agent, NOW).expect("an agent");
    assert!(!agent.speaks_for(&node("gpu-17")), "but no other domain");
    let shared = gate.admit(&peer(&["agents"]), None, Need::Agent, NOW).expect("agents");
    assert!(shared.speaks_for(&node("gpu-18")), "it was said to be for any node");
    assert_eq!(gate.admit(&peer(&["agents"]), None, VIEWER, NOW), Err(Denied::Role(VIEWER)));
}

#[test]
fn a_token_counts_until_its_line_is_gone() {
    let (token, line) = new_token("operator", "ci").expect("random numbers").expect("a good name");
    let tokens = parse(&format!("# who may\n\n{line}  # the pipeline\n")).expect("right");
    let (gate, sender) = gate(Anonymous::Nothing, tokens);
    let who = gate.admit(&peer(&[]), Some(&token), OPERATOR, NOW).expect("an operator");
    assert_eq!((who.name.as_str(), who.via), ("ci", Via::Token));
    assert_eq!(gate.admit(&peer(&[]), Some(&token), ADMIN, NOW), Err(Denied::Role(ADMIN)));
    assert_eq!(gate.admit(&peer(&[]), Some(&token), Need::Agent, NOW), Err(Denied::Role(Need::Agent)));
    let other = format!("{token}x");
    assert_eq!(gate.admit(&peer(&["alice.example"]), Some(&other), VIEWER, NOW), Err(Denied::BadToken));
    sender.send(Arc::default()).expect("the gate listens");
    assert_eq!(gate.admit(&peer(&[]), Some(&token), OPERATOR, NOW), Err(Denied::BadToken));
}

#[test]
fn a_job_token_speaks_about_its_job_only() {
    let (token, line) = new_token("job:llm", "llm-launcher").expect("random numbers").expect("good names");
    let (gate, _tokens) = gate(Anonymous::Nothing, parse(&line).expect("right"));
    let who = gate.admit(&peer(&[]), Some(&token), Need::Agent, NOW).expect("an agent");
    assert_eq!(who.only_job(), Some(&JobId("llm".into())));
    assert_eq!(gate.admit(&peer(&[]), Some(&token), VIEWER, NOW), Err(Denied::Role(VIEWER)));
}

#[test]
fn a_wrong_line_is_named_and_not_quoted() {
    let wrong = |text: &str| parse(text).expect_err("wrong");
    let (token, line) = new_token("viewer", "x").expect("random numbers").expect("a good name");
    for (text, line) in [
        (format!("\nviewer x {token}"), 2),
        (format!("king x sha256:{}", "0".repeat(64)), 1),
        (format!("job: x sha256:{}", "0".repeat(64)), 1),
        (format!("viewer sha256:{}", "0".repeat(64)), 1),
        (format!("{line}\n{line}"), 2),
    ] {
        let error = wrong(&text);
        assert!(matches!(error, TokensError::Line { line: at, .. } if at == line), "{error}");
        assert!(!error.to_string().contains(&token), "a secret pasted by mistake is not told on");
    }
    for (grant, name) in [("king", "x"), ("viewer", ""), ("viewer", "a b"), ("job:", "x"), ("viewer", "a#b")]
    {
        assert_eq!(new_token(grant, name), Ok(None), "{grant:?} {name:?}");
    }
    assert!(!format!("{:?}", parse(&line)).contains("sha256"), "nor do hashes show");
}

#[test]
fn what_is_not_in_the_table_is_for_administrators() {
    assert_eq!(needs("/c4.v1.Telemetry/Stream"), Need::Agent);
    assert_eq!(needs("/c4.v1.Operations/GetStatus"), VIEWER);
    assert_eq!(needs("/c4.v1.Operations/WatchEvents"), VIEWER);
    assert_eq!(needs("/c4.v1.Steering/ListActions"), VIEWER);
    assert_eq!(needs("/c4.v1.Steering/Decide"), OPERATOR);
    for path in [
        "",
        "/",
        "/c4.v1.Operations/",
        "/c4.v1.Operations/DeleteEverything",
        "/c4.v1.Telemetry/Streams",
        "/c4.v1.Operations2/GetStatus",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        assert_eq!(needs(path), ADMIN, "{path}");
    }
}

#[test]
fn an_address_that_asks_too_often_is_turned_away_whoever_it_is() {
    let (mut gate, _tokens) = gate(Anonymous::Admin, Tokens::default());
    gate.pace = Mutex::new(Pace::new(1.0));
    let admitted = (0..10).filter(|_| gate.admit(&peer(&[]), None, VIEWER, NOW).is_ok()).count();
    assert_eq!(admitted, 2);
    let local = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)), ..peer(&[]) };
    assert!((0..100).all(|_| gate.admit(&local, None, VIEWER, NOW).is_ok()));
}
