"""One run of the suite: where things are, how much time is left, what was found, and what is kept of it."""

import gzip
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time

from .processes import Processes

MAX_ARTIFACT_BYTES = 15 << 20


class Run:
    """Directories, children and the clock of one run; use it in a `with` block."""

    def __init__(self, options):
        self.options = options
        self.out = os.path.abspath(options.out)
        os.makedirs(self.out, exist_ok=True)
        # A short path: unix sockets of the multi-process service live below it.
        self.work = tempfile.mkdtemp(prefix="c4gpu-", dir=options.work)
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else self.work
        self.shared = tempfile.mkdtemp(prefix="c4gpu-", dir=shared)
        self.processes = Processes(os.path.join(self.work, "logs"))
        self.started = time.monotonic()
        self.results = {"started_unix": time.time(), "arguments": sys.argv[1:], "phases": {}}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        left = self.processes.stop_all()
        if left:
            self.say(f"killed {len(left)} processes that were left over")
        try:
            self.save()
            self.pack()
        finally:
            if not self.options.keep:
                shutil.rmtree(self.work, ignore_errors=True)
                shutil.rmtree(self.shared, ignore_errors=True)

    def remaining(self):
        """Seconds until the deadline; large without one."""
        if not self.options.deadline:
            return 1e9
        return self.options.deadline - (time.monotonic() - self.started)

    def say(self, text):
        """A line of progress, with the time since the start."""
        print(f"[{time.monotonic() - self.started:6.1f}s] {text}", flush=True)

    def save(self):
        """Writes results.json, which is whole at any moment."""
        path = os.path.join(self.out, "results.json")
        with open(f"{path}.tmp", "w", encoding="utf-8") as file:
            json.dump(self.results, file, indent=1, default=str)
            file.write("\n")
        os.replace(f"{path}.tmp", path)

    def keep_recorders(self, name, paths):
        """Copies flight recorders for the archive, compressed. They are mostly zeros."""
        folder = os.path.join(self.work, "keep", name)
        os.makedirs(folder, exist_ok=True)
        for path in paths:
            compress(path, os.path.join(folder, os.path.basename(path) + ".gz"))

    def keep_text(self, name, text):
        """Keeps a document for the archive."""
        path = os.path.join(self.work, "keep", name + ".gz")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)

    def pack(self):
        """Puts logs, recordings and recorders into artifacts.tar.gz, the most telling first, within a size."""
        candidates = []
        for folder, _, names in os.walk(self.work):
            for name in names:
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, self.work)
                rank = artifact_rank(relative)
                if rank is not None:
                    candidates.append((rank, relative, path))
        left, skipped = MAX_ARTIFACT_BYTES, []
        with tarfile.open(os.path.join(self.out, "artifacts.tar.gz"), "w:gz", compresslevel=1) as archive:
            for _, relative, path in sorted(candidates):
                if not relative.endswith((".gz", "index.json")):
                    compressed = f"{path}.gz"
                    compress(path, compressed)
                    path, relative = compressed, f"{relative}.gz"
                size = os.path.getsize(path)
                if size > left:
                    skipped.append(f"{relative} ({size} bytes)")
                    continue
                left -= size
                archive.add(path, arcname=relative)
        if skipped:
            self.say(f"left out of artifacts.tar.gz: {', '.join(skipped)}")


def compress(source, target):
    """gzip, streamed."""
    with open(source, "rb") as file, gzip.open(target, "wb", compresslevel=6) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def artifact_rank(relative):
    """The order in which files go into the archive; None for those that do not."""
    parts = relative.split(os.sep)
    if parts[0] == "logs" or "ranks" in parts or relative.endswith((".yaml", ".applied")):
        return 0
    if parts[0] == "keep":
        return 1
    if relative.endswith("observations.jsonl"):
        return 2
    return None
