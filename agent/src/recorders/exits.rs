//! What the supervisor knows of its children, for the sampler: a death that is seen through the recorder's lock is told
//! with the exit status where there is one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// Ended children that are remembered: far more than can die between two samples.
const MAX_ENDED: usize = 4096;

/// How a child ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one killed it.
    pub signal: Option<i32>,
}

/// What is known of a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No child of ours.
    Stranger,
    /// A child, running as far as is known.
    Running,
    /// A child that has ended.
    Ended(ExitStatus),
}

#[derive(Debug, Default)]
struct Table {
    children: BTreeMap<u32, Option<ExitStatus>>,
    ended: VecDeque<u32>,
}

/// Shared between supervisor and sampler.
#[derive(Clone, Debug, Default)]
pub struct Exits(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    news: Notify,
}

impl Exits {
    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        // The table is valid after every statement, so a panic elsewhere cannot have left it broken.
        f(&mut self.0.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A child was started.
    pub fn started(&self, pid: u32) {
        self.with(|table| {
            table.children.insert(pid, None);
        });
    }

    /// A child has ended.
    pub fn ended(&self, pid: u32, status: ExitStatus) {
        self.with(|table| {
            table.children.insert(pid, Some(status));
            table.ended.push_back(pid);
            while table.ended.len() > MAX_ENDED {
                if let Some(old) = table.ended.pop_front()
                    && table.children.get(&old).is_some_and(Option::is_some)
                {
                    table.children.remove(&old);
                }
            }
        });
        self.0.news.notify_one();
    }

    /// Waits until a child has ended since the last call.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// Where a child stands in the order in which children have ended; the others come last. Whoever died first is
    /// more often the cause than the victim.
    #[must_use]
    pub fn order(&self, pid: u32) -> usize {
        self.with(|table| table.ended.iter().rposition(|ended| *ended == pid).unwrap_or(usize::MAX))
    }

    /// What is known of a pid.
    #[must_use]
    pub fn get(&self, pid: u32) -> Known {
        self.with(|table| match table.children.get(&pid) {
            None => Known::Stranger,
            Some(None) => Known::Running,
            Some(Some(status)) => Known::Ended(*status),
        })
    }
}
