"""Ends of jobs and groups that are no textbook ends: no destroy, an abort, a new group in the same process, a sudden death.

Each has to leave the job as it would be without C4 (exit codes), and flight recorders that read whole and tell the truth.
"""

import os
import signal
import time

from . import recorders
from .cluster import Cluster, ClusterError
from .judge import describe
from .observe import wait_for

ITERATIONS = 150
CASES = {
    # name: (arguments of train.py, groups, whether the job is killed half-way)
    "no-destroy": (("--no-destroy",), 1, False),
    "new-group": (("--groups", 3), 3, False),
    "abort": (("--groups", 2, "--abort"), 2, False),
    "killed": ((), 1, True),
}


def execute(run, worker, mps):
    """Runs the phase; returns whether it passed."""
    results = run.results["phases"]["lifecycle"] = {}
    names = [name for name, (arguments, _, _) in CASES.items() if worker.needs_gpu or not arguments]
    for name in names:
        if run.remaining() < 45:
            results[name] = {"passed": False, "problems": ["not done for want of time"]}
            run.say(f"lifecycle: {name}: not done for want of time")
            continue
        try:
            results[name] = case(run, worker, mps, name)
        except ClusterError as error:
            results[name] = {"passed": False, "problems": [str(error)]}
        word = "passed" if results[name]["passed"] else "FAILED"
        run.say(f"lifecycle: {name}: {word} {'; '.join(results[name]['problems'])}")
        run.save()
    return bool(results) and all(result["passed"] for result in results.values())


def case(run, worker, mps, name):
    """One way to end."""
    arguments, groups, killed = CASES[name]
    result = {"problems": []}
    # Nobody is to bring the job back here.
    with Cluster(run, f"lifecycle-{name}", mode="observe") as cluster:
        cluster.start_controller()
        begun = time.time()
        iterations = 0 if killed else ITERATIONS
        command = worker.command(cluster.place, iterations, arguments)
        cluster.start_agents(command, worker.environment(mps.environment))
        if not cluster.wait_running(begun, 20, min(worker.start_timeout, run.remaining())):
            raise ClusterError(f"the job did not start:\n{cluster.trouble()}")
        held = hold(cluster.recorder_files())
        if killed:
            kill_all(cluster)
            gone = wait_for(lambda: all(dead(cluster.progress.pid(r)) for r in range(cluster.ranks)), 10.0)
            if not gone:
                result["problems"].append("ranks survived SIGKILL")
            result["findings"] = wait_for(cluster.ctl.findings, 5.0, 0.1) or []
            if not any(finding.get("kind") == "process_death" for finding in result["findings"]):
                result["problems"].append("the death of all ranks was not reported")
        else:
            codes = cluster.wait_finished(min(90.0, run.remaining()))
            result["exit_codes"] = codes
            if codes != [0] * len(codes):
                result["problems"].append(f"exit codes {codes}")
                print(cluster.trouble())
            time.sleep(2.0)
            result["findings"] = cluster.ctl.findings() or []
            if result["findings"] and name != "abort":  # an abort is preceded by a real hang of a second
                result["problems"].append(f"findings {[describe(finding) for finding in result['findings']]}")
        result["recorders"] = check_recorders(run, cluster, held, groups, name, result["problems"])
    result["passed"] = not result["problems"]
    return result


def kill_all(cluster):
    """SIGKILL to every rank."""
    for rank in range(cluster.ranks):
        pid = cluster.progress.pid(rank)
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def dead(pid):
    """Whether a process is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in ("Z", "X")
    except OSError:
        return True


def hold(paths):
    """Second names for recorder files, so that they can be read also after an agent has cleared them away."""
    held = []
    for path in paths:
        folder = os.path.join(os.path.dirname(os.path.dirname(path)), "held")
        os.makedirs(folder, exist_ok=True)
        link = os.path.join(folder, os.path.basename(path))
        os.link(path, link)
        held.append(link)
    return held


def check_recorders(run, cluster, files, groups, name, problems):
    """Reads every rank's recorder after the end; adds what is wrong to `problems`."""
    if len(files) != cluster.ranks:
        problems.append(f"{len(files)} flight recorders for {cluster.ranks} ranks")
    figures = []
    for path in files:
        snapshot, reason = recorders.read(run.processes, cluster.binary("c4ctl"), path)
        if snapshot is None:
            problems.append(f"{os.path.basename(path)} does not read: {reason}")
            continue
        one = recorders.summary(snapshot)
        figures.append(one)
        run.say(f"lifecycle: {name}: {recorders.line(one)}")
        whole = [comm for comm in one["communicators"] if comm["size"] == cluster.ranks]
        if len(whole) < groups:
            problems.append(f"rank {one['rank']}: {len(whole)} communicators seen, {groups} were made")
        if name in ("no-destroy", "new-group"):
            open_ = [comm for comm in whole if comm["completed"] != comm["enqueued"]]
            if open_:
                problems.append(f"rank {one['rank']}: {open_[0]['completed']} of {open_[0]['enqueued']} operations completed")
        if name == "new-group" and any(not comm["finalized"] for comm in whole):
            problems.append(f"rank {one['rank']}: a destroyed communicator is not marked as final")
    run.keep_recorders(f"lifecycle-{name}", files)
    return figures
