//! The injector's side: signals to workers, faults in the directory.

use std::fs;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{FaultDir, NetFault, NetMode, WorkerFault, remove_if_there, sockets};
use crate::ringjob::checkpoint::replace_file;

/// The process id of a rank's worker.
///
/// # Errors
/// When the rank has written none.
pub fn pid_of(dir: &FaultDir, rank: u32) -> anyhow::Result<u32> {
    let path = dir.pid(rank);
    let content = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    content.trim().parse().with_context(|| format!("{}: {content:?} is not a process id", path.display()))
}

/// Sends a signal to a rank's worker.
///
/// # Errors
/// When the worker is unknown or gone.
pub fn signal(dir: &FaultDir, rank: u32, signal: Signal) -> anyhow::Result<()> {
    let number = pid_of(dir, rank)?;
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{number} is not a process id"))?;
    kill_process(pid, signal).with_context(|| format!("cannot signal rank {rank}, process {number}"))
}

/// Tells a rank's worker to misbehave from its next iteration on.
///
/// # Errors
/// When the directory cannot be written.
pub fn misbehave(dir: &FaultDir, rank: u32, fault: &WorkerFault) -> anyhow::Result<()> {
    let path = dir.fault(rank);
    replace_file(&path, &serde_json::to_string(fault)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Tells a rank's worker to behave.
///
/// # Errors
/// When the fault's file cannot be removed.
pub fn behave(dir: &FaultDir, rank: u32) -> anyhow::Result<()> {
    let path = dir.fault(rank);
    remove_if_there(&path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Blocks or slows what `src` sends to `dst`.
///
/// # Errors
/// When the processes or a connection between them cannot be found.
pub fn break_link(
    dir: &FaultDir,
    src: u32,
    dst: u32,
    mode: NetMode,
    bytes_per_second: u64,
    receive: bool,
) -> anyhow::Result<()> {
    let (src_pid, dst_pid) = (pid_of(dir, src)?, pid_of(dir, dst)?);
    let read = |rank, pid| {
        sockets::of_process(pid)
            .with_context(|| format!("cannot see the sockets of rank {rank}, process {pid}"))
    };
    let ports = sockets::peer_ports(&read(src, src_pid)?, &read(dst, dst_pid)?);
    ensure!(!ports.is_empty(), "rank {src} has no TCP connection to rank {dst}");
    let fault = NetFault { peer_ports: ports.into_iter().collect(), mode, bytes_per_second, receive };
    let path = dir.net(src_pid);
    replace_file(&path, &serde_json::to_string(&fault)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Takes back what [`break_link`] did to `src`.
///
/// # Errors
/// When the process is unknown or the file cannot be removed.
pub fn mend_links(dir: &FaultDir, src: u32) -> anyhow::Result<()> {
    let path = dir.net(pid_of(dir, src)?);
    remove_if_there(&path).with_context(|| format!("cannot remove {}", path.display()))
}
