"""Tests of the campaign: what is planned, how it is shared out, and what is made of the outcome."""

import contextlib
import io
import os
import sys
import tarfile
import tempfile
import time
import types
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import matrix  # noqa: E402
import suite  # noqa: E402
from c4gpu import lanes, plan  # noqa: E402

PASSED = {"fault": "kill", "shape": "dp", "rank": 0, "passed": True, "right_rank": True, "right_kind": True, "seconds": 0.5}


def tasks(*arguments):
    """What a command line asks for."""
    return matrix.tasks_of(matrix.parse_arguments(["--bin", "/", "--out", "x", *arguments]))


class Planning(unittest.TestCase):
    def test_the_usual_campaign_is_large_enough(self):
        planned = tasks()
        faults = [task for task in planned if "faults" in task.arguments]
        self.assertGreaterEqual(sum(len(task.arguments[task.arguments.index("--faults") + 1].split(",")) for task in faults), 100)
        self.assertEqual(len({task.name for task in planned}), len(planned))

    def test_every_fault_hits_the_first_shape_on_other_ranks(self):
        mine = [task for task in tasks("--kinds", "faults") if "dp" in task.arguments and "deadly" in task.name]
        first = [task.arguments[task.arguments.index("--first-rank") + 1] for task in mine]
        self.assertEqual(first, ["0", "1", "2", "3", "4"])

    def test_faults_can_be_chosen(self):
        planned = tasks("--kinds", "faults", "--shapes", "dp", "--repeat", "2", "--faults", "sleep")
        self.assertEqual([task.name for task in planned], ["dp-network-lasting-0", "dp-network-lasting-1"])
        self.assertIn("sleep20,sleep50,sleep100", planned[0].arguments)

    def test_tasks_are_what_the_suite_understands(self):
        own = tasks("--own-gpus", "--devices", "0,1")
        for task in [*tasks(), *tasks("--shake-out"), *own, *tasks("--own-gpus", "--devices", "0,1", "--shake-out")]:
            suite.parse_arguments(["--bin", "/", "--out", "x", "--ranks", str(task.ranks), *task.arguments])
        self.assertEqual({task.ranks for task in own}, {2})
        self.assertTrue(any(task.alone for task in own))

    def test_sockets_are_only_hindered_where_there_are_some(self):
        for task in tasks("--own-gpus", "--transports", "local"):
            self.assertNotIn("link", ",".join(task.arguments))

    def test_unknown_words_are_refused(self):
        for arguments in (["--kinds", "x"], ["--shapes", "dp,x"], ["--lanes", "0"]):
            with self.assertRaises(SystemExit) as refused, contextlib.redirect_stderr(io.StringIO()):
                matrix.parse_arguments(["--bin", "/", "--out", "x", *arguments])
            self.assertEqual(refused.exception.code, 2)


class Sharing(unittest.TestCase):
    def run_lanes(self, planned, count, seconds):
        options = types.SimpleNamespace(devices=[0, 1])
        shared = lanes.Lanes(options, time.monotonic() + seconds, lambda _: None)
        ran = []
        shared._run = lambda task, number, devices, left: ran.append((task.name, devices)) or {}
        shared.work(planned, count)
        return shared, ran

    def test_every_task_runs_once_and_those_for_all_gpus_get_all(self):
        planned = [plan.Task(f"t{number}", (), 10.0, 8, number == 3) for number in range(9)]
        shared, ran = self.run_lanes(planned, 4, 600.0)
        self.assertEqual(sorted(name for name, _ in ran), [task.name for task in planned])
        self.assertEqual(dict(ran)["t3"], [0, 1])
        self.assertTrue(all(len(devices) == 1 for name, devices in ran if name != "t3"))
        self.assertEqual(shared.not_begun, [])

    def test_what_there_is_no_time_for_is_said(self):
        planned = [plan.Task("long", (), 500.0, 8), plan.Task("short", (), 5.0, 8)]
        shared, ran = self.run_lanes(planned, 1, lanes.CLOSING_SECONDS + 20.0)
        self.assertEqual([name for name, _ in ran], ["short"])
        self.assertEqual(shared.not_begun, ["long"])

    def test_short_recordings_go_first_into_the_archive(self):
        with tempfile.TemporaryDirectory() as work:
            os.makedirs(os.path.join(work, "task"))
            with tarfile.open(os.path.join(work, "task", "artifacts.tar.gz"), "w:gz") as archive:
                for name, size in (("keep/recorder.gz", 40_000), ("keep/fixtures/one.jsonl.gz", 30_000)):
                    info = tarfile.TarInfo(name)
                    info.size = size
                    archive.addfile(info, io.BytesIO(bytes(size)))
            path = os.path.join(work, "tasks.tar")
            self.assertEqual(lanes.pack(work, path, 50_000), 1)
            with tarfile.open(path) as archive:
                self.assertEqual(archive.getnames(), ["task/keep/fixtures/one.jsonl.gz"])
            self.assertLessEqual(os.path.getsize(path), 50_000)


class Summing(unittest.TestCase):
    def summary(self, *phases, not_begun=()):
        outcomes = [{"task": f"t{number}", "phases": one} for number, one in enumerate(phases)]
        return matrix.summarise(outcomes, list(not_begun))

    def test_all_good_is_good(self):
        healthy = {"shape": "pp", "seconds": 120.0, "passed": True, "findings": []}
        row = {**PASSED, "healthy_seconds": 30.0}
        summary = self.summary({"faults": {"rows": [row], "strays": []}}, {"healthy": healthy})
        self.assertTrue(summary["passed"])
        self.assertEqual((summary["fault_runs"], summary["healthy_minutes"]), (1, 2.0))
        text = matrix.text_of(summary)
        self.assertIn("kill", text)
        self.assertIn("healthy job-minutes 2.0, and 0.5 before faults", text)

    def test_a_false_alarm_a_wrong_rank_or_what_was_not_done_fails(self):
        finding = {"kind": "non_comm_slow", "suspects": [{"rank": 3}], "summary": "rank 3 is late"}
        wrong = {**PASSED, "passed": False, "right_rank": False}
        for summary in (
            self.summary({"faults": {"rows": [PASSED], "strays": [finding]}}),
            self.summary({"healthy": {"shape": "dp", "seconds": 9.0, "passed": False, "findings": [finding]}}),
            self.summary({"faults": {"rows": [PASSED, wrong]}}),
            self.summary({"faults": {"rows": [PASSED]}}, not_begun=["late"]),
            self.summary({}),
        ):
            self.assertFalse(summary["passed"])
            matrix.text_of(summary)


if __name__ == "__main__":
    unittest.main()
