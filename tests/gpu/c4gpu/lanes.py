"""Runs tasks side by side, each a process of the suite with a cluster, a job and a multi-process service of its own.

A lane is one of these places. Lanes on one GPU take turns on it (each has its own service, so that a job which leaves a
kernel spinning spoils nobody else's), which makes iterations longer but disturbs nothing that C4 compares.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time

from .workers import HERE

# What a task needs beyond its deadline to stop everything and pack its results.
CLOSING_SECONDS = 15.0


class Lanes:
    """A queue of tasks and the threads that work it off."""

    def __init__(self, options, deadline, say):
        self.options, self.deadline, self.say = options, deadline, say
        self.waiting = []
        self.outcomes = []
        self.not_begun = []
        self._children = set()
        self._lock = threading.Lock()
        self._stopped = False

    def work(self, tasks, lanes):
        """Until none of these tasks is left or time is up."""
        self.waiting = list(tasks)
        threads = [threading.Thread(target=self._lane, args=(number,)) for number in range(lanes)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            for thread in threads:
                thread.join()
            raise
        self.not_begun += [task.name for task in self.waiting]

    def stop(self):
        """Begins nothing more, and asks what runs to end."""
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for child in children:
            child.terminate()

    def _next(self):
        with self._lock:
            left = self.deadline - time.monotonic() - CLOSING_SECONDS
            while self.waiting and not self._stopped:
                task = self.waiting.pop(0)
                if left >= min(task.seconds, 60.0):
                    return task, left
                self.not_begun.append(task.name)
            return None, 0.0

    def _lane(self, number):
        devices = self.options.devices
        while True:
            task, left = self._next()
            if task is None:
                return
            used = devices if task.every_gpu else [devices[number % len(devices)]]
            self.outcomes.append(self._run(task, number, used, left))

    def _run(self, task, number, devices, left):
        out = os.path.join(self.options.work, task.name)
        os.makedirs(out, exist_ok=True)
        command = [
            sys.executable,
            os.path.join(HERE, "suite.py"),
            *("--bin", self.options.bin, "--out", out, "--worker", self.options.worker),
            *("--ranks", str(task.ranks), "--devices", ",".join(map(str, devices)), "--deadline", f"{left:.0f}"),
            *("--compute-ms", str(self.options.compute_ms), "--bucket-kib", str(self.options.bucket_kib)),
            *[part for setting in self.options.env for part in ("--env", setting)],
            *(["--no-mps"] if task.every_gpu else []),
            *task.arguments,
        ]
        begun = time.monotonic()
        with open(os.path.join(out, "log"), "wb") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            with self._lock:
                self._children.add(child)
            try:
                code = child.wait(left + 2 * CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                # As on Ctrl-C: it ends its jobs first, which nobody else would.
                child.terminate()
                try:
                    code = child.wait(2 * CLOSING_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
                    code = child.wait()
            with self._lock:
                self._children.discard(child)
        outcome = {"task": task.name, "lane": number, "devices": devices, "code": code, "seconds": time.monotonic() - begun}
        outcome.update(read_results(out))
        self.say(f"lane {number}: {task.name}: exit {code} after {outcome['seconds']:.0f} s{remarks(outcome)}")
        return outcome


def read_results(out):
    """The phases of a task's results, {} if there are none."""
    try:
        with open(os.path.join(out, "results.json"), encoding="utf-8") as file:
            return {"phases": json.load(file).get("phases", {})}
    except (OSError, ValueError):
        return {"phases": {}}


def remarks(outcome):
    """What a person should know at once."""
    faults = outcome["phases"].get("faults", {})
    wrong = [
        f"{row['fault']}@{row['rank']} {row.get('error') or row.get('said', 'nothing')}"
        for row in faults.get("rows", [])
        if not row["passed"]
    ]
    strays = len(faults.get("strays", [])) + len(outcome["phases"].get("healthy", {}).get("findings", []))
    parts = [f"{len(faults['rows'])} faults"] if faults.get("rows") else []
    parts += [f"wrong: {', '.join(wrong)}"] if wrong else []
    parts += [f"{strays} FALSE ALARMS"] if strays else []
    return "; " + "; ".join(parts) if parts else ""


def pack(work, path, limit):
    """Puts the tasks' logs and what they kept into one archive below a size, the most telling first; returns how many files
    found no room. What the tasks kept is compressed already."""
    found = []
    for name in sorted(os.listdir(work)):
        log, kept = (os.path.join(work, name, file) for file in ("log", "artifacts.tar.gz"))
        if os.path.exists(log):
            found.append((0, f"{name}/log", log, None))
        if os.path.exists(kept):
            with tarfile.open(kept) as archive:
                found += [(1 + importance(m.name), f"{name}/{m.name}", kept, m.name) for m in archive if m.isfile()]
    left_out = 0
    with tarfile.open(path, "w") as archive:
        for _, name, source, member in sorted(found):
            content = read_member(source, member)
            if archive.offset + len(content) + 4096 > limit:
                left_out += 1
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return left_out


def read_member(source, member):
    """A file's content, or that of a file in an archive."""
    if member is None:
        with open(source, "rb") as file:
            return file.read()
    with tarfile.open(source) as archive:
        return archive.extractfile(member).read()


def importance(name):
    """The order in which what a task kept goes into the archive: short recordings, then logs, then the rest."""
    if name.startswith("keep/fixtures/"):
        return 0
    return 1 if name.startswith("logs/") else 2
