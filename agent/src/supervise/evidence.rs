//! What is saved of a group's processes before they are ended, since a restart destroys it: their flight recorders, what
//! the kernel says they are doing, and what PyTorch's Flight Recorder dumps when it is asked to.
//!
//! Bounded in size, number and time. Whatever cannot be saved is left out: nothing here may keep a job from being
//! restarted.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{directories, report::Saved};

/// A file that tells a set from whatever else somebody keeps in the directory.
const MARK: &str = ".c4-evidence";
/// Files of `/proc/PID` that say what a process is doing.
const PROC_FILES: [&str; 6] = ["status", "stat", "wchan", "stack", "cmdline", "io"];
/// A file there is no longer than this.
const MAX_PROC: u64 = 64 * 1024;
/// How long the Flight Recorder's dumps are waited for.
const DUMPS: Duration = Duration::from_secs(1);
/// Time between two looks for them.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Ranks whose Flight Recorders are asked.
const MAX_RANKS: usize = 64;

/// What to save, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceSettings {
    /// Where to.
    pub directory: PathBuf,
    /// Sets kept; the oldest go first. 0: nothing is saved.
    pub sets: usize,
    /// Size of one set.
    pub bytes: u64,
}

impl Default for EvidenceSettings {
    fn default() -> Self {
        // Nobody else's: a directory that everybody may write to is full of other people's links.
        let user = rustix::process::getuid().as_raw();
        Self { directory: PathBuf::from(format!("/var/tmp/c4-evidence-{user}")), sets: 8, bytes: 256 << 20 }
    }
}

/// One set.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) settings: EvidenceSettings,
    /// Its name.
    pub(super) name: String,
    /// The directory of flight recorders.
    pub(super) recorders: PathBuf,
    /// The group's processes.
    pub(super) members: BTreeSet<i32>,
    /// Ranks of which PyTorch may have a Flight Recorder.
    pub(super) ranks: Vec<u32>,
    /// `TORCH_NCCL_DEBUG_INFO_PIPE_FILE` of the job, if it is set.
    pub(super) pipes: Option<PathBuf>,
    /// `TORCH_NCCL_DEBUG_INFO_TEMP_FILE` of the job, or its default.
    pub(super) dumps: PathBuf,
}

/// Saves a set. Blocks.
///
/// # Errors
/// The directory cannot be made. What is missing in it is no error.
pub(super) fn save(request: &Request) -> io::Result<Saved> {
    let settings = &request.settings;
    directories::own(&settings.directory)?;
    forget_old(&settings.directory, settings.sets.saturating_sub(1));
    let path = directories::free(&settings.directory, &request.name)?;
    File::create_new(path.join(MARK))?;
    let mut set = Set { saved: Saved { path, files: 0, bytes: 0 }, left: settings.bytes };
    let asked = ask_for_dumps(request);
    for pid in &request.members {
        for file in PROC_FILES {
            set.take(&PathBuf::from(format!("/proc/{pid}/{file}")), &format!("proc-{pid}-{file}"), MAX_PROC);
        }
    }
    for entry in fs::read_dir(&request.recorders).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            set.take(&entry.path(), &entry.file_name().to_string_lossy(), u64::MAX);
        }
    }
    for dump in await_dumps(&asked) {
        let name = dump.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        set.take(&dump, &name, u64::MAX);
    }
    Ok(set.saved)
}

/// A job's name, made fit for a file's.
pub(super) fn file_name(job: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    job.chars().take(100).map(fit).collect::<String>().trim_start_matches('.').to_owned()
}

struct Set {
    saved: Saved,
    left: u64,
}

impl Set {
    fn take(&mut self, from: &Path, name: &str, most: u64) {
        let copy = || -> io::Result<u64> {
            let mut text = Vec::new();
            let most = most.min(self.left);
            File::open(from)?.take(most.saturating_add(1)).read_to_end(&mut text)?;
            if text.len() as u64 > most {
                return Ok(0);
            }
            let mut to =
                File::options().write(true).create_new(true).mode(0o600).open(self.saved.path.join(name))?;
            to.write_all(&text)?;
            Ok(text.len() as u64)
        };
        if let Ok(bytes @ 1..) = copy() {
            self.saved.files += 1;
            self.saved.bytes += bytes;
            self.left -= bytes;
        }
    }
}

fn forget_old(directory: &Path, keep: usize) {
    let sets = fs::read_dir(directory).into_iter().flatten().flatten();
    let sets = sets.filter(|set| set.path().join(MARK).is_file());
    let mut sets: Vec<_> =
        sets.filter_map(|set| Some((set.metadata().ok()?.modified().ok()?, set.path()))).collect();
    sets.sort();
    let old = sets.len().saturating_sub(keep);
    for (_, path) in sets.into_iter().take(old) {
        let _ = fs::remove_dir_all(path);
    }
}

/// Writes to the pipes at which PyTorch listens. Returns who was asked, and when their dumps had last changed.
fn ask_for_dumps(request: &Request) -> Vec<(PathBuf, Option<SystemTime>)> {
    let Some(pipes) = &request.pipes else { return Vec::new() };
    let ask = |rank: &u32| {
        let pipe = PathBuf::from(format!("{}{rank}.pipe", pipes.display()));
        let dump = PathBuf::from(format!("{}{rank}", request.dumps.display()));
        let before = fs::metadata(&dump).and_then(|dump| dump.modified()).ok();
        // Without a reader this fails at once, instead of waiting for one.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut pipe = File::options().write(true).custom_flags(nonblocking).open(pipe).ok()?;
        pipe.write_all(b"1\n").ok()?;
        Some((dump, before))
    };
    request.ranks.iter().take(MAX_RANKS).filter_map(ask).collect()
}

fn await_dumps(asked: &[(PathBuf, Option<SystemTime>)]) -> Vec<PathBuf> {
    let mut waited = Duration::ZERO;
    loop {
        let changed = |(dump, before): &&(PathBuf, Option<SystemTime>)| {
            let now = fs::metadata(dump).and_then(|dump| dump.modified()).ok();
            now.is_some() && now != *before
        };
        let dumps: Vec<PathBuf> = asked.iter().filter(changed).map(|(dump, _)| dump.clone()).collect();
        if dumps.len() == asked.len() || waited >= DUMPS {
            return dumps;
        }
        std::thread::sleep(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dir: &Path) -> Request {
        let settings = EvidenceSettings { directory: dir.join("evidence"), sets: 2, bytes: 1 << 20 };
        let recorders = dir.join("recorders");
        fs::create_dir_all(&recorders).unwrap();
        fs::write(recorders.join("rank-0"), vec![7; 1000]).unwrap();
        let members = BTreeSet::from([i32::try_from(std::process::id()).unwrap()]);
        let dumps = dir.join("trace_");
        Request { settings, name: "llm-0".into(), recorders, members, ranks: vec![0], pipes: None, dumps }
    }

    #[test]
    fn recorders_and_what_the_kernel_says_are_saved_and_old_sets_go() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(dir.path());
        let saved = save(&request).unwrap();
        assert_eq!(fs::read(saved.path.join("rank-0")).unwrap(), vec![7; 1000]);
        let status = format!("proc-{}-status", std::process::id());
        assert!(fs::read_to_string(saved.path.join(status)).unwrap().contains("State:"));
        assert!(saved.files >= 2 && saved.bytes > 1000, "{saved:?}");
        let own = request.settings.directory.join("checkpoints");
        fs::create_dir(&own).unwrap();
        for _ in 0..4 {
            save(&request).unwrap();
        }
        assert!(own.is_dir(), "not a set");
        assert_eq!(fs::read_dir(&request.settings.directory).unwrap().count(), 3);
    }

    #[test]
    fn a_set_is_no_larger_than_it_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let mut request = request(dir.path());
        (request.settings.bytes, request.members) = (500, BTreeSet::new());
        assert_eq!(save(&request).unwrap().files, 0);
    }

    #[test]
    fn flight_recorders_are_asked_where_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let mut request = request(dir.path());
        request.pipes = Some(dir.path().join("pipe_"));
        assert_eq!(ask_for_dumps(&request), Vec::new(), "nobody listens");
        let pipe = dir.path().join("pipe_0.pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        // PyTorch's side: it opens the pipe without waiting, and dumps when it is told to.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut listening = File::options().read(true).custom_flags(nonblocking).open(&pipe).unwrap();
        let asked = ask_for_dumps(&request);
        let mut heard = [0; 2];
        listening.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"1\n");
        fs::write(dir.path().join("trace_0"), "dump").unwrap();
        assert_eq!(await_dumps(&asked), [dir.path().join("trace_0")]);
    }
}
