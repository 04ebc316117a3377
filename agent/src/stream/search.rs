//! Which of several controllers to try next.
//!
//! One leads; the others refuse and say so. All are tried in turn, without pause. If none of them took the stream but one
//! stands by, a leader is on its way: the next call to the first of them asks to be held until there is news. If nobody
//! answers at all, the pauses grow as with a single controller.

/// When to try the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has not been tried yet.
    Now,
    /// All were tried, and one stands by.
    Soon,
    /// All were tried, and nobody is there.
    Later,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Search {
    controllers: usize,
    at: usize,
    failed: usize,
    standby: bool,
    wait: bool,
}

impl Search {
    pub(super) fn new(controllers: usize) -> Self {
        Self { controllers: controllers.max(1), at: 0, failed: 0, standby: false, wait: false }
    }

    /// The one to try.
    pub(super) fn controller(&self) -> usize {
        self.at
    }

    /// Whether the call that is made now is to be held until there is news. At most one in a round is.
    pub(super) fn waits(&mut self) -> bool {
        std::mem::take(&mut self.wait)
    }

    /// It takes the stream.
    pub(super) fn found(&mut self) {
        (self.failed, self.standby, self.wait) = (0, false, false);
    }

    /// It did not, or does not any longer; `standby`: it refused.
    pub(super) fn failed(&mut self, standby: bool) -> Next {
        if self.controllers == 1 {
            return Next::Later;
        }
        self.at = (self.at + 1) % self.controllers;
        self.failed += 1;
        self.standby |= standby;
        if self.failed < self.controllers {
            return Next::Now;
        }
        self.failed = 0;
        self.wait = std::mem::take(&mut self.standby);
        if self.wait { Next::Soon } else { Next::Later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_tried_before_anybody_waits() {
        let mut search = Search::new(3);
        let tried: Vec<(usize, Next)> = (0..6).map(|_| (search.controller(), search.failed(false))).collect();
        let round = [(0, Next::Now), (1, Next::Now), (2, Next::Later)];
        assert_eq!(tried, [round, round].concat());
    }

    #[test]
    fn where_one_stands_by_one_call_of_the_next_round_is_held() {
        let mut search = Search::new(2);
        assert_eq!((search.failed(false), search.failed(true)), (Next::Now, Next::Soon));
        assert!(search.waits());
        assert!(!search.waits(), "the other may lead by now");
        search.found();
        assert_eq!(search.failed(false), Next::Now, "whoever is lost, the next is tried at once");
    }

    #[test]
    fn a_single_controller_is_given_time() {
        let mut search = Search::new(1);
        assert_eq!((search.failed(true), search.controller(), search.waits()), (Next::Later, 0, false));
    }
}
