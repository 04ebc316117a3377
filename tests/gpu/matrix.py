#!/usr/bin/env python3
"""Shapes of jobs against kinds of faults, several jobs side by side on one machine, and one table of it all. See README.md.

Exit codes: 0 everything passed, 1 something did not or was not done, 2 usage.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu import layout, plan, report  # noqa: E402
from c4gpu.judge import describe, parse_faults  # noqa: E402
from c4gpu.lanes import Lanes, pack  # noqa: E402
from c4gpu.rank import LOCAL, NETWORK  # noqa: E402
from c4gpu.workers import WORKERS  # noqa: E402
from suite import interrupt, parse_numbers  # noqa: E402

KINDS = ("faults", "healthy")
ARCHIVE_BYTES = 15 << 20
# To reach: right first suspect in 99 of 100 fault runs.
RIGHT_SHARE = 0.99


def words(known):
    """A parser of words separated by commas."""

    def parse(text):
        chosen = text.split(",")
        if unknown := [word for word in chosen if word not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return parse


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", required=True, help="directory of the built programs and libraries")
    parser.add_argument("--out", required=True, help="directory for matrix.json and tasks.tar")
    parser.add_argument("--worker", choices=sorted(WORKERS), default="torch", help="the job to watch")
    parser.add_argument("--kinds", type=words(KINDS), default=list(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--own-gpus", action="store_true", help="a transformer with a GPU for each rank, instead of many ranks on each")
    known = (*layout.SHAPES, *layout.MODELS)
    parser.add_argument("--shapes", type=words(known), help=f"of {','.join(known)}; the first is broken most")
    parser.add_argument("--transports", type=words((LOCAL, NETWORK)), default=[LOCAL, NETWORK], help="with --own-gpus")
    parser.add_argument("--faults", type=parse_faults, default="all", help="as of suite.py: sleep,kill; default: all")
    parser.add_argument("--shake-out", action="store_true", help="only a little of everything")
    parser.add_argument("--repeat", type=int, default=5, help="how often each fault hits the first shape")
    parser.add_argument("--other-repeat", type=int, default=1, help="and the other shapes")
    parser.add_argument("--healthy", type=int, default=1, help="healthy jobs of each shape")
    parser.add_argument("--ranks", type=int, default=8, help="of each job that shares GPUs")
    parser.add_argument("--devices", type=parse_numbers, default="0", help="GPUs, such as 0,1")
    parser.add_argument("--lanes", type=int, default=2, help="jobs at a time; they take the GPUs in turn")
    parser.add_argument("--deadline", type=float, default=3600, help="seconds after which no new work is begun")
    parser.add_argument("--compute-ms", type=float, default=15.0, help="compute part of an iteration")
    parser.add_argument("--bucket-kib", type=int, default=2048, help="size of the large gradient buckets")
    parser.add_argument("--period-ms", type=float, default=60.0, help="what an iteration is thought to take, for planning")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the ranks; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the tasks and end")
    options = parser.parse_args(arguments)
    if options.lanes < 1 or options.repeat < 0 or options.other_repeat < 0 or options.healthy < 0:
        parser.error("at least one lane, and no negative numbers")
    if options.shapes is None:
        options.shapes = list(layout.MODELS if options.own_gpus else layout.SHAPES)
    options.bin, options.out = os.path.abspath(options.bin), os.path.abspath(options.out)
    return options


def tasks_of(options):
    """The tasks that were asked for."""
    period = options.period_ms / 1e3
    counts = (options.repeat, options.other_repeat, options.healthy)
    sites = [plan.Site(options.ranks, NETWORK, False, period)]
    if options.own_gpus:
        sites = [plan.Site(len(options.devices), transport, True, period) for transport in options.transports]
    if options.shake_out:
        return [task for site in sites for task in plan.shake_out(options.shapes, site)]
    if options.own_gpus:
        return plan.own_gpus(options.kinds, options.faults, options.shapes, *counts, sites)
    return plan.shared_gpus(options.kinds, options.faults, options.shapes, *counts, sites[0])


def summarise(outcomes, not_begun):
    """Everything in numbers."""
    rows, strays, healthy, not_done = [], [], [], list(not_begun)
    for outcome in outcomes:
        name, phases = outcome["task"], outcome["phases"]
        faults, one = phases.get("faults", {}), phases.get("healthy")
        rows += [{**row, "task": name} for row in faults.get("rows", [])]
        strays += [{**finding, "task": name} for finding in faults.get("strays", [])]
        not_done += [f"{name}: {fault}" for fault in faults.get("not_done", [])]
        if one:
            healthy.append({**one, "task": name})
            strays += [{**finding, "task": name} for finding in one.get("findings", [])]
        if not faults and not one:
            not_done.append(name)
    right = sum(bool(row.get("right_rank")) for row in rows)
    return {
        "fault_runs": len(rows),
        "right_rank": right,
        "right_kind": sum(bool(row.get("right_kind")) for row in rows),
        "in_time": sum(bool(row.get("in_time")) for row in rows),
        "recovered": sum(bool(row.get("recovered")) for row in rows),
        "healthy_minutes": sum(one.get("seconds", 0.0) for one in healthy) / 60,
        "healthy_minutes_before_faults": sum(row.get("healthy_seconds", 0.0) for row in rows) / 60,
        "false_alarms": strays,
        "not_done": not_done,
        "passed": bool(rows or healthy)
        and right >= RIGHT_SHARE * len(rows)
        and all(row["passed"] for row in rows)
        and all(one["passed"] for one in healthy)
        and not strays
        and not not_done,
        "rows": rows,
        "healthy": healthy,
    }


def text_of(summary):
    """The tables a person reads."""
    parts = []
    if summary["rows"]:
        parts.append(report.totals(summary["rows"], ("shape", "fault")))
        wrong = [row for row in summary["rows"] if not row["passed"]]
        parts += [f"{row['task']}: {row['fault']} on rank {row['rank']}: {report.short(row)[:300]}" for row in wrong]
    if summary["healthy"]:
        parts.append(report.healthy(summary["healthy"]))
    for finding in summary["false_alarms"]:
        parts.append(f"FALSE ALARM {finding['task']}: {describe(finding)}: {finding.get('summary', '')[:300]}")
    if summary["not_done"]:
        parts.append(f"not done: {'; '.join(summary['not_done'])}")
    figures = ("fault_runs", "right_rank", "right_kind", "in_time", "recovered")
    parts.append(", ".join(f"{name.replace('_', ' ')} {summary[name]}" for name in figures))
    between = summary["healthy_minutes_before_faults"]
    parts.append(
        f"healthy job-minutes {summary['healthy_minutes']:.1f}, and {between:.1f} before faults, false alarms {len(summary['false_alarms'])}"
    )
    return "\n\n".join(parts)


def main():
    options = parse_arguments()
    tasks = tasks_of(options)
    if options.list:
        for task in tasks:
            print(f"{task.name:32} {task.seconds:5.0f} s  {' '.join(task.arguments)}")
        print(f"{sum(task.seconds for task in tasks) / options.lanes / 60:.1f} minutes on {options.lanes} lanes")
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    begun = time.monotonic()
    os.makedirs(options.out, exist_ok=True)
    options.work = tempfile.mkdtemp(prefix="c4matrix-")
    lanes = Lanes(options, begun + options.deadline, lambda text: print(f"[{time.monotonic() - begun:6.1f}s] {text}", flush=True))
    try:
        lanes.work([task for task in tasks if not task.alone], options.lanes)
        lanes.work([task for task in tasks if task.alone], 1)
    except KeyboardInterrupt as error:
        print(f"interrupted ({error})")
        lanes.not_begun.append("interrupted")
    summary = summarise(lanes.outcomes, lanes.not_begun)
    summary["arguments"], summary["seconds"] = sys.argv[1:], time.monotonic() - begun
    with open(os.path.join(options.out, "matrix.json"), "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1, default=str)
    left_out = pack(options.work, os.path.join(options.out, "tasks.tar"), ARCHIVE_BYTES)
    shutil.rmtree(options.work, ignore_errors=True)
    print(text_of(summary))
    if left_out:
        print(f"{left_out} files found no room in tasks.tar")
    print("passed" if summary["passed"] else "FAILED")
    return 0 if summary["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
