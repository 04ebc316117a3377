//! Decisions on the page: a controller as it runs, with agents of a job whose rank 1 dies, and people with and without tokens.

use c4_controller::{access::tokens::new_token, server::Running};
use c4_proto::v1::{self, agent_message::Body};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, Scheme},
    support::{self, Agent, PATIENCE, exchange, joined, started, window},
};

const JOB: &str = "llm";
const ENTER: &str = "\u{e007}";

/// Two agents whose job loses rank 1 while rank 0 waits for it.
async fn death(running: &Running, token: Option<&str>) -> Vec<Agent> {
    let mut agents = Vec::new();
    for rank in 0..2 {
        let hello = v1::Hello {
            node: format!("n{rank}"),
            agent_version: "test".into(),
            session_id: "s".into(),
            next_sequence: 1,
            protocol: 1,
            ..Default::default()
        };
        let mut agent = Agent::connect_with(running, hello, token).await.expect("connects");
        let process = u64::from(rank) + 1;
        let group = v1::GroupReport {
            job: JOB.into(),
            state: v1::GroupState::Running.into(),
            ranks: vec![rank],
            world_size: 2,
            ..Default::default()
        };
        agent.say(Body::GroupReport(group)).await;
        agent.say(started(process, JOB, rank, 2)).await;
        agent.say(joined(process, 900, rank, 2)).await;
        let last = agent.say(window(process, 900, 40)).await;
        agent.acknowledged(last).await;
        agents.push(agent);
    }
    let ended = v1::ProcessEnded { process: 2, signal: Some(9), ..Default::default() };
    agents[1].say(Body::ProcessEnded(ended)).await;
    agents
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

async fn document(running: &Running, query: &str, token: Option<&str>) -> Value {
    let http = running.http;
    let bearer = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request =
        format!("GET /api/page?{query} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n{bearer}\r\n");
    let (head, body) = exchange(http, &request).await;
    assert_eq!(status(&head), 200, "{head}");
    serde_json::from_str(&body).expect("JSON")
}

/// The action that waits for a yes, once it does.
async fn proposed(running: &Running, token: Option<&str>) -> Value {
    let wait = async {
        loop {
            let fleet = document(running, "", token).await;
            if let Some(action) = fleet["steer"]["actions"].as_array().and_then(|actions| actions.first()) {
                return action.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("something is proposed")
}

/// `POST` of a decision with these headers.
async fn post(running: &Running, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST /api/page/decide HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let (head, body) = exchange(running.http, &request).await;
    (status(&head), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_signs_in_and_approves_and_a_viewer_cannot() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = |grant, name| new_token(grant, name).expect("random numbers").expect("good names");
    let ((viewer, first), (operator, second), (agent, third)) =
        (token("viewer", "vera"), token("operator", "anna"), token("agent", "nodes"));
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, format!("{first}\n{second}\n{third}\n")).expect("written");
    let yaml =
        format!("access: {{tokens: {}}}\nsteer: {{mode: approve, settle_seconds: 0.0}}\n", tokens.display());
    let running = support::controller(&yaml).await;
    let _agents = death(&running, Some(&agent)).await;
    let action = proposed(&running, Some(&viewer)).await;
    let (id, finding) =
        (action["id"].as_str().expect("an id"), action["finding"].as_str().expect("a finding"));

    let browser = Browser::start().await;
    browser.window(1440, 900, Scheme::Dark).await;
    let url = format!("http://{}/", running.http);
    browser.open(&url).await;
    browser.wait_for("h1", "Sign in").await;
    browser.judge("sign-in-dark", 1440).await;
    browser.press("#token", &format!("c4_guess{ENTER}")).await;
    browser.wait_for("[role=alert]", "not known here").await;
    browser.press("#token", &format!("{viewer}{ENTER}")).await;
    browser.wait_for("h2", "1 action waits for a yes").await;
    browser.wait_for("#you", "vera (viewer)").await;
    browser.wait_for(".action", "Waits for an operator's yes").await;
    assert_eq!(browser.script("return document.querySelectorAll('.action button').length").await, json!(0));
    let host = running.http;
    let json_headers = format!("Host: {host}\r\nContent-Type: application/json\r\n");
    let yes = json!({"action": id, "approve": true}).to_string();
    for (who, expected) in [(Some(&viewer), 403), (Some(&agent), 403), (None, 401)] {
        let bearer = who.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let (code, said) = post(&running, &format!("{json_headers}{bearer}"), &yes).await;
        assert_eq!(code, expected, "{said}");
    }

    browser.click("#you button").await;
    browser.wait_for("h1", "Sign in").await;
    browser.press("#token", &format!("{operator}{ENTER}")).await;
    browser.wait_for("#you", "anna (operator)").await;
    browser.wait_for(".action button", "Approve").await;
    browser.judge("fleet-waiting-dark", 1440).await;
    browser.open(&format!("{url}#/finding/{finding}")).await;
    browser.wait_for(".action button", "Approve").await;
    browser.press(".action button.yes", ENTER).await;
    browser.wait_for("dialog .sentence", "Would restart job llm").await;
    browser.wait_for("dialog", "a decision of anna").await;
    browser.judge("approve-dialog-dark", 1440).await;
    browser.press("dialog button.yes", ENTER).await;
    browser.wait_for("dialog .sentence", "Going to restart job llm").await;
    browser.press("dialog button:not([hidden])", ENTER).await;
    browser.wait_for(".trail", "anna said yes to this: restart job llm").await;
    browser.wait_for(".action", "stopping").await;
    browser.window(360, 800, Scheme::Light).await;
    browser.judge("finding-approved-360", 360).await;
    browser.stop().await;

    let told = document(&running, &format!("finding={finding}"), Some(&viewer)).await;
    let approved: Vec<&Value> = told["trail"]
        .as_array()
        .expect("a trail")
        .iter()
        .filter(|entry| entry["what"] == "approved")
        .collect();
    assert_eq!(approved.len(), 1, "{told:#}");
    assert_eq!(approved[0]["who"], "anna");
    let again = post(&running, &format!("{json_headers}Authorization: Bearer {operator}\r\n"), &yes).await;
    assert_eq!(again.0, 409, "{}", again.1);
    assert!(running.drain().await, "nothing is held up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_machine_without_accounts_whoever_decides_gives_a_name_and_no_other_site_can() {
    let running =
        support::controller("access: {hosts: [c4.example]}\nsteer: {mode: approve, settle_seconds: 0.0}\n")
            .await;
    let _agents = death(&running, None).await;
    let action = proposed(&running, None).await;
    let (id, finding) =
        (action["id"].as_str().expect("an id"), action["finding"].as_str().expect("a finding"));

    // A name that an attacker lets lead here says so itself.
    let http = running.http;
    for (host, path, expected) in [
        ("evil.example", "/", 403),
        ("evil.example", "/page/main.js", 403),
        ("evil.example", "/api/page", 403),
        ("evil.example:4401", "/api/page/live", 403),
        ("evil.example", "/metrics", 403),
        ("evil.example", "/healthz", 200),
        ("localhost", "/api/page", 200),
        ("c4.example:4401", "/api/page", 200),
        (&http.to_string(), "/metrics", 200),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (head, said) = exchange(http, &request).await;
        assert_eq!(status(&head), expected, "{host} {path}: {said}");
        assert!(expected != 403 || said.contains("access.hosts"), "{said}");
    }
    let kind = "Content-Type: application/json\r\n";
    let here = format!("Host: {http}\r\n");
    let no = json!({"action": id, "approve": false, "by": "mallory"}).to_string();
    for (headers, body, expected) in [
        (format!("Host: evil.example\r\n{kind}"), no.as_str(), 403),
        (format!("{here}{kind}Origin: http://evil.example\r\n"), &no, 403),
        (format!("{here}{kind}Sec-Fetch-Site: cross-site\r\n"), &no, 403),
        (format!("{here}{kind}Sec-Fetch-Site: same-site\r\n"), &no, 403),
        (format!("{here}Content-Type: text/plain\r\n"), &no, 400),
        (format!("{here}{kind}"), r#"{"action": "x"}"#, 400),
        (format!("{here}{kind}"), r#"{"action": "x", "approve": true}"#, 400),
        (format!("{here}{kind}"), r#"{"action": "x", "approve": true, "by": "eve"}"#, 404),
        (format!("{here}{kind}"), r#"{"action": "x", "approve": true, "by": "e", "why": 1}"#, 400),
    ] {
        let (code, said) = post(&running, &headers, body).await;
        assert_eq!(code, expected, "{headers}{body}: {said}");
    }
    assert_eq!(proposed(&running, None).await["state"], "proposed", "none of that decided anything");

    let browser = Browser::start().await;
    browser.window(360, 800, Scheme::Light).await;
    browser.open(&format!("http://{http}/#/finding/{finding}")).await;
    browser.wait_for(".action button", "Reject").await;
    browser.press(".action button.no", ENTER).await;
    browser.wait_for("dialog .sentence", "Would not restart job llm").await;
    browser.judge("reject-dialog-360", 360).await;
    browser.press("#decide-name", &format!("bob{ENTER}")).await;
    browser.wait_for("dialog .sentence", "Not going to restart job llm").await;
    browser.press("dialog button:not([hidden])", ENTER).await;
    browser.wait_for(".trail", "bob").await;
    browser.wait_for(".trail", "rejected").await;
    browser.stop().await;
    assert!(running.drain().await, "nothing is held up");
}
