//! Who a recorder belongs to: job, incarnation and rank, told by the process's own environment where it says so and by
//! its largest communicator where it does not. No configuration: jobs and ranks come, go and restart as they like.

use c4_detect::observation::ProcessId;
use c4_recorder::snapshot::{Communicator, Identity};

use crate::{limits, report::ProcessStart, sensors::Gpus};

/// NCCL's bit for kernel events in the event mask.
pub(super) const KERNEL_EVENTS: u32 = 1 << 6;

/// A process id that is unique for ever: FNV-1a over node, recorder cookie, pid and start time, so that an agent that
/// restarts gives the same process the same id.
#[must_use]
pub fn process_id(node: &str, identity: &Identity) -> ProcessId {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    feed(node.as_bytes());
    feed(&[0]);
    feed(&identity.cookie.to_le_bytes());
    feed(&identity.pid.to_le_bytes());
    feed(&identity.start_ticks.to_le_bytes());
    // 0 names nobody on the wire.
    ProcessId(hash.max(1))
}

/// What `torchrun` calls every job on several nodes that was not given a name (`--rdzv-id`).
const UNNAMED_RUN: &str = "none";

/// The name that a job's environment gives it; `variable` is never empty.
pub fn named_job(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    variable("C4_JOB")
        .or_else(|| variable("SLURM_JOB_ID").map(|id| format!("slurm-{id}")))
        .or_else(|| variable("TORCHELASTIC_RUN_ID").filter(|id| id != UNNAMED_RUN))
}

/// Where such a job meets tells it from others: all its ranks know the same place. One that is on this node only is told by the
/// node, since every node calls itself so.
fn meeting(node: &str, address: &str, port: &str) -> Option<String> {
    let port: u16 = port.parse().ok()?;
    let local =
        address == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Some(format!("torchrun-{}-{port}", if local { node } else { address }))
}

/// The number of its GPU on this node: what C4_GPU says, else where CUDA says that it is, else what the environment makes of it.
pub(super) fn gpu(identity: &Identity, gpus: &Gpus) -> Option<u32> {
    let said = || identity.labels.get("C4_GPU")?.trim().parse().ok();
    let there = || gpus.number(identity.gpu_address?.into());
    said().or_else(there).or(identity.gpu).filter(|gpu| *gpu < limits::GPUS)
}

/// Identity as it can be told now. `None` while the environment does not name job and rank and no communicator has
/// been seen that could.
#[must_use]
pub fn describe(
    node: &str,
    identity: &Identity,
    communicators: &[Communicator],
    event_mask: u32,
) -> Option<ProcessStart> {
    let label =
        |name: &str| identity.labels.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let up_to = |name: &str, most: u32| label(name)?.parse::<u32>().ok().filter(|number| *number <= most);
    let number = |name: &str| up_to(name, limits::RANKS);
    let known = communicators.iter().filter(|comm| comm.is_known());
    let largest = known.max_by_key(|comm| (comm.size, std::cmp::Reverse(comm.slot)));

    let job = named_job(|name| label(name).map(str::to_owned)).or_else(|| {
        label("TORCHELASTIC_RUN_ID").and_then(|_| meeting(node, label("MASTER_ADDR")?, label("MASTER_PORT")?))
    });
    let rank = number("RANK").or_else(|| number("SLURM_PROCID"));
    let world_size = number("WORLD_SIZE").or_else(|| number("SLURM_NTASKS"));
    if largest.is_none() && (job.is_none() || rank.is_none()) {
        return None;
    }
    let world_size = world_size.or(largest.map(|comm| comm.size)).filter(|size| *size > 0);
    // A rank outside its world is a mistake of the environment: unknown is better than wrong.
    let within = |rank: &u32| *rank < world_size.unwrap_or(limits::RANKS);
    Some(ProcessStart {
        process: process_id(node, identity),
        job: job.or_else(|| largest.map(|comm| format!("comm-{:x}", comm.id)))?,
        incarnation: ["C4_INCARNATION", "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"]
            .into_iter()
            .find_map(|name| up_to(name, limits::INCARNATIONS))
            .unwrap_or(0),
        rank: rank.or(largest.map(|comm| comm.rank)).filter(within),
        local_rank: number("LOCAL_RANK").or_else(|| number("SLURM_LOCALID")).filter(within),
        world_size,
        gpu: identity.gpu,
        pid: identity.pid,
        uid: None,
        found_ended: false,
        nccl_version: identity.nccl_version.clone(),
        profiler_api: identity.profiler_api,
        blind_spots: blind_spots(identity, event_mask),
        labels: identity.labels.clone(),
        nics: Vec::new(),
    })
}

/// What this process's NCCL does not show, said so that nobody takes silence for health.
fn blind_spots(identity: &Identity, event_mask: u32) -> Vec<String> {
    let mut spots = identity.blind_spots.clone();
    if event_mask != 0 && event_mask & KERNEL_EVENTS == 0 {
        spots.push("kernel start and end times (kernel events are off)".to_owned());
    }
    spots
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use c4_recorder::GpuAddress;

    use super::*;
    use crate::sensors::Address;

    fn labelled(pairs: &[(&str, &str)]) -> Identity {
        let labels: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Identity { cookie: 7, pid: 42, start_ticks: 9, labels, ..Identity::default() }
    }

    fn comm(id: u64, size: u32, rank: u32) -> Communicator {
        Communicator { id, size, rank, ..Communicator::default() }
    }

    #[test]
    fn the_environment_comes_before_the_communicator() {
        let identity = labelled(&[
            ("C4_JOB", "llm"),
            ("SLURM_JOB_ID", "12"),
            ("RANK", "3"),
            ("SLURM_PROCID", "4"),
            ("WORLD_SIZE", "8"),
            ("C4_INCARNATION", "2"),
            ("TORCHELASTIC_RESTART_COUNT", "5"),
        ]);
        let start = describe("n0", &identity, &[comm(1, 4, 1)], 0).unwrap();
        assert_eq!((start.job.as_str(), start.rank, start.world_size), ("llm", Some(3), Some(8)));
        assert_eq!(start.incarnation, 2);
    }

    #[test]
    fn slurm_and_torchelastic_name_jobs() {
        let slurm = labelled(&[("SLURM_JOB_ID", "12"), ("SLURM_PROCID", "4"), ("SLURM_NTASKS", "8")]);
        let start = describe("n0", &slurm, &[], 0).unwrap();
        assert_eq!((start.job.as_str(), start.rank, start.world_size), ("slurm-12", Some(4), Some(8)));
        let elastic =
            labelled(&[("TORCHELASTIC_RUN_ID", "run7"), ("RANK", "0"), ("TORCHELASTIC_RESTART_COUNT", "5")]);
        let start = describe("n0", &elastic, &[], 0).unwrap();
        assert_eq!((start.job.as_str(), start.incarnation), ("run7", 5));
        for (address, job) in [
            ("gpu-17", "torchrun-gpu-17-29500"),
            ("127.0.0.1", "torchrun-n0-29500"),
            ("localhost", "torchrun-n0-29500"),
        ] {
            let unnamed = [
                ("TORCHELASTIC_RUN_ID", "none"),
                ("MASTER_ADDR", address),
                ("MASTER_PORT", "29500"),
                ("RANK", "0"),
            ];
            assert_eq!(describe("n0", &labelled(&unnamed), &[], 0).unwrap().job, job);
        }
        let nowhere = labelled(&[("TORCHELASTIC_RUN_ID", "none"), ("RANK", "0")]);
        assert_eq!(describe("n0", &nowhere, &[comm(0xcd, 8, 5)], 0).unwrap().job, "comm-cd");
    }

    #[test]
    fn without_labels_the_largest_communicator_tells() {
        let identity = labelled(&[]);
        assert_eq!(describe("n0", &identity, &[], 0), None);
        let start = describe("n0", &identity, &[comm(0xab, 2, 1), comm(0xcd, 8, 5)], 0).unwrap();
        assert_eq!((start.job.as_str(), start.rank, start.world_size), ("comm-cd", Some(5), Some(8)));
    }

    #[test]
    fn nonsense_labels_make_unknown_not_wrong() {
        let identity = labelled(&[("C4_JOB", "j"), ("RANK", "9"), ("WORLD_SIZE", "8")]);
        assert_eq!(describe("n0", &identity, &[], 0).unwrap().rank, None);
        let identity = labelled(&[("C4_JOB", "j"), ("RANK", "99999999999999"), ("WORLD_SIZE", "-1")]);
        assert_eq!(describe("n0", &identity, &[], 0), None);
    }

    #[test]
    fn a_gpu_is_where_cuda_says_whatever_the_environment_counts() {
        let gpus = Gpus::default();
        gpus.learn(["0000:1b:00.0", "0000:3d:00.0"].map(|text| Address::parse(text).unwrap()));
        let here = labelled(&[("LOCAL_RANK", "0")]);
        let here = Identity { gpu: Some(0), gpu_address: GpuAddress::from_bits(0x3d00), ..here };
        assert_eq!(gpu(&here, &gpus), Some(1), "a container that was given the second of two");
        assert_eq!(gpu(&Identity { gpu: None, ..here.clone() }, &gpus), Some(1));
        assert_eq!(gpu(&here, &Gpus::default()), Some(0), "nothing better is known");
        let elsewhere = Identity { gpu_address: GpuAddress::from_bits(0x5e00), ..here.clone() };
        assert_eq!(gpu(&elsewhere, &gpus), Some(0));
        let said = Identity { gpu: Some(5), labels: labelled(&[("C4_GPU", "5")]).labels, ..here };
        assert_eq!(gpu(&said, &gpus), Some(5));
    }

    #[test]
    fn process_ids_are_stable_and_differ_by_every_part() {
        let one = labelled(&[]);
        let id = process_id("n0", &one);
        assert_eq!(id, process_id("n0", &one.clone()));
        assert_ne!(id, process_id("n1", &one));
        assert_ne!(id, process_id("n0", &Identity { pid: 43, ..one.clone() }));
        assert_ne!(id, process_id("n0", &Identity { cookie: 8, ..one.clone() }));
        assert_ne!(id, process_id("n0", &Identity { start_ticks: 1, ..one }));
    }
}
