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
    alerts::{Notice, driver::Receiver},
    clock::Clock,
    config::{Alert, AlertKind},
    events::EventLog,
    metrics::Metrics,
};
use c4_detect::{
    finding::{Finding, FindingId, Kind, Suspect},
    observation::{JobId, NodeName},
};
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
    notices: mpsc::Sender<Notice>,
    events: EventLog,
    metrics: Arc<Metrics>,
    clock: Clock,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn sink(alert: Alert) -> Sink {
    let (clock, metrics, events) =
        (Clock::anchored(), Arc::new(Metrics::new().expect("metrics")), EventLog::default());
    let cancel = CancellationToken::new();
    let (receiver, notices) =
        Receiver::new(0, alert, clock, metrics.clone(), events.clone()).expect("a receiver");
    let task = tokio::spawn(receiver.run(cancel.clone()));
    Sink { notices, events, metrics, clock, cancel, task }
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
        self.notices.send(notice).await.expect("the task runs");
    }

    async fn end(self) -> String {
        self.cancel.cancel();
        timeout(PATIENCE, self.task).await.expect("ends").expect("does not panic");
        self.metrics.text().expect("text")
    }
}

fn json(url: String) -> Alert {
    Alert { kind: Some(AlertKind::Json), url, timeout_seconds: 0.5, ..Alert::default() }
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
                return serde_json::from_str(body).expect("JSON");
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

#[tokio::test]
async fn what_is_due_is_told_on_the_way_out() {
    let (url, mut heard) = hostile(vec![Manner::Answer(OK)]).await;
    let sink = sink(json(url));
    sink.tell(sink.notice(false, &[])).await;
    sink.end().await;
    assert_eq!(next(&mut heard).await["event"], "opened");
}
