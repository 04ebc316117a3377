//! The store in a file.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::{Row, Store, StoreError, Write};

/// The format of what this version writes.
const SCHEMA: u64 = 1;
/// Where a file says which schema it has. No table of anybody has this name.
const ABOUT: &str = "c4";
const SCHEMA_KEY: &str = "schema";

type Definition<'a> = TableDefinition<'a, &'static str, &'static [u8]>;

/// A file, held by one process at a time.
#[derive(Debug)]
pub struct FileStore {
    database: Database,
}

impl FileStore {
    /// Opens a file or makes it, and the directories it is in.
    ///
    /// # Errors
    /// The file cannot be made or is none of ours, another process holds it, or a later version wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |problem: String| StoreError::Open { path: PathBuf::from(path), problem };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
        }
        let database = Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                failed("another process, perhaps a second controller, holds it".into())
            }
            other => failed(other.to_string()),
        })?;
        let store = Self { database };
        match store.get(ABOUT, SCHEMA_KEY)? {
            None => store.apply(&[Write::put(ABOUT, SCHEMA_KEY, SCHEMA.to_string().into_bytes())])?,
            Some(bytes) => {
                let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
                let found = found.ok_or_else(|| failed("does not say which schema it has".into()))?;
                if found > SCHEMA {
                    return Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA });
                }
            }
        }
        Ok(store)
    }

    fn write(&self, batch: &[Write]) -> Result<(), redb::Error> {
        // By default a commit returns once the file is on the disk.
        let transaction = self.database.begin_write()?;
        for write in batch {
            let mut table = transaction.open_table(Definition::new(write.table))?;
            match &write.value {
                Some(value) => table.insert(write.key.as_str(), value.as_slice())?,
                None => table.remove(write.key.as_str())?,
            };
        }
        transaction.commit()?;
        Ok(())
    }

    fn read<T>(
        &self,
        table: &str,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
        absent: T,
    ) -> Result<T, redb::Error> {
        let transaction = self.database.begin_read()?;
        match transaction.open_table(Definition::new(table)) {
            Ok(table) => read(&table),
            Err(TableError::TableDoesNotExist(_)) => Ok(absent),
            Err(error) => Err(error.into()),
        }
    }
}

impl Store for FileStore {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        self.write(batch).map_err(access)
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let read = |table: &redb::ReadOnlyTable<&'static str, &'static [u8]>| {
            let mut rows = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_owned()));
            }
            rows.reverse();
            Ok(rows)
        };
        self.read(table, read, Vec::new()).map_err(access)
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(table, |table| Ok(table.get(key)?.map(|value| value.value().to_owned())), None)
            .map_err(access)
    }
}

fn access(error: redb::Error) -> StoreError {
    StoreError::Access(error.to_string())
}
