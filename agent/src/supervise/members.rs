//! Who belongs to a group of processes. Launchers start workers in sessions of their own (torchrun does), workers start
//! helpers, and what is killed at the top leaves orphans below; so a group is everything that carries the group's token in
//! its environment, descends from one of its leaders, or is in a leader's process group.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use c4_detect::observation::ProcessState;
use rustix::process::{Pid, Signal, kill_process};

use crate::procfs::{self, ProcessStat};

/// Environment variable that marks the processes of a group.
pub(super) const TOKEN: &str = "C4_GROUP";

/// Finds members among the processes in `stats`. `has_token` reads a process's environment.
#[must_use]
pub(super) fn members(
    stats: &[ProcessStat],
    leaders: &BTreeSet<i32>,
    has_token: impl Fn(i32) -> bool,
) -> BTreeSet<i32> {
    let alive = stats.iter().filter(|stat| stat.state != ProcessState::Zombie);
    let parents: BTreeMap<i32, i32> = stats.iter().map(|stat| (stat.pid, stat.parent)).collect();
    let descends = |pid: i32| {
        let mut at = pid;
        // As many steps as there are processes: a table read in pieces may hold a circle.
        for _ in 0..parents.len() {
            if leaders.contains(&at) {
                return true;
            }
            match parents.get(&at) {
                Some(parent) if *parent > 1 => at = *parent,
                _ => return false,
            }
        }
        false
    };
    let belongs =
        |stat: &&ProcessStat| leaders.contains(&stat.group) || descends(stat.pid) || has_token(stat.pid);
    alive.filter(belongs).map(|stat| stat.pid).collect()
}

/// Processes of this host that belong to the group now. `left` are members seen earlier, with their start times.
#[must_use]
pub(super) fn find(leaders: &BTreeSet<i32>, left: &BTreeMap<i32, u64>, token: &str) -> BTreeSet<i32> {
    let proc = Path::new("/proc");
    let entry = format!("{TOKEN}={token}");
    let pids = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stats: Vec<ProcessStat> = pids.filter_map(|pid| procfs::read_stat(proc, pid)).collect();
    let has_token = |pid: i32| {
        let environment = fs::read(proc.join(pid.to_string()).join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
    };
    let mut roots = leaders.clone();
    roots.extend(
        stats.iter().filter(|stat| left.get(&stat.pid) == Some(&stat.start_ticks)).map(|stat| stat.pid),
    );
    let mut found = members(&stats, &roots, has_token);
    found.remove(&i32::try_from(std::process::id()).unwrap_or(0));
    found
}

/// Signals every process in `pids`. One that is gone is no error.
pub(super) fn signal(pids: &BTreeSet<i32>, signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, state: ProcessState) -> ProcessStat {
        ProcessStat { pid, state, parent, group, start_ticks: 0, wait_status: 0 }
    }

    #[test]
    fn descendants_group_mates_and_marked_orphans_belong() {
        let run = ProcessState::Running;
        let table = [
            process(10, 2, 10, run),  // leader
            process(11, 10, 11, run), // worker in a session of its own
            process(12, 11, 11, run), // its helper
            process(13, 1, 10, run),  // orphan in the leader's group
            process(14, 1, 14, run),  // orphan with the token
            process(15, 1, 15, run),  // stranger
            process(16, 10, 10, ProcessState::Zombie),
        ];
        let found = members(&table, &BTreeSet::from([10]), |pid| pid == 14);
        assert_eq!(found, BTreeSet::from([10, 11, 12, 13, 14]));
    }

    #[test]
    fn a_circle_in_the_table_ends() {
        let table = [process(20, 21, 20, ProcessState::Running), process(21, 20, 21, ProcessState::Running)];
        assert!(members(&table, &BTreeSet::from([10]), |_| false).is_empty());
    }
}
