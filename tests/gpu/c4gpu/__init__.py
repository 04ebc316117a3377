"""Drives C4 against real NCCL jobs on one GPU. See ../README.md."""
