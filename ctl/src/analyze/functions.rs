//! What traces call collectives, in NCCL's words, and what their sizes say. Every framework spells them its own way.

/// NCCL's name for an operation, or the trace's own where there is none.
#[must_use]
pub fn nccl_name(op: &str) -> &str {
    let plain: String = op
        .rsplit(':')
        .next()
        .unwrap_or(op)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let plain = plain.strip_prefix("nccl").unwrap_or(&plain);
    match plain {
        "allreduce" | "allreducecoalesced" | "allreducesparse" => "AllReduce",
        "allgather" | "allgatherbase" | "allgatherintotensor" | "allgatherintotensorcoalesced" => "AllGather",
        "reducescatter" | "reducescatterbase" | "reducescattertensor" | "reducescattertensorcoalesced" => {
            "ReduceScatter"
        }
        "alltoall" | "alltoallbase" | "alltoallsingle" | "alltoallv" => "AllToAll",
        "broadcast" | "bcast" | "broadcastoop" => "Broadcast",
        "reduce" | "reduceoop" => "Reduce",
        "gather" => "Gather",
        "scatter" => "Scatter",
        "barrier" | "allreducebarrier" => "Barrier",
        // Without the backend that PyTorch puts before it.
        _ => op.strip_prefix("nccl:").unwrap_or(op),
    }
}

/// Whether all ranks must give the same size. In an all-to-all sizes differ by right, the root of a gather or scatter
/// has more than the others, and the `v` variants exist to differ.
#[must_use]
pub fn sizes_must_agree(op: &str) -> bool {
    match nccl_name(op) {
        "AllReduce" | "AllGather" | "ReduceScatter" | "Broadcast" | "Reduce" => true,
        // "all_gather_v" and whatever else is unknown.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        for spelling in ["all_reduce", "AllReduce", "ncclAllReduce", "nccl:all_reduce", "allreduce"] {
            assert_eq!(nccl_name(spelling), "AllReduce", "{spelling}");
        }
        assert_eq!(nccl_name("c10d::_allgather_base_"), "AllGather");
        assert_eq!(nccl_name("my_own"), "my_own");
    }

    #[test]
    fn sizes_may_differ_where_they_do_by_right() {
        assert!(sizes_must_agree("all_reduce"));
        for op in ["all_to_all", "gather", "all_gather_v", "barrier"] {
            assert!(!sizes_must_agree(op), "{op}");
        }
    }
}
