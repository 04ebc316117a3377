//! How suspects are named in sentences and in findings.

use crate::{
    finding::Suspect,
    model::{Comm, Job},
    observation::ProcessId,
    words,
};

/// "rank 12 (GPU 4 of node-07, pid 4711)".
pub(crate) fn full(job: &Job, process: ProcessId) -> String {
    let Some(info) = job.process(process).map(|p| &p.info) else { return "an unknown process".to_owned() };
    // Of a process read from a file, node and pid may not be known.
    let node = Some(&info.node.0).filter(|node| !node.is_empty());
    let place = match (info.gpu, node) {
        (Some(gpu), Some(node)) => Some(format!("GPU {gpu} of {node}")),
        (Some(gpu), None) => Some(format!("GPU {gpu}")),
        (None, node) => node.cloned(),
    };
    let pid = Some(info.pid).filter(|pid| *pid > 0);
    let (name, pid) = match info.rank {
        Some(rank) => (format!("rank {rank}"), pid.map(|pid| format!("pid {pid}"))),
        None => (format!("process {}", info.pid), None),
    };
    let details: Vec<String> = place.into_iter().chain(pid).collect();
    if details.is_empty() { name } else { format!("{name} ({})", details.join(", ")) }
}

/// "rank 12".
pub(crate) fn short(job: &Job, process: ProcessId) -> String {
    match job.process(process).map(|p| &p.info) {
        Some(info) => match info.rank {
            Some(rank) => format!("rank {rank}"),
            None => format!("process {} of {}", info.pid, info.node.0),
        },
        None => "an unknown process".to_owned(),
    }
}

/// "rank 1, rank 2 and 3 more".
pub(crate) fn list(job: &Job, processes: &[ProcessId]) -> String {
    match processes {
        [one] => full(job, *one),
        _ => words::list(&processes.iter().map(|p| short(job, *p)).collect::<Vec<_>>(), 6),
    }
}

/// The name of a member, who may be known by its rank in the communicator only.
pub(crate) fn member(job: &Job, comm: &Comm, comm_rank: u32) -> String {
    match comm.members.get(&comm_rank) {
        Some(member) => short(job, member.process),
        None => format!("rank {comm_rank} of {}", comm.label()),
    }
}

/// A suspect with everything that is known of its place.
pub(crate) fn suspect(job: &Job, process: ProcessId, score: f64) -> Suspect {
    let info = job.process(process).map(|p| &p.info);
    Suspect {
        rank: info.and_then(|info| info.rank),
        node: info.map(|info| info.node.clone()).filter(|node| !node.0.is_empty()),
        gpu: info.and_then(|info| info.gpu),
        nic: None,
        link: None,
        score,
    }
}
