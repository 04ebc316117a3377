"""What the plugin costs an all-reduce, measured where it can be: in one run, in turns.

A plugin is loaded when a process starts, so the variants are groups of processes that all live at once and take turns;
whatever the machine does in the meantime happens to all of them. The same rank of each variant runs on the same CPUs. Each
turn is compared with the turn of the group without a plugin in the same round. Where memory and threads came to lie stays
with a process for its life and changes latencies by several percent, so all groups are started anew several times, and what
counts is the median over these starts; a second group without a plugin shows how much of a difference is noise. Other plugins
can be put beside it (`--beside NAME=LIBRARY`).
"""

import json
import os
import random
import select
import statistics
import subprocess
import sys
import time

from .cluster import ClusterError, plugin_path
from .processes import tail
from .report import table
from .workers import HERE

BASE = "none"
VARIANTS = {
    BASE: {"NCCL_PROFILER_PLUGIN": "none"},
    "none again": {"NCCL_PROFILER_PLUGIN": "none"},
    "default": {},
    "all timed": {"C4_STEP_SAMPLING": "1"},
    "few steps": {"C4_STEP_STATE": "off"},
    "no steps": {"C4_STEP_SAMPLING": "0", "C4_STEP_STATE": "off"},
    "no kernel events": {"C4_KERNEL_EVENTS": "off"},
    "mask 0": {"C4_PROFILER": "off"},
}
# bytes: (operations a turn, a turn in how many rounds)
PLAN = {4 << 10: (200, 1), 1 << 20: (40, 2), 64 << 20: (4, 4)}
MODES = ("latency", "stream")
CPUS_A_RANK = 4
TARGET_RATIO = 1.02
START_TIMEOUT, TURN_TIMEOUT = 150.0, 30.0


class Group:
    """The ranks of one variant."""

    def __init__(self, run, name, settings, ranks, mps, start):
        self.name, self.ranks = name, ranks
        self.folder = os.path.join(run.work, "cost", f"{name.replace(' ', '-')}-{start}")
        recorders = os.path.join(run.shared, "cost", name.replace(" ", "-"))
        for path in (self.folder, recorders):
            os.makedirs(path, exist_ok=True)
        environment = {
            "NCCL_PROFILER_PLUGIN": plugin_path(run.options.bin),
            "C4_RECORDER_DIR": recorders,
            "C4_JOB": f"cost-{name.replace(' ', '-')}",
            "OMP_NUM_THREADS": 1,
            **mps.environment,
            **run.options.env,
            **settings,
        }
        self.children = [self._spawn(run, rank, environment) for rank in range(ranks)]

    def _spawn(self, run, rank, environment):
        extra = {
            **environment,
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.ranks,
            "C4_COST_CPUS": cpus(rank),
            "C4_COST_DEVICE": run.options.devices[rank % len(run.options.devices)],
            "C4_COST_TRANSPORT": run.options.transport,
        }
        with open(self.log(rank), "wb") as log:
            return subprocess.Popen(
                [sys.executable, os.path.join(HERE, "costworker.py"), os.path.join(self.folder, "meet")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                env=run.processes.environment(extra),
                start_new_session=True,
            )

    def log(self, rank):
        """A rank's output."""
        return os.path.join(self.folder, f"rank-{rank}.log")

    def answers(self, timeout):
        """One answer from each rank."""
        end = time.monotonic() + timeout
        answers = []
        for rank, child in enumerate(self.children):
            # One line a command, so nothing can be left over in a buffer.
            ready, _, _ = select.select([child.stdout], [], [], max(end - time.monotonic(), 0.0))
            line = child.stdout.readline() if ready else ""
            if not line:
                why = "ended" if child.poll() is not None else f"did not answer in {timeout:.0f} s"
                raise ClusterError(f"cost: rank {rank} of '{self.name}' {why}:\n{tail(self.log(rank))}")
            answers.append(json.loads(line))
        return answers

    def ask(self, command, timeout=TURN_TIMEOUT):
        """The ranks' answers to a command."""
        for child in self.children:
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
        return self.answers(timeout)

    def turn(self, size, count, mode):
        """Microseconds of an operation: median over ranks."""
        return statistics.median(answer["us"] for answer in self.ask({"bytes": size, "count": count, "mode": mode}))

    def close(self):
        """Lets the ranks end, or makes them."""
        for child in self.children:
            try:
                child.stdin.close()
            except OSError:
                pass
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)


def execute(run, worker, mps):
    """Runs the phase; returns whether the default costs no more than it may."""
    if not worker.needs_gpu:
        run.say("cost: only real NCCL has a cost worth knowing: skipped")
        return True
    options = run.options
    names = [name for name in VARIANTS if not options.variants or name in options.variants]
    if BASE not in names:
        names.insert(0, BASE)
    names += options.beside
    starts = []
    ranks = options.cost_ranks or options.ranks
    run.results["phases"]["cost"] = {"ranks": ranks, "starts": starts}
    agent = start_agent(run)
    slowest = 0.0
    try:
        for number in range(options.starts):
            if number and run.remaining() < 20 + 1.3 * slowest:
                break
            begun = time.monotonic()
            starts.append(one_start(run, names, ranks, mps, number))
            slowest = max(slowest, time.monotonic() - begun)
            run.say(f"cost: start {number + 1} of {options.starts} done in {time.monotonic() - begun:.0f} s")
    finally:
        if agent is not None:
            agent.terminate()
    summaries = summarise(starts, names)
    run.results["phases"]["cost"]["summary"] = summaries
    print(report(summaries))
    judged = [s for s in summaries if s["variant"] == "default" and s["bytes"] == 4096 and s["mode"] == "latency"]
    passed = bool(judged) and judged[0]["ratio"] <= TARGET_RATIO
    if judged:
        run.say(f"cost: default mask on 4 KiB: {percent(judged[0]['ratio'])}: {'passed' if passed else 'FAILED'} (at most +2 %)")
    return passed


def one_start(run, names, ranks, mps, number):
    """Starts all groups, measures, ends them; returns `samples[mode][bytes][variant]`."""
    samples = {}
    groups = []
    try:
        for name in names:
            beside = {"NCCL_PROFILER_PLUGIN": run.options.beside.get(name)}
            groups.append(Group(run, name, VARIANTS.get(name, beside), ranks, mps, number))
        for group in groups:
            group.answers(min(START_TIMEOUT, run.remaining()))
        measure(run, groups, samples, number)
    finally:
        for group in groups:
            group.close()
    return samples


def cpus(rank):
    """The CPUs of a rank, the same for all variants: only one of them runs at a time. None where there are too few."""
    available = sorted(os.sched_getaffinity(0))
    chosen = available[rank * CPUS_A_RANK : (rank + 1) * CPUS_A_RANK]
    return ",".join(str(cpu) for cpu in chosen) if len(chosen) == CPUS_A_RANK else ""


def start_agent(run):
    """An agent that reads the recorders meanwhile, as on a real node; None if there is none to start."""
    path = os.path.join(run.options.bin, "c4-agent")
    if not os.access(path, os.X_OK) or run.options.no_cost_agent:
        return None
    config = os.path.join(run.work, "cost-agent.yaml")
    with open(config, "w", encoding="utf-8") as file:
        # A controller that is not there: windows are spooled and dropped, as during an outage.
        recorders = json.dumps(os.path.join(run.shared, "cost", "default"))
        file.write(f"node: cost\ncontroller: http://127.0.0.1:9\nrecorder_dir: {recorders}\nhttp: null\n")
    os.makedirs(os.path.join(run.shared, "cost", "default"), exist_ok=True)
    agent = run.processes.start("cost-agent", [path, "--config", config])
    if agent.wait(1.0) is not None:
        run.say(f"cost: the agent ended, going on without it:\n{tail(agent.log_path)}")
        return None
    return agent


def measure(run, groups, samples, number):
    """Rounds until there are enough or time is up. `samples[mode][bytes][variant]` are lists, aligned by round."""
    order = random.Random(number)
    slowest = 0.0
    for round_number in range(run.options.rounds):
        if run.remaining() < 15 + 2 * slowest:
            break
        begun = time.monotonic()
        for size, (count, every) in PLAN.items():
            if round_number % every:
                continue
            for mode in MODES:
                turns = groups[:]
                order.shuffle(turns)
                for group in turns:
                    us = group.turn(size, count, mode)
                    samples.setdefault(mode, {}).setdefault(size, {}).setdefault(group.name, []).append(us)
        slowest = max(slowest, time.monotonic() - begun)


def quartiles(values):
    """(lower quartile, median, upper quartile)."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def summarise(starts, names):
    """One entry for each mode, size and variant; quartiles are over the starts."""
    out = []
    for mode in MODES:
        for size in PLAN:
            for name in names:
                medians, ratios = [], []
                for samples in starts:
                    variants = samples.get(mode, {}).get(size, {})
                    if variants.get(name):
                        medians.append(statistics.median(variants[name]))
                        ratios.append(statistics.median(v / b for v, b in zip(variants[name], variants[BASE])))
                if not ratios:
                    continue
                low, middle, high = quartiles(medians)
                ratio_low, ratio, ratio_high = quartiles(ratios)
                out.append(
                    {
                        "mode": mode,
                        "bytes": size,
                        "variant": name,
                        "starts": len(ratios),
                        "us": middle,
                        "us_quartiles": [low, high],
                        "ratio": ratio,
                        "ratio_quartiles": [ratio_low, ratio_high],
                        # Half the width of a notch of a box plot: about 95 % for the median.
                        "ratio_error": 1.57 * (ratio_high - ratio_low) / len(ratios) ** 0.5,
                    }
                )
    return out


def percent(ratio):
    """A ratio as a difference."""
    return f"{(ratio - 1) * 100:+.2f} %"


def report(summaries):
    """The table a person reads."""
    rows = [
        [
            s["mode"],
            s["bytes"],
            s["variant"],
            s["starts"],
            f"{s['us']:.1f}",
            f"{s['us_quartiles'][0]:.1f}..{s['us_quartiles'][1]:.1f}",
            percent(s["ratio"]),
            f"± {s['ratio_error'] * 100:.2f}",
            f"{percent(s['ratio_quartiles'][0])}..{percent(s['ratio_quartiles'][1])}",
        ]
        for s in summaries
    ]
    headers = ["mode", "bytes", "variant", "starts", "median us", "quartiles", "against none", "95 %", "quartiles of it"]
    return table(headers, rows)
