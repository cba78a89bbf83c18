"""Thousands of random operations against three nodes while everything fails: see support/chaos.py.

    PANNIER_TEST_OPERATIONS=10000 PANNIER_TEST_SEED=7 tests/run scenario tests/scenario/test_cluster_faults.py
"""
import os
import random

import pytest

from support.chaos import Chaos

OPERATIONS = int(os.environ.get("PANNIER_TEST_OPERATIONS", 150))
SEED = os.environ.get("PANNIER_TEST_SEED")


@pytest.mark.parametrize("mode", ["serve", "pass"])
def test_random_operations_never_show_what_must_not_be_seen(cluster, rgw, origin, git, tmp_path, mode):
    seed = int(SEED) if SEED else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chaos = Chaos(cluster, rgw, origin, git, seed, tmp_path, mode)
    chaos.run(OPERATIONS)
    print(f"mode {mode}: " + ", ".join(f"{what} {n}" for what, n in sorted(chaos.counts.items())))
