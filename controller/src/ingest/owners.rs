//! Which user a job belongs to.
//!
//! A job is known by a name that anybody may put into the environment of a process. If another user's process claims it, the
//! two are different jobs: whoever came first keeps the name as it is, the other gets it with the user behind it. So nobody
//! can testify about another user's job, and nobody can keep a job from being watched by taking its name first.
//!
//! Agents tell the user as the kernel tells them; those that cannot be told (in a user namespace) count as one. Agents of
//! before users were told say nothing, and their processes go by the name alone.
//!
//! Of a process that had ended when its agent began, only the user of its file is known, also if it was one of those that
//! cannot be told. It speaks for its user's jobs and for theirs, and a name that it took is given up to them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use c4_proto::v1::{AgentMessage, agent_message::Body};

/// Jobs remembered at most; beyond it, all are forgotten, and whoever speaks next comes first.
const MOST: usize = 100_000;

/// A user that cannot be told; nobody has that number.
const UNKNOWN: u32 = u32::MAX;

/// Who came first.
#[derive(Clone, Copy, Debug)]
struct First {
    uid: u32,
    /// It had ended.
    ended: bool,
}

/// Who came first, by job. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    by_job: Arc<Mutex<HashMap<String, First>>>,
}

impl Owners {
    /// Gives a job that is claimed by another user than the first a name of its own.
    pub(super) fn keep_apart(&self, message: &mut AgentMessage) {
        let Some(Body::ProcessStarted(started)) = &mut message.body else { return };
        let Some(uid) = started.uid else { return };
        let claim = First { uid, ended: started.found_ended };
        let mut jobs = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MOST && !jobs.contains_key(&started.job) {
            jobs.clear();
        }
        let first = jobs.entry(started.job.clone()).or_insert(claim);
        if first.ended && !claim.ended && (uid == first.uid || uid == UNKNOWN) {
            *first = claim;
        }
        if first.uid != uid && !(claim.ended && first.uid == UNKNOWN) {
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

    fn started(owners: &Owners, job: &str, uid: Option<u32>, found_ended: bool) -> String {
        let started = ProcessStarted { job: job.into(), uid, found_ended, ..ProcessStarted::default() };
        let mut message =
            AgentMessage { body: Some(Body::ProcessStarted(started)), ..AgentMessage::default() };
        owners.keep_apart(&mut message);
        match message.body {
            Some(Body::ProcessStarted(started)) => started.job,
            _ => unreachable!("it stays what it was"),
        }
    }

    fn claim(owners: &Owners, job: &str, uid: Option<u32>) -> String {
        started(owners, job, uid, false)
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

    #[test]
    fn the_dead_speak_for_the_user_whose_file_they_left() {
        let owners = Owners::default();
        let dead = |job: &str, uid: u32| started(&owners, job, Some(uid), true);
        assert_eq!(claim(&owners, "llm", Some(1000)), "llm");
        assert_eq!(dead("llm", 1000), "llm");
        assert_eq!(dead("llm", 1002), "llm (of user 1002)");
        // In a namespace, they cannot be told while they live.
        assert_eq!(claim(&owners, "pods", Some(UNKNOWN)), "pods");
        assert_eq!(dead("pods", 1002), "pods");
        // A new controller may hear of the dead first.
        assert_eq!(dead("late", 100_000), "late");
        assert_eq!(claim(&owners, "late", Some(1000)), "late (of user 1000)");
        assert_eq!(claim(&owners, "late", Some(UNKNOWN)), "late", "whose dead they may be");
        assert_eq!(dead("late", 100_001), "late");
    }
}
