//! What is to be written down without anybody waiting for it, until it is.
//!
//! A store that fails (a full disk, a quorum that is gone) may work again later, and then it has to learn how things are, not
//! how they came about: of each row only the newest form is owed.

use std::{borrow::Cow, collections::BTreeMap};

use crate::store::Write;

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
pub(super) struct Owed {
    batches: u64,
    rows: BTreeMap<(Cow<'static, str>, String), Debt>,
}

impl Owed {
    /// These are about to be written; returns the number of the batch.
    pub(super) fn begin(&mut self, writes: &[Write]) -> u64 {
        self.batches += 1;
        for write in writes {
            let debt = Debt { batch: self.batches, failed: false, write: write.clone() };
            self.rows.insert((write.table.clone(), write.key.clone()), debt);
        }
        self.batches
    }

    /// A batch was written, or was not.
    pub(super) fn done(&mut self, batch: u64, written: bool) {
        if written {
            self.rows.retain(|_, debt| debt.batch != batch);
        } else {
            self.rows.values_mut().filter(|debt| debt.batch == batch).for_each(|debt| debt.failed = true);
        }
    }

    /// What is to be tried again.
    pub(super) fn again(&self) -> Vec<Write> {
        let failed = self.rows.values().filter(|debt| debt.failed);
        failed.take(TOGETHER).map(|debt| debt.write.clone()).collect()
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
        assert_eq!(owed.again(), [put("b", "1")], "a newer form of a is on its way");
        owed.done(second, false);
        assert_eq!(owed.again(), [put("a", "2"), put("b", "1")]);
        let again = owed.again();
        let third = owed.begin(&again);
        assert_eq!(owed.again(), [], "they are on their way");
        owed.done(third, true);
        assert!(owed.rows.is_empty());
    }
}
