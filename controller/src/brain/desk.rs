//! Where operators hand in what they want, and get their answers.
//!
//! The brake is pulled here, before the brain has even heard of it: a brain that is busy must not delay a pause.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use c4_detect::observation::JobId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Input;
use crate::steer::machine::{Command, Refused};

/// What became of a request.
pub type Outcome = Result<String, Refused>;

#[derive(Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    brake: CancellationToken,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Desk {
    inputs: mpsc::Sender<Input>,
    state: Arc<Mutex<State>>,
}

impl Desk {
    /// A desk that hands requests on to the brain's `inputs`.
    #[must_use]
    pub fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, state: Arc::default() }
    }

    /// Hands a request in and waits for the answer. None when the controller is ending.
    pub async fn ask(&self, command: Command, by: String, dry_run: bool) -> Option<Outcome> {
        if matches!(command, Command::Pause { .. }) && !dry_run {
            self.halt();
        }
        let (answer, answered) = oneshot::channel();
        let ticket = {
            let mut state = self.state();
            state.next += 1;
            let ticket = state.next;
            state.waiting.insert(ticket, answer);
            ticket
        };
        if self.inputs.send(Input::Wanted { ticket, command, by, dry_run }).await.is_err() {
            self.state().waiting.remove(&ticket);
            return None;
        }
        answered.await.ok()
    }

    /// Tells the brain of a job's checkpoint. False when the controller is ending.
    pub async fn checkpointed(&self, job: JobId, iteration: u64, took_us: Option<u64>) -> bool {
        self.inputs.send(Input::Checkpointed { job, iteration, took_us }).await.is_ok()
    }

    pub(super) fn answer(&self, ticket: u64, outcome: Outcome) {
        if let Some(waiting) = self.state().waiting.remove(&ticket) {
            // Whoever has gone does not hear it.
            let _ = waiting.send(outcome);
        }
    }

    /// Ends everything that is being carried out.
    pub(super) fn halt(&self) {
        std::mem::take(&mut self.state().brake).cancel();
    }

    /// Is cancelled by the next [`Desk::halt`].
    pub(super) fn halted(&self) -> CancellationToken {
        self.state().brake.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
