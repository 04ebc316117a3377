"""One long job that is broken again and again: inject, wait for the verdict, wait for the restart, next.

A job restarted by C4 is a job like any other, so nothing is started anew between faults unless C4 failed to bring it back.
"""

import os
import time
import traceback

from . import fixtures, recorders, report
from .cluster import Cluster, ClusterError
from .inject import InjectionError, Injector
from .judge import FAULTS, WINDOWS_SECONDS, choose, describe, right_suspect, unix_seconds
from .observe import applied, new_findings, wait_for

VERDICT_TIMEOUT, VERDICT_ITERATIONS = 20.0, 14  # whichever is longer
CLEAR_TIMEOUT = 30.0
# What else C4 says within this time of its first finding is said of the same fault.
SETTLE_SECONDS = 1.0
# What C4 says of a finding that it may still act on, once it has lasted for longer.
UNSURE = "the finding is not sure enough"
# Iterations before the next fault: of a job that has just started, and of one that was only slow.
WARM_ITERATIONS, CALM_ITERATIONS = 30, 10
# Clusters that may go wrong under the multi-process service before it is given up.
MAX_SPOILT = 3
# What one fault may cost, so that the last one before a deadline is not cut in two.
DEADLY_SECONDS, LASTING_SECONDS = 60.0, 30.0


class FaultPhase:
    """All faults of one call."""

    def __init__(self, run, worker, mps):
        self.run, self.worker, self.mps = run, worker, mps
        self.rows, self.strays, self.not_done = [], [], []
        self.cluster, self.injector = None, None
        self.clusters = 0
        self.took = {}
        self.known = set()
        self.moment, self.iterations = 0.0, WARM_ITERATIONS
        run.results["phases"]["faults"] = {"rows": self.rows, "strays": self.strays, "not_done": self.not_done}

    def execute(self, names, repeat):
        """Runs the phase; returns whether everything passed."""
        plan = [
            (FAULTS[name], (index + offset + self.run.options.first_rank) % self.run.options.ranks)
            for index in range(repeat)
            for offset, name in enumerate(names)
        ]
        try:
            for position, (fault, rank) in enumerate(plan):
                if self.run.remaining() < self.needed(fault):
                    self.not_done += [f"{fault.name}@{rank}" for fault, rank in plan[position:]]
                    self.run.say(f"faults: out of time, not done: {', '.join(self.not_done)}")
                    break
                begun = time.monotonic()
                self.attempt(fault, rank)
                self.took.setdefault(fault.deadly, []).append(time.monotonic() - begun)
                self.run.save()
        finally:
            self.close()
            if self.rows:
                print(report.faults(self.rows, self.strays, self.not_done), flush=True)
        return bool(self.rows) and not self.not_done and all(row["passed"] for row in self.rows) and not self.strays

    def needed(self, fault):
        """Seconds that one more fault may take, from those that were."""
        seen = self.took.get(fault.deadly, [])
        return max(seen) * 1.3 + 5.0 if len(seen) > 1 else DEADLY_SECONDS if fault.deadly else LASTING_SECONDS

    # --- the job ----------------------------------------------------------------------------------------------------

    def close(self):
        """Ends the present cluster, if there is one."""
        if self.cluster is None:
            return
        cluster, self.cluster = self.cluster, None
        cluster.__exit__()
        self.keep_fixtures(cluster)

    def keep_fixtures(self, cluster):
        """Cuts a recording of each fault out of this cluster's."""
        rows = [row for row in self.rows if row.get("cluster") == cluster.name and "injected_unix" in row]
        kept = ("fault", "rank", "peer", "injected_unix", "seconds", "said", "passed", "period_ms")
        cuts = [
            {
                "name": f"{row['shape']}-{row['fault']}-rank{row['rank']}-{number:02}",
                "end_unix": end,
                **{key: row.get(key) for key in kept},
                "kinds": FAULTS[row["fault"]].kinds,
            }
            for number, (row, end) in enumerate(zip(rows, fixtures.ends(rows, VERDICT_TIMEOUT)), 1)
        ]
        if os.path.exists(cluster.record):
            fixtures.keep(os.path.join(self.run.work, "keep", "fixtures"), cluster.record, cuts)

    def open(self):
        """A cluster that runs, fresh or as the last fault left it."""
        if self.cluster is not None and self.cluster.alive():
            return
        self.close()
        self.clusters += 1
        if self.clusters > 1 and self.mps.environment:
            # A job that did not come back may have left kernels spinning in the service that its successor shares.
            if self.clusters > MAX_SPOILT:
                self.run.say("faults: going on without the multi-process service")
                self.mps.disable()
            else:
                self.mps.restart()
        # In use at every moment, so that close() finds it also when starting fails.
        self.cluster = Cluster(self.run, f"faults-{self.clusters}", preload=self.preload())
        self.injector = Injector(self.run, self.cluster)
        self.known = set()
        self.cluster.start_controller()
        self.moment, self.iterations = time.time(), WARM_ITERATIONS
        command = self.worker.command(self.cluster.place, 0)
        self.cluster.start_agents(command, self.worker.environment(self.mps.environment))

    def preload(self):
        """The library that can block a socket, where it is there."""
        path = os.path.abspath(os.path.join(self.run.options.bin, "libc4_netfault.so"))
        return (path,) if os.path.exists(path) else ()

    def ready(self):
        """Waits until the job runs, C4 knows it, and nothing is open. What C4 says meanwhile is a false alarm."""
        self.open()
        timeout = min(self.worker.start_timeout, self.run.remaining())
        if not self.cluster.wait_running(self.moment, self.iterations, timeout):
            raise ClusterError(f"the job does not iterate:\n{self.cluster.trouble()}")
        learned = self.cluster.wait_learned()
        if not learned:
            self.run.say(f"faults: C4 has not learned the job: {self.cluster.ctl.job(self.cluster.job_name)}")
        wait_for(self.nothing_open, CLEAR_TIMEOUT, 0.2, self.cluster.alive)
        for finding in new_findings(self.cluster.ctl.findings(), self.known, 0.0):
            self.known.add(finding.get("id"))
            self.strays.append(finding)
            self.run.say(f"faults: FALSE ALARM {describe(finding)}: {finding.get('summary')}")
        return learned

    def nothing_open(self):
        """Whether no finding is open."""
        findings = self.cluster.ctl.findings()
        return findings is not None and all(finding.get("cleared") for finding in findings)

    # --- one fault --------------------------------------------------------------------------------------------------

    def attempt(self, fault, rank):
        """One fault; whatever goes wrong becomes part of its row."""
        row = {"fault": fault.name, "shape": self.run.options.shape, "rank": rank, "passed": False}
        self.rows.append(row)
        try:
            row["learned"] = self.ready()
            # Since the job iterates again, and nothing was open or said meanwhile, or it is among the false alarms.
            row["healthy_seconds"] = time.time() - self.moment
            self.experiment(fault, rank, row)
        except (ClusterError, InjectionError, OSError) as error:
            row["error"] = str(error).splitlines()[0]
            self.run.say(f"faults: {fault.name} on rank {rank}: {error}")
            self.close()
        except Exception as error:  # the other faults are still worth doing
            row["error"] = repr(error)
            traceback.print_exc()
            self.close()
        row["passed"] = all(row.get(name) for name in ("right_kind", "right_rank", "in_time", "recovered"))
        self.run.say(f"faults: {fault.name} on rank {rank}: {report.short(row)}")

    def experiment(self, fault, rank, row):
        """Injects, waits for the verdict, judges it, and sees the job recover."""
        cluster, progress = self.cluster, self.cluster.progress
        period = progress.period(time.time() - 4.0, time.time()) or 0.1
        row.update(cluster=cluster.name, period_ms=period * 1e3, checkpoint=cluster.checkpointed())
        peer = row["peer"] = self.injector.prepare(fault, rank)
        pids = [progress.pid(r) for r in range(cluster.ranks)]
        begun = self.injector.begin(fault, rank, period, peer)
        longer = period * (1 + (fault.percent or 0) / 100)
        found = wait_for(
            lambda: new_findings(cluster.ctl.findings(), self.known, begun),
            min(max(VERDICT_TIMEOUT, VERDICT_ITERATIONS * longer), self.run.remaining()),
            0.1,
            cluster.alive,
        )
        if found:
            time.sleep(SETTLE_SECONDS)
            found = new_findings(cluster.ctl.findings(), self.known, begun) or found
        start = applied(progress.path(rank, "applied"), begun)
        row["injected_unix"] = start[1] if start else begun
        if found:
            self.judge(fault, rank, row, found, start)
        elif fault.deadly:
            self.look_inside(fault, rank)
        if not fault.deadly:
            during = progress.period(row["injected_unix"] + longer, time.time())
            row["longer"] = during / period if during else None
            self.injector.end(fault, rank, peer)
        self.recover(fault, row, begun, pids, bool(found))
        self.injector.clean()
        self.known |= {finding.get("id") for finding in cluster.ctl.findings() or []}

    def judge(self, fault, rank, row, found, start):
        """Compares what was said with what was done."""
        finding = choose(found)
        detected = unix_seconds(finding.get("detected")) or time.time()
        row["kind"] = finding.get("kind")
        row["said"] = describe(finding)
        row["finding"] = finding
        row["others"] = [describe(other) for other in found if other is not finding]
        row["right_kind"] = finding.get("kind") in fault.kinds
        row["right_rank"] = right_suspect(fault, finding, rank, row["peer"])
        row["seconds"] = detected - row["injected_unix"]
        row["in_time"] = fault.max_seconds is None or row["seconds"] <= fault.max_seconds
        if fault.max_iterations is not None:
            now = self.cluster.progress.iteration_at(rank, detected)
            begun = start[0] if start else self.cluster.progress.iteration_at(rank, row["injected_unix"])
            row["iterations"] = None if now is None or begun is None else now - begun
            quick = row["seconds"] <= WINDOWS_SECONDS
            row["in_time"] = quick or (row["iterations"] is not None and row["iterations"] <= fault.max_iterations)
            if row["kind"] == "non_comm_hang":  # so slow that it counts as stuck: then a hang's time applies
                row["in_time"] = row["in_time"] or row["seconds"] <= 5.0

    def recover(self, fault, row, begun, pids, found):
        """Waits for the restart of a job that is stuck, or for a straggler's finding to clear."""
        cluster, progress = self.cluster, self.cluster.progress

        def replaced():
            return all(progress.pid(r) not in (None, pid) for r, pid in enumerate(pids))

        if not fault.deadly and not wait_for(
            lambda: self.nothing_open() or replaced(), min(CLEAR_TIMEOUT, self.run.remaining()), 0.2, cluster.alive
        ):
            row["recovered"], row["recovery"] = False, "did not clear"
            self.moment, self.iterations = time.time(), CALM_ITERATIONS
            return
        if not fault.deadly and not replaced():
            row["recovered"] = found
            row["recovery"] = "cleared" if found else "nothing to clear"
            self.moment, self.iterations = time.time(), CALM_ITERATIONS
            return
        # A finding that C4 does not act on, or none at all: nothing will come. One that is not sure enough becomes surer.
        last = ([""] + (row["finding"].get("actions") or []))[-1] if found else "not restarting"
        acts = not last.startswith("not restarting") or last.endswith(UNSURE)
        timeout = min(self.worker.restart_timeout, self.run.remaining()) if acts or not fault.deadly else 5.0
        if wait_for(lambda: replaced() and self.iterating(begun), timeout, 0.1, cluster.alive):
            first = min(progress.since(r, self.started(r))[0][0] for r in range(cluster.ranks))
            row["restart_seconds"] = time.time() - begun
            row["resumed_from"] = first
            row["recovered"] = first >= row["checkpoint"]
            row["recovery"] = f"restarted in {row['restart_seconds']:.1f} s from {first}"
            self.moment, self.iterations = max(self.started(r) for r in range(cluster.ranks)), WARM_ITERATIONS
            return
        row["recovered"], row["recovery"] = False, "no restart"
        self.run.say(f"faults: the job did not come back, starting over\n{cluster.trouble()}")
        self.close()

    def started(self, rank):
        """When the present process of a rank announced itself."""
        return os.stat(self.cluster.progress.path(rank, "pid")).st_mtime

    def iterating(self, begun):
        """Whether every rank's new process has made iterations."""
        moments = [max(self.started(rank), begun) for rank in range(self.cluster.ranks)]
        return all(len(self.cluster.progress.since(rank, moment)) > 1 for rank, moment in enumerate(moments))

    def look_inside(self, fault, rank):
        """C4 said nothing: keeps what it had to go by."""
        files = self.cluster.recorder_files()
        self.run.keep_recorders(f"silent-{fault.name}-{rank}-{len(self.rows)}", files)
        for path in files:
            snapshot, reason = recorders.read(self.run.processes, self.cluster.binary("c4ctl"), path)
            self.run.say(recorders.line(recorders.summary(snapshot)) if snapshot else f"{path}: {reason}")
