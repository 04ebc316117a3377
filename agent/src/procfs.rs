//! The little that the agent reads from `/proc`: state and parentage of processes. Parsers are pure, so that
//! odd process names (spaces, parentheses, newlines) can be tested.

use std::{fs, path::Path};

use c4_detect::observation::ProcessState;

/// Signals that stop a process: one that is stopped shows them where one that has ended shows what ended it.
const STOPS: [i32; 4] = [19, 20, 21, 22];

/// What `/proc/<pid>/stat` says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Process id.
    pub pid: i32,
    /// Scheduler state.
    pub state: ProcessState,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// What ended or stopped it, in the form of `wait`: known long before its parent is told, if a GPU has much to give
    /// back. 0 while it runs, if it ends with exit code 0, and where the kernel does not show it to this user.
    pub wait_status: i32,
}

impl ProcessStat {
    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        let signal = self.wait_status & 0x7f;
        let ended = self.state != ProcessState::Stopped && !STOPS.contains(&signal);
        (ended && (1..0x7f).contains(&signal)).then_some(signal)
    }

    /// The exit code with which it ended by itself, if that is not 0.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        let code = (self.wait_status >> 8) & 0xff;
        (self.wait_status & 0x7f == 0 && code != 0).then_some(code)
    }
}

/// Parses a line of `/proc/<pid>/stat`. The name is in parentheses and may hold anything, so fields are counted from
/// the *last* parenthesis.
#[must_use]
pub fn parse_stat(text: &str) -> Option<ProcessStat> {
    let pid = text.split_once(' ')?.0.parse().ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let signed = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(ProcessStat {
        pid,
        state: state_of(fields.first()?),
        parent: signed(1)?,
        group: signed(2)?,
        start_ticks: number(19)?,
        // Absent before Linux 3.5.
        wait_status: signed(49).unwrap_or(0),
    })
}

fn state_of(letter: &str) -> ProcessState {
    match letter {
        "R" => ProcessState::Running,
        "S" | "I" => ProcessState::Sleeping,
        "D" => ProcessState::DiskWait,
        "T" | "t" => ProcessState::Stopped,
        "Z" | "X" | "x" => ProcessState::Zombie,
        _ => ProcessState::Unknown,
    }
}

/// Reads the state of process `pid` below `root` (normally `/proc`).
#[must_use]
pub fn read_stat(root: &Path, pid: u32) -> Option<ProcessStat> {
    let bytes = fs::read(root.join(pid.to_string()).join("stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// The process `pid` that started at `start_ticks`. Nothing when no such process is visible: it may live in another PID
/// namespace, where its id means something else here.
#[must_use]
pub fn find(root: &Path, pid: u32, start_ticks: u64) -> Option<ProcessStat> {
    read_stat(root, pid).filter(|stat| start_ticks != 0 && stat.start_ticks == start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4711 (a) R (b c) S 1 4700 4700 0 -1 4194560 10 0 0 0 17 5 0 0 20 0 12 0 98765 1 2 3";

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let stat = parse_stat(LINE).unwrap();
        assert_eq!(
            stat,
            ProcessStat {
                pid: 4711,
                state: ProcessState::Sleeping,
                parent: 1,
                group: 4700,
                start_ticks: 98765,
                wait_status: 0,
            }
        );
    }

    #[test]
    fn a_short_or_garbled_line_is_nothing() {
        for text in
            ["", "4711", "4711 (x", "4711 (x) S 1 2", "x (y) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"]
        {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_reused_pid_is_not_the_process() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("4711")).unwrap();
        std::fs::write(root.path().join("4711/stat"), LINE).unwrap();
        let state = |pid, start| find(root.path(), pid, start).map(|stat| stat.state);
        assert_eq!(state(4711, 98765), Some(ProcessState::Sleeping));
        for (pid, start) in [(4711, 98766), (4711, 0), (4712, 98765)] {
            assert_eq!(state(pid, start), None);
        }
    }

    #[test]
    fn what_ended_a_process_is_known_before_its_parent_asks() {
        for (script, signal, code) in
            [("kill -9 $$", Some(9), None), ("kill -6 $$", Some(6), None), ("exit 3", None, Some(3))]
        {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            // Not reaped, so it stays to be seen.
            let stat = std::iter::repeat_with(|| read_stat(Path::new("/proc"), child.id()).unwrap())
                .find(|stat| stat.state == ProcessState::Zombie)
                .unwrap();
            assert_eq!((stat.signal(), stat.exit_code()), (signal, code), "{script}");
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_stopped_process_has_not_ended() {
        let with = |state, wait_status| ProcessStat { state, wait_status, ..parse_stat(LINE).unwrap() };
        for stat in [
            with(ProcessState::Stopped, 19),
            with(ProcessState::Sleeping, 20),
            with(ProcessState::Stopped, 5),
        ] {
            assert_eq!((stat.signal(), stat.exit_code()), (None, None), "{stat:?}");
        }
        assert_eq!(with(ProcessState::Sleeping, 0x80 | 11).signal(), Some(11), "while it dumps its core");
    }
}
