#!/usr/bin/env python3
"""A first look: does the plugin load into real NCCL, and what arrives? Needs no agent and no controller.

Runs a short job with the plugin, reads every rank's flight recorder while it runs and after it has ended, prints what NCCL
says about its profiler, and keeps everything as explore.json and artifacts.tar.gz.
"""

import argparse
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu import recorders  # noqa: E402
from c4gpu.cluster import ClusterError, Place, plugin_path  # noqa: E402
from c4gpu.mps import Mps  # noqa: E402
from c4gpu.observe import Progress, wait_for  # noqa: E402
from c4gpu.processes import tail  # noqa: E402
from c4gpu.run import Run  # noqa: E402
from c4gpu.workers import WORKERS  # noqa: E402

VERSIONS = (
    "import torch;p=torch.cuda.get_device_properties(0);"
    "print('torch',torch.__version__,'cuda',torch.version.cuda,'nccl','.'.join(map(str,torch.cuda.nccl.version())));"
    "print(p.name,p.total_memory>>20,'MiB',p.multi_processor_count,'multiprocessors')"
)


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", required=True, help="directory of the built programs and libraries")
    parser.add_argument("--out", required=True, help="directory for the results")
    parser.add_argument("--worker", choices=sorted(WORKERS), default="torch")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--compute-ms", type=float, default=25.0)
    parser.add_argument("--deadline", type=float, default=170.0, help="seconds after which it ends")
    parser.add_argument("--no-mps", action="store_true")
    parser.add_argument("--no-plugin", action="store_true", help="the same job without the plugin, to compare with")
    parser.add_argument("--no-kill-check", action="store_true", help="do not see whether the GPU survives killed jobs")
    parser.add_argument("--work", help="directory for working files")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--async-error-handling", type=int, default=0)
    options = parser.parse_args(arguments)
    options.bin = os.path.abspath(options.bin)
    return options


def versions(run):
    """What this machine is."""
    smi = ["nvidia-smi", "--query-gpu=name,driver_version,compute_mode,mig.mode.current", "--format=csv,noheader"]
    parts = [run.processes.run(["uname", "-a"]), run.processes.run(smi)]
    if run.options.worker == "torch":
        parts.append(run.processes.run([sys.executable, "-c", VERSIONS], timeout=90.0))
    text = "\n".join((out or err).strip() for _, out, err in parts)
    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    if shm:
        text += f"\n/dev/shm {shm.f_frsize * shm.f_blocks >> 20} MiB, {shm.f_frsize * shm.f_bavail >> 20} MiB free"
    return text


def start(run, worker, mps, place, name="explore", iterations=None):
    """The ranks, without an agent."""
    directory = os.path.join(run.shared, name)
    os.makedirs(directory, exist_ok=True)
    environment = {
        **worker.environment(mps.environment),
        "NCCL_PROFILER_PLUGIN": "none" if run.options.no_plugin else plugin_path(run.options.bin),
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV,PROFILE,NET",
        "C4_RECORDER_DIR": directory,
        "C4_FAULT_DIR": place.path("faults"),
        "C4_JOB": name,
        "WORLD_SIZE": run.options.ranks,
    }
    command = worker.command(place, run.options.iterations if iterations is None else iterations)
    ranks = [
        run.processes.start(f"{name}-{rank}", command, {**environment, "RANK": rank, "LOCAL_RANK": rank})
        for rank in range(run.options.ranks)
    ]
    return directory, ranks


def look(run, directory, when):
    """Reads, prints and keeps all recorders."""
    ctl = os.path.join(run.options.bin, "c4ctl")
    files = sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".c4r"))
    run.say(f"{when}: {len(files)} flight recorders, {sum(os.path.getsize(path) for path in files) >> 10} KiB in all")
    figures = []
    for path in files:
        code, out, err = run.processes.run([ctl, "--json", "recorder", "show", path])
        run.keep_text(f"{when}/{os.path.basename(path)}.json", out or err)
        snapshot, reason = recorders.read(run.processes, ctl, path)
        if snapshot is None:
            run.say(f"  {os.path.basename(path)}: exit {code}: {reason}")
            continue
        figures.append(recorders.summary(snapshot))
        run.say(f"  {recorders.line(figures[-1])}")
        run.say(f"    {', '.join(figures[-1]['algorithms'])}; sends to {figures[-1]['send_peers']}")
    if files:
        _, out, err = run.processes.run([ctl, "recorder", "show", files[0]])
        print(out or err)
    run.keep_recorders(when, files)
    run.results["phases"][when] = figures
    return figures


def verdicts(figures, after, options):
    """What arrives and what does not, in words. At its end a job has put mask and connections away."""
    if options.no_plugin:
        return {}
    total = {key: sum(figure[key] for figure in figures) for key in ("operations", "started_on_gpu", "steps_done", "timed_steps")}
    return {
        "a recorder for every rank": len(figures) == len(after) == options.ranks,
        "profiler mask set": bool(figures) and all(figure["profiling"] for figure in figures),
        "operations": total["operations"] > 0,
        "kernel events (started on the GPU)": total["started_on_gpu"] > 0,
        "network steps": total["steps_done"] > 0,
        "step states timed": total["timed_steps"] > 0,
        "nothing lost": not any(figure["losses"] for figure in after),
        "all completed": all(comm["completed"] == comm["enqueued"] for figure in after for comm in figure["communicators"]),
    }


def nccl_lines(place, ranks):
    """What NCCL said of profiler, version and network, without repeats."""
    seen = {}
    folder = place.path("ranks")
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))] or [rank.log_path for rank in ranks]
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if re.search(r"rofiler|NCCL version|NET/|C4_|c4[:\]]|WARN|NCCL_HOSTID", line):
                    # The same words of another process and thread.
                    key = re.sub(r"^\S+?:\d+:\d+ \[\d+\] |\[?\d+\.\d+\]?|0x[0-9a-f]+|\d{5,}", "", line)
                    seen.setdefault(key, line.rstrip())
    return list(seen.values())


def survives_kill(run, worker, mps):
    """Whether a job can start on the GPU after another was killed in mid-kernel, as C4's restarts will."""
    times = []
    for attempt in ("killed", "after-kill"):
        place = Place(os.path.join(run.work, attempt))
        begun = time.time()
        _, ranks = start(run, worker, mps, place, attempt, iterations=0)
        progress = Progress(place.path("faults"), run.options.ranks)
        try:
            good = wait_for(lambda: progress.done_since(begun) >= 20, min(45.0, run.remaining() - 5))  # noqa: B023
        finally:
            progress.close()
        times.append(time.time() - begun)
        os.kill(ranks[0].pid, signal.SIGKILL)
        time.sleep(1.0)
        for rank in ranks:
            rank.terminate(grace=1.0)
        if not good:
            run.say(f"{attempt}: no 20 iterations in {times[-1]:.0f} s\n{tail(ranks[1].log_path)}")
            return False
        run.say(f"{attempt}: 20 iterations {times[-1]:.1f} s after the start")
    run.results["start_seconds"] = times
    return True


def explore(run, worker):
    """The whole of it; returns whether everything arrives."""
    print(versions(run), flush=True)
    place = Place(os.path.join(run.work, "explore"))
    with Mps(run.processes, os.path.join(run.work, "mps"), worker.needs_gpu and not run.options.no_mps, run.say) as mps:
        run.say(f"multi-process service: {'on' if mps.environment else 'off'}")
        directory, ranks = start(run, worker, mps, place)
        progress = Progress(place.path("faults"), run.options.ranks)
        begun = time.time()

        def alive():
            return all(rank.poll() in (None, 0) for rank in ranks)

        try:
            half = run.options.iterations // 2
            if not wait_for(lambda: progress.done_since(begun) >= half, run.remaining() - 20, 0.1, alive):
                run.say("the ranks did not get half-way")
            run.say(f"{1e3 * (progress.period(begun, time.time()) or 0):.1f} ms an iteration")
            running = look(run, directory, "running")
            wait_for(lambda: all(rank.poll() is not None for rank in ranks), run.remaining() - 5, 0.1)
        finally:
            progress.close()
        codes = [rank.poll() for rank in ranks]
        run.say(f"exit codes {codes}")
        after = look(run, directory, "after")
        print("\n".join(nccl_lines(place, ranks)[:60]))
        if codes != [0] * len(codes):
            for rank in range(run.options.ranks):
                print(f"--- rank {rank}\n{tail(os.path.join(place.path('ranks'), f'rank-{rank}.0.log'))}\n{tail(ranks[rank].log_path)}")
        checks = verdicts(running, after, run.options)
        if not run.options.no_kill_check and run.remaining() > 40:
            checks["a new job runs after one was killed"] = survives_kill(run, worker, mps)
    run.results["checks"] = checks
    run.results["exit_codes"] = codes
    for name, good in checks.items():
        print(f"  {'yes' if good else 'NO '}  {name}")
    return codes == [0] * len(codes) and all(checks.values())


def main():
    options = parse_arguments()
    with Run(options) as run:
        try:
            good = explore(run, WORKERS[options.worker](options))
        except ClusterError as error:
            run.say(str(error))
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
