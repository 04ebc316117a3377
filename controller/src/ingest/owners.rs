//! Which user a job belongs to.
//!
//! A job is known by a name that anybody may put into the environment of a process. If another user's process claims it, the
//! two are different jobs: whoever came first keeps the name as it is, the other gets it with the user behind it. So nobody
//! can testify about another user's job, and nobody can keep a job from being watched by taking its name first.
//!
//! Agents tell the user as the kernel tells them; those that cannot be told (in a user namespace) count as one. Agents of
//! before users were told say nothing, and their processes go by the name alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use c4_proto::v1::{AgentMessage, agent_message::Body};

/// Jobs remembered at most; beyond it, all are forgotten, and whoever speaks next comes first.
const MOST: usize = 100_000;

/// A user that cannot be told; nobody has that number.
const UNKNOWN: u32 = u32::MAX;

/// Who came first. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    by_job: Arc<Mutex<HashMap<String, u32>>>,
}

impl Owners {
    /// Gives a job that is claimed by another user than the first a name of its own.
    pub(super) fn keep_apart(&self, message: &mut AgentMessage) {
        let Some(Body::ProcessStarted(started)) = &mut message.body else { return };
        let Some(uid) = started.uid else { return };
        let mut jobs = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MOST && !jobs.contains_key(&started.job) {
            jobs.clear();
        }
        let first = *jobs.entry(started.job.clone()).or_insert(uid);
        if first != uid {
            let whose =
                if uid == UNKNOWN { "of an unknown user".to_owned() } else { format!("of user {uid}") };
            started.job = format!("{} ({whose})", started.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use c4_proto::v1::ProcessStarted;

    use super::*;

    fn claim(owners: &Owners, job: &str, uid: Option<u32>) -> String {
        let started = ProcessStarted { job: job.into(), uid, ..ProcessStarted::default() };
        let mut message =
            AgentMessage { body: Some(Body::ProcessStarted(started)), ..AgentMessage::default() };
        owners.keep_apart(&mut message);
        match message.body {
            Some(Body::ProcessStarted(started)) => started.job,
            _ => unreachable!("it stays what it was"),
        }
    }

    #[test]
    fn another_users_claim_is_another_job() {
        let owners = Owners::default();
        assert_eq!(claim(&owners, "llm", Some(1000)), "llm");
        assert_eq!(claim(&owners, "llm", Some(1000)), "llm", "all its ranks, on all nodes");
        assert_eq!(claim(&owners, "llm", Some(1002)), "llm (of user 1002)");
        assert_eq!(claim(&owners, "llm", Some(UNKNOWN)), "llm (of an unknown user)");
        assert_eq!(claim(&owners, "other", Some(1002)), "other");
        assert_eq!(claim(&owners, "pods", Some(UNKNOWN)), "pods");
        assert_eq!(
            claim(&owners, "pods", Some(UNKNOWN)),
            "pods",
            "where users cannot be told, by name alone"
        );
        assert_eq!(claim(&owners, "llm", None), "llm", "an agent of before");
    }
}
