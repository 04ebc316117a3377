//! A controller that is away for an hour: an agent keeps all that it has to say, in as much memory as it may have, and delivers it.

use std::{fs, process::Command, time::Duration};

use c4_agent::{
    config::Config,
    metrics::Metrics,
    report::{Captured, ProcessStart, Report},
    stream::{Spool, Stream, StreamSettings, Tcp},
};
use c4_detect::observation::{CommId, Membership, ProcessEnd, ProcessId, Window};
use c4_proto::v1::{Finding, ListFindingsRequest, operations_client::OperationsClient};
use c4_tests::{
    cluster::{Child, Programs},
    etcd::lasting_ports,
    scale::{
        args::Broken,
        controller::usage,
        fleet::Fleet,
        source::{self, Said},
    },
    soak::{self, Progress},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(120);
const RANKS: u32 = 8;
const COMM: CommId = CommId(99);
/// Seconds of the outage, and after how many a rank dies.
const OUTAGE: u64 = 3600;
const DIES: u64 = 1800;
/// The one that dies.
const VICTIM: u32 = 3;
/// Collectives in a second.
const PACE: u64 = 10;

#[test]
fn an_hour_of_a_busy_node_fits_into_the_spool() {
    let fleet = Fleet::new(160, 160).expect("a size");
    let minute = Duration::from_secs(60);
    let minute = source::start(fleet, 1, Broken::None, minute * 2, minute);
    let minute: Vec<Said> = minute.into_iter().filter(|said| said.node == 0).collect();
    let memory = || usage(std::process::id()).expect("it runs").rss;
    let limits = Config::default().spool;
    let (mut spool, before) = (Spool::new(limits), memory());
    for body in (0..60).flat_map(|_| &minute).flat_map(|said| &said.bodies) {
        spool.push(body, Instant::now());
    }
    let grown = memory().saturating_sub(before);
    println!("{} messages, {} bytes, {grown} of memory", spool.depth(), spool.bytes());
    assert!(spool.depth() >= 3500, "a message a second");
    assert_eq!(spool.dropped(), 0, "{} bytes", spool.bytes());
    assert!(grown < limits.bytes as u64 * 5 / 4, "{grown} bytes of memory for {}", spool.bytes());
}

fn process(rank: u32) -> ProcessId {
    ProcessId(u64::from(rank) + 1)
}

fn started(rank: u32) -> [Report; 2] {
    let start = ProcessStart {
        process: process(rank),
        job: "job".into(),
        incarnation: 0,
        rank: Some(rank),
        local_rank: Some(rank),
        world_size: Some(RANKS),
        gpu: Some(rank),
        pid: 1000 + rank,
        uid: None,
        found_ended: false,
        nccl_version: "2.28".into(),
        profiler_api: 5,
        blind_spots: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        nics: Vec::new(),
    };
    let membership =
        Membership { process: process(rank), comm: COMM, name: "dp".into(), size: RANKS, comm_rank: rank };
    [Report::ProcessStarted(start), Report::CommunicatorJoined { membership, nodes: 1 }]
}

/// What a rank did in a second of the hour: ten collectives, until the others wait for the one that is dead.
fn window(rank: u32, second: u64) -> Window {
    let waits_us = second.saturating_sub(DIES) * 1_000_000;
    let completed = second.min(DIES) * PACE;
    soak::window(process(rank), COMM, &Progress { completed, waits_us, idle_us: 0 })
}

/// What an agent said in an hour in which nobody heard it, and when.
fn hour(began: Instant) -> impl Iterator<Item = Captured> {
    let at = move |second: u64| began + Duration::from_secs(second);
    let starts = (0..RANKS).flat_map(started).map(move |report| Captured { at: began, report });
    let end = ProcessEnd {
        found: false,
        process: process(VICTIM),
        ago_us: 0,
        finalized: false,
        exit_code: None,
        signal: Some(9),
    };
    starts.chain((1..=OUTAGE).flat_map(move |second| {
        let alive = (0..RANKS).filter(move |rank| second <= DIES || *rank != VICTIM);
        let windows = Report::Windows(alive.map(|rank| window(rank, second)).collect());
        let end = (second == DIES).then(|| Report::ProcessEnded(end.clone()));
        [Some(windows), end].into_iter().flatten().map(move |report| Captured { at: at(second), report })
    }))
}

async fn findings(address: &str) -> Vec<Finding> {
    let Ok(mut client) = OperationsClient::connect(address.to_owned()).await else { return Vec::new() };
    let request = ListFindingsRequest { include_cleared: true, ..Default::default() };
    client.list_findings(request).await.map(|list| list.into_inner().findings).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_hour_all_is_delivered_and_what_happened_meanwhile_is_told() {
    let programs = Programs::built().expect("programs");
    let dir = tempfile::tempdir().expect("a directory");
    let [port] = lasting_ports().expect("a port");
    let address = format!("http://127.0.0.1:{port}");
    let config = Config::default();
    let settings = StreamSettings {
        node: "n0".into(),
        session_id: "session".into(),
        token_file: None,
        nic_class: None,
        limits: config.spool,
        backoff: config.reconnect,
        connect_timeout: config.connect_timeout,
        drain: config.drain,
    };
    let metrics = Metrics::new("n0").expect("metrics");
    let (_sensors, see_sensors) = watch::channel(Vec::new());
    let ((commands, _commands), (wishes, _wishes)) = (mpsc::channel(1), mpsc::channel(1));
    let (reports, taken) = mpsc::channel(64);
    let dial = Tcp::new(&address, None, config.connect_timeout).expect("an address");
    let stream = Stream::new(dial, settings, see_sensors, commands, wishes, metrics.clone());
    tokio::spawn(stream.run(taken, CancellationToken::new()));
    let began = Instant::now().checked_sub(Duration::from_secs(OUTAGE)).expect("a moment");
    for report in hour(began) {
        reports.send(report).await.expect("it is kept");
    }

    let file = dir.path().join("controller.yaml");
    fs::write(&file, format!("listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:0\n")).expect("written");
    let mut command = Command::new(programs.controller());
    command.arg("--config").arg(&file);
    let mut controller =
        Child::start("controller", &mut command, &dir.path().join("log")).expect("a controller");
    controller.first_line(LIMIT, |line| line.starts_with("listening ")).expect("it comes up");
    let back = Instant::now();
    let kept = |name: &str| {
        let page = metrics.render();
        let line = page.lines().find(|line| line.starts_with(name)).expect("it is there").to_owned();
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    let delivered = async {
        while kept("c4_agent_spool_messages") > 0.0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, delivered).await.expect("all is delivered");
    println!("an hour was delivered {:.2} s after the controller was back", back.elapsed().as_secs_f64());
    assert_eq!(kept("c4_agent_spool_dropped_total"), 0.0);
    let told = async {
        loop {
            if let [finding, ..] = &findings(&address).await[..] {
                return finding.clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let finding = timeout(LIMIT, told).await.expect("it is told");
    assert_eq!(
        (finding.kind.as_str(), finding.suspects[0].rank),
        ("process_death", Some(VICTIM)),
        "{finding:#?}"
    );
    let ago = Duration::from_micros(
        (jiff::Timestamp::now().as_microsecond() - finding.since_unix_us).unsigned_abs(),
    );
    let died = Duration::from_secs(OUTAGE - DIES);
    assert!((died..died + LIMIT).contains(&ago), "it is said to have died {ago:?} ago, not {died:?}");
    assert_eq!(findings(&address).await.len(), 1, "{finding:#?}");
}
