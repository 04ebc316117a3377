"""Tests of newcomer.py that need neither GPU nor PyTorch."""

import unittest

import newcomer

HEALTHY = "C4 watched job run-1: 2 ranks, 300 iterations of usually 81 ms.\n  Nothing was wrong with it.\n"
DEATH = "C4 watched job run-1: 2 ranks.\n  process_death: rank 1 (pid 7) died: killed by signal 9\n"
HANG = "C4 watched job run-1: 2 ranks.\n  non_comm_hang: rank 1 (pid 7) has not entered AllReduce #9\n"
UNSEEN = "C4 saw no communication: no process loaded its plugin.\n"


class Judging(unittest.TestCase):
    def test_what_should_be_said_is_enough(self):
        for case, code, said in (("healthy", 0, HEALTHY), ("kill", 1, DEATH), ("hang", 130, HANG)):
            self.assertEqual(newcomer.judge(case, "nccl", code, said), [], case)

    def test_another_rank_another_kind_or_another_exit_code_is_not(self):
        self.assertTrue(newcomer.judge("kill", "nccl", 1, DEATH.replace("rank 1", "rank 10")))
        self.assertTrue(newcomer.judge("kill", "nccl", 0, DEATH))
        self.assertTrue(newcomer.judge("hang", "nccl", 130, DEATH))
        self.assertTrue(newcomer.judge("healthy", "nccl", 0, HEALTHY + DEATH))
        self.assertTrue(newcomer.judge("healthy", "nccl", 0, UNSEEN))

    def test_without_nccl_nothing_may_be_claimed(self):
        self.assertEqual(newcomer.judge("kill", "gloo", 1, UNSEEN), [])
        self.assertTrue(newcomer.judge("healthy", "gloo", 0, HEALTHY))

    def test_unknown_cases_are_refused(self):
        with self.assertRaises(SystemExit):
            newcomer.parse_arguments(["--bin", "x", "--cases", "healthy,flood"])


if __name__ == "__main__":
    unittest.main()
