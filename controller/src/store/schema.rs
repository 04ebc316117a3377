//! Which schema a store has, and how what an earlier version wrote is brought up to date.
//!
//! | schema | what it added |
//! |---|---|
//! | 1 | actions, audit trail, what is known of nodes, blames, modes and the pause, the ledger |
//! | 2 | the plan of paths, which had a file of its own, and findings |
//!
//! All steps of one opening are one batch: a controller that is killed in the middle finds the old schema whole.

use std::path::Path;

use super::{Store, StoreError, Write, file::FileStore};
use crate::paths::keep;

/// The format of what this version writes.
pub const SCHEMA: u64 = 2;
/// Where a store says which schema it has. No table of anybody has this name.
pub const ABOUT: &str = "c4";
/// The key of [`ABOUT`] with the schema, a decimal number.
pub const SCHEMA_KEY: &str = "schema";
/// The key of [`ABOUT`] that is there while a restore has not ended.
pub const RESTORING: &str = "restoring";

/// The row that says that a store has this version's schema.
#[must_use]
pub fn row() -> Write {
    Write::put(ABOUT, SCHEMA_KEY, SCHEMA.to_string().into_bytes())
}

/// Brings `store`, which errors call `place`, to the schema of this version. `plan` is where the plan of paths was kept up
/// to schema 1.
///
/// # Errors
/// A later version wrote it, it does not say which, or it cannot be read or written.
pub fn bring_up(store: &dyn Store, place: &str, plan: Option<&Path>) -> Result<(), StoreError> {
    let unreadable = |problem: &str| StoreError::Access(format!("{place}: {problem}"));
    let found = match store.get(ABOUT, SCHEMA_KEY)? {
        Some(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<u64>().ok()),
        None if store.everything()?.is_empty() => Some(0),
        None => None,
    };
    let mut steps = match found {
        Some(0 | 1) => with_plan(store, plan)?,
        Some(SCHEMA) => return Ok(()),
        Some(found) => {
            return Err(StoreError::Schema { place: place.to_owned(), found, known: SCHEMA });
        }
        None if store.get(ABOUT, RESTORING)?.is_some() => {
            return Err(unreadable("a restore was interrupted: begin it again"));
        }
        None => return Err(unreadable("does not say which schema it has")),
    };
    steps.push(row());
    store.apply(&steps)
}

/// From 1 to 2: the plan of paths comes from its own file, unless there is one already.
fn with_plan(store: &dyn Store, plan: Option<&Path>) -> Result<Vec<Write>, StoreError> {
    let Some(path) = plan else { return Ok(Vec::new()) };
    let Some(old) = FileStore::existing(path)? else { return Ok(Vec::new()) };
    if store.get(keep::TABLE, keep::KEY)?.is_some() {
        return Ok(Vec::new());
    }
    let kept = old.get(keep::TABLE, keep::KEY)?;
    if kept.is_some() {
        tracing::info!(
            "the plan of paths was taken over from {}, which is not needed any more",
            path.display()
        );
    }
    Ok(kept.map(|kept| Write::put(keep::TABLE, keep::KEY, kept)).into_iter().collect())
}
