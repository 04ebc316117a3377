//! Who this process is: labels from the environment, the host, the GPU, and what init tells of a communicator.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::writer::{CommunicatorFacts, NewRecorder, prefix};

use crate::device;
use crate::events::Comm;

/// Labels that are copied from the environment.
const LABELS: [&str; 18] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "SLURM_RESTART_COUNT",
    "C4_JOB",
    "C4_INCARNATION",
    "POD_NAME",
    "CUDA_VISIBLE_DEVICES",
    "NCCL_HOSTID",
    "C4_GPU",
];

/// What says which network NCCL uses. The configuration file's values are among the environment's by the time of `init`.
const NETWORK: [&str; 4] = ["NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_NET"];

/// Longest label kept; a job's own variables are shorter.
const LONGEST: usize = 256;
/// Longest list of names that is kept: one that was cut off would name others.
const LONGEST_LIST: usize = 1024;

fn variable(name: &str) -> Option<String> {
    Some(prefix(&value(name)?, LONGEST).to_owned())
}

fn value(name: &str) -> Option<String> {
    Some(env::var_os(name)?.to_string_lossy().into_owned())
}

/// This process.
pub fn process() -> NewRecorder {
    let cut = LABELS.iter().map(|name| (*name, variable(name)));
    let whole = NETWORK.iter().map(|name| (*name, value(name).filter(|list| list.len() <= LONGEST_LIST)));
    let labels: BTreeMap<_, _> =
        cut.chain(whole).filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let host_id = variable("NCCL_HOSTID").or_else(host_name).unwrap_or_default();
    let gpu = gpu_index(&labels);
    NewRecorder { host_id, gpu, gpu_address: device::address(), labels }
}

fn host_name() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned())
}

/// C4_GPU, or the entry of CUDA_VISIBLE_DEVICES that LOCAL_RANK picks if it is a number, or LOCAL_RANK itself.
fn gpu_index(labels: &BTreeMap<String, String>) -> Option<u32> {
    let number = |name: &str| labels.get(name)?.trim().parse::<u32>().ok();
    if let Some(gpu) = number("C4_GPU") {
        return Some(gpu);
    }
    let local_rank = number("LOCAL_RANK").or_else(|| number("SLURM_LOCALID"));
    let Some(visible) = labels.get("CUDA_VISIBLE_DEVICES") else { return local_rank };
    let mut devices = visible.split(',').map(|device| device.trim().parse::<u32>());
    match (devices.clone().count(), local_rank) {
        // A process that sees one device uses it, whatever its local rank.
        (1, _) => devices.next()?.ok(),
        (_, Some(rank)) => devices.nth(rank as usize)?.ok(),
        (_, None) => None,
    }
}

/// What `init` tells of a communicator.
#[derive(Clone, Copy)]
pub struct Told {
    /// Id or hash.
    pub id: u64,
    /// Name, may be null.
    pub name: *const c_char,
    /// Nodes.
    pub nodes: c_int,
    /// Ranks.
    pub ranks: c_int,
    /// Own rank.
    pub rank: c_int,
}

/// Calls `then` with the facts.
///
/// # Safety
/// The name is null or a C string.
pub unsafe fn facts<R>(told: &Told, then: impl FnOnce(&CommunicatorFacts<'_>) -> R) -> R {
    let name = if told.name.is_null() {
        Default::default()
    } else {
        // SAFETY: not null, so the caller promises a C string.
        unsafe { CStr::from_ptr(told.name) }.to_string_lossy()
    };
    let size = u32::try_from(told.ranks).unwrap_or(0);
    let rank = u32::try_from(told.rank).unwrap_or(0);
    then(&CommunicatorFacts {
        id: told.id,
        name: &name,
        size,
        // A rank outside of its communicator would make the record invalid for every reader.
        rank: if size == 0 { rank } else { rank.min(size - 1) },
        nodes: u32::try_from(told.nodes).unwrap_or(0),
    })
}

/// Until v3 the first operation tells which communicator it is on.
///
/// # Safety
/// The name is null or a C string.
#[inline]
pub unsafe fn from_task(comm: &Comm<'_>, hash: u64, name: *const c_char, rank: c_int) {
    if comm.record.id.load(Relaxed) != hash {
        let told = Told { id: hash, name, nodes: 0, ranks: 0, rank };
        // SAFETY: as the caller promises.
        unsafe { facts(&told, |facts| comm.record.describe(facts)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_from_the_environment() {
        let gpu = |labels: &[(&str, &str)]| {
            gpu_index(&labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(gpu(&[]), None);
        assert_eq!(gpu(&[("LOCAL_RANK", "2")]), Some(2));
        assert_eq!(gpu(&[("LOCAL_RANK", "1"), ("CUDA_VISIBLE_DEVICES", "4,6")]), Some(6));
        assert_eq!(gpu(&[("LOCAL_RANK", "3"), ("CUDA_VISIBLE_DEVICES", "5")]), Some(5));
        assert_eq!(gpu(&[("LOCAL_RANK", "0"), ("CUDA_VISIBLE_DEVICES", "GPU-1234,GPU-5678")]), None);
        assert_eq!(gpu(&[("LOCAL_RANK", "9"), ("CUDA_VISIBLE_DEVICES", "1,2")]), None);
        assert_eq!(gpu(&[("C4_GPU", "7"), ("LOCAL_RANK", "0")]), Some(7));
        assert_eq!(gpu(&[("LOCAL_RANK", "-1")]), None);
    }
}
