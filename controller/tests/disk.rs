//! The disk of a single controller's store is full for a while. A tmpfs of a few megabytes, mounted in namespaces of the
//! test's own, is a disk that can really be filled.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use c4_controller::{
    server::Running,
    steer::journal::Loaded,
    store::{Store, Tables, backup, file::FileStore},
};
use c4_proto::v1::{self, backups_client::BackupsClient, decision::What};
use tokio::time::{sleep, timeout};

mod support;

use support::{
    PATIENCE, controller, event, operations, steering,
    world::{RANKS, World, agent},
};

/// Set in the process that has such a disk; where it is.
const DISK: &str = "C4_SMALL_DISK";

/// Runs a test again where there is a small disk. Whether that was done, or cannot be.
fn again_on_a_small_disk(test: &str) -> bool {
    if std::env::var_os(DISK).is_some() {
        return false;
    }
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let mut probe = Command::new("unshare");
    let allowed = probe.args(namespaces).args(["mount", "-t", "tmpfs", "none", "/mnt"]).status();
    if !allowed.as_ref().is_ok_and(|status| status.success()) {
        println!("SKIPPED: unprivileged user namespaces with mounts are not permitted here: {allowed:?}");
        return true;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let script = format!("mount -t tmpfs -o size=6m none \"${DISK}\" && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["sh", "-c", &script]).arg(std::env::current_exe().expect("own path"));
    command.args([test, "--exact", "--nocapture"]).env(DISK, dir.path());
    let output = command.output().expect("a shell");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("running 1 test"), "{}: {said}", output.status);
    true
}

/// Writes until there is no room.
fn fill(file: &Path) {
    let mut filler = File::create(file).expect("created");
    for block in [1 << 16, 1 << 12, 1] {
        let bytes = vec![b'x'; block];
        while filler.write_all(&bytes).is_ok() {}
    }
}

async fn decide(running: &Running, what: What) {
    let mut client = steering(&running.grpc.to_string()).await.expect("connects");
    let decision = v1::Decision { by: "eve".into(), dry_run: false, what: Some(what) };
    // Whether it is taken is the store's affair.
    let _ = timeout(PATIENCE, client.decide(decision)).await;
}

async fn sees_all(running: &Running) {
    let wait = async {
        let mut client = operations(running).await;
        while client.get_status(v1::GetStatusRequest {}).await.expect("a status").into_inner().ranks < RANKS {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("both ranks are seen");
}

async fn said(running: &Running, what: &str) -> usize {
    let request = v1::WatchEventsRequest { history: u32::MAX };
    let mut events = operations(running).await.watch_events(request).await.expect("events").into_inner();
    let mut count = 0;
    while let Ok(Ok(Some(event))) = timeout(Duration::from_millis(300), events.message()).await {
        count += usize::from(event.text.contains(what));
    }
    count
}

/// What the store of a running controller holds.
async fn kept(running: &Running) -> Tables {
    let mut client = BackupsClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
    let mut parts = client.get_backup(v1::GetBackupRequest {}).await.expect("a backup").into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await.expect("whole") {
        bytes.extend(part.bytes);
    }
    backup::read(&bytes).expect("whole")
}

/// Whether there are one finding of a death and one outage, no more and no less.
fn is_whole(tables: &Tables) -> bool {
    let rows = |name: &str| tables.get(name).into_iter().flat_map(|rows| rows.values());
    let deaths =
        rows("findings").filter(|row| String::from_utf8_lossy(row).contains("\"process_death\"")).count();
    let accounts = rows("ledger").filter_map(|row| serde_json::from_slice::<serde_json::Value>(row).ok());
    let outages: Vec<usize> = accounts.map(|one| one["outages"].as_array().map_or(0, Vec::len)).collect();
    deaths == 1 && outages == [1]
}

#[test]
fn a_disk_that_is_full_loses_nothing_once_there_is_room_again() {
    if again_on_a_small_disk("a_disk_that_is_full_loses_nothing_once_there_is_room_again") {
        return;
    }
    let disk = std::path::PathBuf::from(std::env::var_os(DISK).expect("set"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(full_for_a_while(&disk));
}

async fn full_for_a_while(disk: &Path) {
    let state = disk.join("state");
    let running = controller(&format!(
        "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstate: {}\nsteer: {{mode: auto, settle_seconds: 0.0}}\n",
        state.display()
    ))
    .await;
    let world: Arc<Mutex<World>> = Arc::default();
    let address = format!("http://{}", running.grpc);
    let agents: Vec<_> = (0..RANKS as usize)
        .map(|node| tokio::spawn(agent(node, vec![address.clone()], world.clone())))
        .collect();
    sees_all(&running).await;

    // What the file has room for inside is used up by what people do.
    let filler = disk.join("filler");
    fill(&filler);
    let failing = async {
        loop {
            decide(&running, What::Pause(v1::PauseAll { why: "x".repeat(200) })).await;
            decide(&running, What::Resume(v1::ResumeAll {})).await;
        }
    };
    tokio::select! {
        event = event(&running, |event| event.text.contains("the store fails")) => {
            assert!(event.text.contains("No space left"), "{}", event.text);
        }
        () = failing => {}
    }
    // It goes on: a death is found. But nothing is done that cannot be written down.
    world.lock().expect("unpoisoned").dead = true;
    event(&running, |event| event.kind == "finding" && event.text.contains("died")).await;
    {
        let world = world.lock().expect("unpoisoned");
        assert!(world.stops.is_empty() && world.starts.is_empty(), "{world:#?}");
    }

    fs::remove_file(&filler).expect("removed");
    event(&running, |event| event.text.contains("the store works again")).await;
    assert_eq!(
        (said(&running, "the store fails").await, said(&running, "the store works again").await),
        (1, 1)
    );
    // What could not be written is written now.
    let wait = async {
        while !is_whole(&kept(&running).await) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{:?}", kept(&running).await);
    for agent in agents {
        agent.abort();
    }
    assert!(running.drain().await, "it ends by itself");

    let open = async {
        loop {
            // The thread that writes may take a moment to end.
            match FileStore::open(&state.join("controller.redb")) {
                Err(error) if error.to_string().contains("holds it") => {
                    sleep(Duration::from_millis(20)).await
                }
                opened => return opened.expect("a sound file"),
            }
        }
    };
    let store = timeout(PATIENCE, open).await.expect("it is given free");
    let tables = store.everything().expect("read");
    assert!(is_whole(&tables), "{tables:?}");
    let journal = Loaded::read(&store).expect("is understood");
    let world = world.lock().expect("unpoisoned");
    let once =
        |deeds: &std::collections::BTreeMap<(usize, u32), u32>| deeds.values().all(|times| *times == 1);
    assert!(journal.actions.len() <= 1 && once(&world.stops) && once(&world.starts), "{world:#?}");
}
