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


def next_rank(snapshot, rank, ranks):
    """The rank this one sends most to, which is the next in the ring as far as recorders show."""
    largest = max((c for c in snapshot.get("communicators", [])), key=lambda c: c.get("size", 0), default={})
    volume = {}
    for conn in snapshot.get("connections", []):
        if conn.get("is_send") and conn.get("comm_slot") == largest.get("slot"):
            volume[conn.get("peer")] = volume.get(conn.get("peer"), 0) + conn.get("bytes", 0)
    volume = {peer: sent for peer, sent in volume.items() if isinstance(peer, int) and 0 <= peer < ranks and peer != rank}
    return max(volume, key=volume.get) if volume else (rank + 1) % ranks


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
