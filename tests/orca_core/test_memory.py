"""Memory that a trial's process has freed is used again."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from orca_core.store import Store
from orca_core.trial_stages import TrialStages

BLOCKS, NUMBERS = 12, 2**19


def results_of_a_pass() -> None:
    held = [torch.ones(NUMBERS) for _ in range(BLOCKS)]
    assert sum(float(block[-1]) for block in held) == BLOCKS


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_what_a_pass_has_freed_serves_the_next_one(quick, tmp_path):
    TrialStages(quick("digits"), Store(tmp_path), "cpu")
    results_of_a_pass()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        results_of_a_pass()
    pages = 10 * BLOCKS * NUMBERS * 4 / resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages / 10
