//! What could not be written down, until it is.
//!
//! A store that fails (a full disk, a quorum that is gone) may work again later, and then it has to learn how things are, not
//! how they came about: of each row only the newest form is owed. A table is never ahead of what is owed to it: whoever
//! reads that a second action was begun reads that the first has ended.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use super::Write;

/// Rows written in one batch when a store works again.
const TOGETHER: usize = 100;

#[derive(Debug)]
struct Debt {
    batch: u64,
    failed: bool,
    write: Write,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    batches: u64,
    rows: BTreeMap<(Cow<'static, str>, String), Debt>,
}

impl Owed {
    /// These are about to be written; returns the number of the batch.
    pub(crate) fn begin(&mut self, writes: &[Write]) -> u64 {
        self.batches += 1;
        for write in writes {
            let debt = Debt { batch: self.batches, failed: false, write: write.clone() };
            self.rows.insert((write.table.clone(), write.key.clone()), debt);
        }
        self.batches
    }

    /// A batch was written, or was not.
    pub(crate) fn done(&mut self, batch: u64, written: bool) {
        if written {
            self.rows.retain(|_, debt| debt.batch != batch);
        } else {
            self.rows.values_mut().filter(|debt| debt.batch == batch).for_each(|debt| debt.failed = true);
        }
    }

    /// What is to be tried again.
    pub(crate) fn all(&self) -> Vec<Write> {
        self.again(|_| true)
    }

    /// What is to be tried again before a batch is written: what is owed to its tables, and is not in it in a newer form.
    pub(crate) fn before(&self, batch: &[Write]) -> Vec<Write> {
        let tables: HashSet<_> = batch.iter().map(|write| &write.table).collect();
        let newer: HashSet<_> = batch.iter().map(|write| (&write.table, &write.key)).collect();
        self.again(|write| tables.contains(&write.table) && !newer.contains(&(&write.table, &write.key)))
    }

    fn again(&self, wanted: impl Fn(&Write) -> bool) -> Vec<Write> {
        let failed = self.rows.values().filter(|debt| debt.failed).map(|debt| &debt.write);
        failed.filter(|write| wanted(write)).take(TOGETHER).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::put("t", key, value.as_bytes().to_vec())
    }

    #[test]
    fn the_newest_form_of_what_failed_is_tried_again() {
        let mut owed = Owed::default();
        let first = owed.begin(&[put("a", "1"), put("b", "1")]);
        let second = owed.begin(&[put("a", "2")]);
        owed.done(first, false);
        assert_eq!(owed.all(), [put("b", "1")], "a newer form of a is on its way");
        owed.done(second, false);
        assert_eq!(owed.all(), [put("a", "2"), put("b", "1")]);
        let again = owed.all();
        let third = owed.begin(&again);
        assert_eq!(owed.all(), [], "they are on their way");
        owed.done(third, true);
        assert!(owed.rows.is_empty());
    }

    #[test]
    fn what_is_owed_to_a_table_goes_before_what_is_new_in_it() {
        let mut owed = Owed::default();
        let first = owed.begin(&[put("a", "1"), put("b", "1"), Write::put("u", "a", b"1".to_vec())]);
        owed.done(first, false);
        assert_eq!(owed.before(&[put("b", "2"), put("c", "1")]), [put("a", "1")]);
    }
}
