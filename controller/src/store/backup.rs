//! Everything that a store holds, in one file.
//!
//! JSON lines: a head with the version of this format, a line for each row, and an end that says how many there are and the
//! hash (SHA-256) of all bytes before it. A file that was cut short, or changed, is not taken. The same file fits every kind of
//! store: a single controller's becomes that of several in this way, and the other way round.

use base64::{Engine, prelude::BASE64_STANDARD};
use c4_detect::observation::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Store, StoreError, Tables, Write,
    schema::{ABOUT, RESTORING, SCHEMA, SCHEMA_KEY},
};

/// Version of the format.
const FORMAT: u32 = 1;
/// Rows restored in one batch.
const TOGETHER: usize = 100;

/// Why a file is not restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// It is no backup, or not a whole one.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Its hash is another one.
    #[error("its end says that it was changed or cut short")]
    Changed,
    /// It is too new.
    #[error("it is of a later version ({what} {found}, this one knows up to {known})")]
    Later {
        /// Of what.
        what: &'static str,
        /// The version.
        found: u64,
        /// The newest that is understood.
        known: u64,
    },
    /// There is something in the store.
    #[error("the store is not empty (it holds {0}): nothing is overwritten")]
    NotEmpty(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct Head {
    c4_backup: u32,
    version: String,
    written_us: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    table: String,
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct End {
    rows: usize,
    sha256: String,
}

/// The file of what a store holds.
#[must_use]
pub fn write(tables: &Tables, now: Timestamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    line(&mut bytes, &Head { c4_backup: FORMAT, version, written_us: now.0 });
    let mut rows = 0;
    for (table, row) in tables {
        for (key, value) in row {
            let value = BASE64_STANDARD.encode(value);
            line(&mut bytes, &Line { table: table.clone(), key: key.clone(), value });
            rows += 1;
        }
    }
    let sha256 = hash(&bytes);
    line(&mut bytes, &End { rows, sha256 });
    bytes
}

fn line<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    // None of these holds anything that JSON could not say.
    bytes.extend(serde_json::to_vec(value).unwrap_or_default());
    bytes.push(b'\n');
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads such a file.
///
/// # Errors
/// It is none, not whole, or of a later version.
pub fn read(bytes: &[u8]) -> Result<Tables, BackupError> {
    let wrong = |line: usize, problem: &dyn std::fmt::Display| BackupError::Line {
        line,
        problem: problem.to_string(),
    };
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').collect();
    let head: Head = serde_json::from_slice(lines[0])
        .map_err(|error| wrong(1, &format!("is not the head of a backup of c4 ({error})")))?;
    if head.c4_backup > FORMAT {
        let (found, known) = (u64::from(head.c4_backup), u64::from(FORMAT));
        return Err(BackupError::Later { what: "format", found, known });
    }
    let (last, rows) = lines[1..].split_last().ok_or(BackupError::Changed)?;
    let end: End = serde_json::from_slice(last).map_err(|_| BackupError::Changed)?;
    // The end begins where its line does: everything before is hashed, with its line feed.
    let before = bytes.len() - last.len() - usize::from(bytes.ends_with(b"\n"));
    if end.rows != rows.len() || end.sha256 != hash(&bytes[..before]) {
        return Err(BackupError::Changed);
    }
    let mut tables = Tables::new();
    for (index, text) in rows.iter().enumerate() {
        let row: Line = serde_json::from_slice(text).map_err(|error| wrong(index + 2, &error))?;
        let value = BASE64_STANDARD.decode(&row.value).map_err(|error| wrong(index + 2, &error))?;
        tables.entry(row.table).or_default().insert(row.key, value);
    }
    let schema = tables.get(ABOUT).and_then(|about| about.get(SCHEMA_KEY));
    let schema = schema.and_then(|schema| std::str::from_utf8(schema).ok()?.parse::<u64>().ok());
    match schema {
        Some(found) if found > SCHEMA => Err(BackupError::Later { what: "schema", found, known: SCHEMA }),
        Some(_) => Ok(tables),
        None => Err(wrong(2, &"no row says which schema this is")),
    }
}

/// Fills an empty store. One that was interrupted is begun again; until it has ended, no controller takes the store.
///
/// # Errors
/// The store is not empty, or cannot be written.
pub fn restore(store: &dyn Store, mut tables: Tables) -> Result<usize, BackupError> {
    let there = store.everything()?;
    let interrupted = there.get(ABOUT).is_some_and(|about| about.contains_key(RESTORING));
    if !interrupted && let Some(table) = there.iter().find(|(_, rows)| !rows.is_empty()) {
        return Err(BackupError::NotEmpty(table.0.clone()));
    }
    store.apply(&[Write::put(ABOUT, RESTORING, b"1".to_vec())])?;
    let about = tables.remove(ABOUT).unwrap_or_default();
    let put = |(table, key, value): (String, String, Vec<u8>)| Write::put(table, key, value);
    let rows = tables
        .into_iter()
        .flat_map(|(table, rows)| rows.into_iter().map(move |(key, value)| (table.clone(), key, value)));
    let rows: Vec<Write> = rows.map(put).collect();
    for batch in rows.chunks(TOGETHER) {
        store.apply(batch)?;
    }
    let mut last: Vec<Write> = about.into_iter().map(|(key, value)| Write::put(ABOUT, key, value)).collect();
    last.push(Write::remove(ABOUT, RESTORING));
    store.apply(&last)?;
    Ok(rows.len())
}

#[cfg(test)]
mod tests {
    use super::{super::MemoryStore, super::schema, *};

    fn store() -> MemoryStore {
        let store = MemoryStore::default();
        schema::bring_up(&store, "m", None).expect("new");
        let rows: Vec<Write> =
            (0..250_u8).map(|n| Write::put("t", format!("{n:03}"), vec![n, 0, 255])).collect();
        store.apply(&rows).expect("written");
        store
    }

    #[test]
    fn what_is_restored_is_what_was_kept() {
        let before = store();
        let everything = before.everything().expect("read");
        let file = write(&everything, Timestamp(7));
        let after = MemoryStore::default();
        assert_eq!(restore(&after, read(&file).expect("whole")).expect("restored"), 250);
        assert_eq!(after.everything(), Ok(everything));
        schema::bring_up(&after, "m", None).expect("is taken");
        assert!(matches!(restore(&after, read(&file).expect("whole")), Err(BackupError::NotEmpty(_))));
    }

    #[test]
    fn a_restore_that_was_interrupted_can_only_be_begun_again() {
        let file = write(&store().everything().expect("read"), Timestamp(7));
        let half = MemoryStore::default();
        half.apply(&[Write::put(ABOUT, RESTORING, b"1".to_vec()), Write::put("t", "000", vec![9])])
            .expect("written");
        assert!(schema::bring_up(&half, "m", None).is_err(), "no controller takes it");
        restore(&half, read(&file).expect("whole")).expect("restored");
        assert_eq!(half.everything(), store().everything());
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_not_taken() {
        let file = write(&store().everything().expect("read"), Timestamp(7));
        for end in [0, 1, 40, file.len() / 2, file.len() - 90, file.len() - 2] {
            assert!(read(&file[..end]).is_err(), "cut at {end}");
        }
        for at in [3, 60, file.len() / 2, file.len() - 20] {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "changed at {at}");
        }
        let later = MemoryStore::default();
        later.apply(&[Write::put(ABOUT, SCHEMA_KEY, b"99".to_vec())]).expect("written");
        let later = write(&later.everything().expect("read"), Timestamp(7));
        assert!(matches!(read(&later), Err(BackupError::Later { what: "schema", found: 99, .. })));
    }
}
