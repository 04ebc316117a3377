#!/usr/bin/env python3
"""Writes the dumps beside this file: what PyTorch's Flight Recorder would have left of small jobs, by its format.

Run it by hand when a case is added; the dumps are committed, so tests need no Python.
"""

import json
import pathlib
import pickle
import shutil

HERE = pathlib.Path(__file__).parent
EPOCH = 1_724_779_239_000_000_000
TIMEOUT_MS = 600_000


class Rank:
    """One rank's recorder: it counts as ProcessGroupNCCL does, and forgets nothing."""

    def __init__(self, rank, groups, timing=False):
        # groups: name -> (description, ranks), in the order of their creation by everybody.
        self.rank = rank
        self.timing = timing
        self.groups = {name: group for name, group in groups.items() if rank in group[1]}
        self.local = {name: number for number, name in enumerate(self.groups)}
        self.counters = {name: [0, 0, 0] for name in self.groups}
        self.status = {}
        self.entries = []
        self.now = EPOCH + rank * 37_000

    def entry(self, group, name, state, size, is_p2p, dtype="Float", events=True):
        seq, p2p, op = self.counters[group]
        self.now += 2_000_000
        done = state == "completed" and events
        begun = self.timing and state != "scheduled" and events
        entry = {
            "frames": [
                {"name": "all_reduce", "filename": "/opt/torch/distributed/distributed_c10d.py", "line": 2501},
                {"name": "train_step", "filename": "train.py", "line": 88},
            ],
            "record_id": len(self.entries),
            "pg_id": self.local[group],
            "process_group": (group, self.groups[group][0]),
            "thread_name": "python",
            "thread_id": "1",
            "collective_seq_id": seq,
            "p2p_seq_id": p2p,
            "op_id": op,
            "profiling_name": "nccl:" + name,
            "time_created_ns": self.now,
            "input_sizes": [[size]],
            "input_dtypes": [dtype],
            "output_sizes": [[size]],
            "output_dtypes": [dtype],
            "state": state if events else "scheduled",
            "time_discovered_started_ns": self.now + 300_000 if begun else None,
            "time_discovered_completed_ns": self.now + 1_500_000 if done else None,
            "retired": done,
            "timeout_ms": TIMEOUT_MS,
            "is_p2p": is_p2p,
        }
        if done and self.timing:
            entry["duration_ms"] = 1.0
        self.entries.append(entry)

    def count(self, group, seq, state):
        status = self.status.setdefault(self.local[group], [-1, -1, -1])
        status[0] = seq
        if state != "scheduled" and self.timing:
            status[1] = seq
        if state == "completed":
            status[2] = seq

    def collective(self, group, name="all_reduce", state="completed", size=1024):
        self.counters[group][0] += 1
        self.counters[group][2] += 1
        self.entry(group, name, state, size, False)
        self.count(group, self.counters[group][0], state)

    def batch(self, group, transfers, state="completed", size=512):
        """A batch_isend_irecv: each transfer is recorded without state, the batch has it."""
        self.counters[group][1] += 1
        ranks = self.groups[group][1]
        me = ranks.index(self.rank)
        for send, peer in transfers:
            self.counters[group][2] += 1
            peer = ranks.index(peer)
            name = f"send {me}->{peer}" if send else f"recv {me}<-{peer}"
            self.entry(group, name, state, size, True, events=False)
        self.entry(group, "coalesced", state, 0, True)
        self.count(group, self.counters[group][1], state)

    def transfer(self, group, send, peer, state="completed", size=512):
        """A plain send or recv."""
        self.counters[group][1] += 1
        self.counters[group][2] += 1
        ranks = self.groups[group][1]
        me, peer = ranks.index(self.rank), ranks.index(peer)
        name = f"send {me}->{peer}" if send else f"recv {me}<-{peer}"
        self.entry(group, name, state, size, True)
        self.count(group, self.counters[group][1], state)

    def dump(self, active_only=False):
        names = ["last_enqueued_collective", "last_started_collective", "last_completed_collective"]
        keep = lambda entry: not active_only or entry["time_discovered_completed_ns"] is None
        return {
            "version": "2.10",
            "comm_lib_version": "2.28.9",
            "pg_config": {
                name: {"name": name, "desc": desc, "ranks": str(ranks)}
                for name, (desc, ranks) in sorted(self.groups.items())
            },
            "pg_status": {
                str(local): dict(zip(names, status)) for local, status in sorted(self.status.items())
            },
            "entries": [entry for entry in self.entries if keep(entry)],
        }


def as_json(dump):
    """The JSON form: numbers of the status are text, times that are not known 0, empty entries left out."""
    dump = json.loads(json.dumps(dump))
    for status in dump["pg_status"].values():
        for key in status:
            status[key] = str(status[key])
    for entry in dump["entries"]:
        entry.pop("frames")
        for key in ("time_discovered_started_ns", "time_discovered_completed_ns"):
            entry[key] = entry[key] or 0
    if not dump["entries"]:
        del dump["entries"]
    return dump


def write(case, says, dumps, form=2):
    folder = HERE / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / ".what").write_text(says + "\n")
    for rank, dump in dumps.items():
        if form == "json":
            (folder / f"nccl_trace_rank_{rank}.json").write_text(json.dumps(as_json(dump)) + "\n")
        else:
            (folder / f"nccl_trace_rank_{rank}").write_bytes(pickle.dumps(dump, protocol=form))


def three_dimensional():
    """tp 2 x dp 2 x pp 2. Groups are created by everybody in the same order, so a rank's ids are not their names."""
    groups = {"0": ("default_pg", list(range(8)))}
    number = 1
    for name, lists in [
        ("TENSOR", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("DATA", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("PIPELINE", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ]:
        for ranks in lists:
            groups[str(number)] = (name, ranks)
            number += 1
    return groups


def group_of(groups, desc, rank):
    return next(name for name, (d, ranks) in groups.items() if d == desc and rank in ranks)


def steps(rank, groups, number, pipeline=True):
    for _ in range(number):
        first = rank.rank < 4
        pp = group_of(groups, "PIPELINE", rank.rank)
        peer = (rank.rank + 4) % 8
        if pipeline:
            rank.batch(pp, [(first, peer)])
        for _ in range(2):
            rank.collective(group_of(groups, "TENSOR", rank.rank), size=4096)
        if pipeline:
            rank.batch(pp, [(not first, peer)])
        rank.collective(group_of(groups, "DATA", rank.rank), "_reduce_scatter_base", size=8192)
        rank.collective("0", size=1)


def late_tensor_rank():
    """Rank 5 does not come to its tensor-parallel all-reduce. Rank 4 waits for it there, stage 0 for stage 1."""
    groups = three_dimensional()
    ranks = [Rank(rank, groups) for rank in range(8)]
    for rank in ranks:
        steps(rank, groups, 6)
        tp = group_of(groups, "TENSOR", rank.rank)
        pp = group_of(groups, "PIPELINE", rank.rank)
        dp = group_of(groups, "DATA", rank.rank)
        peer = (rank.rank + 4) % 8
        if rank.rank < 4:
            rank.batch(pp, [(True, peer)])
            rank.collective(tp, size=4096)
            rank.collective(tp, size=4096)
            rank.batch(pp, [(False, peer)], "scheduled" if rank.rank in (0, 1) else "completed")
            if rank.rank in (2, 3):
                rank.collective(dp, "_reduce_scatter_base", "scheduled", 8192)
        else:
            rank.batch(pp, [(False, peer)])
            if rank.rank == 5:
                continue
            rank.collective(tp, state="scheduled" if rank.rank == 4 else "completed", size=4096)
            if rank.rank in (6, 7):
                rank.collective(tp, size=4096)
                rank.batch(pp, [(True, peer)])
                rank.collective(dp, "_reduce_scatter_base", "scheduled", 8192)
    return ranks


def main():
    ranks = late_tensor_rank()
    write("late-tensor-rank", late_tensor_rank.__doc__, {r.rank: r.dump() for r in ranks})
    write(
        "late-tensor-rank-pending",
        "The same, but the dumps hold only what is pending; rank 5's holds no operation that is.",
        {r.rank: r.dump(active_only=True) for r in ranks},
        4,
    )

    world = {"0": ("default_pg", [0, 1, 2, 3])}
    four = [Rank(rank, world, timing=True) for rank in range(4)]
    for rank in four:
        for _ in range(20):
            rank.collective("0")
    write("healthy", "Four ranks, everything done.", {r.rank: r.dump() for r in four}, "json")
    for rank in four:
        rank.collective("0", state="started")
    write("all-stuck", "All four are in one all-reduce that never ends.", {r.rank: r.dump() for r in four}, 5)

    # Names are hashes here, the world's group is not the one that matters, and the ids run the other way than the
    # names sort.
    hashed = {"0": ("default_pg", [0, 1, 2, 3]), "f00d": ("shards", [0, 1, 2, 3]), "beef": ("replicas", [0, 1, 2, 3])}
    four = [Rank(rank, hashed) for rank in range(4)]
    for rank in four:
        rank.collective("0")
        for _ in range(30):
            rank.collective("beef", "_allgather_base")
        for _ in range(9):
            rank.collective("f00d")
        if rank.rank != 2:
            rank.collective("f00d", state="scheduled")
    write(
        "only-status",
        "Rank 2 did not come to shards #10. Its dump holds no operation, only how far it came, under its own ids.",
        {r.rank: r.dump(active_only=True) for r in four},
        "json",
    )
    without = {r.rank: r.dump(active_only=True) for r in four if r.rank != 2}
    write("no-dump", "The same without the dump of rank 2: nobody can be accused.", without)

    four = [Rank(rank, world) for rank in range(4)]
    for rank in four:
        for _ in range(5):
            rank.collective("0")
        if rank.rank == 1:
            rank.collective("0", "_allgather_base", "scheduled")
        else:
            rank.collective("0", "all_reduce", "scheduled")
    write("desync", "Rank 1 calls an all-gather where the others call an all-reduce.", {r.rank: r.dump() for r in four})

    four = [Rank(rank, world) for rank in range(4)]
    for rank in four:
        for step in range(5):
            rank.collective("0", "all_to_all", size=100 * (rank.rank + 1) + step)
        if rank.rank != 3:
            rank.collective("0", "all_to_all", "scheduled", 100 * (rank.rank + 1))
    write(
        "all-to-all",
        "An all-to-all with another size on every rank, as it should be; rank 3 does not come.",
        {r.rank: r.dump() for r in four},
    )

    line = {"0": ("default_pg", list(range(5))), "1": ("PIPELINE", [4, 3, 2, 1, 0])}
    five = [Rank(rank, line) for rank in range(5)]
    for rank in five:
        for _ in range(3):
            if rank.rank > 0:
                rank.transfer("1", False, rank.rank - 1)
            if rank.rank < 4:
                rank.transfer("1", True, rank.rank + 1)
        if rank.rank > 1:
            rank.transfer("1", False, rank.rank - 1, "scheduled")
        if rank.rank == 0:
            rank.transfer("1", True, 1, "scheduled")
    write(
        "pipeline",
        "Five stages in a line; the group's ranks are numbered backwards. Stage 1 neither receives nor sends.",
        {r.rank: r.dump() for r in five},
    )

    two = {"0": ("default_pg", [0, 1]), "1": ("A", [0, 1]), "2": ("B", [0, 1])}
    pair = [Rank(rank, two) for rank in range(2)]
    for rank in pair:
        for _ in range(4):
            rank.collective("1")
            rank.collective("2")
        rank.collective("1" if rank.rank == 0 else "2", state="scheduled")
    write("cycle", "Rank 0 waits in A, rank 1 in B: each for the other.", {r.rank: r.dump() for r in pair})


if __name__ == "__main__":
    main()
