"""A job that nothing is wrong with: C4 has to learn it, and then to be silent until its end and after it."""

import json
import os
import time

from . import fixtures, recorders
from .cluster import Cluster, ClusterError
from .judge import describe
from .observe import wait_for

AFTER_END_SECONDS = 4.0


def execute(run, worker, mps):
    """Runs the phase; returns whether it passed."""
    options = run.options
    result = {"passed": False, "shape": options.shape, "iterations": options.iterations}
    run.results["phases"]["healthy"] = result
    with Cluster(run, "healthy") as cluster:
        cluster.start_controller()
        begun = time.time()
        cluster.start_agents(worker.command(cluster.place, options.iterations), worker.environment(mps.environment))
        if not cluster.wait_running(begun, 20, min(worker.start_timeout, run.remaining())):
            raise ClusterError(f"the job did not start:\n{cluster.trouble()}")
        result["start_seconds"] = time.time() - begun
        running = time.time()
        result["learned"] = cluster.wait_learned()
        result["learning_seconds"] = time.time() - running
        run.say(f"healthy: running; learned: {result['learned']} after {result['learning_seconds']:.1f} s")
        look_inside(run, cluster, result)

        last_said, iteration = time.monotonic(), 0
        alarms = []
        while any(agent.poll() is None for agent in cluster.agents) and cluster.alive_controller():
            alarms = cluster.ctl.findings() or alarms
            iteration = max(filter(None, (cluster.progress.latest(r) for r in range(options.ranks))), default=(0,))[0]
            if time.monotonic() - last_said > 10:
                last_said = time.monotonic()
                run.say(f"healthy: iteration {iteration}, findings {[describe(f) for f in alarms]}")
            if run.remaining() < 10:
                result["stopped"] = f"at the deadline, in iteration {iteration}"
                break
            if options.seconds and time.time() - running > options.seconds:
                result["stopped"] = f"as asked, in iteration {iteration}"
                break
            if alarms and options.stop_on_alarm:
                result["stopped"] = f"at the first alarm, in iteration {iteration}"
                break
            time.sleep(0.5)
        stopped = "stopped" in result
        # A job that is stopped here was whole until now; one that ended by itself has to have ended well.
        whole = cluster.alive() if stopped else None
        codes = cluster.wait_finished(0.0 if stopped else 10.0)
        end = time.time()
        result["period_ms"] = 1e3 * (cluster.progress.period(running, end) or 0)
        # What comes now would be about a job that simply ended.
        if not stopped:
            wait_for(lambda: None, min(AFTER_END_SECONDS, max(run.remaining(), 0.0)))
        alarms = cluster.ctl.findings() or alarms
        result.update(exit_codes=codes, findings=alarms, iterations_done=iteration, seconds=end - running)
        run.keep_text("healthy-findings.json", json.dumps(alarms, indent=1))
        good = whole if stopped else codes == [0] * len(codes)
        result["passed"] = good and not alarms and result["learned"]
        if not result["passed"]:
            print(cluster.trouble())
    # The record is whole once the controller has ended.
    keep_fixture(run, cluster, begun, begun + result["start_seconds"] + 30.0)
    run.say(
        f"healthy: {'passed' if result['passed'] else 'FAILED'}: exit codes {codes}, {len(alarms)} findings, "
        f"{result['seconds']:.0f} s, {result['period_ms']:.1f} ms an iteration {result.get('stopped', '')}"
    )
    for finding in alarms:
        print(f"    {describe(finding)}: {finding.get('summary')}")
    return result["passed"]


def keep_fixture(run, cluster, begun, end):
    """Keeps the beginning of the recording: start, learning, and some healthy time."""
    if os.path.exists(cluster.record):
        name = f"{run.options.shape}-healthy"
        one = {"name": name, "injected_unix": begun + fixtures.BEFORE_SECONDS, "end_unix": end, "kinds": []}
        fixtures.keep(os.path.join(run.work, "keep", "fixtures"), cluster.record, [one])


def look_inside(run, cluster, result):
    """Shows what the flight recorders hold in mid-run, and keeps them."""
    files = cluster.recorder_files()
    result["recorders"] = []
    for path in files:
        snapshot, reason = recorders.read(run.processes, cluster.binary("c4ctl"), path)
        if snapshot is None:
            run.say(f"healthy: {path}: {reason}")
            continue
        figures = recorders.summary(snapshot)
        result["recorders"].append(figures)
        run.say(f"healthy: {recorders.line(figures)}")
    run.keep_recorders("healthy", files)
