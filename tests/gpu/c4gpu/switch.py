"""What the plugin costs an all-reduce, measured within one process by switching it on and off (tests/switch).

Two processes that run the same program differ by more than the plugin costs a small all-reduce: where memory and threads came to
lie stays with a process for its life. So the same process measures with and without, in short blocks ordered on-off-off-on
and off-on-on-off in turn, so that neither a drift nor what a block leaves behind favours one side. Each such quad gives one
ratio. Their median says what most blocks cost, and the sum of all blocks with against the sum of all without what they cost together:
that is what counts, since a plugin may let some operations pay for all (kernel events come in runs). Both have confidence intervals from
resampling. Groups of ranks are started anew a few times,
and a group whose plugin is idle (its switch changes nothing) shows what the method itself takes for a difference.

Other profiler plugins of the same interface can be put beside it (`--beside NAME=LIBRARY`): theirs is the same method.

What cannot be switched is what the plugin costs by being there; cost.py compares processes for that.
"""

import math
import os
import random
import statistics
import time

from .cluster import ClusterError, plugin_path
from .cost import Group, percent, start_agent
from .report import table

SWITCH_FILE = "libc4_profiler_switch.so"
VARIANTS = {
    "default": {},
    "all timed": {"C4_STEP_SAMPLING": "1"},
    "idle": {"C4_PROFILER": "off"},
}
# What the parts cost, and how much of it is NCCL's own: a plugin that only counts its calls, under masks made of the bits for
# collectives and sends (6), network operations (8), network steps (16) and kernels (64). Measured where they are asked for.
COUNTING_FILE = "libc4_chained_profiler.so"
PARTS = {
    "no kernel events": {"C4_KERNEL_EVENTS": "off"},
    "all kernel events": {"C4_KERNEL_EVENTS": "on"},
    "few steps": {"C4_STEP_STATE": "off"},
    "no steps": {"C4_STEP_SAMPLING": "0", "C4_STEP_STATE": "off"},
    **{f"counting {mask}": {"C4_CHAINED_MASK": str(mask)} for mask in (94, 78, 30, 14, 6)},
}
CONTROL = "idle"
QUADS = ([1, 0, 0, 1], [0, 1, 1, 0])
RESAMPLES = 1000
# How long a block should last: long against a clock reading, short against what drifts.
BLOCK_SECONDS = 0.004
TRAIN = "train"
# What a plugin does may depend on the pace of the job (kernel events come in runs while operations come thick and fast), which is half
# of what it should be where the plugin is switched off for half of the time, and less where groups take turns. So in this mode one group goes
# on alone, with the plugin for eight of nine blocks, and what comes before the plugin can know the pace does not count.
STEADY = "steady"
STEADY_BLOCKS = [1] * 8 + [0, 0] + [1] * 8
STEADY_LEAD_SECONDS = 2.5
MODES = ("latency", "stream", "graph", STEADY, TRAIN)
MAX_OPERATIONS = 64  # in a block
# A command is answered within this time, so that groups and sizes alternate.
CHUNK_SECONDS = 1.0
# Targets by size: as little as this.
TARGETS = {4 << 10: 1.02, 1 << 20: 1.01, 64 << 20: 1.01}
GIGA = 1e9


def execute(run, worker, mps):
    """Runs the phase; returns whether the default mask costs no more than it may."""
    if not worker.needs_gpu:
        run.say("switch: only real NCCL has a cost worth knowing: skipped")
        return True
    names = [name for name in VARIANTS | PARTS if name in (run.options.variants or VARIANTS)] + list(run.options.beside)
    ranks = run.options.cost_ranks or run.options.ranks
    starts = []
    result = run.results["phases"]["switch"] = {"ranks": ranks, "transport": run.options.transport, "starts": starts}
    agent = start_agent(run)
    try:
        for number in range(run.options.switch_starts):
            begun = time.monotonic()
            if number and run.remaining() < 1.2 * result["start_seconds"] + 10:
                break
            starts.append(one_start(run, names, ranks, mps, number))
            result["start_seconds"] = time.monotonic() - begun
            run.say(f"switch: start {number + 1} of {run.options.switch_starts} done in {time.monotonic() - begun:.0f} s")
            run.save()
    finally:
        if agent is not None:
            agent.terminate()
    result["summary"] = summaries = summarise(starts, names, ranks)
    print(report(summaries))
    judged = [s for s in summaries if s["variant"] == "default" and s["mode"] == STEADY and s["bytes"] in TARGETS]
    for one in judged:
        one["passed"] = one["whole"] <= TARGETS[one["bytes"]]
        word = "passed" if one["passed"] else "FAILED"
        run.say(f"switch: default mask on {one['bytes']} bytes: {percent(one['whole'])}: {word}")
    return bool(judged) and all(one["passed"] for one in judged)


def one_start(run, names, ranks, mps, number):
    """Starts all groups, measures, ends them; returns {(mode, bytes, variant): [[on us], [off us], [log ratios]]} as a list."""
    switch = os.path.abspath(os.path.join(run.options.bin, SWITCH_FILE))
    if not os.path.exists(switch):
        raise ClusterError(f"{switch} is missing")
    behind = {
        "NCCL_PROFILER_PLUGIN": switch,
        "C4_COST_SWITCH": switch,
        "C4_SWITCHED_PROFILER": plugin_path(run.options.bin),
    }
    counting = os.path.abspath(os.path.join(run.options.bin, COUNTING_FILE))
    others = {**{name: counting for name in PARTS if name.startswith("counting")}, **run.options.beside}
    groups, cells = [], {}
    try:
        for name in names:
            other = {"C4_SWITCHED_PROFILER": others[name]} if name in others else {}
            settings = {**behind, **other, **(VARIANTS | PARTS).get(name, {})}
            groups.append(Group(run, name, settings, ranks, mps, f"switch-{number}"))
        for group in groups:
            group.answers(min(150.0, run.remaining()))
        # A step of training has no one size.
        plan = [(size, mode) for size in run.options.sizes for mode in run.options.modes if mode != TRAIN]
        for size, mode in plan + ([(0, TRAIN)] if TRAIN in run.options.modes else []):
            measured = measure_steadily(run, groups, size) if mode == STEADY else measure(run, groups, size, mode)
            for name, samples in measured.items():
                cells[mode, size, name] = samples
    finally:
        for group in groups:
            group.close()
    return [{"mode": mode, "bytes": size, "variant": name, **samples} for (mode, size, name), samples in cells.items()]


def measure(run, groups, size, mode):
    """All groups in turns, a chunk of quads each, until each had its time: {variant: samples}."""
    samples, plans = {}, {}
    for group in groups:
        us = statistics.median(answer["us"] for answer in group.ask({"bytes": size, "count": 5, "mode": mode, "fresh": True}))
        count = max(1, min(MAX_OPERATIONS, round(BLOCK_SECONDS * 1e6 / us)))
        quads = max(1, round(CHUNK_SECONDS * 1e6 / (4 * (count + 3) * us)))
        plans[group] = count, quads
        samples[group.name] = empty_cell(count)
    end = time.monotonic() + run.options.cell_seconds * len(groups)
    first = True
    while first or (time.monotonic() < end and run.remaining() > 15):
        first = False
        for group, (count, quads) in plans.items():
            blocks = [on for index in range(quads) for on in QUADS[index % 2]]
            answers = group.ask({"bytes": size, "count": count, "mode": mode, "blocks": blocks}, 30.0 + 10 * CHUNK_SECONDS)
            add(samples[group.name], blocks, answers)
    return samples


def measure_steadily(run, groups, size):
    """One group after the other, each for its time: {variant: samples}."""
    samples = {}
    for group in groups:
        command = {"bytes": size, "mode": STEADY}
        group.ask({**command, "count": 5, "fresh": True})
        us = statistics.median(answer["us"] for answer in group.ask({**command, "count": 500}))
        count = max(1, min(MAX_OPERATIONS, round(BLOCK_SECONDS * 1e6 / us)))
        times = max(1, round(CHUNK_SECONDS * 1e6 / (len(STEADY_BLOCKS) * (count + 3) * us)))
        command |= {"count": count, "blocks": STEADY_BLOCKS * times}
        samples[group.name] = empty_cell(count)
        end = time.monotonic() + STEADY_LEAD_SECONDS
        while time.monotonic() < end:
            group.ask(command, 30.0 + 10 * CHUNK_SECONDS)
        end = time.monotonic() + run.options.cell_seconds
        while time.monotonic() < end and run.remaining() > 15:
            answers = group.ask(command, 30.0 + 10 * CHUNK_SECONDS)
            add(samples[group.name], command["blocks"], answers, len(STEADY_BLOCKS))
    return samples


def empty_cell(count):
    """Nothing measured yet, of so many operations a block."""
    return {"operations": count, "quads": [], "masks": []}


def add(cell, blocks, answers, together=4):
    """Adds the blocks of one command, so many of which are compared with each other; a block took what the median rank says."""
    us = [statistics.median(values) for values in zip(*(answer["us"] for answer in answers))]
    for begin in range(0, len(blocks), together):
        sides = {0: [], 1: []}
        for on, value in zip(blocks[begin : begin + together], us[begin : begin + together]):
            sides[on].append(value)
        cell["quads"].append((statistics.fmean(sides[1]), statistics.fmean(sides[0])))
    cell["masks"] = sorted({tuple(pair) for answer in answers for pair in answer["masks"]})


def interval(values, of, generator):
    """95 % of what a function gives of resampled values."""
    results = sorted(of(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return results[int(0.025 * RESAMPLES)], results[int(0.975 * RESAMPLES)]


def whole(quads):
    """All time with against all time without."""
    return sum(on for on, _ in quads) / sum(off for _, off in quads)


def summarise(starts, names, ranks):
    """One entry for each mode, size and variant, over all starts."""
    generator = random.Random(1)
    keys = dict.fromkeys((cell["mode"], cell["bytes"]) for start in starts for cell in start)
    out = []
    for mode, size in keys:
        for name in names:
            cells = [c for start in starts for c in start if (c["mode"], c["bytes"], c["variant"]) == (mode, size, name)]
            if not cells:
                continue
            quads = [tuple(quad) for cell in cells for quad in cell["quads"]]
            logs = [math.log(on / off) for on, off in quads]
            low, high = interval(logs, statistics.median, generator)
            off = statistics.median(off for _, off in quads)
            out.append(
                {
                    "mode": mode,
                    "bytes": size,
                    "variant": name,
                    "quads": len(logs),
                    "off_us": off,
                    "on_us": statistics.median(on for on, _ in quads),
                    "bus_gbps": 2 * (ranks - 1) / ranks * size / (off * 1e-6) / GIGA,
                    "whole": whole(quads),
                    "whole_interval": interval(quads, whole, generator),
                    "whole_by_start": [whole(cell["quads"]) for cell in cells],
                    "ratio": math.exp(statistics.median(logs)),
                    "ratio_interval": [math.exp(low), math.exp(high)],
                    "masks": cells[-1]["masks"],
                }
            )
    return out


def report(summaries):
    """The table a person reads."""
    rows = [
        [
            s["mode"],
            s["bytes"],
            s["variant"],
            s["quads"],
            f"{s['off_us']:.1f}",
            f"{s['bus_gbps']:.2f}",
            percent(s["whole"]),
            "..".join(percent(value) for value in s["whole_interval"]),
            " ".join(percent(value) for value in s["whole_by_start"]),
            percent(s["ratio"]),
            "..".join(percent(value) for value in s["ratio_interval"]),
        ]
        for s in summaries
    ]
    headers = ["mode", "bytes", "variant", "quads", "off us", "bus GB/s", "on against off", "95 %", "by start", "median", "95 %"]
    return table(headers, rows)
