"""Tests of the compatibility table without NCCL: `python3 -m unittest discover tests/gpu`."""

import lzma
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import compat  # noqa: E402
import ncclrank  # noqa: E402
from c4gpu.control import FaultControl  # noqa: E402
from directory import Directory  # noqa: E402

KILLED = {"fault": "kill", "passed": True, "seconds": 0.31, "said": "process_death@1"}
WRONG = {"fault": "stop", "right_kind": True, "in_time": True, "recovered": True, "said": "non_comm_hang@2"}


class Table(Directory):
    def test_a_version_is_read_off_the_name_of_its_file(self):
        self.assertEqual(compat.name_of("/x/libnccl-2.27.7.so.xz"), "2.27.7")
        self.assertEqual(compat.name_of("/x/libnccl.so.2"), "libnccl.so.2")

    def test_a_packed_library_is_unpacked(self):
        packed = self.path("libnccl-2.30.7.so.xz")
        with lzma.open(packed, "wb") as file:
            file.write(b"\x7fELF")
        with open(compat.unpacked(packed, self.directory), "rb") as file:
            self.assertEqual(file.read(), b"\x7fELF")

    def test_a_row_says_what_was_wrong(self):
        recorder = {"nccl": 22707, "api": 4, "mask": 94, "started_on_gpu": 3, "steps_done": 0}
        phases = {"healthy": {"passed": True, "recorders": [recorder]}, "faults": {"rows": [KILLED, WRONG], "strays": []}}
        row = compat.row("2.27.7", 1, {"phases": phases}, ["kill", "stop", "resize"])
        self.assertEqual(row["faults"]["kill"], "0.3 s")
        self.assertEqual(row["faults"]["stop"], "NOT right_rank: non_comm_hang@2")
        self.assertEqual(row["faults"]["resize"], "not done")
        self.assertFalse(row["passed"])
        text = compat.report([row], row["faults"])
        self.assertIn("v4", text)

    def test_a_run_without_results_is_a_row_too(self):
        row = compat.row("2.23.4", 1, {"phases": {}}, ["kill"])
        self.assertIn("not loaded", compat.report([row], row["faults"]))


class Recorded:
    """Stands in for device and communicator: notes the sizes that were reduced."""

    def __init__(self):
        self.sizes = []

    def all_reduce(self, _source, _target, floats):
        self.sizes.append(floats)

    def synchronize(self):
        pass


class Rank(Directory):
    def job(self):
        job = object.__new__(ncclrank.Job)
        job.options = ncclrank.parse_arguments(["--nccl", "x", "--rendezvous", self.directory, "--compute-ms", "0"])
        job.control = FaultControl(self.directory, 0, log=lambda _: None)
        job.device = job.communicator = Recorded()
        job.buffers, job.sum = [(1024, None), (16, None)], None
        return job

    def test_faults_change_the_first_collective_once(self):
        for kind, first in (("skip", [16]), ("resize", [768, 16])):
            job = self.job()
            self.write("rank-0.json", f'{{"kind": "{kind}", "once": true}}')
            job.step(1)
            job.step(2)
            self.assertEqual(job.communicator.sizes, [*first, 1024, 16])


if __name__ == "__main__":
    unittest.main()
