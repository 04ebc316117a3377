"""What the run can see: C4's own answers through c4ctl, and how far each rank is through the files it writes."""

import json
import os
import statistics
import threading
import time
from collections import deque

from .judge import unix_seconds

SAMPLE_SECONDS = 0.05
HISTORY = 40_000


class Ctl:
    """c4ctl, asked for JSON."""

    def __init__(self, processes, binary, address):
        self._processes, self._binary, self._address = processes, binary, address

    def ask(self, *arguments, timeout=10.0):
        """The document it prints, or None with the reason kept in `last_error`."""
        command = [self._binary, "--controller", self._address, "--json", *arguments]
        code, out, err = self._processes.run(command, timeout)
        self.last_error = None
        try:
            return json.loads(out)
        except json.JSONDecodeError:
            self.last_error = f"{' '.join(arguments)}: exit {code}: {err.strip() or out.strip()[:200]}"
            return None

    def findings(self):
        """All findings, cleared ones too, or None without an answer."""
        document = self.ask("findings", "--all")
        if document is None:
            document = self.ask("findings")
        return None if document is None else document.get("findings", [])

    def job(self, name):
        """The job's summary, {} if it is not known."""
        document = self.ask("jobs")
        jobs = document.get("jobs", []) if isinstance(document, dict) else document or []
        return next((job for job in jobs if job.get("name") == name), {})


def read_pair(path):
    """(iteration, unix seconds) of an iteration file, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            iteration, unix_us = file.read().split()
        return int(iteration), int(unix_us) / 1e6
    except (OSError, ValueError):
        return None


def read_pid(path):
    """The pid in a pid file, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read().strip())
    except (OSError, ValueError):
        return None


class Progress:
    """Samples how far every rank is, so that afterwards it can be told which iteration a moment belonged to."""

    def __init__(self, directory, ranks):
        self._directory, self.ranks = directory, ranks
        self._history = {rank: deque(maxlen=HISTORY) for rank in range(ranks)}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._sample, name="progress", daemon=True)
        self._thread.start()

    def close(self):
        """Ends the sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self):
        while not self._stop.wait(SAMPLE_SECONDS):
            for rank in range(self.ranks):
                pair = read_pair(self.path(rank, "iteration"))
                with self._lock:
                    history = self._history[rank]
                    if pair and (not history or history[-1][1] < pair[1]):
                        history.append(pair)

    def path(self, rank, suffix):
        """A rank's control file."""
        return os.path.join(self._directory, f"rank-{rank}.{suffix}")

    def pid(self, rank):
        """The pid of a rank's present process."""
        return read_pid(self.path(rank, "pid"))

    def history(self, rank):
        """(iteration, unix seconds) pairs seen, oldest first."""
        with self._lock:
            return list(self._history[rank])

    def latest(self, rank):
        """The last pair of a rank, or None."""
        with self._lock:
            history = self._history[rank]
            return history[-1] if history else None

    def since(self, rank, moment):
        """Pairs written at or after a moment."""
        return [pair for pair in self.history(rank) if pair[1] >= moment]

    def done_since(self, moment):
        """Iterations all ranks have made since a moment."""
        counts = []
        for rank in range(self.ranks):
            pairs = self.since(rank, moment)
            counts.append(pairs[-1][0] - pairs[0][0] if len(pairs) > 1 else 0)
        return min(counts)

    def period(self, begin, end):
        """Median seconds an iteration took between two moments, or None."""
        periods = []
        for rank in range(self.ranks):
            pairs = [pair for pair in self.history(rank) if begin <= pair[1] <= end]
            for (i0, t0), (i1, t1) in zip(pairs, pairs[1:]):
                if i1 > i0:
                    periods.append((t1 - t0) / (i1 - i0))
        return statistics.median(periods) if periods else None

    def iteration_at(self, rank, moment):
        """The (fractional) iteration a rank was in at a moment, or None."""
        pairs = self.history(rank)
        before = [pair for pair in pairs if pair[1] <= moment]
        after = [pair for pair in pairs if pair[1] > moment]
        if before and after and after[0][0] > before[-1][0]:
            (i0, t0), (i1, t1) = before[-1], after[0]
            return i0 + (i1 - i0) * (moment - t0) / (t1 - t0)
        if before:
            return float(before[-1][0])
        return None


def applied(path, since):
    """(iteration, unix seconds) at which the worker first carried out a fault after a moment, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["unix_us"] / 1e6 >= since:
                return entry["iteration"], entry["unix_us"] / 1e6
        except (ValueError, KeyError, TypeError):
            continue
    return None


def wait_for(condition, timeout, period=0.1, alive=None):
    """Polls until `condition` gives something true, and returns it; None when time is up or `alive` says no."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end or (alive is not None and not alive()):
            return None
        time.sleep(period)


def new_findings(findings, known, not_before):
    """Findings whose id was not known, and which were detected at or after a moment (with a clock's grain)."""
    fresh = []
    for finding in findings or []:
        detected = unix_seconds(finding.get("detected"))
        if finding.get("id") not in known and (detected is None or detected >= not_before - 0.05):
            fresh.append(finding)
    return fresh
