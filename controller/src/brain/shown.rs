//! What is shown of the policy: nothing that a controller which is killed now would not know again.

use std::{collections::BTreeSet, sync::Arc};

use c4_detect::observation::Timestamp;

use crate::steer::machine::{Steer, SteerView};

/// A store that takes longer than this holds up nothing that people want to see, least of all that everything is paused.
const PATIENCE_US: u64 = 2_000_000;

/// The newest picture of the policy that is written down whole.
#[derive(Debug)]
pub(super) struct Shown {
    view: Arc<SteerView>,
    version: u64,
    next: Option<Next>,
    /// Batches of which it is not known what became of them.
    unwritten: BTreeSet<u64>,
}

/// A picture that is still being written down.
#[derive(Debug)]
struct Next {
    view: Arc<SteerView>,
    version: u64,
    /// The newest batch that belongs to it.
    newest: Option<u64>,
    deadline: Timestamp,
}

impl Shown {
    /// What the policy knows from what was written down.
    pub(super) fn new(steer: &Steer) -> Self {
        Self {
            view: Arc::new(steer.view()),
            version: steer.version(),
            next: None,
            unwritten: BTreeSet::new(),
        }
    }

    /// The picture.
    pub(super) fn view(&self) -> &Arc<SteerView> {
        &self.view
    }

    /// A batch is about to be written.
    pub(super) fn writing(&mut self, token: u64) {
        self.unwritten.insert(token);
    }

    /// A batch was written, or could not be.
    pub(super) fn settled(&mut self, token: u64) {
        self.unwritten.remove(&token);
    }

    /// Shows what is written down by now. To be called with every tick.
    pub(super) fn refresh(&mut self, steer: &Steer, now: Timestamp) {
        self.show_next(now);
        if self.next.is_none() && self.version != steer.version() {
            self.next = Some(Next {
                view: Arc::new(steer.view()),
                version: steer.version(),
                newest: self.unwritten.last().copied(),
                deadline: now.after(PATIENCE_US),
            });
            self.show_next(now);
        }
    }

    fn show_next(&mut self, now: Timestamp) {
        let oldest = self.unwritten.first().copied();
        let is_due = |next: &mut Next| {
            let written = next.newest.is_none_or(|newest| oldest.is_none_or(|oldest| oldest > newest));
            written || next.deadline <= now
        };
        if let Some(next) = self.next.take_if(is_due) {
            (self.view, self.version) = (next.view, next.version);
        }
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::JobId;

    use super::*;
    use crate::{
        config::Steer as Config,
        steer::{
            breaker::ClusterFacts,
            machine::{Command, World},
            rails::JobFacts,
        },
    };

    const START: Timestamp = Timestamp(1_000_000);

    struct Nowhere;

    impl World for Nowhere {
        fn job(&self, _: &JobId) -> Option<JobFacts> {
            None
        }

        fn cluster(&self) -> ClusterFacts {
            ClusterFacts::default()
        }
    }

    /// A policy that was just paused, and what is shown of it while that is being written as batch 1.
    fn paused() -> (Steer, Shown) {
        let mut steer = Steer::new(Config::default(), START);
        let mut shown = Shown::new(&steer);
        let pause = Command::Pause { why: "a test".into() };
        let _ = steer.command(&pause, "eve", false, &Nowhere, START);
        shown.writing(1);
        shown.refresh(&steer, START);
        (steer, shown)
    }

    #[test]
    fn what_is_not_written_is_not_shown() {
        let (mut steer, mut shown) = paused();
        assert!(shown.view().pause.is_none());
        shown.settled(1);
        // What comes after holds up nothing that came before.
        let _ = steer.command(&Command::Resume, "eve", false, &Nowhere, START);
        shown.writing(2);
        shown.refresh(&steer, START.after(1));
        assert!(shown.view().pause.is_some());
    }

    #[test]
    fn a_store_that_hangs_hides_nothing_for_long() {
        let (steer, mut shown) = paused();
        shown.refresh(&steer, START.after(PATIENCE_US - 1));
        assert!(shown.view().pause.is_none());
        shown.refresh(&steer, START.after(PATIENCE_US));
        assert!(shown.view().pause.is_some());
    }
}
