#!/usr/bin/env python3
"""C4 beside one version of NCCL after the other: is the plugin taken, by which API, what arrives, and is a fault found?

LIBRARIES are files such as libnccl-2.27.7.so, or the same compressed by xz: `nvidia-nccl-cu12` on PyPI has them all. For each, the
suite runs on tests/gpu/ncclrank.py: a healthy job, then faults. The last lines are one table.

Exit codes: 0 every version passed, 1 one did not, 2 usage.
"""

import argparse
import concurrent.futures
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from c4gpu.judge import parse_faults  # noqa: E402
from c4gpu.report import table  # noqa: E402

ITERATIONS = 500
# Short iterations: it is the versions that are compared, not the times.
COMPUTE_MS = 10


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("libraries", nargs="+", metavar="LIBRARY")
    parser.add_argument("--bin", required=True, help="directory of the built programs and libraries")
    parser.add_argument("--out", required=True, help="directory for the results of each version, and compat.json")
    parser.add_argument("--faults", type=parse_faults, default="kill,stop,resize,link", help="what is done to each")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=3, help="versions at a time")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds for each version")
    return parser.parse_args(arguments)


def name_of(path):
    """2.27.7 for libnccl-2.27.7.so.xz; the file's name where it tells no version."""
    found = re.search(r"\d+\.\d+\.\d+", os.path.basename(path))
    return found.group() if found else os.path.basename(path)


def unpacked(path, directory):
    """The library itself."""
    if not path.endswith(".xz"):
        return path
    target = os.path.join(directory, os.path.basename(path).removesuffix(".xz"))
    with lzma.open(path) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 24)
    return target


def run_suite(options, path, directory):
    """One version; returns its row."""
    out = os.path.join(options.out, name_of(path))
    os.makedirs(out, exist_ok=True)
    library = unpacked(path, directory)
    command = [sys.executable, os.path.join(HERE, "suite.py"), "--bin", options.bin, "--out", out, "--worker", "nccl"]
    command += ["--nccl", library, "--ranks", options.ranks, "--deadline", options.deadline, "--compute-ms", COMPUTE_MS]
    command += ["--phase", "healthy,faults", "--iterations", ITERATIONS, "--faults", ",".join(options.faults), "--repeat", 1]
    with open(os.path.join(out, "suite.log"), "wb") as log:
        code = subprocess.run([str(part) for part in command], stdout=log, stderr=log, check=False).returncode
    try:
        with open(os.path.join(out, "results.json"), encoding="utf-8") as file:
            results = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        results = {"phases": {}, "error": str(error)}
    if library != path:
        os.remove(library)
    return row(name_of(path), code, results, options.faults)


def row(version, code, results, faults):
    """What a table says of one version, from the results of the suite."""
    healthy = results["phases"].get("healthy", {})
    recorder = next(iter(healthy.get("recorders", [])), {})
    broken = {one["fault"]: one for one in results["phases"].get("faults", {}).get("rows", [])}
    strays = results["phases"].get("faults", {}).get("strays", [])
    return {
        "nccl": version,
        "reported": recorder.get("nccl"),
        "api": recorder.get("api"),
        "mask": recorder.get("mask"),
        "on_gpu": bool(recorder.get("started_on_gpu")),
        "steps": bool(recorder.get("steps_done")),
        "healthy": healthy.get("passed", False),
        "iterations": healthy.get("iterations_done"),
        "faults": {name: verdict(broken.get(name, {})) for name in faults},
        "strays": len(strays),
        "passed": code == 0,
    }


def verdict(one):
    """One fault in a few characters."""
    if one.get("passed"):
        return f"{one['seconds']:.1f} s"
    wrong = [name for name in ("right_kind", "right_rank", "in_time", "recovered") if not one.get(name)]
    return f"NOT {', '.join(wrong)}: {one.get('said') or one.get('error') or 'nothing said'}" if one else "not done"


def report(rows, faults):
    """The table."""
    heads = ["NCCL", "API", "mask", "seen on the GPU", "network steps", "healthy", *faults, "false alarms"]
    lines = [
        [
            one["nccl"],
            f"v{one['api']}" if one["api"] else "not loaded",
            str(one["mask"]),
            "yes" if one["on_gpu"] else "no",
            "yes" if one["steps"] else "no",
            "silent" if one["healthy"] else "FAILED",
            *one["faults"].values(),
            str(one["strays"]),
        ]
        for one in rows
    ]
    return table(heads, lines)


def main():
    options = parse_arguments()
    missing = [path for path in options.libraries if not os.path.isfile(path)]
    if missing:
        sys.exit(f"no such file: {', '.join(missing)}")
    os.makedirs(options.out, exist_ok=True)
    begun = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory(prefix="c4compat-") as directory:
        with concurrent.futures.ThreadPoolExecutor(options.lanes) as pool:
            for one in pool.map(lambda path: run_suite(options, path, directory), options.libraries):
                rows.append(one)
                state = "passed" if one["passed"] else "FAILED"
                print(f"[{time.monotonic() - begun:6.1f}s] NCCL {one['nccl']}: {state}", flush=True)
    with open(os.path.join(options.out, "compat.json"), "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
    print(report(rows, options.faults))
    return 0 if all(one["passed"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
