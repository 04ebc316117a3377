#!/usr/bin/env python3
"""Turns short recordings of a campaign into cases that CI replays (controller/detect/tests/recordings).

    pick.py tasks.tar                      lists what there is
    pick.py tasks.tar NAME nccl-CASE       makes the case; then C4_BLESS=1 cargo test -p c4-detect --test replay
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tarfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu.fixtures import read_lines  # noqa: E402
from c4gpu.judge import FAULTS, STRAGGLER_ITERATIONS, WINDOWS_SECONDS  # noqa: E402

RECORDINGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "controller", "detect", "tests", "recordings")


def indexes(archive):
    """{folder in the archive: its index}."""
    members = [member for member in archive.getnames() if member.endswith("fixtures/index.json")]
    return {os.path.dirname(member): json.loads(archive.extractfile(member).read()) for member in members}


def within_us(entry):
    """How soon a fault has to be named."""
    fault = FAULTS[entry["fault"]]
    seconds = fault.max_seconds
    if seconds is None:
        seconds = max(WINDOWS_SECONDS, STRAGGLER_ITERATIONS * (entry.get("period_ms") or 0.0) / 1e3)
    return int(seconds * 1e6)


def kind_of(entry):
    """What it should be called: what was said of it, if that is one of its names, else the best of them."""
    said = (entry.get("said") or "").split("@")[0]
    return said if said in entry["kinds"] else entry["kinds"][0]


def faults_in(index, begin, end):
    """What was done to the job between two moments, said or not, in the form of faults.json."""
    done = [one for one in index if one.get("fault") and begin <= one["injected_unix"] < end]
    return [
        {
            "kind": kind_of(entry),
            "rank": entry["rank"],
            "at_us": int(entry["injected_unix"] * 1e6),
            "within_us": within_us(entry),
        }
        for entry in sorted(done, key=lambda entry: entry["injected_unix"])
    ]


def make_case(archive, folder, index, entry, target):
    """Writes the folder of a case."""
    os.makedirs(target)
    packed = os.path.join(target, "input.jsonl.gz")
    with archive.extractfile(f"{folder}/{entry['name']}.jsonl.gz") as source, open(packed, "wb") as out:
        shutil.copyfileobj(source, out)
    with gzip.open(packed, "rt", encoding="utf-8") as file:
        text = file.read()
    plain = os.path.join(target, "input.jsonl")
    with open(plain, "w", encoding="utf-8") as file:
        file.write(text)
    begin = min(now for now, _, _ in read_lines(plain)) / 1e6
    os.remove(plain)
    with open(os.path.join(target, "faults.json"), "w", encoding="utf-8") as file:
        json.dump(faults_in(index, begin, entry["end_unix"]), file, indent=2)
        file.write("\n")
    peer = f" (towards rank {entry['peer']})" if entry.get("peer") is not None else ""
    shape = entry["name"].split("-" + (entry.get("fault") or "healthy"))[0]
    what = f"Fault {entry['fault']} on rank {entry['rank']}{peer}" if entry.get("fault") else "Nothing is wrong"
    with open(os.path.join(target, "README"), "w", encoding="utf-8") as file:
        file.write(f"{what} in a job of shape {shape} of real NCCL (tests/gpu).\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("archive", help="tasks.tar of matrix.py")
    parser.add_argument("name", nargs="?", help="of a recording")
    parser.add_argument("case", nargs="?", help="name of the folder to make, such as nccl-pipeline-killed")
    parser.add_argument("--recordings", default=RECORDINGS, help="where cases are")
    options = parser.parse_args()
    if (options.name is None) != (options.case is None):
        parser.error("a recording needs a name for its case")
    with tarfile.open(options.archive) as archive:
        found = {entry["name"]: (folder, index, entry) for folder, index in indexes(archive).items() for entry in index}
        if options.name is None:
            for name, (folder, _, entry) in found.items():
                size = archive.getmember(f"{folder}/{name}.jsonl.gz").size if f"{folder}/{name}.jsonl.gz" in archive.getnames() else 0
                print(f"{name:32} {size:8} bytes  said {entry.get('said')}  {'passed' if entry.get('passed') else 'FAILED'}  ({folder})")
            return 0
        if options.name not in found:
            parser.error(f"no recording {options.name!r} in {options.archive}")
        target = os.path.join(options.recordings, options.case)
        if os.path.exists(target):
            parser.error(f"{target} is there already")
        make_case(archive, *found[options.name], target)
    print(f"{target}: now C4_BLESS=1 cargo test -p c4-detect --test replay, and read expected.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
