//! Which commands were carried out, so that one that comes again (the controller was restarted, the stream was) is
//! answered and not carried out twice.

use std::collections::VecDeque;

/// Commands remembered: far more than a controller repeats.
const REMEMBERED: usize = 256;

/// What is known of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: carry it out.
    New,
    /// It is being carried out, and will be answered.
    UnderWay,
    /// It was carried out.
    Done {
        /// Whether it succeeded.
        ok: bool,
        /// What was answered.
        detail: String,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: VecDeque<(String, Verdict)>,
}

impl Ledger {
    /// Looks a command up and, if it is new, notes that it is under way.
    pub(crate) fn enter(&mut self, id: &str) -> Verdict {
        if let Some((_, verdict)) = self.entries.iter().find(|(known, _)| known == id) {
            return verdict.clone();
        }
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back((id.to_owned(), Verdict::UnderWay));
        Verdict::New
    }

    /// Notes how a command ended.
    pub(crate) fn settle(&mut self, id: &str, ok: bool, detail: &str) {
        if let Some((_, verdict)) = self.entries.iter_mut().find(|(known, _)| known == id) {
            *verdict = Verdict::Done { ok, detail: detail.to_owned() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_new_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.enter("a"), Verdict::New);
        assert_eq!(ledger.enter("a"), Verdict::UnderWay);
        ledger.settle("a", true, "done");
        assert_eq!(ledger.enter("a"), Verdict::Done { ok: true, detail: "done".to_owned() });
        for n in 0..REMEMBERED {
            ledger.enter(&n.to_string());
        }
        assert_eq!(ledger.entries.len(), REMEMBERED);
    }
}
