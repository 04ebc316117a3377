//! One program of the cluster: its process group, its log, its first words, its end.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_child_subreaper};

use super::{LOOK_AGAIN, wait_for};
use crate::ringjob::clock;

/// Children that were started here, as opposed to adopted.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Lines of a log that are worth showing.
const TAIL_LINES: usize = 40;

/// A running program.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: process::Child,
    lines: Receiver<String>,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts a program in a process group of its own; what it says on standard error goes to the end of `log`.
    ///
    /// # Errors
    /// When the log or the program cannot be opened.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        own().insert(process.id());
        let (sender, lines) = channel();
        if let Some(stdout) = process.stdout.take() {
            // Ends with the program; whoever is not interested in the lines has dropped the receiver.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Ok(Self { name: name.to_owned(), process, lines, log: log.to_owned(), status: None })
    }

    /// Name of the program.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line on standard output.
    ///
    /// # Errors
    /// When the program ends or the time is up before there is one; the message has the end of the log.
    pub fn first_line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let what = format!("the first words of {}", self.name);
        let line = wait_for(&what, limit, || match self.lines.try_recv() {
            Ok(line) => Ok(Some(line).filter(|line| wanted(line))),
            Err(TryRecvError::Empty) => Ok(None),
            // No line will come any more; the caller sees from the log why.
            Err(TryRecvError::Disconnected) => Ok(Some(String::new())),
        })?;
        ensure!(!line.is_empty(), "{} does not come up:\n{}", self.name, self.log_tail());
        Ok(line)
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        if self.status.is_none()
            && let Some(pid) = pid(self.process.id())
        {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Kills it and its process group, and waits for its end.
    pub fn kill(&mut self) {
        if self.status.is_none()
            && let Some(pid) = pid(self.process.id())
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        self.status = self.status.or(self.process.wait().ok());
    }

    /// Whether it has ended, and how.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.status = self.status.or(self.process.try_wait().ok().flatten());
        self.status
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let name = format!("the end of {}", self.name);
        wait_for(&name, limit, || Ok(self.try_wait()))
    }

    /// Waits for its end, also when interrupted, and kills it when it does not come.
    pub fn wait_or_kill(&mut self, limit: Duration) {
        let deadline = clock::now() + limit;
        while self.try_wait().is_none() {
            if clock::now() >= deadline {
                self.kill();
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let content = fs::read(&self.log).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        own().remove(&self.process.id());
    }
}

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Has processes whose parents have ended become children of this one, so that they can be ended.
pub(super) fn adopt_orphans() -> anyhow::Result<()> {
    set_child_subreaper(Pid::from_raw(1)).context("cannot become a child subreaper")
}

/// Kills ranks of the ring job that have lost their agent: children of this process that it did not start itself.
pub fn end_orphans() {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return };
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if let Some(pid) = pid(child)
                && name.trim() == "ringjob"
                && !own().contains(&child)
            {
                let _ = kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }
}
