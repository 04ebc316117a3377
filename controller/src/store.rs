//! What must survive the controller: named tables of bytes by key, in one crash-safe place.
//!
//! Who stores something owns its table and what its bytes mean (JSON, in this program), so this knows neither. What
//! belongs together is written as one [batch](Store::apply): after a crash all of it is there, or none. The place says
//! which [`schema`] it has, and what an earlier version wrote is brought up to date when it is opened.
//!
//! A disk can hang, and nothing that decides may hang with it: the brain hands batches to a [`writer::Writer`] and is
//! told later. Everybody else may call the store where blocking is allowed.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Debug,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use thiserror::Error;

pub mod backup;
pub mod crash;
pub mod etcd;
pub mod file;
pub(crate) mod owed;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod writer;

/// A key and its value.
pub type Row = (String, Vec<u8>);

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table, made when it is first written to.
    pub table: Cow<'static, str>,
    /// The key; tables are kept in the order of their keys.
    pub key: String,
    /// The new value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// Sets a key.
    #[must_use]
    pub fn put(table: impl Into<Cow<'static, str>>, key: impl Into<String>, value: Vec<u8>) -> Self {
        Self { table: table.into(), key: key.into(), value: Some(value) }
    }

    /// Sets a key to a value as JSON.
    #[must_use]
    pub fn json<T: Serialize>(table: &'static str, key: impl Into<String>, value: &T) -> Self {
        // Nothing that is kept has keys that are no strings, so this cannot fail.
        Self::put(table, key, serde_json::to_vec(value).unwrap_or_default())
    }

    /// Removes a key; one that is not there is removed already.
    #[must_use]
    pub fn remove(table: impl Into<Cow<'static, str>>, key: impl Into<String>) -> Self {
        Self { table: table.into(), key: key.into(), value: None }
    }
}

/// The store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("{}: {problem}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It was written by a later version.
    #[error("{place}: was written by a later version (schema {found}, this one knows up to {known})")]
    Schema {
        /// The file, or whatever it is.
        place: String,
        /// The schema in it.
        found: u64,
        /// The newest that is understood.
        known: u64,
    },
    /// Something could not be read or written.
    #[error("{0}")]
    Access(String),
    /// Another controller leads, or may: this one writes nothing any more.
    #[error("this controller does not lead any longer")]
    Deposed,
    /// More waits to be written than may wait.
    #[error("the disk does not keep up")]
    Busy,
}

/// Tables of bytes by key. Calls may block.
pub trait Store: Send + Sync + Debug {
    /// Makes all of the changes or none; once this returns, they survive a crash of the machine.
    ///
    /// # Errors
    /// Nothing was changed.
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError>;

    /// The last `limit` rows of a table, in the order of their keys. A table that was never written to is empty.
    ///
    /// # Errors
    /// The file cannot be read.
    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// The value of one key.
    ///
    /// # Errors
    /// The file cannot be read.
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// All rows of a table, in the order of their keys.
    ///
    /// # Errors
    /// The file cannot be read.
    fn all(&self, table: &str) -> Result<Vec<Row>, StoreError> {
        self.last(table, usize::MAX)
    }

    /// Everything there is, as it was at one moment.
    ///
    /// # Errors
    /// The file cannot be read.
    fn everything(&self) -> Result<Tables, StoreError>;
}

/// Tables by name, with their rows by key.
pub type Tables = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A store that lives as long as the controller.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

impl Store for MemoryStore {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for write in batch {
            let table = tables.entry(write.table.clone().into_owned()).or_default();
            match &write.value {
                Some(value) => table.insert(write.key.clone(), value.clone()),
                None => table.remove(&write.key),
            };
        }
        Ok(())
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = tables.get(table).into_iter().flatten();
        let mut last: Vec<Row> =
            rows.rev().take(limit).map(|(key, value)| (key.clone(), value.clone())).collect();
        last.reverse();
        Ok(last)
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(table).and_then(|table| table.get(key)).cloned())
    }
    fn everything(&self) -> Result<Tables, StoreError> {
        Ok(self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
