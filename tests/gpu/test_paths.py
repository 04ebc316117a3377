"""Tests of how planned ports are counted, without NCCL: `python3 -m unittest discover tests/gpu`."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import paths  # noqa: E402

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


def line(local, remote, inode, state="01"):
    return f"   0: 0100007F:{local:04X} 0100007F:{remote:04X} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1"


class Connections(unittest.TestCase):
    def test_a_connection_counts_once_and_only_between_the_ranks(self):
        text = "\n".join(
            [
                HEAD,
                line(20001, 40000, 11),
                line(40000, 20001, 12),
                line(50000, 40000, 13),
                line(40000, 50000, 99),
                line(40001, 50001, 14, state="0A"),
                line(50001, 40001, 11, state="0A"),
            ]
        )
        self.assertEqual(paths.between(text, {"11", "12", "13", "14"}), {(20001, 40000)})

    def test_planned_ports_are_told_by_path(self):
        pairs = {(20001, 40000), (20600, 40000), (20002, 40000), (33000, 40000)}
        self.assertEqual(paths.planned(pairs), (3, [2, 1]))


class Verdict(unittest.TestCase):
    def row(self, planned, of_path, codes=(0, 0)):
        return {"exit_codes": list(codes), "connections": 8, "planned": planned, "of_path": of_path}

    def test_with_a_plan_every_connection_has_its_port(self):
        self.assertTrue(paths.judge(self.row(8, [4, 4]), True))
        self.assertFalse(paths.judge(self.row(7, [4, 3]), True))
        self.assertFalse(paths.judge(self.row(8, [8, 0]), True))
        self.assertFalse(paths.judge(self.row(8, [4, 4], codes=(0, 1)), True))

    def test_without_one_none_has(self):
        self.assertTrue(paths.judge(self.row(0, [0, 0]), False))
        self.assertFalse(paths.judge(self.row(1, [1, 0]), False))

    def test_the_cost_is_beside_what_jobs_without_a_plan_differ_by(self):
        rows = [{"plan": plan, "ms": ms} for plan, ms in (("no", 10.0), ("yes", 10.1), ("no", 10.2), ("yes", 10.3), ("rubbish", 99.0))]
        found = paths.cost(rows)
        self.assertAlmostEqual(found["difference"], 0.0099, places=3)
        self.assertAlmostEqual(found["noise"], 0.0198, places=3)
        self.assertIsNone(paths.cost(rows[:1]))


if __name__ == "__main__":
    unittest.main()
