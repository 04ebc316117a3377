"""Tests of the suite itself, without a GPU: `python3 -m unittest discover tests/gpu`."""

import json
import os
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import pick  # noqa: E402
from c4gpu import cost, fixtures, judge, recorders, switch  # noqa: E402
from c4gpu.cluster import controller_config, split_ranks  # noqa: E402
from c4gpu.control import ControlError, FaultControl, parse_fault  # noqa: E402
from c4gpu.observe import Progress, applied, new_findings, wait_for  # noqa: E402
from c4gpu.processes import Processes, labelled  # noqa: E402
from directory import Directory  # noqa: E402


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
        self.assertNotIn("illegal", judge.parse_faults("all"))
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

    def test_for_a_slow_link_its_sender_will_do(self):
        fault = judge.FAULTS["slowlink"]
        self.assertTrue(judge.right_suspect(fault, self.finding("comm_slow", link=(1, 2)), 1, 2))
        self.assertTrue(judge.right_suspect(fault, self.finding("comm_slow", rank=1), 1, 2))
        self.assertFalse(judge.right_suspect(fault, self.finding("comm_slow", rank=1, link=(1, 3)), 1, 2))
        self.assertFalse(judge.right_suspect(fault, self.finding("comm_slow", rank=2), 1, 2))

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
        texts = fixtures.cut(fixtures.read_lines(self.path("record")), 500.5, 505)
        found = [(one["now"] // 1_000_000, one["observation"]["type"]) for one in map(json.loads, texts)]
        begin = [(500, "node_seen"), (500, "process_started"), (500, "communicator_joined")]
        self.assertEqual(found, begin + [(500, "window"), (501, "process_ended")])
        fixtures.keep(self.path("kept"), self.path("record"), [{"name": "one", "injected_unix": 500.5, "end_unix": 505}])
        self.assertEqual(sorted(os.listdir(self.path("kept"))), ["index.json", "one.jsonl.gz"])


    def test_a_cut_ends_before_the_next_fault(self):
        rows = [{"injected_unix": 10.0, "seconds": 2.0}, {"injected_unix": 14.0, "seconds": None}, {"injected_unix": 90.0, "seconds": 1.0}]
        self.assertEqual(fixtures.ends(rows, 20.0), [14.0, 37.0, 94.0])

    def test_a_case_lists_all_that_was_done_in_it(self):
        entry = {"fault": "stop", "kinds": ["non_comm_hang"], "said": "non_comm_hang@2", "rank": 2, "seconds": 2.0}
        index = [
            {**entry, "injected_unix": 5.0},
            {**entry, "injected_unix": 20.0},
            {**entry, "injected_unix": 24.0, "said": None, "seconds": None},
            {**entry, "fault": "sleep20", "kinds": ["non_comm_slow"], "injected_unix": 30.0, "said": "desync@1", "rank": 1, "period_ms": 300.0},
        ]
        done = pick.faults_in(index, 10.0, 35.0)
        told = [("non_comm_hang", 2, 20_000_000), ("non_comm_hang", 2, 24_000_000), ("non_comm_slow", 1, 30_000_000)]
        self.assertEqual([(one["kind"], one["rank"], one["at_us"]) for one in done], told)
        self.assertEqual([one["within_us"] for one in done], [5_000_000, 5_000_000, 3_000_000])


class Measuring(unittest.TestCase):
    def test_variants_are_compared_within_a_round_and_then_over_starts(self):
        # The machine is three times slower in the second round; the plugin costs 10 % in each, but for one odd start.
        usual = {"latency": {4096: {"none": [100.0, 300.0, 110.0], "default": [110.0, 330.0, 121.0]}}}
        odd = {"latency": {4096: {"none": [100.0], "default": [200.0]}}}
        rows = cost.summarise([usual, odd, usual], ["none", "default"])
        self.assertAlmostEqual(rows[1]["ratio"], 1.1)
        self.assertEqual(rows[1]["starts"], 3)
        self.assertIn("+10.00 %", cost.report(rows))

    def test_a_drift_is_not_taken_for_a_cost(self):
        cell = switch.empty_cell(0)
        blocks = [on for quad in range(40) for on in switch.QUADS[quad % 2]]
        # Operations take longer and longer; the plugin adds 2 %, and one rank always says less.
        us = [(100.0 + 0.5 * index) * (1.02 if on else 1.0) for index, on in enumerate(blocks)]
        answers = [{"us": [value * share for value in us], "masks": [[0, 0], [1, 94]]} for share in (1.0, 1.0, 0.5)]
        switch.add(cell, blocks, answers)
        row = switch.summarise([[{"mode": "latency", "bytes": 4096, "variant": "default", **cell}]], ["default"], 4)[0]
        self.assertAlmostEqual(row["ratio"], 1.02, places=4)
        self.assertAlmostEqual(row["whole"], 1.02, places=4)
        self.assertLess(row["ratio_interval"][0], 1.0205)
        self.assertGreater(row["ratio_interval"][1], 1.0195)
        self.assertEqual((row["quads"], row["masks"]), (40, [(0, 0), (1, 94)]))
        self.assertIn("+2.00 %", switch.report([row]))

    def test_what_few_operations_pay_for_all_is_not_overlooked(self):
        # One block in fifty takes twice as long, the others nothing: 2 % of all time, and no median shows it.
        cell = switch.empty_cell(0)
        blocks = [on for quad in range(100) for on in switch.QUADS[quad % 2]]
        ons = iter(range(200))
        us = [200.0 if on and next(ons) % 50 == 0 else 100.0 for on in blocks]
        switch.add(cell, blocks, [{"us": us, "masks": []}])
        row = switch.summarise([[{"mode": "latency", "bytes": 4096, "variant": "default", **cell}]], ["default"], 2)[0]
        self.assertAlmostEqual(row["ratio"], 1.0)
        self.assertAlmostEqual(row["whole"], 1.02)
        self.assertLess(row["whole_interval"][0], 1.02)
        self.assertGreater(row["whole_interval"][1], 1.02)

    def snapshot(self, comms, sends):
        communicators = [{"slot": slot, "id": id_, "rank": rank, "finalized": False} for slot, id_, rank in comms]
        connections = [{"comm_slot": slot, "peer": peer, "bytes": count, "is_send": True} for slot, peer, count in sends]
        return {"communicators": communicators, "connections": connections}

    def test_peers_are_ranks_of_the_job_and_not_of_a_communicator(self):
        # Rank 5 is the second of communicator 8, whose first is rank 3; both are in communicator 7 of all ranks.
        snapshots = {
            3: self.snapshot([(0, 7, 3), (1, 8, 0)], [(1, 1, 900), (0, 4, 5)]),
            5: self.snapshot([(0, 7, 5), (1, 8, 1)], [(0, 3, 70)]),
        }
        edges = recorders.edges(snapshots)
        self.assertEqual(edges, {(3, 5): 900, (5, 3): 70})
        self.assertEqual(recorders.busiest_peer(edges, 3), 5)
        self.assertIsNone(recorders.busiest_peer(edges, 4))

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
