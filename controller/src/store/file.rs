//! The store in a file.
//!
//! Once a read or a write has failed, of a full disk for example, redb trusts nothing that it has in memory and refuses all
//! that follows. The file on the disk is as the last commit left it: it is closed and opened again, which repairs it, until
//! the disk works again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle};

use super::{Row, Store, StoreError, Tables, Write};

type Definition<'a> = TableDefinition<'a, &'static str, &'static [u8]>;

/// A file, held by one process at a time.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    /// Absent after a failure, until it is needed again.
    database: Mutex<Option<Arc<Database>>>,
}

impl FileStore {
    /// Opens a file or makes it, and the directories it is in.
    ///
    /// # Errors
    /// The file cannot be made or is none of ours, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| failed(path, error.to_string()))?;
        }
        Ok(Self::of(path, Database::create(path).map_err(|error| opening(path, &error))?))
    }

    fn of(path: &Path, database: Database) -> Self {
        Self { path: path.to_owned(), database: Mutex::new(Some(Arc::new(database))) }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the file; opens it again if it had to be closed, and closes it if its disk fails.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = {
            let mut slot = self.slot();
            match &*slot {
                Some(database) => database.clone(),
                None => {
                    let opened = Database::open(&self.path).map_err(|error| opening(&self.path, &error))?;
                    slot.insert(Arc::new(opened)).clone()
                }
            }
        };
        work(&database).map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *self.slot() = None;
            }
            StoreError::Access(error.to_string())
        })
    }

    /// Opens a file that is there. `None` if it is not.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => {
                Ok(Some(Self::of(path, Database::open(path).map_err(|error| opening(path, &error))?)))
            }
            Err(error) => Err(failed(path, error.to_string())),
        }
    }
}

fn write(database: &Database, batch: &[Write]) -> Result<(), redb::Error> {
    // By default a commit returns once the file is on the disk.
    let transaction = database.begin_write()?;
    for write in batch {
        let mut table = transaction.open_table(Definition::new(&write.table))?;
        match &write.value {
            Some(value) => table.insert(write.key.as_str(), value.as_slice())?,
            None => table.remove(write.key.as_str())?,
        };
    }
    transaction.commit()?;
    Ok(())
}

fn read<T>(
    database: &Database,
    table: &str,
    read: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
    absent: T,
) -> Result<T, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(Definition::new(table)) {
        Ok(table) => read(&table),
        Err(TableError::TableDoesNotExist(_)) => Ok(absent),
        Err(error) => Err(error.into()),
    }
}

fn read_all(database: &Database) -> Result<Tables, redb::Error> {
    let transaction = database.begin_read()?;
    let mut tables = Tables::new();
    for handle in transaction.list_tables()? {
        let table = transaction.open_table(Definition::new(handle.name()))?;
        let mut rows = std::collections::BTreeMap::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.insert(key.value().to_owned(), value.value().to_owned());
        }
        tables.insert(handle.name().to_owned(), rows);
    }
    Ok(tables)
}

impl Store for FileStore {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        self.with(|database| write(database, batch))
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let newest = |table: &redb::ReadOnlyTable<&'static str, &'static [u8]>| {
            let mut rows = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_owned()));
            }
            rows.reverse();
            Ok(rows)
        };
        self.with(|database| read(database, table, newest, Vec::new()))
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|database| {
            read(database, table, |table| Ok(table.get(key)?.map(|value| value.value().to_owned())), None)
        })
    }

    fn everything(&self) -> Result<Tables, StoreError> {
        self.with(read_all)
    }
}

fn failed(path: &Path, problem: String) -> StoreError {
    StoreError::Open { path: PathBuf::from(path), problem }
}

fn opening(path: &Path, error: &redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            failed(path, "another process, perhaps a second controller, holds it".into())
        }
        other => failed(path, other.to_string()),
    }
}
