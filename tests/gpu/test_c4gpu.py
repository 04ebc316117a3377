"""Tests of the suite itself, without a GPU: `python3 -m unittest discover tests/gpu`."""

import json
import os
import subprocess
import sys
import tempfile
import time
import types
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import train  # noqa: E402
from c4gpu import cost, fixtures, judge, recorders  # noqa: E402
from c4gpu.cluster import controller_config, split_ranks  # noqa: E402
from c4gpu.control import ControlError, FaultControl, parse_fault  # noqa: E402
from c4gpu.observe import Progress, applied, new_findings, wait_for  # noqa: E402
from c4gpu.processes import Processes, labelled  # noqa: E402


class StubTensor:
    """A tensor whose elements are all alike."""

    def __init__(self, count, value):
        self.count, self.value = count, value

    def fill_(self, value):
        self.value = value

    def numel(self):
        return self.count

    def item(self):
        return self.value

    def tolist(self):
        return list(self.value)

    def min(self):
        return self

    max = min

    def __getitem__(self, key):
        return StubTensor(key.stop, self.value) if isinstance(key, slice) else self

    def __truediv__(self, _):
        return self


def stub_torch(calls):
    """Just enough of PyTorch for one rank alone; notes the collectives and groups in `calls`."""

    class Event:
        def __init__(self, **_):
            pass

        def record(self):
            pass

        def elapsed_time(self, _):
            return 1.0

    def all_reduce(tensor, op=None, async_op=False):
        del op, async_op
        calls.append(("all_reduce", tensor.numel()))
        return types.SimpleNamespace(wait=lambda: None)

    def note(name):
        return lambda *_, **__: calls.append((name,))

    core = types.SimpleNamespace(_abort_process_group=note("abort"))
    distributed = types.SimpleNamespace(
        ReduceOp=types.SimpleNamespace(AVG="avg"),
        FileStore=lambda path, ranks: (path, ranks),
        init_process_group=lambda *_, store=None, **__: calls.append(("init", os.path.basename(store[0]))),
        destroy_process_group=note("destroy"),
        all_reduce=all_reduce,
        broadcast=lambda *_: None,
        barrier=lambda: None,
        distributed_c10d=core,
    )
    cuda = types.SimpleNamespace(
        Event=Event,
        set_device=lambda _: None,
        synchronize=lambda: None,
        _sleep=lambda cycles: calls.append(("spin", cycles)),
    )
    return types.SimpleNamespace(
        distributed=distributed,
        cuda=cuda,
        bfloat16="bfloat16",
        int64="int64",
        device=lambda *_: "cuda:0",
        empty=lambda *_, **__: None,
        randn=lambda *_, **__: StubTensor(1, 0.0),
        full=lambda shape, value, **_: StubTensor(shape[0], value),
        tensor=lambda values, **_: StubTensor(len(values), values),
        matmul=lambda *_: None,
    )


class Directory(unittest.TestCase):
    """A test with a directory of its own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()


class TrainingLoop(Directory):
    def run_rank(self, *arguments, state=None, faults=None):
        calls = []
        options = train.parse_arguments(["--rendezvous", self.directory, *map(str, arguments)])
        if faults:
            self.write("rank-0.json", json.dumps(faults))
        control = FaultControl(self.directory, 0, log=lambda _: None)
        train.Trainer(stub_torch(calls), options, 0, 1, control, lambda _: None).run(state or {})
        return calls

    def reductions(self, calls):
        return [call[1] for call in calls if call[0] == "all_reduce"]

    def test_an_iteration_reduces_its_buckets_and_then_the_metrics(self):
        calls = self.run_rank("--iterations", 1)
        # The first one belongs to the opening of the group.
        self.assertEqual(self.reductions(calls)[1:], [*train.BUCKETS, train.METRICS])
        self.assertEqual(calls[-1], ("destroy",))

    def test_a_skip_happens_once(self):
        calls = self.run_rank("--iterations", 2, faults={"kind": "skip", "once": True})
        whole = [*train.BUCKETS, train.METRICS]
        self.assertEqual(self.reductions(calls)[1:], whole[1:] + whole)
        self.assertFalse(os.path.exists(self.path("rank-0.json")))

    def test_a_resize_happens_once(self):
        calls = self.run_rank("--iterations", 2, faults={"kind": "resize", "once": True})
        sizes = self.reductions(calls)[1:]
        self.assertEqual(sizes[0], train.BUCKETS[0] * 3 // 4)
        self.assertEqual(sizes.count(train.BUCKETS[0]), 3)

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
        self.assertEqual(self.read("marker"), "6\n")
        state = train.read_checkpoint(self.path("state"))
        calls = self.run_rank("--iterations", 8, state=state)
        self.assertEqual(self.reductions(calls)[1:], 2 * [*train.BUCKETS, train.METRICS])

    def test_a_wrong_sum_ends_the_job(self):
        options = train.parse_arguments(["--rendezvous", self.directory])
        trainer = train.Trainer(stub_torch([]), options, 0, 2, FaultControl(None, 0), lambda _: None)
        with self.assertRaisesRegex(SystemExit, "wrong average"):
            trainer.verify()


class Control(Directory):
    def test_bad_fault_files_are_named_and_ignored(self):
        for text in ("{", "[]", '{"kind":"explode"}', '{"kind":"sleep"}', '{"kind":"sleep","us":-1}', '{"kind":"busy","us":true}'):
            with self.assertRaises(ControlError):
                parse_fault(text)
        said = []
        control = FaultControl(self.directory, 1, said.append)
        self.write("rank-1.json", "{")
        self.assertIsNone(control.poll(0))
        self.assertIsNone(control.poll(1))
        self.assertEqual(len(said), 1)

    def test_a_fault_lasts_until_its_iteration(self):
        control = FaultControl(self.directory, 1, lambda _: None)
        self.write("rank-1.json", '{"kind":"sleep","us":5,"until_iteration":8}')
        self.assertEqual(control.poll(8)["us"], 5)
        self.assertIsNone(control.poll(9))

    def test_progress_can_be_followed(self):
        progress = Progress(self.directory, 1)
        self.addCleanup(progress.close)
        begun = time.time()
        for iteration in (10, 20):
            self.write("rank-0.tmp", f"{iteration} {int((begun + iteration) * 1e6)}\n")
            os.replace(self.path("rank-0.tmp"), self.path("rank-0.iteration"))
            self.assertTrue(wait_for(lambda: progress.latest(0) and progress.latest(0)[0] == iteration, 5.0, 0.01))  # noqa: B023
        self.assertEqual(progress.done_since(begun), 10)
        self.assertAlmostEqual(progress.iteration_at(0, begun + 15), 15, places=3)
        self.assertAlmostEqual(progress.period(begun, begun + 60), 1.0, places=3)


class Judgement(unittest.TestCase):
    def finding(self, kind, rank=None, link=None, **more):
        suspect = {"rank": rank, "score": 1.0}
        if link:
            suspect["link"] = {"src": f"rank {link[0]}", "dst": f"rank {link[1]}"}
        return {"id": "f-1", "kind": kind, "suspects": [suspect], "detected": "2026-01-01T00:00:01.500Z", **more}

    def test_faults_are_named_with_their_strength(self):
        self.assertEqual(judge.parse_faults("sleep,kill,kill"), ["sleep20", "sleep50", "sleep100", "kill"])
        self.assertEqual(judge.parse_faults("all"), list(judge.FAULTS))
        for text in ("", "kil"):
            with self.assertRaises(ValueError):
                judge.parse_faults(text)

    def test_only_the_first_suspect_counts(self):
        finding = self.finding("non_comm_hang", 3)
        finding["suspects"].append({"rank": 1})
        self.assertTrue(judge.right_suspect(judge.FAULTS["stop"], finding, 3))
        self.assertFalse(judge.right_suspect(judge.FAULTS["stop"], finding, 1))

    def test_a_link_has_a_direction(self):
        fault = judge.FAULTS["link"]
        self.assertTrue(judge.right_suspect(fault, self.finding("comm_hang", link=(1, 2)), 1, 2))
        self.assertFalse(judge.right_suspect(fault, self.finding("comm_hang", link=(2, 1)), 1, 2))
        self.assertFalse(judge.right_suspect(fault, self.finding("comm_hang", rank=1), 1, 2))

    def test_old_findings_are_not_verdicts(self):
        moment = judge.unix_seconds("2026-01-01T00:00:01Z")
        old = self.finding("health", 0, detected="2026-01-01T00:00:00.000Z")
        self.assertEqual(new_findings([old], set(), moment), [])
        new = self.finding("health", 0)
        self.assertEqual(new_findings([new], set(), moment), [new])
        self.assertEqual(new_findings([new], {"f-1"}, moment), [])

    def test_the_finding_said_first_counts(self):
        early = self.finding("comm_hang", 1, id="f-9", detected="2026-01-01T00:00:01.000Z")
        self.assertIs(judge.choose([self.finding("desync", 1), early]), early)


class Fixtures(Directory):
    def line(self, seconds, kind, **fields):
        return json.dumps({"now": int(seconds * 1e6), "observation": {"type": kind, **fields}}) + "\n"

    def test_a_cut_stands_on_its_own(self):
        lines = [
            self.line(1, "node_seen", node="a"),
            self.line(2, "process_started", process=7),
            self.line(2, "process_started", process=8),
            self.line(2, "communicator_joined", process=8, comm=1),
            self.line(3, "process_ended", process=7),
            self.line(4, "window", process=8),
            self.line(500, "window", process=8),
            self.line(501, "process_ended", process=8),
            self.line(600, "window", process=9),
            '{"now": 60',
        ]
        self.write("record", "".join(lines))
        texts = fixtures.cut(fixtures.read_lines(self.path("record")), 500.5, 502)
        found = [(one["now"] // 1_000_000, one["observation"]["type"]) for one in map(json.loads, texts)]
        begin = [(500, "node_seen"), (500, "process_started"), (500, "communicator_joined")]
        self.assertEqual(found, begin + [(500, "window"), (501, "process_ended")])
        fixtures.keep(self.path("kept"), self.path("record"), [{"name": "one", "injected_unix": 500.5, "until_unix": 502}])
        self.assertEqual(sorted(os.listdir(self.path("kept"))), ["index.json", "one.jsonl.gz"])


class Measuring(unittest.TestCase):
    def test_variants_are_compared_within_a_round_and_then_over_starts(self):
        # The machine is three times slower in the second round; the plugin costs 10 % in each, but for one odd start.
        usual = {"latency": {4096: {"none": [100.0, 300.0, 110.0], "default": [110.0, 330.0, 121.0]}}}
        odd = {"latency": {4096: {"none": [100.0], "default": [200.0]}}}
        rows = cost.summarise([usual, odd, usual], ["none", "default"])
        self.assertAlmostEqual(rows[1]["ratio"], 1.1)
        self.assertEqual(rows[1]["starts"], 3)
        self.assertIn("+10.00 %", cost.report(rows))

    def test_the_ring_is_read_from_the_connections(self):
        comm = [{"slot": 0, "size": 4}, {"slot": 1, "size": 2}]
        edges = [(0, 1, 5), (0, 3, 900), (1, 1, 10_000)]
        conns = [{"comm_slot": s, "peer": p, "bytes": b, "is_send": True} for s, p, b in edges]
        self.assertEqual(recorders.next_rank({"communicators": comm, "connections": conns}, 2, 4), 3)
        self.assertEqual(recorders.next_rank({}, 3, 4), 0)

    def test_ranks_are_shared_out(self):
        self.assertEqual(split_ranks(4, 2), [(0, 1), (2, 3)])
        self.assertEqual(split_ranks(5, 3), [(0, 0), (1, 2), (3, 4)])
        self.assertEqual(split_ranks(2, 3), [(0, 0), (1, 1)])

    def test_paths_survive_the_configuration(self):
        self.assertIn('record: "/a b/\\"c"', controller_config("auto", '/a b/"c'))


class Children(Directory):
    def test_nothing_outlives_a_run(self):
        processes = Processes(self.directory)
        # A stopped grandchild in a session of its own, as agents and faults leave them.
        script = "import os,signal,subprocess,sys;p=subprocess.Popen(['sleep','600'],start_new_session=True);os.kill(p.pid,signal.SIGSTOP)"
        child = processes.start("parent", [sys.executable, "-c", script])
        self.assertEqual(child.wait(20), 0)
        self.assertEqual(len(processes.stop_all()), 1)
        self.assertEqual(labelled("C4_GPU_RUN", processes.label), [])

    def test_a_command_that_hangs_is_given_up(self):
        code, _, reason = Processes(self.directory).run(["sleep", "600"], timeout=0.2)
        self.assertIsNone(code)
        self.assertIn("no answer", reason)

    def test_bad_usage_ends_with_2(self):
        suite = os.path.join(os.path.dirname(os.path.abspath(__file__)), "suite.py")
        for arguments in ([], ["--bin", "/nowhere", "--out", self.directory], ["--bin", "/", "--out", "x", "--phase", "x"]):
            done = subprocess.run([sys.executable, suite, *arguments], capture_output=True, check=False)
            self.assertEqual(done.returncode, 2)


if __name__ == "__main__":
    unittest.main()
