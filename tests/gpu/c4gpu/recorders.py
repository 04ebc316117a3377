"""What `c4ctl recorder show --json` says of a flight recorder, boiled down to what a person checks first."""

import json


def read(processes, ctl, path):
    """(snapshot or None, reason)."""
    code, out, err = processes.run([ctl, "--json", "recorder", "show", path])
    try:
        document = json.loads(out)
    except json.JSONDecodeError:
        return None, f"exit {code}: {err.strip() or out.strip()[:300]}"
    # Some fields may be wrapped around the snapshot itself.
    for key in ("snapshot", "recorder"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            return {**document[key], "liveness": document.get("liveness")}, ""
    return document, ""


def summary(snapshot):
    """The figures that show whether everything arrives."""
    identity = snapshot.get("identity", {})
    labels = identity.get("labels", {})
    operations = snapshot.get("operations", [])
    connections = snapshot.get("connections", [])
    communicators = snapshot.get("communicators", [])
    ended = [op for op in operations if op.get("completed_ns") is not None]
    on_gpu = [op for op in operations if op.get("started_on_gpu")]
    return {
        "rank": int(labels["RANK"]) if str(labels.get("RANK", "")).isdigit() else None,
        "pid": identity.get("pid"),
        "nccl": identity.get("nccl_version"),
        "api": identity.get("profiler_api"),
        "profiling": snapshot.get("profiling"),
        "mask": snapshot.get("event_mask"),
        "communicators": [
            {key: comm.get(key) for key in ("name", "size", "rank", "finalized", "enqueued", "started", "completed")}
            for comm in communicators
        ],
        "operations": len(operations),
        "operations_done": len(ended),
        "started_on_gpu": len(on_gpu),
        "algorithms": sorted({f"{op.get('algorithm')}/{op.get('protocol')}" for op in operations}),
        "connections": len(connections),
        "steps_done": sum(conn.get("steps_done", 0) for conn in connections),
        "timed_steps": sum(conn.get("timed_steps", 0) for conn in connections),
        "bytes": sum(conn.get("bytes", 0) for conn in connections),
        "send_peers": sorted({conn.get("peer") for conn in connections if conn.get("is_send")}),
        "losses": {name: count for name, count in (snapshot.get("losses") or {}).items() if count},
    }


def read_all(processes, ctl, paths):
    """{rank: snapshot} of the newest process of each rank."""
    newest = {}
    for path in paths:
        snapshot, _ = read(processes, ctl, path)
        identity = (snapshot or {}).get("identity", {})
        rank = str(identity.get("labels", {}).get("RANK", ""))
        if rank.isdigit() and (int(rank) not in newest or started(newest[int(rank)]) < started(snapshot)):
            newest[int(rank)] = snapshot
    return newest


def started(snapshot):
    """A number that is larger for processes that began later."""
    return snapshot.get("identity", {}).get("created_ns") or 0


def edges(snapshots):
    """{(rank, rank): bytes sent} over all communicators, from {rank: snapshot}; ranks are those of the job."""
    members = {}
    for rank, snapshot in snapshots.items():
        for comm in snapshot.get("communicators", []):
            members.setdefault(comm.get("id"), {})[comm.get("rank")] = rank
    sent = {}
    for rank, snapshot in snapshots.items():
        ids = {comm.get("slot"): comm.get("id") for comm in snapshot.get("communicators", []) if not comm.get("finalized")}
        for conn in snapshot.get("connections", []):
            peer = members.get(ids.get(conn.get("comm_slot")), {}).get(conn.get("peer"))
            if conn.get("is_send") and peer is not None and peer != rank:
                sent[rank, peer] = sent.get((rank, peer), 0) + conn.get("bytes", 0)
    return sent


def busiest_peer(sent, rank):
    """The rank this one sends most to, or None; the first where no bytes are told (profiler API before v4)."""
    mine = {peer: count for (source, peer), count in sent.items() if source == rank}
    return max(mine, key=mine.get) if mine else None


def line(figures):
    """One line of it."""
    comms = figures["communicators"]
    counts = "; ".join(
        f"size {c['size']} {c['enqueued']}/{c['started']}/{c['completed']}{' final' if c['finalized'] else ''}" for c in comms
    )
    return (
        f"rank {figures['rank']}: api v{figures['api']} mask {figures['mask']} profiling {figures['profiling']}; "
        f"enqueued/started/completed {counts or 'none'}; operations {figures['operations']} "
        f"({figures['started_on_gpu']} seen on the GPU, {figures['operations_done']} done); "
        f"connections {figures['connections']} steps {figures['steps_done']} timed {figures['timed_steps']}; "
        f"losses {figures['losses'] or 'none'}"
    )
