//! Whose a recorder is, and whether it may testify.
//!
//! Recorders lie in a directory where everybody may put files, and what they say accuses people's jobs. So nothing about
//! their origin is believed that the kernel does not say itself: who owns the file, and which process holds its lock.
//! A file must belong to the user whose process writes it, and the process that it names must be that user's. Root may
//! do anything anyway.
//!
//! What is told of a live process is its user, and of one that was found ended whose file it left, so that the controller keeps
//! the jobs of different users apart whatever they call them; see `docs/threat-model.md`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use c4_recorder::snapshot::Identity;

use super::source::SourceError;
use crate::procfs;

/// What the kernel says about a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose file it is.
    pub uid: u32,
    /// Who holds its lock, where that process is in sight from here.
    pub holder: Option<u32>,
}

/// Decides about recorders. Processes show at `proc_root`.
#[derive(Debug)]
pub(super) struct Owners {
    proc_root: PathBuf,
    own_map: Option<String>,
}

impl Owners {
    pub(super) fn new(proc_root: &Path) -> Self {
        Self { own_map: user_map(&proc_root.join("self")), proc_root: proc_root.to_owned() }
    }

    /// The user for whom a recorder speaks: `None` where that cannot be told across machines (a user namespace, or a
    /// process that is not in sight).
    ///
    /// # Errors
    /// It is not the testimony of the process that it names.
    pub(super) fn check(&self, origin: Origin, identity: &Identity) -> Result<Option<u32>, SourceError> {
        let forged = |who: &str, pid: u32, uid: u32| {
            let owner = origin.uid;
            SourceError(format!(
                "belongs to user {owner}, but {who} (pid {pid}) is user {uid}'s: not believed"
            ))
        };
        if let Some(holder) = origin.holder
            && let Some(uid) = self.user(holder)
            && uid != origin.uid
            && uid != 0
            && origin.uid != 0
        {
            return Err(forged("the process that writes it", holder, uid));
        }
        let named = procfs::read_stat(&self.proc_root, identity.pid);
        if named.is_some_and(|named| named.start_ticks == identity.start_ticks)
            && let Some(uid) = self.user(identity.pid)
            && uid != origin.uid
            && uid != 0
            && origin.uid != 0
        {
            return Err(forged("the process that it names", identity.pid, uid));
        }
        let holder = origin.holder.map(|pid| self.proc_root.join(pid.to_string()));
        let here = holder.is_some_and(|holder| self.own_map.is_some() && user_map(&holder) == self.own_map);
        Ok(here.then_some(origin.uid))
    }

    fn user(&self, pid: u32) -> Option<u32> {
        Some(fs::metadata(self.proc_root.join(pid.to_string())).ok()?.uid())
    }
}

/// How user ids of a process's namespace are numbered in ours.
fn user_map(process: &Path) -> Option<String> {
    fs::read_to_string(process.join("uid_map")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc in which every process is the test's own user's.
    struct Proc {
        dir: tempfile::TempDir,
        me: u32,
    }

    impl Proc {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let me = fs::metadata(dir.path()).unwrap().uid();
            let proc = Self { dir, me };
            proc.process("self", "0 0 4294967295");
            proc
        }

        fn process(&self, pid: &str, map: &str) {
            let process = self.dir.path().join(pid);
            fs::create_dir(&process).unwrap();
            fs::write(process.join("uid_map"), map).unwrap();
            let stat = format!("{pid} (python) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 77 1 2 3");
            fs::write(process.join("stat"), stat).unwrap();
        }

        fn check(
            &self,
            uid: u32,
            holder: Option<u32>,
            named: (u32, u64),
        ) -> Result<Option<u32>, SourceError> {
            let identity = Identity { pid: named.0, start_ticks: named.1, ..Identity::default() };
            Owners::new(self.dir.path()).check(Origin { uid, holder }, &identity)
        }
    }

    #[test]
    fn a_process_testifies_for_its_own_user() {
        let proc = Proc::new();
        proc.process("40", "0 0 4294967295");
        assert_eq!(proc.check(proc.me, Some(40), (40, 77)), Ok(Some(proc.me)));
        assert_eq!(proc.check(proc.me, None, (40, 77)), Ok(None), "the dead speak for nobody in particular");
        assert_eq!(proc.check(proc.me, Some(41), (7, 77)), Ok(None), "nor do those who are out of sight");
    }

    #[test]
    fn nobody_testifies_as_anothers_process() {
        let proc = Proc::new();
        proc.process("40", "0 0 4294967295");
        // As root, every process of this /proc is root's, and root is believed: then there is nothing to refuse.
        if proc.me == 0 {
            assert_eq!(proc.check(4711, Some(40), (40, 77)), Ok(Some(4711)));
            return;
        }
        let stranger = proc.me + 1;
        let error = proc.check(stranger, Some(40), (40, 77)).unwrap_err();
        assert!(error.0.contains("the process that writes it (pid 40)"), "{error}");
        let error = proc.check(stranger, None, (40, 77)).unwrap_err();
        assert!(error.0.contains("the process that it names (pid 40)"), "{error}");
        assert_eq!(proc.check(stranger, None, (40, 78)), Ok(None), "another process that had its number");
        assert_eq!(proc.check(0, Some(40), (40, 77)), Ok(Some(0)), "root may do anything anyway");
    }

    #[test]
    fn users_of_another_namespace_are_not_compared() {
        let proc = Proc::new();
        proc.process("40", "0 100000 65536");
        assert_eq!(proc.check(proc.me, Some(40), (40, 77)), Ok(None));
    }
}
