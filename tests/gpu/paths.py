#!/usr/bin/env python3
"""Planned source ports under real NCCL: libc4-path.so preloaded into a job whose ranks talk over sockets.

Jobs with and without a plan take turns. With one, every connection between ranks has to have a planned port in /proc/net/tcp, the
sums have to be right, and an iteration has to take as long as without. A table of rubbish has to be the same as none.

Exit codes: 0 all of that, 1 something was not, 2 usage.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from c4gpu.cluster import Place  # noqa: E402
from c4gpu.observe import read_pair  # noqa: E402
from c4gpu.processes import Processes  # noqa: E402
from c4gpu.report import mark, number, table  # noqa: E402
from c4gpu.workers import WORKERS  # noqa: E402

# Below the ports that the kernel hands out by itself.
PATHS = (range(20000, 20512), range(20512, 21024))
WARM_ITERATIONS = 20
TCP_ESTABLISHED = "01"
PAUSE = 0.02


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", required=True, help="directory of the built programs and libraries")
    parser.add_argument("--out", required=True, help="directory for paths.json")
    parser.add_argument("--worker", choices=("nccl", "ringjob"), default="nccl", help="ringjob needs no GPU, and tests this script")
    parser.add_argument("--nccl", help="libnccl.so.2; needed by the worker nccl")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--compute-ms", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=4, help="jobs with a plan, and as many without")
    parser.add_argument("--timeout", type=float, default=90.0, help="seconds for each job")
    options = parser.parse_args(arguments)
    if options.worker == "nccl" and not options.nccl:
        parser.error("--nccl is missing: which library?")
    return options


def connections(text):
    """Established connections in a text of /proc/net/tcp: pairs of a local port and a remote one."""
    rows = (line.split() for line in text.splitlines()[1:])
    ports = ([int(row[column].rpartition(":")[2], 16) for column in (1, 2)] for row in rows if row[3] == TCP_ESTABLISHED)
    return {tuple(pair) for pair in ports}


def inodes(pids):
    """Inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        try:
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(descriptor.path)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
        except OSError:
            pass
    return found


def between(text, own):
    """The same, of connections both of whose ends are sockets in `own`, each once: the smaller port first."""
    lines = text.splitlines()
    mine = "\n".join([lines[0], *(line for line in lines[1:] if line.split()[9] in own)])
    pairs = connections(mine)
    return {tuple(sorted(pair)) for pair in pairs if pair[::-1] in pairs}


def planned(pairs, paths=PATHS):
    """How many of these connections have a planned port at one end, and how many take each path."""
    of_path = [sum(any(port in path for port in pair) for pair in pairs) for path in paths]
    return sum(of_path), of_path


def run_job(options, processes, work, name, extra):
    """One job; returns what was seen of it."""
    place = Place(os.path.join(work, name))
    command = WORKERS[options.worker](options).command(place, options.iterations)
    ranks = []
    for rank in range(options.ranks):
        identity = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": options.ranks, "C4_FAULT_DIR": place.path("faults")}
        ranks.append(processes.start(f"{name}-rank-{rank}", command, {**identity, **extra}))
    path = place.path("faults/rank-0.iteration")
    seen, first, last = set(), None, None
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
        last = read_pair(path) or last
        if last and last[0] >= WARM_ITERATIONS:
            first = first or last
            with open("/proc/net/tcp", encoding="ascii") as file:
                seen |= between(file.read(), inodes(rank.pid for rank in ranks))
        time.sleep(PAUSE)
    codes = [rank.poll() for rank in ranks]
    last = read_pair(path) or last
    for rank in ranks:
        rank.terminate()
    timed = first and last[0] > first[0]
    count, of_path = planned(seen)
    return {
        "job": name,
        "exit_codes": codes,
        "iterations": last[0] if last else 0,
        "ms": (last[1] - first[1]) * 1e3 / (last[0] - first[0]) if timed else None,
        "connections": len(seen),
        "planned": count,
        "of_path": of_path,
    }


def judge(row, wants_plan):
    """Whether a job went as it should. Its ranks check the sums, and exit with something else than 0 where one is wrong."""
    ended = set(row["exit_codes"]) == {0}
    if not wants_plan:
        return ended and row["connections"] > 0 and row["planned"] == 0
    shares = row["of_path"]
    return ended and row["connections"] > 0 and row["planned"] == row["connections"] and min(shares) > 0


def cost(rows):
    """By what part an iteration takes longer with a plan, and how much jobs without one differ; None without both."""
    taken = {wanted: [row["ms"] for row in rows if row["plan"] == wanted and row["ms"]] for wanted in ("yes", "no")}
    if not all(taken.values()):
        return None
    usual = statistics.median(taken["no"])
    return {
        "difference": statistics.median(taken["yes"]) / usual - 1.0,
        "noise": (max(taken["no"]) - min(taken["no"])) / usual,
    }


def report(rows, costs):
    """The tables."""
    heads = ["job", "plan", "connections", "planned", "on each path", "iterations", "ms each", "passed"]
    lines = [
        [
            row["job"],
            row["plan"],
            row["connections"],
            row["planned"],
            " ".join(map(str, row["of_path"])),
            row["iterations"],
            number(row["ms"], 3),
            mark(row["passed"]),
        ]
        for row in rows
    ]
    text = table(heads, lines)
    if costs:
        text += f"\n\nan iteration with a plan takes {costs['difference']:+.2%}; jobs without one differ by {costs['noise']:.2%}"
    return text


def main():
    options = parse_arguments()
    os.makedirs(options.out, exist_ok=True)
    shim = os.path.abspath(os.path.join(options.bin, "libc4_path.so"))
    if not os.path.exists(shim):
        sys.exit(f"{shim}: no such library")
    work = tempfile.mkdtemp(prefix="c4paths-")
    processes = Processes(os.path.join(work, "logs"))
    tables = {name: os.path.join(work, name) for name in ("plan", "rubbish")}
    write = [os.path.join(options.bin, "c4-paths"), "--table", tables["plan"], "--to", "127.0.0.1"]
    for path in PATHS:
        write += ["--path", f"{path.start}-{path.stop - 1}"]
    code, _, why = processes.run(write)
    if code != 0:
        sys.exit(f"no table: {why}")
    with open(tables["rubbish"], "wb") as file:
        file.write(b"C4" * 500)
    rows = []
    try:
        kinds = ["no", "yes"] * options.rounds + ["rubbish"]
        for number_, kind in enumerate(kinds):
            extra = {} if kind == "no" else {"LD_PRELOAD": shim, "C4_PATH_TABLE": tables["plan" if kind == "yes" else "rubbish"]}
            row = run_job(options, processes, work, f"{number_:02}-{kind}", extra)
            row |= {"plan": kind, "passed": judge(row, kind == "yes")}
            rows.append(row)
            print(f"{row['job']}: {row['planned']} of {row['connections']} connections planned, {number(row['ms'], 3)} ms", flush=True)
    finally:
        processes.stop_all()
        if all(row["passed"] for row in rows):
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"logs are in {work}")
    costs = cost(rows)
    cheap = costs is not None and costs["difference"] <= max(costs["noise"], 0.01)
    with open(os.path.join(options.out, "paths.json"), "w", encoding="utf-8") as file:
        json.dump({"rows": rows, "cost": costs}, file, indent=1)
    passed = cheap and all(row["passed"] for row in rows)
    print(f"\n{report(rows, costs)}\n{'passed' if passed else 'FAILED'}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
