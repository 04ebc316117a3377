use std::sync::{Arc, mpsc};

use super::{file::FileStore, writer::Writer, *};

fn put(table: &'static str, key: &str, value: &str) -> Write {
    Write::put(table, key, value.as_bytes().to_vec())
}

fn keys(rows: Vec<Row>) -> Vec<String> {
    rows.into_iter().map(|(key, _)| key).collect()
}

fn behaves(store: &dyn Store) {
    assert_eq!(store.all("never"), Ok(Vec::new()));
    assert_eq!(store.get("never", "x"), Ok(None));
    store.apply(&[put("a", "3", "three"), put("a", "1", "one"), put("b", "1", "other")]).expect("written");
    store
        .apply(&[put("a", "2", "two"), put("a", "1", "uno"), Write::remove("a", "absent")])
        .expect("written");
    assert_eq!(store.get("a", "1"), Ok(Some(b"uno".to_vec())));
    assert_eq!(keys(store.all("a").expect("rows")), ["1", "2", "3"]);
    assert_eq!(keys(store.last("a", 2).expect("rows")), ["2", "3"]);
    store.apply(&[Write::remove("a", "2")]).expect("written");
    assert_eq!(keys(store.all("a").expect("rows")), ["1", "3"]);
    assert_eq!(keys(store.all("b").expect("rows")), ["1"]);
}

#[test]
fn both_stores_keep_tables_in_the_order_of_keys() {
    behaves(&MemoryStore::default());
    let dir = tempfile::tempdir().expect("a directory");
    behaves(&FileStore::open(&dir.path().join("made/too/c4.redb")).expect("opens"));
}

#[test]
fn a_file_is_found_again_and_held_by_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c4.redb");
    let store = FileStore::open(&path).expect("opens");
    store.apply(&[put("a", "k", "v")]).expect("written");
    let second = FileStore::open(&path).expect_err("held").to_string();
    assert!(second.contains("another process"), "{second}");
    drop(store);
    let again = FileStore::open(&path).expect("opens");
    assert_eq!(again.get("a", "k"), Ok(Some(b"v".to_vec())));
}

#[test]
fn a_store_of_a_later_version_or_of_somebody_else_is_refused() {
    let later = MemoryStore::default();
    later.apply(&[put("c4", "schema", "3")]).expect("written");
    let refused = schema::bring_up(&later, "m", None);
    assert!(matches!(refused, Err(StoreError::Schema { found: 3, known: 2, .. })), "{refused:?}");
    for foreign in [put("c4", "schema", "two"), put("shopping", "milk", "2 l")] {
        let store = MemoryStore::default();
        store.apply(&[foreign]).expect("written");
        assert!(matches!(schema::bring_up(&store, "m", None), Err(StoreError::Access(_))));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let other = dir.path().join("other.redb");
    std::fs::write(&other, "a shopping list, long enough to be no accident").expect("written");
    assert!(matches!(FileStore::open(&other), Err(StoreError::Open { .. })));
}

/// A file as the version before wrote it.
fn earlier(name: &str, to: &std::path::Path) {
    let packed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1").join(name);
    let packed = std::fs::File::open(packed).expect("a fixture");
    let mut plain = std::fs::File::create(to).expect("created");
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut plain).expect("unpacked");
}

#[test]
fn both_files_of_schema_1_become_one_of_schema_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, plan) = (dir.path().join("controller.redb"), dir.path().join("paths.redb"));
    earlier("controller.redb.gz", &file);
    earlier("paths.redb.gz", &plan);
    let store = FileStore::open(&file).expect("opens");
    assert_eq!(store.get("c4", "schema"), Ok(Some(b"1".to_vec())));
    let before = store.everything().expect("read");
    schema::bring_up(&store, "the file", Some(&plan)).expect("brought up");
    let mut after = store.everything().expect("read");
    assert_eq!(store.get("c4", "schema"), Ok(Some(b"2".to_vec())));
    assert!(crate::paths::keep::Kept::load(&store).expect("read").is_some(), "the plan came along");
    let loaded = crate::steer::journal::Loaded::read(&store).expect("a journal that is understood");
    assert_eq!((loaded.actions.len(), loaded.audit.is_empty()), (1, false));
    assert!(!crate::ledger::Ledger::load(&store).expect("a ledger").accounts(|_| true).is_empty());
    // Nothing else changed.
    after.remove("paths");
    after.insert("c4".into(), before["c4"].clone());
    assert_eq!(after, before);
    // Once: what was planned since is not overwritten by the old file.
    store.apply(&[put("paths", "plan", "newer")]).expect("written");
    schema::bring_up(&store, "the file", Some(&plan)).expect("is up to date");
    assert_eq!(store.get("paths", "plan"), Ok(Some(b"newer".to_vec())));
    drop(store);
    FileStore::open(&file).expect("is still a sound file");
}

#[test]
fn the_writer_keeps_the_order_and_tells_of_what_fails() {
    let store = Arc::new(MemoryStore::default());
    let writer = Writer::new(store.clone()).expect("a thread");
    let (told, hear) = mpsc::channel();
    for number in 0..100 {
        let told = told.clone();
        let then = move |written| told.send((number, written)).expect("heard");
        writer.write(vec![put("a", "k", &number.to_string())], then).expect("room");
    }
    drop((writer, told));
    let heard: Vec<_> = hear.iter().collect();
    assert!(heard.iter().enumerate().all(|(index, (number, written))| index == *number && written.is_ok()));
    assert_eq!(store.get("a", "k"), Ok(Some(b"99".to_vec())));
}

/// A disk that never answers.
#[derive(Debug)]
struct Hanging(mpsc::Receiver<()>, MemoryStore);

// A receiver is not shared: one thread, the writer's, uses it.
impl Store for std::sync::Mutex<Hanging> {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        let hanging = self.lock().expect("one user");
        let _ = hanging.0.recv();
        hanging.1.apply(batch)
    }
    fn last(&self, _: &str, _: usize) -> Result<Vec<Row>, StoreError> {
        Err(StoreError::Busy)
    }
    fn get(&self, _: &str, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Err(StoreError::Busy)
    }
    fn everything(&self) -> Result<Tables, StoreError> {
        Err(StoreError::Busy)
    }
}

#[test]
fn a_disk_that_hangs_holds_up_nobody() {
    let (release, wait) = mpsc::channel();
    let writer = Writer::new(Arc::new(std::sync::Mutex::new(Hanging(wait, MemoryStore::default()))))
        .expect("a thread");
    let write = |_: &u32| writer.write(vec![put("a", "k", "v")], |_| ()) == Err(StoreError::Busy);
    let refused = (0..2000).filter(write).count();
    // Those that wait, those that are written together, and one that is too many for that.
    assert!(refused >= 2000 - 1024 - 100 - 1, "{refused} were refused");
    drop(release);
}
