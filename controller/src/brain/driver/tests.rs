//! How soon everything stops. The figures are printed: `cargo test -p c4-controller a_pause_stops -- --nocapture`.

use std::sync::{Condvar, Mutex};

use c4_detect::observation::NodeName;

use super::*;
use crate::{
    brain::Known,
    config::{Config, Mode},
    steer::{
        actuator::Answer,
        machine::{Command, Refused},
    },
    store::{MemoryStore, Row, Store, Tables, Write},
};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has become of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    Works,
    Fails,
    Hangs,
}

/// A store that can go away.
#[derive(Debug)]
struct Removable {
    memory: MemoryStore,
    disk: Mutex<Disk>,
    changed: Condvar,
}

impl Removable {
    fn set(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
        self.changed.notify_all();
    }
}

impl Store for Removable {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        let disk = self.changed.wait_while(self.disk.lock().unwrap(), |disk| *disk == Disk::Hangs).unwrap();
        match *disk {
            Disk::Fails => Err(StoreError::Access("the disk is gone".into())),
            _ => self.memory.apply(batch),
        }
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.memory.last(table, limit)
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, key)
    }

    fn everything(&self) -> Result<Tables, StoreError> {
        self.memory.everything()
    }
}

/// An actuator that never gets done; it says when it begins and when it is made to leave off.
struct Endless(mpsc::UnboundedSender<&'static str>);

/// Says so when it is dropped.
struct Left(mpsc::UnboundedSender<&'static str>);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.send("left");
    }
}

impl Actuator for Endless {
    fn carry_out<'a>(&'a self, _: &'a Order) -> Answer<'a> {
        let left = Left(self.0.clone());
        let _ = self.0.send("began");
        Box::pin(async move {
            let _left = left;
            std::future::pending().await
        })
    }
}

async fn next(said: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    timeout(PATIENCE, said.recv()).await.expect("in time").expect("open")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_what_is_being_carried_out_also_when_the_store_is_gone() {
    for disk in [Disk::Works, Disk::Fails, Disk::Hangs] {
        let clock = Clock::anchored();
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Arc::new(Removable {
            memory: MemoryStore::default(),
            disk: Mutex::new(Disk::Works),
            changed: Condvar::new(),
        });
        let (answers, inputs) = mpsc::channel(DEPTH);
        let (say, mut said) = mpsc::unbounded_channel();
        let (snapshot, _) = watch::channel(Arc::new(Snapshot::empty(Mode::Auto, clock.now())));
        let desk = Desk::new(answers.clone());
        let driver = Driver {
            brain: Brain::new(Config::default(), Known::default(), metrics.clone(), clock.now()),
            clock,
            inputs,
            answers,
            streams: Streams::new(1, metrics.clone(), Fence::alone()),
            fence: Fence::alone(),
            debts: Debts::default(),
            store: Writer::new(store.clone()).unwrap(),
            desk: desk.clone(),
            exporter: None,
            actuator: Arc::new(Endless(say)),
            groups: watch::channel(Arc::new(Groups::default())).0,
            snapshot,
            events: EventLog::default(),
            notices: Vec::new(),
            recorder: None,
            metrics,
            heartbeat: Arc::default(),
            tasks: TaskTracker::new(),
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(driver.run(cancel.clone()));
        let isolate = |node: &str| Command::Isolate { node: NodeName(node.into()), why: String::new() };
        desk.ask(isolate("n1"), "eve".into(), false).await.expect("answers").expect("begins");
        assert_eq!(next(&mut said).await, "began");

        store.set(disk);
        let asked = clock.now();
        let pause = desk.ask(Command::Pause { why: "fire drill".into() }, "eve".into(), false);
        let answer = timeout(PATIENCE, pause).await.expect("in time").expect("answers");
        assert_eq!(answer.as_deref(), Ok("all actions are paused; 1 are left where they are"), "{disk:?}");
        assert_eq!(next(&mut said).await, "left");
        let us = clock.now().micros_since(asked);
        println!(
            "store {disk:?}: all actions were stopped {:.1} ms after the pause was asked for",
            us as f64 / 1e3
        );
        let refused = desk.ask(isolate("n2"), "bob".into(), false).await.expect("answers");
        assert!(matches!(refused, Err(Refused::Not(why)) if why.contains("paused by eve")), "{disk:?}");

        store.set(Disk::Works);
        cancel.cancel();
        timeout(PATIENCE, running).await.expect("in time").expect("ends");
        assert!(said.try_recv().is_err(), "nothing was begun");
    }
}

#[test]
fn pictures_of_large_clusters_are_made_less_often() {
    // Of a few ranks at every tick, of a thousand once a second, of a hundred thousand every few seconds.
    let every_us = [50, 900, 9_000, 90_000].map(until_next_picture_us);
    assert_eq!(every_us, [50_000, 900_000, 1_000_000, 3_600_000]);
}
