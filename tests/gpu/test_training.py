"""Tests of the training job without a GPU and without PyTorch: `python3 -m unittest discover tests/gpu`."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import stubtorch  # noqa: E402
import train  # noqa: E402
from c4gpu import layout  # noqa: E402
from c4gpu.control import FaultControl  # noqa: E402
from c4gpu.observe import applied  # noqa: E402
from c4gpu.shapes import SHAPES  # noqa: E402
from c4gpu.trainer import METRICS, Trainer, read_checkpoint  # noqa: E402
from directory import Directory  # noqa: E402

BUCKETS = [4 << 20, 4 << 20, 512 << 10, 512 << 10]


class TrainingLoop(Directory):
    def run_rank(self, *arguments, state=None, faults=None):
        calls = []
        options = train.parse_arguments(["--rendezvous", self.directory, *map(str, arguments)])
        if faults:
            self.write("rank-0.json", json.dumps(faults))
        control = FaultControl(self.directory, 0, log=lambda _: None)
        Trainer(stubtorch.torch(calls), options, 0, 1, control, lambda _: None, SHAPES["dp"]).run(state or {})
        return calls

    def reductions(self, calls):
        return [call[1] for call in calls if call[0] == "all_reduce"]

    def test_an_iteration_reduces_its_buckets_and_then_the_metrics(self):
        calls = self.run_rank("--iterations", 1)
        # The first one belongs to the opening of the group.
        self.assertEqual(self.reductions(calls)[1:], [*BUCKETS, METRICS])
        self.assertEqual(calls[-1], ("destroy",))

    def test_a_skip_happens_once(self):
        calls = self.run_rank("--iterations", 2, faults={"kind": "skip", "once": True})
        whole = [*BUCKETS, METRICS]
        self.assertEqual(self.reductions(calls)[1:], whole[1:] + whole)
        self.assertFalse(os.path.exists(self.path("rank-0.json")))

    def test_a_resize_happens_once(self):
        calls = self.run_rank("--iterations", 2, faults={"kind": "resize", "once": True})
        sizes = self.reductions(calls)[1:]
        self.assertEqual(sizes[0], BUCKETS[0] * 3 // 4)
        self.assertEqual(sizes.count(BUCKETS[0]), 3)

    def test_a_busy_stream_spins_in_every_iteration(self):
        calls = self.run_rank("--iterations", 3, faults={"kind": "busy", "us": 1000})
        # One spin measures the clock.
        self.assertEqual(len([call for call in calls if call[0] == "spin"]), 1 + 3)
        self.assertEqual(applied(self.path("rank-0.applied"), 0)[0], 0)

    def test_groups_follow_one_another_in_one_process(self):
        calls = self.run_rank("--iterations", 6, "--groups", 3)
        groups = [call for call in calls if call[0] in ("init", "destroy")]
        names = [("init", f"meet-0-{n}") for n in range(3)]
        self.assertEqual(groups, [step for name in names for step in (name, ("destroy",))])

    def test_an_abort_replaces_the_destroy_between_groups(self):
        calls = self.run_rank("--iterations", 2, "--groups", 2, "--abort", "--no-destroy")
        kinds = [call[0] for call in calls if call[0] in ("init", "destroy", "abort")]
        self.assertEqual(kinds, ["init", "abort", "init"])

    def test_a_checkpoint_is_announced_and_gone_on_from(self):
        os.environ["C4_CHECKPOINT_MARKER"] = self.path("marker")
        self.addCleanup(os.environ.pop, "C4_CHECKPOINT_MARKER")
        self.run_rank("--iterations", 7, "--checkpoint-every", 3, "--checkpoint", self.path("state"))
        self.assertRegex(self.read("marker"), r"^6 [0-9]+\.[0-9]{6}\n$")
        state = read_checkpoint(self.path("state"))
        calls = self.run_rank("--iterations", 8, state=state)
        self.assertEqual(self.reductions(calls)[1:], 2 * [*BUCKETS, METRICS])

    def test_a_wrong_sum_ends_the_job(self):
        options = train.parse_arguments(["--rendezvous", self.directory])
        trainer = Trainer(stubtorch.torch([]), options, 0, 2, FaultControl(None, 0), lambda _: None, SHAPES["dp"])
        with self.assertRaisesRegex(SystemExit, "wrong average"):
            trainer.shape.verify()



class Shapes(Directory):
    """All ranks of a job one after the other: what they called has to fit together."""

    RANKS = 8

    def calls_of(self, shape, rank, fault=None):
        calls = []
        arguments = ["--rendezvous", self.directory, "--shape", shape, "--iterations", "2", "--verify-every", "0"]
        options = train.parse_arguments([*arguments, "--checkpoint-every", "0"])
        control = FaultControl(self.path(f"{shape}-{rank}"), rank, log=lambda _: None)
        if fault:
            self.write(f"{shape}-{rank}/rank-{rank}.json", json.dumps(fault))
        Trainer(stubtorch.torch(calls), options, rank, self.RANKS, control, lambda _: None, SHAPES[shape]).run({})
        return [call for call in calls if call[0] not in ("init", "destroy", "spin")]

    def in_group(self, calls, group):
        return [call for call in calls if call[0] != "batch" and (call[2] if len(call) > 2 else None) == group]

    def test_members_of_a_group_agree_on_its_collectives(self):
        for shape in layout.SHAPES:
            calls = [self.calls_of(shape, rank) for rank in range(self.RANKS)]
            groups = {None: range(self.RANKS)}
            for name, members in layout.groups(shape, self.RANKS).items():
                groups |= {(name, *ranks): ranks for ranks in members}
            for group, ranks in groups.items():
                sequences = [self.in_group(calls[rank], group) for rank in ranks]
                self.assertTrue(all(one == sequences[0] for one in sequences), f"{shape}: {group}")
            used = {call[2] for one in calls for call in one if len(call) > 2}
            self.assertLessEqual(used, set(groups), shape)

    def test_what_a_stage_sends_another_receives(self):
        batches = {
            rank: [[list(op) for op in call[1]] for call in self.calls_of("pp", rank) if call[0] == "batch"]
            for rank in range(self.RANKS)
        }
        moved = True
        while moved:  # every rank is in the first of its batches that has operations left
            moved = False
            for rank, mine in batches.items():
                for operation in mine[0][:] if mine else []:
                    kind, peer, count = operation
                    other = ["receive" if kind == "send" else "send", rank, count]
                    if batches[peer] and other in batches[peer][0]:
                        mine[0].remove(operation)
                        batches[peer][0].remove(other)
                        moved = True
            for mine in batches.values():
                while mine and not mine[0]:
                    mine.pop(0)
        self.assertEqual({rank: mine for rank, mine in batches.items() if mine}, {})

    def test_every_shape_can_skip_and_shorten_one_collective(self):
        for shape in layout.SHAPES:
            usual = self.calls_of(shape, 3)
            self.assertEqual(len(self.calls_of(shape, 3, {"kind": "skip", "once": True})), len(usual) - 1, shape)
            shortened = self.calls_of(shape, 3, {"kind": "resize", "once": True})
            differing = [(a, b) for a, b in zip(usual, shortened, strict=True) if a != b]
            self.assertEqual(len(differing), 1, shape)
            self.assertEqual(differing[0][0][1] * 3 // 4, differing[0][1][1], shape)

    def test_ranks_that_make_no_such_job_are_refused(self):
        for shape, ranks in (("tpdp", 7), ("pp", 7), ("tpdp", 2)):
            with self.assertRaisesRegex(layout.LayoutError, "multiple of"):
                layout.groups(shape, ranks)
        self.assertEqual(layout.groups("pp", 2), {"dp": [[0], [1]], "pp": [[0, 1]]})


if __name__ == "__main__":
    unittest.main()
