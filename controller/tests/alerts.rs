//! Alerts against a real Alertmanager, and against receivers that nobody would wish for.

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use c4_controller::{
    alerts::{
        Notice,
        driver::{Handle, Receiver},
        secret::Secret,
        service::AlertingService,
    },
    clock::Clock,
    config::{Alert, AlertKind},
    events::EventLog,
    ha::fence::Fence,
    metrics::Metrics,
};
use c4_detect::{
    finding::{Finding, FindingId, Kind, Suspect},
    observation::{JobId, NodeName},
};
use c4_proto::v1::alerting_server::Alerting;
use serde_json::Value;
use support::{PATIENCE, get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

struct Sink {
    handle: Handle,
    events: EventLog,
    metrics: Arc<Metrics>,
    clock: Clock,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn sink(alert: Alert) -> Sink {
    sink_under(alert, Fence::alone())
}

fn sink_under(alert: Alert, fence: Fence) -> Sink {
    let (clock, metrics, events) =
        (Clock::anchored(), Arc::new(Metrics::new().expect("metrics")), EventLog::default());
    let cancel = CancellationToken::new();
    let (receiver, handle) =
        Receiver::new(0, alert, clock, metrics.clone(), events.clone(), fence).expect("a receiver");
    let task = tokio::spawn(receiver.run(cancel.clone()));
    Sink { handle, events, metrics, clock, cancel, task }
}

impl Sink {
    fn notice(&self, cleared: bool, actions: &[&str]) -> Notice {
        let now = self.clock.now();
        Notice {
            finding: Finding {
                id: FindingId("f-1".into()),
                job: JobId("llm".into()),
                incarnation: 0,
                kind: Kind::ProcessDeath,
                suspects: vec![Suspect {
                    rank: Some(3),
                    node: Some(NodeName("n1".into())),
                    ..Suspect::default()
                }],
                confidence: 0.95,
                since: now.before(2_000_000),
                detected: now.before(1_000_000),
                cleared: cleared.then_some(now),
                summary: "rank 3 on n1 died".into(),
                evidence: BTreeMap::new(),
                explains: Vec::new(),
                refuted_by: String::new(),
            },
            actions: actions.iter().map(ToString::to_string).collect(),
        }
    }

    async fn tell(&self, notice: Notice) {
        self.handle.notices.send(notice).await.expect("the task runs");
    }

    async fn end(self) -> String {
        self.cancel.cancel();
        timeout(PATIENCE, self.task).await.expect("ends").expect("does not panic");
        self.metrics.text().expect("text")
    }
}

fn json(url: String) -> Alert {
    Alert { kind: Some(AlertKind::Json), url, timeout_seconds: 0.5, group_seconds: 0.0, ..Alert::default() }
}

/// An Alertmanager of its own, on a free port, that ends with the test.
struct Alertmanager {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn alertmanager() -> Alertmanager {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.yml");
    std::fs::write(&config, "route: {receiver: none}\nreceivers: [{name: none}]\n").expect("written");
    let mut child = Command::new("prometheus-alertmanager")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", dir.path().join("data").display()))
        .args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("prometheus-alertmanager cannot be run ({error}): apt-get install prometheus-alertmanager")
        });
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let address = lines.by_ref().map(|line| line.expect("text")).find_map(|line| {
        let (_, rest) = line.split_once("msg=\"Listening on\" address=")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    // What it says later has to go somewhere, or it would stop when the pipe is full.
    std::thread::spawn(move || lines.for_each(drop));
    Alertmanager { child, address: address.expect("says where it listens"), _dir: dir }
}

impl Alertmanager {
    /// Asks until the one alert it knows is as wanted. It has no way to say when that is.
    async fn alert(&self, query: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let ask = async {
            loop {
                let (status, body) = get(self.address, &format!("/api/v2/alerts{query}")).await;
                assert_eq!(status, 200, "{body}");
                let alerts: Vec<Value> = serde_json::from_str(&unchunked(&body)).expect("JSON");
                if wanted(&alerts) {
                    return alerts;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ask).await.expect("it comes")
    }
}

/// The list in a body that may have been sent in chunks.
fn unchunked(body: &str) -> String {
    match (body.find('['), body.rfind(']')) {
        (Some(from), Some(to)) => body[from..=to].to_owned(),
        _ => body.to_owned(),
    }
}

#[tokio::test]
async fn a_real_alertmanager_hears_of_a_finding_its_action_and_its_end() {
    let manager = alertmanager();
    let sink = sink(Alert {
        kind: Some(AlertKind::Alertmanager),
        url: format!("http://{}", manager.address),
        ..Alert::default()
    });
    sink.tell(sink.notice(false, &[])).await;
    let alerts = manager.alert("", |alerts| !alerts.is_empty()).await;
    assert_eq!(alerts.len(), 1);
    let labels = &alerts[0]["labels"];
    for (label, value) in [
        ("alertname", "C4ProcessDeath"),
        ("job", "llm"),
        ("kind", "process_death"),
        ("severity", "critical"),
        ("node", "n1"),
        ("rank", "3"),
    ] {
        assert_eq!(labels[label], value, "{alerts:#?}");
    }
    assert_eq!(alerts[0]["annotations"]["summary"], "rank 3 on n1 died");
    assert_eq!(alerts[0]["status"]["state"], "active");

    sink.tell(sink.notice(false, &["job restarted from checkpoint 120 (incarnation 1)"])).await;
    let said = "rank 3 on n1 died; job restarted from checkpoint 120 (incarnation 1)";
    let alerts = manager.alert("", |alerts| alerts.iter().any(|a| a["annotations"]["summary"] == said)).await;
    assert_eq!(alerts.len(), 1, "the same alert, not another one: {alerts:#?}");

    sink.tell(sink.notice(true, &["job restarted from checkpoint 120 (incarnation 1)"])).await;
    manager.alert("", |alerts| alerts.is_empty()).await;
    let metrics = sink.end().await;
    assert!(metrics.contains(r#"alerts_total{outcome="delivered",receiver="alertmanager"} 3"#), "{metrics}");
}

/// What a hostile receiver does with one connection.
#[derive(Clone, Copy)]
enum Manner {
    Answer(&'static str),
    Hang,
    HangUp,
    Endless,
}

/// A receiver that treats each connection in its own manner, the last one for ever. Tells the body of each request.
async fn hostile(manners: Vec<Manner>) -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (send, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((connection, _)) = listener.accept().await {
            let manner = manners[number.min(manners.len() - 1)];
            number += 1;
            tokio::spawn(serve(connection, manner, send.clone()));
        }
    });
    (url, heard)
}

async fn serve(mut connection: TcpStream, manner: Manner, heard: mpsc::UnboundedSender<Value>) {
    let body = read(&mut connection).await;
    let _ = heard.send(body);
    match manner {
        Manner::Answer(answer) => {
            let _ = connection.write_all(answer.as_bytes()).await;
        }
        Manner::Hang => std::future::pending().await,
        Manner::HangUp => {}
        Manner::Endless => {
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while connection.write_all(&[b'x'; 4096]).await.is_ok() {}
        }
    }
}

async fn read(connection: &mut TcpStream) -> Value {
    serde_json::from_str(&read_text(connection).await.1).expect("JSON")
}

/// The head and the body of a request.
async fn read_text(connection: &mut TcpStream) -> (String, String) {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = connection.read(&mut part).await.expect("readable");
        assert_ne!(n, 0, "hung up within the request");
        text.extend_from_slice(&part[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
            if body.len() >= length.expect("a length") {
                return (head.to_owned(), body.to_owned());
            }
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

async fn next(heard: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    timeout(PATIENCE, heard.recv()).await.expect("a request comes").expect("the receiver runs")
}

#[tokio::test]
async fn whatever_the_receiver_does_it_is_told_in_the_end_and_once() {
    let (url, mut heard) = hostile(vec![
        Manner::Answer(BROKEN),
        Manner::Hang,
        Manner::HangUp,
        Manner::Answer("SSH-2.0-rubbish\r\n\r\n"),
        Manner::Answer(OK),
    ])
    .await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    for _ in 0..5 {
        let body = next(&mut heard).await;
        assert_eq!(body["event"], "opened");
        assert_eq!(body["findings"][0]["id"], "f-1");
        assert_eq!(body["findings"][0]["kind"], "process_death");
        assert_eq!(body["findings"][0]["suspects"][0]["rank"], 3);
    }
    // The same again is no news; the end is.
    sink.tell(sink.notice(false, &[])).await;
    sink.tell(sink.notice(true, &["job restarted"])).await;
    let body = next(&mut heard).await;
    assert_eq!(
        (&body["event"], &body["findings"][0]["actions"][0]),
        (&"cleared".into(), &"job restarted".into())
    );
    let (events, _) = sink.events.follow(10);
    let said: Vec<_> = events.iter().map(|event| event.text.as_str()).collect();
    assert!(said[0].contains("does not take alerts: it answered 503"), "{said:?}");
    assert!(said[1].contains("takes alerts again"), "{said:?}");
    let metrics = sink.end().await;
    assert!(heard.try_recv().is_err(), "nothing was told twice");
    assert!(metrics.contains(r#"alerts_total{outcome="failed",receiver="json"} 4"#), "{metrics}");
    assert!(metrics.contains(r#"alerts_total{outcome="delivered",receiver="json"} 2"#), "{metrics}");
}

#[tokio::test]
async fn a_receiver_that_says_no_is_not_asked_again() {
    let no = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (url, mut heard) = hostile(vec![Manner::Answer(no), Manner::Answer(OK)]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "opened");
    sink.tell(sink.notice(true, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "cleared");
    let metrics = sink.end().await;
    assert!(metrics.contains(r#"alerts_total{outcome="dead_lettered",receiver="json"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_body_without_end_is_not_read() {
    let (url, mut heard) = hostile(vec![Manner::Endless]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "opened");
    sink.tell(sink.notice(true, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "cleared");
    sink.end().await;
}

#[tokio::test]
async fn findings_are_not_sent_to_another_host() {
    let (elsewhere, mut leaked) = hostile(vec![Manner::Answer(OK)]).await;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (url, mut heard) = hostile(vec![Manner::Answer(redirect.leak()), Manner::Answer(OK)]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    next(&mut heard).await;
    // The next request comes only after the first has been dealt with.
    sink.tell(sink.notice(true, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "cleared");
    sink.end().await;
    assert!(leaked.try_recv().is_err());
}

/// An answer that sends whoever asks to another path of the same receiver.
macro_rules! elsewhere {
    ($status:literal) => {
        Manner::Answer(concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ))
    };
}

#[tokio::test]
async fn a_receiver_may_move_on_its_own_host_if_nothing_is_lost_on_the_way() {
    let (url, mut heard) = hostile(vec![
        elsewhere!("307 Temporary Redirect"),
        Manner::Answer(OK),
        // Whoever follows this asks anew, without what there was to tell.
        elsewhere!("301 Moved Permanently"),
        Manner::Answer(OK),
    ])
    .await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    let asked = next(&mut heard).await;
    assert_eq!(next(&mut heard).await, asked, "all of it is told at the other place");
    sink.tell(sink.notice(true, &[])).await;
    assert_eq!(next(&mut heard).await["event"], "cleared");
    let metrics = sink.end().await;
    assert!(heard.try_recv().is_err());
    for (outcome, times) in [("delivered", 1), ("dead_lettered", 1)] {
        let line = format!(r#"alerts_total{{outcome="{outcome}",receiver="json"}} {times}"#);
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn nobody_is_followed_around_in_circles() {
    let (url, mut heard) = hostile(vec![elsewhere!("308 Permanent Redirect")]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    next(&mut heard).await;
    let metrics = sink.end().await;
    let mut times = 1;
    while heard.try_recv().is_ok() {
        times += 1;
    }
    assert!(times < 10, "{times} requests");
    assert!(metrics.contains(r#"alerts_total{outcome="dead_lettered",receiver="json"} 1"#), "{metrics}");
}

#[tokio::test]
async fn what_is_due_is_told_on_the_way_out() {
    let (url, mut heard) = hostile(vec![Manner::Answer(OK)]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    sink.end().await;
    assert_eq!(next(&mut heard).await["event"], "opened");
}

#[tokio::test]
async fn what_is_left_when_somebody_else_leads_is_theirs_to_tell() {
    let (url, mut heard) = hostile(vec![Manner::Answer(BROKEN), Manner::Answer(OK)]).await;
    let fence = Fence::leased(1, tokio::time::Instant::now() + PATIENCE);
    let sink = sink_under(json(url), fence.clone());
    sink.tell(sink.notice(false, &[])).await;
    // It will be tried again in a moment.
    next(&mut heard).await;
    fence.lose();
    timeout(PATIENCE, sink.task).await.expect("it ends by itself").expect("does not panic");
    let metrics = sink.metrics.text().expect("text");
    assert!(heard.try_recv().is_err(), "it was tried again");
    assert!(metrics.contains(r#"alerts_total{outcome="failed",receiver="json"} 1"#), "{metrics}");
}

fn file(dir: &tempfile::TempDir, name: &str, content: &str) -> Option<std::path::PathBuf> {
    let path = dir.path().join(name);
    std::fs::write(&path, content).expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed");
    Some(path)
}

#[tokio::test]
async fn slack_hears_of_a_job_once_however_many_findings_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, mut heard) = hostile(vec![Manner::Answer(OK)]).await;
    let sink = sink(Alert {
        kind: Some(AlertKind::Slack),
        url_file: file(&dir, "url", &url),
        group_seconds: 0.3,
        ..Alert::default()
    });
    for id in ["f-1", "f-2", "f-3"] {
        let mut notice = sink.notice(false, &[]);
        notice.finding.id = FindingId(id.into());
        sink.tell(notice).await;
    }
    let body = next(&mut heard).await;
    assert_eq!(body["text"], "3 findings about llm");
    assert_eq!(body["attachments"].as_array().map(Vec::len), Some(3));
    assert_eq!(body["attachments"][0]["color"], "danger");
    let mut cleared = sink.notice(true, &[]);
    cleared.finding.id = FindingId("f-2".into());
    sink.tell(cleared).await;
    let body = next(&mut heard).await;
    assert_eq!(
        (&body["text"], &body["attachments"][0]["color"]),
        (&"Cleared: process_death in llm".into(), &"good".into())
    );
    sink.end().await;
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn pagerduty_hears_of_the_beginning_and_the_end_of_an_incident() {
    let dir = tempfile::tempdir().expect("a directory");
    // As PagerDuty does when it is asked too often.
    let busy =
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let accepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (url, mut heard) = hostile(vec![Manner::Answer(busy), Manner::Answer(accepted)]).await;
    let sink = sink(Alert {
        kind: Some(AlertKind::Pagerduty),
        url,
        secret_file: file(&dir, "key", "0123456789abcdef\n"),
        ..Alert::default()
    });
    let mut notice = sink.notice(false, &[]);
    sink.tell(notice.clone()).await;
    let refused = next(&mut heard).await;
    let opened = next(&mut heard).await;
    assert_eq!(refused, opened);
    assert_eq!(
        (&opened["event_action"], &opened["routing_key"]),
        (&"trigger".into(), &"0123456789abcdef".into())
    );
    assert_eq!(
        (&opened["payload"]["severity"], &opened["payload"]["source"]),
        (&"critical".into(), &"n1".into())
    );
    // That it began earlier makes no other incident of it.
    notice.finding.since = notice.finding.since.before(1_000_000);
    notice.finding.cleared = Some(sink.clock.now());
    sink.tell(notice).await;
    let cleared = next(&mut heard).await;
    assert_eq!((&cleared["event_action"], &cleared["dedup_key"]), (&"resolve".into(), &opened["dedup_key"]));
    let metrics = sink.end().await;
    assert!(metrics.contains(r#"alerts_total{outcome="delivered",receiver="pagerduty"} 2"#), "{metrics}");
}

#[tokio::test]
async fn a_template_makes_the_body_and_only_wanted_kinds_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, mut heard) = hostile(vec![Manner::Answer(OK)]).await;
    let template =
        r#"{"title": {{ sentence }}, "who": [{% for s in findings[0].suspects %}{{ s.node }}{% endfor %}]}"#;
    let sink = sink(Alert {
        template_file: file(&dir, "template", template),
        kinds: vec![Kind::Desync],
        ..json(url)
    });
    sink.tell(sink.notice(false, &[])).await;
    let mut desync = sink.notice(false, &[]);
    (desync.finding.id, desync.finding.kind) = (FindingId("f-2".into()), Kind::Desync);
    desync.finding.summary = "ranks \"disagree\"".into();
    sink.tell(desync).await;
    let body = next(&mut heard).await;
    assert_eq!(body, serde_json::json!({ "title": "ranks \"disagree\"", "who": ["n1"] }));
    sink.end().await;
    assert!(heard.try_recv().is_err(), "of the death nobody wanted to know");
}

#[tokio::test]
async fn requests_are_signed_and_carry_a_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let sink = sink(Alert {
        secret_file: file(&dir, "secret", "topsecret\n"),
        token_file: file(&dir, "token", "let-me-in\n"),
        ..json(format!("http://{}/hook", listener.local_addr().expect("an address")))
    });
    sink.tell(sink.notice(false, &[])).await;
    let (mut connection, _) =
        timeout(PATIENCE, listener.accept()).await.expect("comes").expect("a connection");
    let (head, body) = read_text(&mut connection).await;
    connection.write_all(OK.as_bytes()).await.expect("answered");
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.and_then(|line| line.split_once(": "))
            .map(|(_, value)| value.trim().to_owned())
            .expect("a header")
    };
    assert_eq!(header("authorization"), "Bearer let-me-in");
    let at: u64 = header("x-c4-timestamp").parse().expect("seconds");
    let secret = Secret::read(&dir.path().join("secret")).expect("a secret");
    let signed = secret.sign(c4_detect::observation::Timestamp(at * 1_000_000), body.as_bytes());
    assert_eq!(header("x-c4-signature"), format!("sha256={signed}"));
    sink.end().await;
}

#[tokio::test]
async fn what_a_receiver_needs_is_looked_for_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let wrong = |alert: Alert| {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let made = Receiver::new(3, alert, Clock::anchored(), metrics, EventLog::default(), Fence::alone());
        made.err().map(|error| error.to_string()).expect("refused")
    };
    let missing = wrong(Alert { secret_file: Some("/nonexistent".into()), ..json("http://h".into()) });
    assert!(missing.starts_with("alerts[3]: cannot read the secret in /nonexistent"), "{missing}");
    let broken = wrong(Alert { template_file: file(&dir, "t", "{{ nothing }}"), ..json("http://h".into()) });
    assert!(broken.contains("undefined"), "{broken}");
}

#[tokio::test]
async fn a_receiver_can_be_tried() {
    let (url, mut heard) =
        hostile(vec![Manner::Answer(OK), Manner::Answer(OK), Manner::Answer(BROKEN)]).await;
    let sink = sink(json(url));
    let service = AlertingService::new(vec![sink.handle.clone()]);
    let ask = async || {
        let request = tonic::Request::new(c4_proto::v1::TestReceiversRequest {});
        let answer = timeout(PATIENCE, Alerting::test_receivers(&service, request)).await;
        answer.expect("answers").expect("an answer").into_inner().receivers
    };
    let tested = ask().await;
    assert!(tested[0].ok, "{tested:?}");
    assert_eq!((tested[0].name.as_str(), tested[0].kind.as_str()), ("alerts[0]", "json"));
    for event in ["opened", "cleared"] {
        let body = next(&mut heard).await;
        assert_eq!((&body["event"], &body["findings"][0]["id"]), (&event.into(), &"test".into()));
    }
    let tested = ask().await;
    assert!(!tested[0].ok && tested[0].detail.contains("503"), "{tested:?}");
    sink.end().await;
}
